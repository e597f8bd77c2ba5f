"""What a disk or a bucket refuses, as errors of one sentence that name the path."""

import contextlib

from jaxdiff import buckets
from jaxdiff.errors import UserError


class WriteError(UserError):
    """What a disk or bucket refuses to take.

    Arguments:
      path: that cannot be written.
      reason: why, in the system's words; also an attribute.
    """

    def __init__(self, path, reason):
        super().__init__(
            f"{path} cannot be written ({reason}): make room or see that you may write there, and "
            "give the same command again, or choose another place."
        )
        self.reason = reason


def reason(error):
    """Why the disk or the bucket refuses, in its words; None for an error of another origin."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, OSError) or type(error).__module__.partition(".")[0] in buckets.ERRORS:
        return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
    return None


@contextlib.contextmanager
def reading(path):
    """Raises what the disk or the bucket refuses to give as a UserError."""
    try:
        yield
    except Exception as error:
        if (why := reason(error)) is None:
            raise
        raise UserError(
            f"{path} cannot be read ({why}): see that it is there and that you may read it."
        ) from error


@contextlib.contextmanager
def writing(path):
    """Raises what the disk or the bucket refuses to take as a WriteError."""
    try:
        yield
    except Exception as error:
        if (why := reason(error)) is None:
            raise
        raise WriteError(path, why) from error
