"""The one kind of error that a user can cause and put right. Imports nothing of ours."""


class UserError(Exception):
    """A sentence that names the value, the reason and the remedy; the command line prints it without a traceback."""
