"""An error that the user can fix."""

import argparse


class UserError(ValueError, argparse.ArgumentTypeError):
    """An error that the user can fix: a script prints it as one line and exits with status 2.

    Every other exception is a bug of ours and keeps its traceback. Where the `type` of a flag
    raises it, argparse adds the name of the flag.
    """
