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

NUMBERS = ("steps", "guidance_scale", "scale_growth")


def varying(rows):
    """The settings that differ between rows: name -> its values, in the order of the rows."""
    found = {}
    for name in SETTINGS:
        values = list(dict.fromkeys(row.get(name, "-") for row in rows))
        if len(values) > 1:
            found[name] = values
    return found


def most_varied(rows):
    """The setting that takes most values."""
    counts = {name: len(values) for name, values in varying(rows).items()}
    require(counts, "no setting varies in this table: there is nothing to draw it against")
    return max(counts, key=counts.get)


def curves(rows, x):
    """Rows that agree in all settings but x: label -> rows."""
    others = [name for name in varying(rows) if name != x]
    found = {}
    for row in rows:
        words = [f"{name} {row[name]}" if name in NUMBERS else row[name] for name in others]
        label = ", ".join(words) or "samples"
        found.setdefault(label, []).append(row)
    return found


def plot(rows, real, x):
    """The four measures against the setting x: a matplotlib figure.

    Args:
        rows: of samples. real: of real images. Both are dicts of strings.
    """
    texts = list(dict.fromkeys(row[x] for row in rows))
    places = {text: float(text) if x in NUMBERS else k for k, text in enumerate(texts)}
    height = 6.6 if x in NUMBERS else 9  # names stand upright below the axes
    figure, panels = plt.subplots(2, 2, figsize=(9, height), layout="constrained", sharex=True)
    for axes, name in zip(panels.flat, SHOWN):
        for label, of_curve in curves(rows, x).items():
            of_curve = sorted(of_curve, key=lambda row: places[row[x]])
            value, low, high = (
                [float(row[name + end]) for row in of_curve] for end in ("", "_low", "_high")
            )
            below = [v - end for v, end in zip(value, low)]
            above = [end - v for v, end in zip(value, high)]
            style = {"marker": ".", "capsize": 2, "elinewidth": 1, "label": label}
            style["linestyle"] = "-" if x in NUMBERS else "none"
            axes.errorbar([places[row[x]] for row in of_curve], value, (below, above), **style)
        for row, linestyle in zip(real, cycle(("--", ":", "-."))):
            axes.axhline(float(row[name]), color="gray", linestyle=linestyle, label=row["images"])
        if x in NUMBERS:
            smallest = min((place for place in places.values() if place > 0), default=1)
            axes.set_xscale("symlog", linthresh=smallest)  # logarithmic, and shows 0
        axes.set_xticks(list(places.values()), texts, rotation=0 if x in NUMBERS else 90)
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
    rows = [row for row in table if row.get("sampler", "-") != "-"]
    real = [row for row in table if row not in rows and row.get("sha256 of images", "-") == "-"]
    require(rows and "accuracy_low" in rows[0], f"{args.csv} is no table of evaluate.py")
    with plt.rc_context({"font.size": 11}):
        figure = plot(rows, real, args.x or most_varied(rows))
        save_figure(output, figure, provenance([args.csv]))
    print(output)


if __name__ == "__main__":
    main()
