"""The exception for mistakes that the user can correct."""


class UserError(ValueError):
    """A mistake in the user's input, in one sentence: what is wrong, where, and what to do.

    The command line prints the sentence without a traceback and exits with code 2.
    """
