"""Errors that the user can fix."""


class UserError(Exception):
    """An error that the user can fix: a script prints it as one line and exits with status 2.

    Every other exception is a bug of ours and keeps its traceback.
    """


def require(good, message):
    """Raises UserError with the message unless `good`."""
    if not good:
        raise UserError(message)
