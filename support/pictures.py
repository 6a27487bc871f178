"""Images as files: PNG grids, figures, GIF films, NPZ samples."""

import math

import numpy as np
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torchvision.utils import make_grid

from support.files import atomic_write

GAP = 10  # pixels between the two sides of a film
MAX_FRAMES = 25
FRAME_MS, LAST_FRAME_MS = 120, 2_500
DPI = 120
INK, ACCENT = "#222222", "#c8500a"  # colours of figures
LABEL_SIZE = 14  # points: readable where a grid is as wide as a printed page


def to_uint8(images):
    """Images (..., H, W) in [-1, 1], clipped, as uint8 0 .. 255 of the same shape."""
    return images.clamp(-1, 1).add(1).mul(127.5).round().to(torch.uint8)


def grid_image(images, columns, pixel=4, border=0):
    """A PIL image of images (N, C, H, W) in [-1, 1], row by row, `columns` in a row.

    Each pixel has `pixel` screen pixels; `border` is the gray, 0 .. 255, between images.
    """
    grid = make_grid(to_uint8(images), nrow=columns, pad_value=border).permute(1, 2, 0)
    pixels = grid if images.shape[1] == 3 else grid[..., 0]  # make_grid repeats a gray channel
    picture = Image.fromarray(pixels.numpy())
    return picture.resize((pixel * picture.width, pixel * picture.height), Image.NEAREST)


def save_grid(path, images, columns, made_from):
    """Write images (N, C, H, W) in [-1, 1] as a PNG, with its provenance inside."""
    text = PngInfo()
    text.add_text("provenance", made_from)
    with atomic_write(path) as file:
        grid_image(images, columns).save(file, format="png", pnginfo=text)


def save_labelled_grid(path, rows, column_labels, made_from):
    """Write rows, label -> images (N, C, H, W) in [-1, 1], as a PNG, two screen pixels a pixel.

    A column label is above equally many images.
    """
    from matplotlib.figure import Figure  # here, since scripts start faster without it

    images = torch.cat(list(rows.values()))
    grid = np.asarray(grid_image(images, len(images) // len(rows), pixel=1, border=255))
    height, width = grid.shape[:2]
    figure = Figure(figsize=(2 * width / DPI, 2 * height / DPI))
    axes = figure.add_axes((0, 0, 1, 1))  # the labels stand outside, where "tight" makes room
    axes.imshow(grid, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    sides = (axes.yaxis, list(rows), height), (axes.xaxis, column_labels, width)
    for axis, labels, length in sides:  # the labels share the length equally
        centres = [(k + 0.5) * length / len(labels) - 0.5 for k in range(len(labels))]
        axis.set_ticks(centres, labels, fontsize=LABEL_SIZE)
    if any(len(label) > 2 for label in column_labels):  # such as names of clothes
        axes.tick_params(axis="x", labelrotation=90)
    axes.tick_params(length=0, labeltop=True, labelbottom=False)
    axes.spines[:].set_visible(False)
    save_figure(path, figure, made_from, bbox_inches="tight")


def save_figure(path, figure, made_from, **settings):
    """Write a matplotlib figure as a PNG, with its provenance inside; `settings` of savefig."""
    settings |= {"format": "png", "dpi": DPI, "metadata": {"provenance": made_from}}
    with atomic_write(path) as file:
        figure.savefig(file, **settings)


def save_film(path, steps, num_steps, columns, made_from):
    """Write a GIF of images as they form, x_t, beside those that they become, x_0.

    A frame has two grids as `save_grid` writes them, in eight shades: a small file. There are
    MAX_FRAMES frames at most, and the film rests on the last one.

    Args:
        steps: yields `num_steps` times what `inference.draw` does: a time, x_t, and x_0.
    """
    every = math.ceil(num_steps / MAX_FRAMES)
    frames = []
    for number, (_, *sides) in enumerate(steps, start=1):
        if number % every == 0 or number == num_steps:
            left, right = (np.asarray(grid_image(side.cpu(), columns)) for side in sides)
            gap = np.full_like(left[:, :GAP], 255)
            shades = np.concatenate([left, gap, right], axis=1) // 32 * 36  # 0, 36, ... 252
            frames.append(Image.fromarray(shades))
    first, *others = frames
    durations = [FRAME_MS] * len(others) + [LAST_FRAME_MS]
    settings = {"append_images": others, "duration": durations, "loop": 0}
    with atomic_write(path) as file:
        first.save(file, "gif", save_all=True, comment=made_from.encode(), **settings)


def save_npz(path, images, labels):
    """Write images (N, C, H, W) in [-1, 1] and labels (N,) as openai/guided-diffusion does.

    `arr_0` is uint8 (N, H, W, C), `arr_1` is int64 (N,).
    """
    with atomic_write(path) as file:
        np.savez(file, to_uint8(images).permute(0, 2, 3, 1).numpy(), labels.numpy())
