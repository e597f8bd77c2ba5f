"""The one exception for mistakes that a user can make and mend."""


class UserError(ValueError):
    """Bad input: one sentence that names the value, what was expected, and what to do.

    Command lines print the sentence and exit with status 1, without a traceback.
    """
