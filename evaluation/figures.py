"""The figures of the report, drawn from rows of its tables."""

from support.pictures import ACCENT, INK, plain_figure

RUN_STYLES = "o-", "s--", "^:"  # of training runs 0, 1, 2


def tuning(curves, real):
    """Accuracy against Fréchet distance, one curve per method and training run.

    curves: (method, run) -> rows; real: the row of real images.
    """

    def point(row):
        return float(row["frechet"]), 100 * float(row["accuracy"])

    figure, axes = plain_figure(6, 4)
    for (method, run), rows in curves.items():
        if rows:
            color = ACCENT if method == "guided" else INK
            points = sorted(map(point, rows), key=lambda p: p[1])
            label = f"{method}, run {run}"
            axes.plot(*zip(*points), RUN_STYLES[run], color=color, ms=4, lw=1, label=label)
    axes.plot(*point(real), "*", color=INK, ms=10, label="real images")
    axes.set(xlabel="Fréchet distance", ylabel="accuracy (%)")
    axes.legend(frameon=False)
    return figure
