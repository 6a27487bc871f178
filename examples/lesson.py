"""What quick_demo_CGD.ipynb uses to show pictures and to check answers."""

import io

import matplotlib.pyplot as plt
import torch
from IPython.display import Image as Picture
from IPython.display import display
from ipywidgets import FloatSlider, IntRangeSlider, IntSlider
from PIL import Image

from support.pictures import grid_image

PITCH = 30  # pixels from one image of the grid to the next


def show(images, columns, titles=(), rows=()):
    """Draw images (N, 1, 28, 28) in [-1, 1], row by row.

    Args:
        titles: labels above the columns. rows: labels left of the rows.
    """
    height = -(-len(images) // columns)
    figure, axes = plt.subplots(figsize=(0.72 * columns + 0.2, 0.72 * height + 0.2))
    axes.imshow(grid_image(images, columns), cmap="gray", vmin=0, vmax=255)
    axes.xaxis.tick_top()
    for set_ticks, labels in ((axes.set_xticks, titles), (axes.set_yticks, rows)):
        set_ticks([PITCH * i + PITCH / 2 for i in range(len(labels))], labels)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    plt.show()


def check(name, yours, exact, tolerance, clip=False):
    """Print that `yours` is correct. Raises AssertionError if it is blank or not `exact`.

    `clip`: clip it to [-1, 1] first, as `sample` does with its images.
    """
    assert yours is not None, f"{name}: still blank"
    yours = yours.clamp(-1, 1) if clip else yours
    error = (yours - exact).abs().max().item()
    assert error < tolerance, f"{name}: wrong by up to {error:.2g}"
    print(f"{name}: correct (largest difference {error:.0e})")


def compare(guess, value):
    """Print a guess beside what came out."""
    print(f"your guess: {'none' if guess is None else guess}; it is {value:.2f}")


def slider(low, high, value, name):
    """A slider that draws when it is let go: for whole numbers, for others, or for a range."""
    kind = {tuple: IntRangeSlider, int: IntSlider, float: FloatSlider}[type(value)]
    return kind(value=value, min=low, max=high, description=name, continuous_update=False)


def draw_loop():
    """Draw a step of guided sampling, as boxes and arrows."""
    axes = plt.figure(figsize=(11, 2.6)).add_axes((0, 0, 1, 1), xlim=(0, 11), ylim=(-0.1, 2.5))
    axes.axis("off")
    box = {"boxstyle": "round,pad=0.35", "facecolor": "white", "edgecolor": "C0"}
    boxes = {
        (1.9, 1.6): "U-Net",
        (4.0, 1.6): "clip $x_0$\nto [-1, 1]",
        (1.9, 0.5): "classifier",
        (4.0, 0.5): "autograd",
        (9.0, 1.6): "sampler\nstep",
    }
    words = {
        (0.4, 1.6): "$x_t, t$",
        (1.9, 0.05): "digit $y$",
        (2.95, 0.7): r"$\log p(y\mid x_t, t)$",
        (5.0, 0.7): r"$\nabla$",
        (6.4, 0.5): r"times $s\,\sqrt{1-\bar\alpha_t}$",
        (6.2, 1.8): r"$\epsilon(x_t, t)$",
        (7.7, 1.6): "minus",
        (8.3, 1.8): r"$\hat\epsilon$",
        (10.4, 1.6): "next $x_t$",
    }
    for place, word in boxes.items():
        axes.text(*place, word, ha="center", va="center", fontsize=12, bbox=box)
    for place, word in words.items():
        axes.text(*place, word, ha="center", va="center", fontsize=12)
    paths = [  # each ends in an arrow
        [(0.6, 1.6), (1.5, 1.6)], [(2.3, 1.6), (3.5, 1.6)], [(4.5, 1.6), (7.35, 1.6)],
        [(0.4, 1.4), (0.4, 0.5), (1.4, 0.5)], [(2.4, 0.5), (3.5, 0.5)], [(4.5, 0.5), (5.6, 0.5)],
        [(7.2, 0.5), (7.7, 0.5), (7.7, 1.45)], [(8.05, 1.6), (8.55, 1.6)],
        [(9.45, 1.6), (9.9, 1.6)], [(10.4, 1.8), (10.4, 2.4), (0.3, 2.4), (0.3, 1.8)],
        [(0.5, 1.8), (0.5, 2.1), (9.0, 2.1), (9.0, 1.95)], [(1.9, 0.15), (1.9, 0.3)],
    ]  # fmt: skip
    arrow = {"arrowstyle": "->", "color": "C0", "shrinkA": 0, "shrinkB": 0}
    for path in paths:
        axes.plot(*zip(*path[:-1]), color="C0", linewidth=1)
        axes.annotate("", path[-1], path[-2], arrowprops=arrow)
    plt.show()


def film(unguided, guided, gradients, titles):
    """Show a film of three rows of images: a frame for each step, and a rest on the last.

    Args:
        unguided, guided: lists of images (N, 1, 28, 28) in [-1, 1]. gradients: of gradients, each
        drawn on its own scale from blue, negative, over white to red.
    """
    frames = []
    for k, title in enumerate(titles):
        figure, panels = plt.subplots(3, 1, figsize=(6, 2.2), dpi=80, layout="constrained")
        gray = {"cmap": "gray", "vmin": 0, "vmax": 255}
        panels[0].imshow(grid_image(unguided[k], len(unguided[k])), **gray)
        panels[1].imshow(grid_image(guided[k], len(guided[k])), **gray)
        row = torch.cat(list(gradients[k][:, 0]), dim=1)
        limit = row.abs().max()
        panels[2].imshow(row, cmap="bwr", vmin=-limit, vmax=limit)
        for panel, name in zip(panels, ("unguided", "guided", "gradient")):
            panel.set(xticks=[], yticks=[])
            panel.set_ylabel(name, rotation=0, ha="right", va="center")
        figure.suptitle(title)
        buffer = io.BytesIO()
        figure.savefig(buffer)
        plt.close(figure)
        frames.append(Image.open(buffer).convert("P", palette=Image.ADAPTIVE))
    gif, durations = io.BytesIO(), [300] * (len(frames) - 1) + [3_000]
    frames[0].save(gif, "gif", save_all=True, append_images=frames[1:], duration=durations, loop=0)
    display(Picture(gif.getvalue()))
