"""The one exception for mistakes that a user can make and repair."""

import contextlib


class UserError(ValueError):
    """Bad input: one sentence that names the value, what was expected, and what to do.

    Command lines print the sentence and exit with status 1, without a traceback.

    Attributes:
      is_elsewhere: whether another process has the mistake, and says what it is.
    """

    is_elsewhere = False


def elsewhere(error):
    """A UserError, marked as one of another process, which says what is wrong."""
    error.is_elsewhere = True
    return error


@contextlib.contextmanager
def user_errors():
    """Turns a ValueError of what is called here into a UserError with the same sentence.

    For calls whose arguments a user has given, and whose sentences are meant to be read:
    `process.path(sampler)`, `make_mesh(fsdp)`, `processes.initialize(distributed)`.
    """
    try:
        yield
    except ValueError as error:
        raise UserError(str(error)) from None
