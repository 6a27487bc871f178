"""Images as files and figures: grids, rows with labels, NPZ samples."""

import io
from itertools import groupby

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from PIL import Image
from torchvision.utils import make_grid

PAPER, INK = 250, 25  # gray levels, out of 255
BLACK, ORANGE, BLUE = "#222222", "#c8500a", "#0064ad"  # orange: ink is added; blue: removed
SIGNED = LinearSegmentedColormap.from_list("signed", [BLUE, "white", ORANGE])
MAX_COLUMNS = 22  # of a figure


def to_uint8(images):
    """Images in [-1, 1] as uint8, clipped; uint8 images are returned unchanged."""
    if images.dtype == torch.uint8:
        return images
    return images.clamp(-1, 1).add(1).mul(127.5).round().to(torch.uint8)


def as_displayed(images, dataset_info):
    """Images (N, C, H, W) in [-1, 1] as uint8, on the CPU: MNIST and its variants as ink on paper.

    Images from a folder keep their colors. `dataset_info` is `Dataset.info`.
    """
    images = images.cpu()
    return to_uint8(images) if dataset_info["kind"] == "folder" else ink_on_paper(images)


def ink_on_paper(images):
    """Grayscale images (N, 1, H, W) in [-1, 1] as uint8: -1 is light, and 1 is dark."""
    ink = (images.clamp(-1, 1) + 1) / 2
    return (PAPER + (INK - PAPER) * ink).round().to(torch.uint8)


def grid_image(images, columns):
    """A PIL image of a grid of uint8 images (N, C, H, W), four times as large."""
    grid = make_grid(images, nrow=columns, pad_value=PAPER).permute(1, 2, 0)
    pixels = grid if images.shape[1] == 3 else grid[..., 0]  # make_grid repeats a gray channel
    picture = Image.fromarray(pixels.numpy())
    return picture.resize((4 * picture.width, 4 * picture.height), Image.NEAREST)


def draw_rows(figure, rows, labels=(), signed=()):
    """Draw rows of images on an empty matplotlib figure, with their names on the left.

    Args:
        rows: name -> images (N, C, H, W), uint8, or grayscale in [-1, 1], where 1 is ink; or
            probabilities (N, K).
        labels: of the columns, drawn where they change.
        signed: names of the rows that are orange where ink is added, and blue where it is removed.
    """
    labels, n = list(map(str, labels)), max(map(len, rows.values()))
    shortest = min((len([*run]) for _, run in groupby(labels)), default=1)  # run of equal labels
    columns = min(n, max(MAX_COLUMNS // shortest, 1) * shortest, MAX_COLUMNS)
    blocks = -(-n // columns)  # the rows continue below, if possible with a new label
    heights = [0.5 if labels else 0.05] + [1] * len(rows)  # of a block: first, room for the labels
    figure.set_size_inches(8, 8 / columns * sum(heights) * blocks)
    axes = figure.subplots(
        len(heights) * blocks, columns, squeeze=False, height_ratios=heights * blocks
    )
    longest = max((len(line) for label in labels for line in label.splitlines()), default=1)
    fontsize = min(10, 1000 * min(shortest, columns) / columns / longest)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[], frame_on=False)
    for line, row_axes in enumerate(axes):
        block, row = divmod(line, len(heights))
        if row == 0:
            continue
        name, images = [*rows.items()][row - 1]
        row_axes[0].set_ylabel(name, rotation=0, ha="right", va="center")
        for k, axis in enumerate(row_axes, start=block * columns):
            if k < len(images):
                draw_image(axis, images[k], SIGNED if name in signed else "gray_r")
            new = axis is row_axes[0] or labels[k : k + 1] != labels[k - 1 : k]
            if row == 1 and k < len(labels) and new:
                axis.set_title(labels[k], fontsize=fontsize)


def draw_image(axis, image, cmap):
    """Draw one image, or a vector of probabilities as bars, on matplotlib axes."""
    if image.ndim == 1:
        axis.bar(range(len(image)), image, color=ORANGE)
        axis.set(ylim=(0, 1), box_aspect=1)
        axis.set_xticks(range(len(image)), range(len(image)), fontsize=6)
    elif image.dtype == torch.uint8:
        axis.imshow(image.expand(3, -1, -1).permute(1, 2, 0), interpolation="none")
    else:
        axis.imshow(image[0], cmap=cmap, vmin=-1, vmax=1, interpolation="none")


def show(rows, labels=(), signed=()):
    """`draw_rows` in a notebook: returns the figure."""
    draw_rows(figure := plt.figure(), rows, labels, signed)
    return figure


def png(picture):
    """A PIL image or a matplotlib figure as a PNG file: bytes."""
    file = io.BytesIO()
    if isinstance(picture, Figure):
        picture.savefig(file, dpi=150, bbox_inches="tight", facecolor=f"{PAPER / 255}")
    else:
        picture.save(file, "png")
    return file.getvalue()


def npz(images, labels, classes):
    """Images (N, C, H, W) in [-1, 1] and labels (N,) in openai/guided-diffusion's format: bytes.

    `arr_0` is uint8 (N, H, W, C), `arr_1` int64 (N,); `classes` are the names of the labels.
    """
    file, pixels = io.BytesIO(), to_uint8(images).permute(0, 2, 3, 1).numpy()
    np.savez(file, pixels, labels.numpy(), classes=np.array(classes))
    return file.getvalue()
