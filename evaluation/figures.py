"""The figures of the report, drawn from rows of its tables."""

from evaluation.measures import rank_correlation
from support.pictures import ACCENT, INK, plain_figure

MARKERS, LINES = "os^", ("-", "--", ":")  # of training runs 0, 1, 2


def tuning(curves, real):
    """Accuracy against Fréchet distance, for each method and training run.

    curves: (method, run) -> rows; real: the row of real images. Only classifier-free guidance is
    drawn as curves: it has one parameter, and classifier guidance has two.
    """

    def point(row):
        return float(row["frechet"]), 100 * float(row["accuracy"])

    figure, axes = plain_figure(6, 4)
    for (method, run), rows in curves.items():
        if rows:
            color, line = (ACCENT, "") if method == "guided" else (INK, LINES[run])
            points = sorted(map(point, rows), key=lambda p: p[1])
            style = {"color": color, "ls": line, "lw": 1, "marker": MARKERS[run], "ms": 4}
            axes.plot(*zip(*points), **style, label=f"{method}, run {run}")
    axes.plot(*point(real), "*", color=INK, ms=10, label="real images")
    axes.set(xlabel="Fréchet distance", ylabel="accuracy (%)")
    axes.legend(frameon=False)
    return figure


def gradients(rows, t=499):
    """Accuracy against the removed error, and against the component along the true gradient.

    rows: the table `held_out`. The multiples of ours are connected.
    """
    figure, both = plain_figure(10, 4.5, columns=2)
    panels = {
        "removed": "fraction of the error that it removes",
        "component": "component along the true gradient",
    }
    for axes, (column, label) in zip(both, panels.items()):
        points = {
            row["gradient"]: (float(row[f"{column}_{t}"]), 100 * float(row["accuracy"]))
            for row in rows
        }
        multiples = [name for name in points if name == "ours" or name.endswith(" x ours")]
        axes.plot(*zip(*sorted(points[name] for name in multiples)), "-", color=ACCENT, lw=1)
        width = max(points.values())[0] - min(points.values())[0]
        for name, (x, y) in points.items():
            axes.plot(x, y, "o", color=ACCENT if name in multiples else INK, ms=4)
            close = [0 < u - x < width / 12 and abs(v - y) < 1.3 for u, v in points.values()]
            left = any(close) and len(name) < 12
            place = {"xytext": (-4, 2), "ha": "right"} if left else {"xytext": (4, 2)}
            axes.annotate(name, (x, y), textcoords="offset points", fontsize=7, **place)
        others = [row for row in rows if "x ours" not in row["gradient"]]
        ranks = [rank_correlation(some, f"{column}_{t}", "accuracy") for some in (rows, others)]
        axes.set(xlabel=f"{label}, t = {t}", ylabel="accuracy with s = 1 (%)", xmargin=0.1)
        title = "rank correlation {:.2f}, without the multiples of ours {:.2f}".format(*ranks)
        axes.set_title(title, fontsize=10)
    return figure
