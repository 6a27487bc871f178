"""Images as files: PNG grids, figures, GIF films, NPZ samples."""

import math

import numpy as np
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torchvision.utils import make_grid

from support.files import atomic_write

PIXEL = 4  # screen pixels a pixel in a grid
GAP = 10  # pixels between the two sides of a film
MAX_FRAMES = 25
FRAME_MS, LAST_FRAME_MS = 120, 2_500
DPI = 120
LABEL_SIZE = 14  # points: readable where a grid is as wide as a printed page


def to_uint8(images):
    """Images (..., H, W) in [-1, 1], clipped, as uint8 0 .. 255 of the same shape."""
    return images.clamp(-1, 1).add(1).mul(127.5).round().to(torch.uint8)


def grid_image(images, columns, pixel=PIXEL, border=0):
    """A PIL image of images (N, C, H, W) in [-1, 1], row by row, `columns` in a row.

    Args:
        pixel: screen pixels a pixel. border: the gray of the lines between images, 0 .. 255.
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

    Args:
        images: row by row, equally many for each of the row labels.
        column_labels: each above equally many columns.
    """
    from matplotlib.figure import Figure  # here, since scripts start faster without it

    columns = len(images) // len(row_labels)
    grid = np.asarray(grid_image(images, columns, pixel=1, border=255))
    height, width = grid.shape[:2]
    figure = Figure(figsize=(2 * width / DPI, 2 * height / DPI))
    axes = figure.add_axes((0, 0, 1, 1))  # the labels stand outside, where "tight" makes room
    axes.imshow(grid, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    axes.yaxis.set_ticks(centres(row_labels, height), row_labels, fontsize=LABEL_SIZE)
    axes.xaxis.set_ticks(centres(column_labels, width), column_labels, fontsize=LABEL_SIZE)
    if any(len(label) > 2 for label in column_labels):  # such as names of clothes
        axes.tick_params(axis="x", labelrotation=90)
    axes.tick_params(length=0, labeltop=True, labelbottom=False)
    axes.spines[:].set_visible(False)
    save_figure(path, figure, made_from, bbox_inches="tight")


def centres(labels, length):
    """Where labels stand that share `length` pixels equally."""
    return [(k + 0.5) * length / len(labels) - 0.5 for k in range(len(labels))]


def save_figure(path, figure, made_from, **settings):
    """Write a matplotlib figure as a PNG, with its provenance inside; `settings` of savefig."""
    with atomic_write(path) as file:
        metadata = {"provenance": made_from}
        figure.savefig(file, format="png", dpi=DPI, metadata=metadata, **settings)


class Film:
    """Images as they form, left, beside other images that belong to them, right.

    Args:
        times: all times of which frames will be added; about MAX_FRAMES of them are kept.
    """

    def __init__(self, times):
        every = math.ceil(len(times) / MAX_FRAMES)
        self.frames = {time: [] for time in times[::every]}  # -> a pair of images for each batch

    def add(self, time, left, right):
        """Add both images (B, C, H, W) in [-1, 1] of a batch at a time, an int or a tensor ()."""
        if int(time) in self.frames:
            self.frames[int(time)].append((left.cpu(), right.cpu()))

    def save(self, path, last, shown, columns, made_from):
        """Write a GIF that rests on the images `last` (N, C, H, W).

        A frame has two grids as `save_grid` writes them, of the images with the indices `shown`,
        in eight shades, which make a small file.
        """
        pairs = [map(torch.cat, zip(*batches)) for batches in self.frames.values()]
        pictures = []
        for left, right in [*pairs, (last, last)]:
            sides = [np.asarray(grid_image(side[shown], columns)) for side in (left, right)]
            gap = np.full_like(sides[0][:, :GAP], 255)
            picture = np.concatenate([sides[0], gap, sides[1]], axis=1)
            shades = picture // 32 * 36  # 0, 36, ... 252
            pictures.append(Image.fromarray(shades))
        durations = [FRAME_MS] * (len(pictures) - 1) + [LAST_FRAME_MS]
        settings = {"append_images": pictures[1:], "duration": durations, "loop": 0}
        with atomic_write(path) as file:
            pictures[0].save(file, "gif", save_all=True, comment=made_from.encode(), **settings)


def save_npz(path, images, labels):
    """Write images (N, C, H, W) in [-1, 1] and labels (N,) as openai/guided-diffusion does.

    `arr_0` is uint8 (N, H, W, C), `arr_1` is int64 (N,).
    """
    with atomic_write(path) as file:
        np.savez(file, to_uint8(images).permute(0, 2, 3, 1).numpy(), labels.numpy())
