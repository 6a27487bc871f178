"""Flags that the scripts share, and their end: errors in one line."""

import argparse
import sys
from pathlib import Path

import torch

from support.errors import UserError, require
from support.files import MODELS


def one_line_errors(main):
    """Decorate `main(argv=None)`: one line and status 2 for a UserError, 130 for Ctrl-C.

    The line is printed after the `try`, when all progress bars are closed.
    """

    def wrapped(argv=None):
        try:
            return main(argv)
        except UserError as error:
            message, status = f"error: {' '.join(str(error).split())}", 2
        except KeyboardInterrupt:
            message, status = "stopped", 130
        print(f"{Path(sys.argv[0]).name}: {message}", file=sys.stderr)
        raise SystemExit(status)

    return wrapped


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Shows the defaults of flags, and the docstring of the script as it is."""


class ArgumentParser(argparse.ArgumentParser):
    """argparse's parser with the docstring of a script; a bad flag is a UserError."""

    def __init__(self, docstring):
        super().__init__(description=docstring, formatter_class=HelpFormatter)

    def error(self, message):
        raise UserError(message)


def number(kind, low, high=10**9):
    """An argparse type: an int or a float from `low` to `high`."""

    def parse(text):
        value = kind(text)
        require(low <= value <= high, f"{text} is not from {low} to {high}")
        return value

    parse.__name__ = kind.__name__  # for argparse's message, such as: invalid int value
    return parse


def parse_device(name):
    """An argparse type: the torch.device of a name, which this machine must have."""
    backends = {"cuda": torch.cuda, "mps": torch.backends.mps, "cpu": torch.cpu}
    available = [known for known, backend in backends.items() if backend.is_available()]
    if name == "auto":
        name = available[0]
    require(name in available, f"torch finds no device {name!r}; use --device cpu")
    return torch.device(name)


def add_run_flags(parser):
    """The seed and the device, of every script that trains, draws or measures."""
    add = parser.add_argument
    add("--seed", type=number(int, 0, 2**32 - 1), default=0, help="seed of all random streams")
    device_help = "cpu, cuda or mps; auto: cuda, else mps, else cpu"
    add("--device", type=parse_device, default="auto", metavar="NAME", help=device_help)


def training_settings(args):
    """The flags on which the weights of a training depend, but its data set: a dict."""
    others = ("models", "device", "resume", "dataset", "size")
    return {flag: value for flag, value in vars(args).items() if flag not in others}


def add_training_flags(parser, steps, batch_size, lr):
    """Flags of every training script, with the script's own defaults."""
    add = parser.add_argument
    add("--models", type=Path, default=MODELS, metavar="DIR", help="folder of the checkpoints")
    add_run_flags(parser)
    add("--steps", type=number(int, 1), default=steps, help="optimizer steps")
    add("--batch-size", type=number(int, 1), default=batch_size, help="images per step")
    add("--lr", type=number(float, 1e-9), default=lr, help="peak learning rate")
    add("--resume", action="store_true", help="continue a stopped training")
