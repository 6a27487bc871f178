"""Flags shared by the scripts, one-line errors, and the choice of the device."""

import argparse
import functools
import math
import sys
from pathlib import Path

import torch

from support.errors import UserError
from support.files import check_writable


def one_line_errors(main):
    """Decorate `main(argv=None)`: a UserError becomes one line on stderr and exit status 2."""

    @functools.wraps(main)
    def wrapped(argv=None):
        try:
            return main(argv)
        except UserError as error:
            message = " ".join(str(error).split())
            print(f"{Path(main.__code__.co_filename).name}: error: {message}", file=sys.stderr)
            raise SystemExit(2) from None

    return wrapped


class ArgumentParser(argparse.ArgumentParser):
    """argparse that shows defaults in --help and raises a UserError for a bad flag."""

    def __init__(self, description):
        super().__init__(
            description=description.strip().split("\n")[0],
            formatter_class=argparse.ArgumentDefaultsHelpFormatter,
            allow_abbrev=False,
        )

    def error(self, message):
        raise UserError(message)


def number(kind, low, high=math.inf, exclusive=False):
    """An argparse type: a finite int or float from `low` (itself out if `exclusive`) to `high`."""

    def parse(text):
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        inside = low <= value <= high and math.isfinite(value)
        if not inside or (exclusive and value == low):
            name = {int: "a whole number", float: "a number"}[kind]
            bounds = f"of {low} or more" if high == math.inf else f"from {low} to {high}"
            bounds = f"above {low}" if exclusive else bounds
            raise argparse.ArgumentTypeError(f"{text!r} is not {name} {bounds}")
        return value

    return parse


def add_common_flags(parser):
    """Flags of every script."""
    parser.add_argument(
        "--models",
        type=Path,
        default=Path("models"),
        metavar="DIR",
        help="folder of the checkpoints",
    )
    parser.add_argument(
        "--seed", type=number(int, 0, 2**63 - 1), default=0, help="seed of all random streams"
    )
    parser.add_argument(
        "--device",
        choices=("auto", "cpu", "cuda", "mps"),
        default="auto",
        help="auto: cuda, else mps, else cpu",
    )


def add_output_flags(parser, default):
    """Flags for the files that samples are written to."""
    path = {"type": Path, "metavar": "FILE"}
    parser.add_argument("--output", **path, default=Path(default), help="the grid, a PNG")
    parser.add_argument("--npz", **path, help="also write all images and their labels")
    parser.add_argument("--gif", **path, help="also write the images as they form")


def check_outputs(args):
    """Fail before the work starts if one of these files cannot be written. Raises UserError."""
    check_writable(*[path for path in (args.output, args.npz, args.gif) if path])


def add_data_flag(parser):
    """The flag of every script that reads the data set."""
    parser.add_argument(
        "--data", type=Path, default=Path("data"), metavar="DIR", help="folder of MNIST/raw/*.gz"
    )


def add_training_flags(parser, steps, batch_size, lr):
    """Flags of every training script, with the script's own defaults."""
    add_common_flags(parser)
    add_data_flag(parser)
    parser.add_argument("--steps", type=number(int, 1), default=steps, help="optimizer steps")
    parser.add_argument(
        "--batch-size", type=number(int, 1, 55_000), default=batch_size, help="images per step"
    )
    parser.add_argument(
        "--lr", type=number(float, 0, exclusive=True), default=lr, help="peak learning rate"
    )
    parser.add_argument("--resume", action="store_true", help="continue a stopped training")


def pick_device(name):
    """The torch.device that --device names. Raises UserError if this machine does not have it."""
    available = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if name == "auto":
        name = next(device for device, there in available.items() if there)
    if not available[name]:
        raise UserError(
            f"--device {name}: torch {torch.__version__} finds no such device here; "
            "use --device cpu or auto"
        )
    return torch.device(name)
