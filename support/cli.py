"""Flags that the scripts share, and errors in one line."""

import argparse
import contextlib
import math
import sys
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent  # of the repository
MODELS = ROOT / "models"


class UserError(ValueError, argparse.ArgumentTypeError):
    """An error that the user can fix: a script prints it as one line and exits with status 2.

    Every other exception is a bug of ours and keeps its traceback. Where the `type` of a flag
    raises it, argparse puts the name of the flag before the message.
    """


def require(good, message):
    """Raises UserError with the message unless `good`."""
    if not good:
        raise UserError(message)


def one_line_errors(main):
    """Decorate `main(argv=None)`: one line and status 2 for a UserError, 130 for Ctrl-C."""

    def wrapped(argv=None):
        script = Path(main.__code__.co_filename).name
        try:
            return main(argv)
        except UserError as error:
            print(f"{script}: error: {' '.join(str(error).split())}", file=sys.stderr)
            raise SystemExit(2) from None
        except KeyboardInterrupt:
            print(f"\n{script}: stopped", file=sys.stderr)
            raise SystemExit(130) from None

    return wrapped


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Shows the defaults of flags, and the docstring of the script as it is."""


class ArgumentParser(argparse.ArgumentParser):
    """argparse's parser with the docstring of a script; a bad flag is a UserError."""

    def __init__(self, docstring):
        super().__init__(description=docstring, formatter_class=HelpFormatter)

    def error(self, message):
        raise UserError(message)


def number(kind, low, high=math.inf):
    """An argparse type: a finite int or float from `low` to `high`."""

    def parse(text):
        with contextlib.suppress(ValueError):
            value = kind(text)
            if low <= value <= high and value < math.inf:
                return value
        name = "a whole number" if kind is int else "a number"
        bounds = f"of {low} or more" if high == math.inf else f"from {low} to {high}"
        raise UserError(f"{text!r} is not {name} {bounds}")

    return parse


def file_name(suffix):
    """An argparse type: the path of an output that ends in `suffix`."""

    def parse(text):
        require(text.endswith(suffix), f"{text!r} does not end in {suffix}")
        return Path(text)

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


def add_training_flags(parser, steps, batch_size, lr):
    """Flags of every training script, with the script's own defaults."""
    add = parser.add_argument
    add("--models", type=Path, default=MODELS, metavar="DIR", help="folder of the checkpoints")
    add_run_flags(parser)
    add("--steps", type=number(int, 1), default=steps, help="optimizer steps")
    add("--batch-size", type=number(int, 1), default=batch_size, help="images per step")
    add("--lr", type=number(float, 1e-9), default=lr, help="peak learning rate")
    add("--resume", action="store_true", help="continue a stopped training")


def add_precision_flag(parser):
    """The precision of a U-Net's layers in training, for `support.training.pick_precision`."""
    precisions = ("auto", "bfloat16", "float32")
    parser.add_argument("--precision", choices=precisions, default="auto", help="of the layers")
