"""Flags, files, random streams, resumable training, and pictures; no diffusion code."""


class UserError(ValueError):
    """An error that the user can fix. Every other exception keeps its traceback."""
