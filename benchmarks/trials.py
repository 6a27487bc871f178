"""What the trials of both recipes share: training by the clock, and a table of rows."""

import argparse
import time
from pathlib import Path

import torch

from support.tables import fill_table
from support.training import Run, keep_memory


class TimedRun(Run):
    """A run that lasts `seconds`; learning rates warm up and decay with the share of time passed.

    Args:
        seconds: the length. settings, num_images: as of `Run`.
        optimizers: their learning rates now are the peaks.
        warmup: the share of the time in which they rise. decay: share passed -> factor, 1 to 0.
    """

    def __init__(self, seconds, settings, num_images, optimizers, warmup, decay):
        super().__init__("trial", settings, {}, num_images, end_epoch=None)
        self.limit, self.warmup, self.decay = seconds, warmup, decay
        self.peaks = [(optimizer, optimizer.param_groups[0]["lr"]) for optimizer in optimizers]

    def __iter__(self):
        start = time.monotonic()
        while (passed := (time.monotonic() - start) / self.limit) < 1:
            for optimizer, peak in self.peaks:
                factor = min(1, passed / self.warmup) * self.decay(passed)
                optimizer.param_groups[0]["lr"] = peak * factor
            yield self.step
            self.step += 1


def random_timesteps(batch_size, rng):
    """t uniform over 0 .. 999, not stratified: (B,)."""
    return torch.randint(0, 1000, (batch_size,), generator=rng)


def trials_command(description, recipes, measured, seconds, output):
    """The command of a table of trials: `measured(name, seconds)` makes the row of a recipe."""
    parser = argparse.ArgumentParser(description=description.split("\n")[0])
    parser.add_argument("recipes", nargs="*", metavar="RECIPE", help="print these rows only")
    parser.add_argument("--seconds", type=float, default=seconds, help="of training, each")
    parser.add_argument("--output", type=Path, default=output, metavar="CSV")
    parser.add_argument("--resume", action="store_true", help="continue an interrupted table")
    args = parser.parse_args()
    for name in args.recipes:
        if name not in recipes:
            parser.error(f"no recipe {name!r}; there are: {', '.join(recipes)}")
    if args.recipes and args.resume:
        parser.error("--resume continues the whole table: name no recipe")
    torch.set_num_threads(1)
    keep_memory()

    def measure(wanted):
        row = {**wanted, **measured(wanted["recipe"], args.seconds)}
        print(row, flush=True)
        return row

    wanted = [{"recipe": name, "seconds": f"{args.seconds:g}"} for name in args.recipes or recipes]
    fill_table(None if args.recipes else args.output, wanted, measure, args.resume)
