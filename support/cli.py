"""Flags that the scripts share, and their end: errors in one line."""

import argparse
import sys
import warnings
from pathlib import Path

import torch

from support.errors import UserError
from support.files import MODELS


def one_line_errors(main):
    """Decorate `main(argv=None, ...)`: one line and status 2 for a UserError, 130 for Ctrl-C.

    The line is printed after the `try`, when all progress bars are closed.
    """

    def one_line_warning(message, *where):
        return f"{Path(sys.argv[0]).name}: warning: {message}\n"

    def wrapped(argv=None, **others):
        warnings.formatwarning = one_line_warning
        try:
            return main(argv, **others)
        except UserError as error:
            message, status = f"error: {' '.join(str(error).split())}", 2
        except KeyboardInterrupt:
            message, status = "stopped", 130
        print(f"{Path(sys.argv[0]).name}: {message}", file=sys.stderr)
        raise SystemExit(status)

    return wrapped


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Shows the defaults of flags that have one, and the docstring of the script as it is."""

    def _get_help_string(self, action):
        if action.default is None or action.default == []:
            return action.help
        if isinstance(action.default, list):  # as it can be typed
            shown = " ".join("" if value is None else str(value) for value in action.default)
            return f"{action.help} (default: {shown})" if shown else action.help
        return super()._get_help_string(action)


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
        if not low <= value <= high:
            raise UserError(f"{text} is not from {low} to {high}")
        return value

    parse.__name__ = kind.__name__  # for argparse's message, such as: invalid int value
    return parse


def multiple_of(factor):
    """An argparse type: a positive multiple of an int."""

    def parse(text):
        value = int(text)
        if value <= 0 or value % factor != 0:
            raise UserError(f"{text} is not a multiple of {factor}")
        return value

    parse.__name__ = "int"
    return parse


def file(suffix):
    """An argparse type: the Path of a file to write, whose name has this suffix."""

    def parse(text):
        path = Path(text)
        if path.resolve().suffix.lower() != suffix:  # of the file itself, if it is a link
            raise UserError(f"{text!r} does not end in {suffix}, or links to what does not")
        return path

    return parse


def folder(text):
    """An argparse type: the Path of a folder, there or not."""
    if not text:
        raise UserError("the name of the folder is empty")
    return Path(text)


def parse_device(name):
    """An argparse type: the torch.device of a name, which this machine must have."""
    backends = {"cuda": torch.cuda, "mps": torch.backends.mps, "cpu": torch.cpu}
    available = [known for known, backend in backends.items() if backend.is_available()]
    if name == "auto":
        name = available[0]
    if name.split(":")[0] not in available:
        raise UserError(f"torch finds no device {name!r}; use --device cpu")
    try:
        return torch.device(name)
    except RuntimeError:  # such as cpu:x
        raise UserError(f"torch knows no device {name!r}") from None


def add_run_flags(parser, seed=0):
    """The seed and the device, of every script that trains, draws or measures."""
    add = parser.add_argument
    add("--seed", type=number(int, 0, 2**32 - 1), default=seed, help="seed of all random streams")
    device_help = "cpu, cuda or mps; auto: cuda, else mps, else cpu"
    add("--device", type=parse_device, default="auto", metavar="NAME", help=device_help)


def training_settings(args):
    """The flags on which the weights of a training depend, but its data set: a dict."""
    others = ("models", "device", "resume", "dataset", "size")
    return {flag: value for flag, value in vars(args).items() if flag not in others}


def add_training_flags(parser, steps, batch_size, lr):
    """Flags of every training script, with the script's own defaults."""
    add = parser.add_argument
    add("--models", type=folder, default=MODELS, metavar="DIR", help="folder of the checkpoints")
    add_run_flags(parser)
    add("--steps", type=number(int, 1), default=steps, help="optimizer steps")
    add("--batch-size", type=number(int, 1), default=batch_size, help="images per step")
    add("--lr", type=number(float, 1e-9), default=lr, help="peak learning rate")
    add("--resume", action="store_true", help="resume an interrupted training")
