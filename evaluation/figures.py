"""The figures of evaluate.py."""

import matplotlib.pyplot as plt
import torch
from torchvision.utils import make_grid

from diffusion import SAMPLERS
from evaluation.solvers import SOLVERS
from support.pictures import save_figure, save_labelled_grid

PICTURE_SCALES = (0, 0.05, 0.25, 1, 10, 100, 1_000, 5_000)
NAMES = {
    "accuracy": "accuracy (judge)",
    "frechet": "Fréchet distance (judge features)",
    "precision": "precision",
    "recall": "recall",
}
REAL = {"linestyle": "--", "linewidth": 1, "color": "gray", "label": "real images"}
FONT = {"font.size": 11}
NUM_PAIRS = 5  # of the figure of copies


def plot_families(bench, path, rows, families):
    """Accuracy against Fréchet distance and against recall, a curve per family of scales."""
    real = next(row for row in rows if row["variant"] in bench.floors)
    n = next(int(row["n"]) for row in rows if row["variant"] not in bench.floors)
    with plt.rc_context(FONT):
        figure, axes = plt.subplots(1, 2, figsize=(9, 4.4), layout="constrained", sharey=True)
        for ax, name in zip(axes, ("frechet", "recall")):
            for label, (shared, scales) in families.items():
                wanted = [bench.settings(n, **shared, guidance_scale=float(s)) for s in scales]
                of = [row for want in wanted for row in rows if row.items() >= want.items()]
                x, y = column(of, name), column(of, "accuracy")
                errors = {"xerr": interval(of, name), "yerr": interval(of, "accuracy")}
                ax.errorbar(x, y, **errors, marker=".", elinewidth=0.7, label=label)
                for scale, *point in zip(scales, x, y):
                    ax.annotate(f"{scale:g}", point, (3, 3), textcoords="offset points", fontsize=8)
            ax.plot(float(real[name]), float(real["accuracy"]), "k*", label="real images")
            ax.set_xlabel(NAMES[name])
        best = min(column([row for row in rows if row["variant"] not in bench.floors], "frechet"))
        axes[0].set(ylabel=NAMES["accuracy"], ylim=(0.9, 1.003), xlim=(0, 4 * best))
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=5)
        save_figure(path, figure, bench.provenance())


def plot_samplers(bench, path, rows):
    """All four measures against network calls, a line per sampler."""
    real, *rows = rows
    ticks = sorted({int(row["steps"]) for row in rows})
    with plt.rc_context(FONT):
        figure, axes = plt.subplots(2, 2, figsize=(9, 6.6), layout="constrained", sharex=True)
        for ax, name in zip(axes.flat, NAMES):
            for k, sampler in enumerate((*SAMPLERS, *SOLVERS)):
                of = sorted(
                    (r for r in rows if r["sampler"] == sampler), key=lambda r: int(r["steps"])
                )
                calls = [float(row["steps"]) * 1.03 ** (k - 2.5) for row in of]  # side by side
                plot_measure(ax, calls, of, name, label=sampler)
            ax.axhline(float(real[name]), **REAL)
            ax.set_xscale("log")
            ax.minorticks_off()
            ax.set(ylabel=NAMES[name], xticks=ticks, xticklabels=ticks)
        for ax in axes[1]:
            ax.set_xlabel("network calls per image")
        figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=5)
        save_figure(path, figure, bench.provenance())


def plot_windows(bench, path, rows):
    """All four measures against the timestep at which guidance starts or ends, for two scales."""
    real, unguided, *rows = rows
    sides = {"guided at t ≥ T only": ">=", "guided at t < T only": "<"}
    scales = dict.fromkeys((row["guidance_scale"], row["scale_growth"]) for row in rows)
    with plt.rc_context(FONT):
        figure, axes = plt.subplots(2, 2, figsize=(9, 6.6), layout="constrained", sharex=True)
        for ax, name in zip(axes.flat, NAMES):
            for (w, g), linestyle in zip(scales, ("-", ":")):
                everywhere, *some = (
                    row for row in rows if (row["guidance_scale"], row["scale_growth"]) == (w, g)
                )
                for color, (label, side) in enumerate(sides.items()):
                    of = [row for row in some if f" {side} " in row["variant"]]
                    ends = (everywhere, unguided)[:: 1 if side == ">=" else -1]
                    times = [0, *(int(row["variant"].split()[3]) for row in of), 1000]
                    style = {"color": f"C{color}", "linestyle": linestyle}
                    of = [ends[0], *of, ends[1]]
                    plot_measure(ax, times, of, name, f"{label}, w = {w}, g = {g}", **style)
            ax.axhline(float(real[name]), **REAL)
            ax.set_ylabel(NAMES[name])
        for ax in axes[1]:
            ax.set_xlabel("timestep T")
        figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=2)
        save_figure(path, figure, bench.provenance())


def plot_measure(ax, x, rows, name, label, **style):
    """A measure of the rows against x, with its interval."""
    ax.errorbar(x, column(rows, name), yerr=interval(rows, name), marker=".", capsize=2,
                elinewidth=1, label=label, **style)  # fmt: skip


def interval(rows, name):
    """How far the interval of a measure reaches below and above it, for errorbar."""
    values, low, high = (column(rows, name + end) for end in ("", "_low", "_high"))
    return [[v - a for v, a in zip(values, low)], [b - v for v, b in zip(values, high)]]


def plot_guide(bench, path, scales, curves):
    """The change of L_simple against the guidance scale, a line per band of t."""
    with plt.rc_context(FONT):
        figure, ax = plt.subplots(figsize=(8, 4), layout="constrained")
        for label, changes in curves.items():
            ax.plot(scales, [100 * change for change in changes], marker=".", label=label)
        ax.set(xlabel="guidance scale s", xlim=(0, 3.05), ylim=(-23, 30))
        ax.set_ylabel(r"change of $L_{\rm simple}$, percent")
        ax.axhline(0, **REAL | {"label": "unguided"})
        ax.axvline(1, **REAL | {"label": "s = 1", "linestyle": ":"})
        figure.legend(loc="outside right upper")
        save_figure(path, figure, bench.provenance())


def draw_scales(bench, path):
    """Samples from the same noise, a row per scale, up to scales where they visibly fail."""
    scales = map(float, PICTURE_SCALES)
    settings = [bench.settings(2 * len(bench.classes), guidance_scale=scale) for scale in scales]
    rows = torch.cat([bench.draw(row)[0] for row in settings])
    labels = [f"scale {scale:,}" for scale in PICTURE_SCALES]
    save_labelled_grid(path, rows, labels, bench.classes, bench.provenance(scales=PICTURE_SCALES))


def draw_rows(bench, path, settings):
    """Samples from the same noise, a row per settings of 2 images of each class."""
    rows = torch.cat([bench.draw(row)[0] for row in settings])
    labels = [row_label(row, settings[0]) for row in settings]
    save_labelled_grid(path, rows, labels, bench.classes, bench.provenance(rows=settings))


def row_label(row, usual):
    """The variant, and its sampler and scale if they are not the usual ones."""
    own = {"sampler": row["sampler"], "guidance_scale": f"w = {row['guidance_scale']}"}
    return ", ".join([row["variant"], *(own[k] for k in own if row[k] != usual[k])])


def draw_copies(bench, path, images):
    """Is it copying? How near samples are to training images, beside real images."""
    train, _ = bench.dataset.load("train")
    others = {"samples": images, f"{bench.split} images": bench.real_images}
    distances, nearest = {}, {}
    for label, some in others.items():
        distances[label], nearest[label] = nearest_distances(some, train)
    first = distances["samples"].argsort()[:NUM_PAIRS]
    pairs = torch.cat([images[first], train[nearest["samples"][first]]])
    with plt.rc_context(FONT):
        figure = plt.figure(figsize=(9, 3.6), layout="constrained")
        ax, right = figure.subplots(1, 2, width_ratios=(3, 2))
        for label, values in distances.items():
            below = torch.arange(1, len(values) + 1) / len(values)  # ax.ecdf needs matplotlib 3.8
            ax.plot(values.sort().values, below, label=f"{len(values):,} {label}")
        ax.set(
            xlabel="distance to the nearest training image", ylabel="share of images below", xlim=0
        )
        ax.legend(loc="upper left")
        right.imshow(make_grid(pairs, nrow=NUM_PAIRS, pad_value=1)[0], cmap="gray", vmin=-1, vmax=1)
        right.set(title="the five nearest samples,\nabove their training images")
        right.axis("off")
        save_figure(path, figure, bench.provenance(n=len(images)))
    return distances


def nearest_distances(images, train_images, chunk=500):
    """The Euclidean distance of each image to its nearest training image, and which that is."""
    train = train_images.flatten(1)
    parts = [torch.cdist(part.flatten(1), train).min(dim=1) for part in images.split(chunk)]
    return torch.cat([part.values for part in parts]), torch.cat([part.indices for part in parts])


def column(rows, name):
    return [float(row[name]) for row in rows]
