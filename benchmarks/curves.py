"""What more training would buy, and what more network calls: quality against both.

    python train_classifier.py --steps 750 --models quarter    # a quarter of the default's steps
    python train_ddpm.py --steps 1575 --models quarter
    python -m benchmarks.curves quarter half double triple    # the others as below
    python -m benchmarks.curves quarter half double triple --resume    # continue it

n = 1,000 against the test set, sampling seed 0, by the judge that ships. Changes are from the
default of the networks that ship. `half` is trained for 1,500 and 3,150 steps, `double` for 6,000
and 12,600, `triple` for 9,000 and 18,900. Minutes are those of the README for the default's steps,
and in proportion to the steps for others.

Writes results/curves.csv and results/curves.png.
"""

from pathlib import Path

import matplotlib.pyplot as plt
import torch

import train_classifier
import train_ddpm
from benchmarks.rivals import benches_of
from evaluation.figures import FONT, NAMES, REAL, column, plot_measure
from evaluation.tables import NUM_SWEEP
from inference import STEPS
from support.checkpoints import MODELS, read_checkpoint
from support.cli import ArgumentParser, one_line_errors
from support.files import beside, check_writable, make_folders
from support.pictures import save_figure
from support.tables import fill_table

CALLS = (5, 10, 50, 100)  # beside the default's, of the networks that ship
CALLS_OF_ALL = (10, 100)  # of the other networks
TRAININGS = {  # checkpoint -> what makes it; minutes, by the README, and steps of the default
    "ddpm_unet.pth": ("train_ddpm.py", 16, train_ddpm.TRAIN_STEPS),
    "classifier.pth": ("train_classifier.py", 3.5, train_classifier.STEPS),
}


def minutes_of(folder):
    """The minutes that both networks of a folder took, by their steps."""
    return sum(
        minutes * read_checkpoint(folder / name, script)["training"]["steps"] / steps
        for name, (script, minutes, steps) in TRAININGS.items()
    )


def rows_of(folder, bench):
    """The settings of the rows of a folder, and its minutes."""
    shared = {"folder": folder.name, "training_minutes": f"{minutes_of(folder):.3g}"}
    for calls in (STEPS, *(CALLS if folder == MODELS else CALLS_OF_ALL)):
        yield shared | bench.settings(NUM_SWEEP, steps=calls) | bench.made_from


def plot(path, rows, made_from):
    """All four measures against minutes of training and against network calls."""
    real, rows = rows[:2], rows[2:]
    ours = [row for row in rows if row["folder"] == MODELS.name]
    by_minutes = {
        f"{calls} calls": sorted(
            (row for row in rows if int(row["steps"]) == calls),
            key=lambda row: float(row["training_minutes"]),
        )
        for calls in sorted((STEPS, *CALLS_OF_ALL))
    }
    by_calls = {"the default's training": sorted(ours, key=lambda row: int(row["steps"]))}
    sides = {
        "training_minutes": ("minutes of training", by_minutes),
        "steps": ("network calls per image", by_calls),
    }
    with plt.rc_context(FONT):
        figure, axes = plt.subplots(4, 2, figsize=(9, 11), layout="constrained", sharey="row")
        for row_of_axes, name in zip(axes, NAMES):
            for ax, (x, (xlabel, curves)) in zip(row_of_axes, sides.items()):
                for label, of in curves.items():
                    plot_measure(ax, column(of, x), of, name, label)
                for floor, linestyle in zip(real, ("--", ":")):
                    style = REAL | {"label": floor["variant"], "linestyle": linestyle}
                    ax.axhline(float(floor[name]), **style)
                ticks = sorted({float(row[x]) for of in curves.values() for row in of})
                ax.set_xscale("log")
                ax.minorticks_off()
                ax.set_xticks(ticks, [f"{tick:.3g}" for tick in ticks])
                ax.set_xlabel(xlabel if ax in axes[-1] else "")
            row_of_axes[0].set_ylabel(NAMES[name])
        for ax in axes[0]:
            ax.legend(fontsize=9)
        save_figure(path, figure, made_from)


@one_line_errors
def main(argv=None):
    parser = ArgumentParser(__doc__)
    parser.add_argument("folders", nargs="*", type=Path, metavar="DIR")
    parser.add_argument("--output", type=Path, default=beside("results"), metavar="DIR")
    parser.add_argument("--resume", action="store_true", help="continue an interrupted table")
    args = parser.parse_args(argv)
    folders, path = (MODELS, *args.folders), args.output / "curves.csv"
    benches = benches_of(folders, torch.device("cpu"))
    make_folders(args.output)
    check_writable(path.with_suffix(".png"))
    ours = benches["-"] = benches[MODELS.name]
    for bench in benches.values():
        bench.compared = ours
    wanted = [{"folder": "-", "training_minutes": "-", **row, **ours.made_from}
              for row in ours.floor_settings(NUM_SWEEP)]  # fmt: skip
    for folder in folders:
        wanted += rows_of(folder, benches[folder.name])
    rows = fill_table(path, wanted, lambda row: benches[row["folder"]].row(row), args.resume)
    made_from = {folder.name: benches[folder.name].made_from for folder in args.folders}
    plot(path.with_suffix(".png"), rows, ours.provenance(other_folders=made_from))


if __name__ == "__main__":
    main()
