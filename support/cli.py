"""Flags shared by the scripts, one-line errors, and the choice of the device."""

import argparse
import functools
import math
import os
import sys
from pathlib import Path

import torch

from support.checkpoints import MODELS
from support.errors import UserError
from support.files import check_writable
from support.streams import MAX_SEED

BYTES_PER_IMAGE, BYTES_IN_BATCH = 12_000, 1_200_000  # measured: 10,000 images, batches of 100
LESS_MEMORY = "use a lower --batch-size, --num-samples or --n, where there is one"


def one_line_errors(main):
    """Decorate `main(argv=None)`: one line and status 2 for a UserError, 130 for Ctrl-C."""

    @functools.wraps(main)
    def wrapped(argv=None):
        name = Path(main.__code__.co_filename).name
        try:
            return main(argv)
        except UserError as error:
            message = " ".join(str(error).split())
            print(f"{name}: error: {message}", file=sys.stderr)
            raise SystemExit(2) from None
        except KeyboardInterrupt:
            print(f"\n{name}: interrupted", file=sys.stderr)
            raise SystemExit(130) from None
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            print(f"{name}: error: not enough memory: {LESS_MEMORY}", file=sys.stderr)
            raise SystemExit(2) from None

    return wrapped


def is_out_of_memory(error):
    """Whether torch, on any device, or Python has run out of memory."""
    out_of_memory = isinstance(error, (MemoryError, torch.OutOfMemoryError))
    return out_of_memory or "allocate memory" in str(error) or "out of memory" in str(error)


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Shows the defaults of flags, and the examples line by line."""


class ArgumentParser(argparse.ArgumentParser):
    """argparse with the first line and the examples of a docstring; a bad flag is a UserError."""

    def __init__(self, description):
        lines = description.strip().split("\n")
        examples = [line.strip() for line in lines if line.startswith("    python")]
        super().__init__(
            description=lines[0],
            epilog="\n  ".join(["examples:", *examples]),
            formatter_class=HelpFormatter,
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


def add_models_flag(parser):
    """The flag of every script that reads or writes checkpoints."""
    parser.add_argument(
        "--models",
        type=Path,
        default=MODELS,
        metavar="DIR",
        help="folder of the checkpoints",
    )


def add_common_flags(parser, seed=0):
    """Flags of the scripts that train, draw or measure."""
    add_models_flag(parser)
    parser.add_argument(
        "--seed", type=number(int, 0, MAX_SEED), default=seed, help="seed of all random streams"
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


def check_outputs(args, num_images):
    """Fail before the work starts if the outputs cannot be written, or the images not be held.

    Raises UserError.
    """
    check_writable(*[path for path in (args.output, args.npz, args.gif) if path])
    needed = num_images * BYTES_PER_IMAGE + min(num_images, args.batch_size) * BYTES_IN_BATCH
    memory = physical_memory()
    if needed > memory:
        raise UserError(
            f"{num_images} images in batches of {args.batch_size} need about "
            f"{needed / 2**30:.0f} GiB of memory, and there are {memory / 2**30:.0f}: {LESS_MEMORY}"
        )


def physical_memory():
    """The memory of this machine in bytes; infinity where the system does not say."""
    if not hasattr(os, "sysconf"):
        return math.inf
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def add_training_flags(parser, steps, batch_size, lr):
    """Flags of every training script, with the script's own defaults."""
    add_common_flags(parser)
    parser.add_argument("--steps", type=number(int, 1), default=steps, help="optimizer steps")
    parser.add_argument(
        "--batch-size", type=number(int, 1), default=batch_size, help="images per step"
    )
    parser.add_argument(
        "--lr", type=number(float, 0, exclusive=True), default=lr, help="peak learning rate"
    )
    parser.add_argument("--resume", action="store_true", help="continue a stopped training")


def add_precision_flag(parser):
    """The precision of a U-Net's layers in training, for `support.training.pick_precision`."""
    precisions = ("auto", "bfloat16", "float32")
    parser.add_argument("--precision", choices=precisions, default="auto", help="of the layers")


def training_settings(args, dataset):
    """What the weights of every training depend on: a dict, for `Run`.

    Args:
        dataset: a dict with its `name`, and whether its images are taken with `invert`.
    """
    flags = {name: getattr(args, name) for name in ("steps", "batch_size", "lr", "seed")}
    return flags | {"dataset": dataset["name"], "invert": dataset["invert"]}


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


def say_start(reads, device, seconds):
    """The first line of a script: what it reads, on which device, about how long it takes."""
    untested = "" if device.type == "cpu" else " (this project is tested on the CPU only)"
    about = f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} minutes"
    print(f"reads {reads}; device: {device}{untested}; about {about} on two cores", flush=True)
