"""Draws what is in a table of evaluate.py: the four measures against a setting.

    python -m evaluation.figures scales.csv            # scales.png, against the scale
    python -m evaluation.figures steps.csv --x steps

The setting is a number; unless --x names one, that with most values. Each combination of the other
settings that vary is a line. Dashed lines are real images; bars are 95 % intervals.
"""

from itertools import cycle
from pathlib import Path

import matplotlib.pyplot as plt

from evaluation.rows import SETTINGS
from evaluation.table import SHOWN, read_rows
from support import cli
from support.cli import require
from support.files import check_outputs, provenance
from support.pictures import save_figure

NUMBERS = ("steps", "guidance_scale", "scale_growth")


def num_values(rows, name):
    """How many values a setting takes."""
    return len({row.get(name) for row in rows})


def plot(rows, real, x):
    """The four measures against the setting x: a matplotlib figure.

    Args:
        rows: of samples. real: of real images. Both are dicts of strings.
    """
    others = [name for name in SETTINGS if name != x and num_values(rows, name) > 1]
    curves = {}  # label -> rows that agree in all settings but x
    for row in sorted(rows, key=lambda row: float(row[x])):
        label = ", ".join(f"{name} {row[name]}" for name in others) or "samples"
        curves.setdefault(label, []).append(row)
    ticks = sorted({float(row[x]) for row in rows})
    smallest = min((tick for tick in ticks if tick > 0), default=1)
    figure, panels = plt.subplots(2, 2, figsize=(9, 6.6), layout="constrained", sharex=True)
    for axes, (name, title) in zip(panels.flat, SHOWN.items()):
        for label, curve in curves.items():
            xs, values = ([float(row[column]) for row in curve] for column in (x, name))
            below = [float(row[name]) - float(row[f"{name}_low"]) for row in curve]
            above = [float(row[f"{name}_high"]) - float(row[name]) for row in curve]
            style = {"marker": ".", "capsize": 2, "elinewidth": 1}
            axes.errorbar(xs, values, (below, above), label=label, **style)
        for row, linestyle in zip(real, cycle(("--", ":", "-."))):
            axes.axhline(float(row[name]), color="gray", linestyle=linestyle, label=row["images"])
        axes.set_xscale("symlog", linthresh=smallest)  # logarithmic, and shows 0
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
        axes.set_ylabel(title)
    for axes in panels[1]:
        axes.set_xlabel(x)
    figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=2)
    return figure


@cli.one_line_errors
def main(argv=None):
    parser = cli.ArgumentParser(__doc__)
    parser.add_argument("csv", type=Path, metavar="CSV", help="a table of evaluate.py")
    parser.add_argument("--x", choices=NUMBERS, help="the setting to draw against")
    png = cli.file_name(".png")
    parser.add_argument("--output", type=png, metavar="PNG", help="default: beside the table")
    args = parser.parse_args(argv)
    output = args.output or args.csv.with_suffix(".png")
    check_outputs(output)
    table = read_rows(args.csv)
    require(table and "images" in table[0], f"{args.csv} is no table of evaluate.py")
    rows = [row for row in table if row["images"] == "samples"]
    real = [row for row in table if row not in rows and row.get("sha256 of images", "-") == "-"]
    x = args.x or max(NUMBERS, key=lambda name: num_values(rows, name))
    require(num_values(rows, x) > 1, f"{x} does not vary in {args.csv}: nothing to draw against")
    save_figure(output, plot(rows, real, x), provenance([args.csv]))
    print(output)


if __name__ == "__main__":
    main()
