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


def save_labelled_grid(path, images, row_labels, column_labels, made_from):
    """Write images (N, C, H, W) in [-1, 1] as a PNG with labels, two screen pixels a pixel.

    The images are row by row, with a row for each label; a column label is above equally many.
    """
    from matplotlib.figure import Figure  # here, since scripts start faster without it

    columns = len(images) // len(row_labels)
    grid = np.asarray(grid_image(images, columns, pixel=1, border=255))
    height, width = grid.shape[:2]
    figure = Figure(figsize=(2 * width / DPI, 2 * height / DPI))
    axes = figure.add_axes((0, 0, 1, 1))  # the labels stand outside, where "tight" makes room
    axes.imshow(grid, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    sides = (axes.yaxis, row_labels, height), (axes.xaxis, column_labels, width)
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


class Film:
    """Images as they form beside those that they become, at MAX_FRAMES of all `times` at most."""

    def __init__(self, times):
        every = math.ceil(len(times) / MAX_FRAMES)
        self.frames = {time: [] for time in times[::every]}  # -> the two sides of each batch

    def add(self, time, left, right):
        """Add images (B, C, H, W) in [-1, 1] of a batch, at a time, an int or a tensor ()."""
        if int(time) in self.frames:
            self.frames[int(time)].append(torch.stack([left, right]).cpu())

    def save(self, path, last, shown, columns, made_from):
        """Write a GIF that rests on the images `last` (N, C, H, W); `shown` picks some of them.

        A frame has two grids as `save_grid` writes them, in eight shades: a small file.
        """
        frames = [torch.cat(batches, dim=1) for batches in self.frames.values()]
        pictures = []
        for frame in [*frames, torch.stack([last, last])]:  # (2, N, C, H, W)
            left, right = (np.asarray(grid_image(side[shown], columns)) for side in frame)
            gap = np.full_like(left[:, :GAP], 255)
            shades = np.concatenate([left, gap, right], axis=1) // 32 * 36  # 0, 36, ... 252
            pictures.append(Image.fromarray(shades))
        first, *others = pictures
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
