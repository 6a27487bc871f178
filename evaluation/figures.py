"""The figures of evaluate.py."""

import matplotlib.pyplot as plt
import torch

from classifier import NUM_CLASSES
from diffusion import SAMPLERS
from support.pictures import save_figure, save_grid

SCALE_TICKS = (0, 1, 2, 5, 10, 25, 50, 100)
PICTURE_SCALES = (0, 1, 2, 5, 20, 100, 10_000, 100_000)


def plot_scales(bench, path, rows):
    """Accuracy, Fréchet distance, precision and recall against the guidance scale."""
    real, *rows = rows
    scales = [float(row["guidance_scale"]) for row in rows]
    figure, axes = plt.subplots(1, 3, figsize=(11, 3.4), layout="constrained")
    for ax, names in zip(axes, (["accuracy"], ["frechet"], ["precision", "recall"])):
        for name, color in zip(names, ("tab:blue", "tab:orange")):
            ax.plot(scales, column(rows, name), marker=".", label=name, color=color)
            floor = {"color": color, "linestyle": "--", "linewidth": 0.8}
            ax.axhline(float(real[name]), label=f"{name}, real images", **floor)
        ax.set_xscale("symlog", linthresh=1, linscale=0.5)
        ax.set(xlabel="guidance scale", xlim=(-0.2, 1.2 * max(scales)))
        ax.set_xticks(SCALE_TICKS, SCALE_TICKS, fontsize="small")
        ax.minorticks_off()
        ax.legend(fontsize="small", loc="center left" if len(names) > 1 else "best")
    save_figure(path, figure, bench.provenance())


def plot_samplers(bench, path, rows):
    """Accuracy, Fréchet distance and recall against network calls, a line per sampler."""
    real, *rows = rows
    ticks = sorted({int(row["steps"]) for row in rows})
    figure, axes = plt.subplots(1, 3, figsize=(11, 3.4), layout="constrained")
    for ax, name in zip(axes, ("accuracy", "frechet", "recall")):
        for sampler in SAMPLERS:
            of = [row for row in rows if row["sampler"] == sampler]
            ax.plot(column(of, "steps"), column(of, name), marker=".", label=sampler)
        floor = {"color": "gray", "linestyle": "--", "linewidth": 0.8}
        ax.axhline(float(real[name]), label="real images", **floor)
        ax.set_xscale("log")
        ax.minorticks_off()
        ax.set(xlabel="network calls an image", ylabel=name, xticks=ticks, xticklabels=ticks)
    axes[0].legend(fontsize="small")
    axes[1].set_yscale("log")
    save_figure(path, figure, bench.provenance())


def plot_guide(bench, path, scales, curves):
    """The change of L_simple against the guidance scale, a line per band of t."""
    figure, ax = plt.subplots(figsize=(6, 3.5), layout="constrained")
    for label, changes in curves.items():
        ax.plot(scales, changes, marker=".", label=label)
    ylabel = r"change of $L_{\rm simple}$ for the true digit"
    ax.set(xlabel="guidance scale", ylabel=ylabel, ylim=(-0.25, 0.3))
    ax.axhline(0, color="gray", linestyle="--", linewidth=0.8)
    ax.legend(fontsize="small")
    save_figure(path, figure, bench.provenance())


def draw_scales(bench, path):
    """Samples from the same noise, a row per scale, up to scales where they visibly fail."""
    scales = map(float, PICTURE_SCALES)
    settings = [bench.settings(2 * NUM_CLASSES, guidance_scale=scale) for scale in scales]
    rows = torch.cat([bench.draw(row)[0] for row in settings])
    save_grid(path, rows, 2 * NUM_CLASSES, bench.provenance(scales=PICTURE_SCALES))


def draw_rows(bench, path, settings):
    """Samples from the same noise, a row per settings of 2 images of each digit."""
    rows = torch.cat([bench.draw(row)[0] for row in settings])
    save_grid(path, rows, 2 * NUM_CLASSES, bench.provenance(rows=settings))


def draw_nearest(bench, path):
    """A sample of each digit above its three nearest training images: is it copying?"""
    images, _ = bench.draw(bench.settings(NUM_CLASSES))
    distance = torch.cdist(images.flatten(1), bench.train_images.flatten(1))  # (10, 55000)
    nearest = bench.train_images[distance.topk(3, largest=False).indices.T.flatten()]
    save_grid(path, torch.cat([images, nearest]), NUM_CLASSES, bench.provenance())


def column(rows, name):
    return [float(row[name]) for row in rows]
