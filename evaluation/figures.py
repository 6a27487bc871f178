"""The figures of the report, drawn from rows of its tables."""

import torch

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


def gradients(rows, t=499):
    """Accuracy against the removed error, and against the component along the true gradient.

    rows: the table `held_out`.
    """
    figure, both = plain_figure(10, 4.5, columns=2)
    panels = {
        "removed": "fraction of the error that it removes",
        "component": "component along the true gradient",
    }
    for axes, (column, label) in zip(both, panels.items()):
        measured = [row for row in rows if f"{column}_{t}" in row]
        for row in measured:
            x, y = float(row[f"{column}_{t}"]), 100 * float(row["accuracy"])
            axes.plot(x, y, "o", color=ACCENT if row["gradient"] == "ours" else INK, ms=4)
            axes.annotate(row["gradient"], (x, y), (4, 2), textcoords="offset points", fontsize=7)
        rank = rank_correlation(measured, f"{column}_{t}", "accuracy")
        axes.set(xlabel=f"{label}, t = {t}", ylabel="accuracy with s = 1 (%)")
        axes.set_title(f"rank correlation {rank:.2f}", fontsize=10)
    return figure


def rank_correlation(rows, *columns):
    """Spearman's correlation of two columns: a number."""
    values = torch.tensor([[float(row[column]) for row in rows] for column in columns])
    return torch.corrcoef(values.argsort(dim=1).argsort(dim=1).float())[0, 1].item()
