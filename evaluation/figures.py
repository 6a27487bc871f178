"""The figures of evaluate.py."""

import matplotlib.pyplot as plt
import torch

from diffusion import SAMPLERS
from support.pictures import save_figure, save_labelled_grid

SCALE_TICKS = (0, 1, 2, 5, 10, 25, 100)
PICTURE_SCALES = (0, 1, 2, 5, 20, 100, 10_000, 100_000)
NAMES = {
    "accuracy": "accuracy (judge)",
    "frechet": "Fréchet distance (judge features)",
    "precision": "precision",
    "recall": "recall",
}
REAL = {"linestyle": "--", "linewidth": 1, "color": "gray", "label": "real images"}
FONT = {"font.size": 11}


def plot_scales(bench, path, rows):
    """All four measures against the guidance scale, each beside that of real images."""
    real, *rows = rows
    scales = [float(row["guidance_scale"]) for row in rows]
    with plt.rc_context(FONT):
        figure, axes = plt.subplots(2, 2, figsize=(9, 6), layout="constrained", sharex=True)
        for ax, name in zip(axes.flat, NAMES):
            plot_measure(ax, scales, rows, name, label="samples [95 % interval]")
            ax.axhline(float(real[name]), **REAL)
            ax.set_xscale("symlog", linthresh=1, linscale=0.5)
            ax.set(ylabel=NAMES[name], xlim=(-0.2, 1.2 * max(scales)))
            ax.set_xticks(SCALE_TICKS, SCALE_TICKS)
            ax.minorticks_off()
        for ax in axes[1]:
            ax.set_xlabel(r"guidance scale: s where $\bar\alpha_t = 1/2$")
        axes[0, 0].legend(loc="lower right")
        save_figure(path, figure, bench.provenance())


def plot_samplers(bench, path, rows):
    """All four measures against network calls, a line per sampler."""
    real, *rows = rows
    ticks = sorted({int(row["steps"]) for row in rows})
    with plt.rc_context(FONT):
        figure, axes = plt.subplots(2, 2, figsize=(9, 6.6), layout="constrained", sharex=True)
        for ax, name in zip(axes.flat, NAMES):
            for k, sampler in enumerate(SAMPLERS):
                of = [row for row in rows if row["sampler"] == sampler]
                calls = [float(row["steps"]) * 1.03 ** (k - 1.5) for row in of]  # side by side
                plot_measure(ax, calls, of, name, label=sampler)
            ax.axhline(float(real[name]), **REAL)
            ax.set_xscale("log")
            ax.minorticks_off()
            ax.set(ylabel=NAMES[name], xticks=ticks, xticklabels=ticks)
        for ax in axes[1]:
            ax.set_xlabel("network calls per image")
        figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=5)
        save_figure(path, figure, bench.provenance())


def plot_measure(ax, x, rows, name, label):
    """A measure of the rows against x; accuracy with its interval."""
    values, interval = column(rows, name), None
    if name == "accuracy":
        low, high = column(rows, "accuracy_low"), column(rows, "accuracy_high")
        interval = [[v - a for v, a in zip(values, low)], [b - v for v, b in zip(values, high)]]
    ax.errorbar(x, values, yerr=interval, marker=".", capsize=2, elinewidth=1, label=label)


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
    labels = [row_label(bench, row) for row in settings]
    save_labelled_grid(path, rows, labels, bench.classes, bench.provenance(rows=settings))


def row_label(bench, row):
    """The variant, and what else differs from the defaults."""
    early = (
        "same s at every t" if row["early_scale"] == "inf" else f"early scale {row['early_scale']}"
    )
    names = {"sampler": row["sampler"], "early_scale": early}
    defaults = bench.settings(int(row["n"]))
    return ", ".join([row["variant"], *(names[k] for k in names if row[k] != defaults[k])])


def draw_nearest(bench, path):
    """A sample of each class above its three nearest training images: is it copying?"""
    images, _ = bench.draw(bench.settings(len(bench.classes)))
    nearest = nearest_images(images, bench.train_images, 3)
    labels = ["sample", "nearest training image", "2nd nearest", "3rd nearest"]
    save_labelled_grid(
        path, torch.cat([images, nearest]), labels, bench.classes, bench.provenance()
    )


def nearest_images(images, train_images, k):
    """The k nearest training images of each image: all the nearest ones, then all the 2nd, ..."""
    distance = torch.cdist(images.flatten(1), train_images.flatten(1))  # (10, 55000)
    return train_images[distance.topk(k, largest=False).indices.T.flatten()]


def column(rows, name):
    return [float(row[name]) for row in rows]
