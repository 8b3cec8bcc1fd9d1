"""The one exception that means: the user can mend this."""


class UserError(ValueError):
    """A mistake in what the user gave: one sentence that says what is wrong, where, and what to do.

    The command line prints the sentence without a traceback and exits with code 2.
    """
