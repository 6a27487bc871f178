"""Everything around the method: flags, files, seeds, resumable training, pictures."""


class UserError(ValueError):
    """An error that the user can fix. Every other exception keeps its traceback."""
