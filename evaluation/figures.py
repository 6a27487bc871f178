"""Draws what is in a table of evaluate.py: the four measures against a setting.

    python -m evaluation.figures scales.csv                  # scales.png
    python -m evaluation.figures samplers.csv --x sampler    # another setting

The setting is the one that takes most values, unless --x names another. Each combination of the
other settings that vary is a line. Dashed lines are real images; bars are 95 % intervals.
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

ENDS = ("", "_low", "_high")  # of an interval: the value, and both ends
NUMBERS = ("steps", "guidance_scale", "scale_growth")


def varying(rows):
    """The settings that differ between rows: name -> its values, in the order of the rows."""
    values = {name: list(dict.fromkeys(row.get(name, "-") for row in rows)) for name in SETTINGS}
    return {name: found for name, found in values.items() if len(found) > 1}


def curves(rows, x):
    """Rows that agree in all settings but x: label -> rows."""
    found = {}
    for row in rows:
        others = [f"{name} {row[name]}" for name in varying(rows) if name != x]
        found.setdefault(", ".join(others) or "samples", []).append(row)
    return found


def plot(rows, real, x):
    """The four measures against the setting x: a matplotlib figure.

    Args:
        rows: of samples. real: of real images. Both are dicts of strings.
    """
    values = varying(rows)[x]
    is_number = x in NUMBERS
    places = {value: float(value) if is_number else k for k, value in enumerate(values)}
    height = 6.6 if is_number else 9  # names stand upright below the axes
    figure, panels = plt.subplots(2, 2, figsize=(9, height), layout="constrained", sharex=True)
    for axes, name in zip(panels.flat, SHOWN):
        for label, curve in curves(rows, x).items():
            curve = sorted(curve, key=lambda row: places[row[x]])
            value, low, high = ([float(row[name + end]) for row in curve] for end in ENDS)
            bars = [v - end for v, end in zip(value, low)], [end - v for v, end in zip(value, high)]
            style = {"marker": ".", "capsize": 2, "elinewidth": 1, "label": label}
            style["linestyle"] = "-" if is_number else "none"
            axes.errorbar([places[row[x]] for row in curve], value, bars, **style)
        for row, linestyle in zip(real, cycle(("--", ":", "-."))):
            axes.axhline(float(row[name]), color="gray", linestyle=linestyle, label=row["images"])
        if is_number:
            smallest = min((place for place in places.values() if place > 0), default=1)
            axes.set_xscale("symlog", linthresh=smallest)  # logarithmic, and shows 0
        axes.set_xticks(list(places.values()), values, rotation=0 if is_number else 90)
        axes.minorticks_off()
        axes.set_ylabel(SHOWN[name])
    for axes in panels[1]:
        axes.set_xlabel(x)
    figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=2)
    return figure


@cli.one_line_errors
def main(argv=None):
    parser = cli.ArgumentParser(__doc__)
    parser.add_argument("csv", type=Path, metavar="CSV", help="a table of evaluate.py")
    parser.add_argument("--x", choices=SETTINGS, help="the setting to draw against")
    png = cli.file_name(".png")
    parser.add_argument("--output", type=png, metavar="PNG", help="default: beside the table")
    args = parser.parse_args(argv)
    output = args.output or args.csv.with_suffix(".png")
    check_outputs(output)
    table = read_rows(args.csv)
    require(table and "images" in table[0], f"{args.csv} is no table of evaluate.py")
    rows = [row for row in table if row["images"] == "samples"]
    real = [row for row in table if row not in rows and row.get("sha256 of images", "-") == "-"]
    counts = {name: len(values) for name, values in varying(rows).items()}
    require(counts, "no setting varies in this table: there is nothing to draw it against")
    figure = plot(rows, real, args.x or max(counts, key=counts.get))
    save_figure(output, figure, provenance([args.csv]))
    print(output)


if __name__ == "__main__":
    main()
