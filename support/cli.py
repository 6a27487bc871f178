"""Command-line helpers: shared flags, and one-line user errors with exit status 2."""

import argparse
import functools
import sys
import warnings
from pathlib import Path

import torch

LARGEST = 10**12  # number on the command line


class UserError(ValueError):
    """An error that the user can fix. Every other exception keeps its traceback."""


def one_line_errors(main):
    """Decorate a script's main: a UserError prints one line and exits with status 2."""

    @functools.wraps(main)
    def wrapped(argv=None):
        warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"
        try:
            return main(argv)
        except UserError as error:
            message, status = f"error: {' '.join(str(error).split())}", 2
        except KeyboardInterrupt as error:
            message, status = str(error) or "interrupted", 130
        # printed here, after the progress bars have closed
        print(f"{Path(sys.argv[0]).name}: {message}", file=sys.stderr)
        raise SystemExit(status)

    return wrapped


def make_parser(docstring):
    """An argparse parser with a script's docstring as its description."""
    raw = argparse.RawDescriptionHelpFormatter
    return argparse.ArgumentParser(description=docstring, formatter_class=raw)


def number(kind, low=-LARGEST, high=LARGEST):
    """An argparse type: an int or float from `low` to `high`."""

    def parse(text):
        value = kind(text)
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"must be from {low} to {high}, got {text}")
        return value

    parse.__name__ = kind.__name__  # argparse says "invalid int value"
    return parse


def output(suffix):
    """An argparse type: the Path of an output file with this suffix."""

    def parse(text):
        if Path(text).suffix.lower() != suffix:
            raise argparse.ArgumentTypeError(f"must end in {suffix}, got {text!r}")
        return Path(text)

    return parse


def add_run_flags(parser, seed=0):
    """Add --seed and --device."""
    backends = {"cuda": torch.cuda, "mps": torch.backends.mps, "cpu": torch.cpu}
    devices = [name for name, backend in backends.items() if backend.is_available()]
    add = parser.add_argument
    seed_help = "random seed (default: %(default)s)"
    add("--seed", type=number(int, 0, 2**32 - 1), default=seed, help=seed_help)
    add("--device", choices=devices, default=devices[0], help="default: %(default)s")
