"""Images as files: PNG grids and NPZ samples."""

from itertools import groupby

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torchvision.utils import make_grid

from support.files import atomic_write

PAPER, INK = 250, 25  # gray levels, out of 255
MAX_COLUMNS = 22  # of a labeled grid, about 2,000 pixels
LABEL_SIZE, TEXT = 22, "#222222"  # pixels, color


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


def grid_image(images, columns, pixel=4):
    """A PIL image of a grid of uint8 images (N, C, H, W); each pixel becomes `pixel` wide."""
    grid = make_grid(images, nrow=columns, pad_value=PAPER).permute(1, 2, 0)
    pixels = grid if images.shape[1] == 3 else grid[..., 0]  # make_grid repeats a gray channel
    picture = Image.fromarray(pixels.numpy())
    return picture.resize((pixel * picture.width, pixel * picture.height), Image.NEAREST)


def labeled_grid(rows, labels, pixel=3):
    """A PIL image of rows of images with labels.

    Args:
        rows: a list of (name, uint8 images (N, C, H, W)); C is 1 or 3.
        labels: of the N columns, shown where they change. After at most MAX_COLUMNS columns, the
            grid continues below, if possible with a new label.
    """
    names, images = zip(*[(name, row.expand(-1, 3, -1, -1)) for name, row in rows])
    n, cell = len(labels), pixel * (images[0].shape[3] + 2)  # make_grid puts 2 pixels between
    shortest = min(len([*run]) for _, run in groupby(labels))  # run of equal labels
    step = max(MAX_COLUMNS // shortest, 1) * shortest
    parts = [
        slice(start, min(start + MAX_COLUMNS, first + step, n))
        for first in range(0, n, step)
        for start in range(first, min(first + step, n), MAX_COLUMNS)
    ]
    font = ImageFont.load_default(LABEL_SIZE)
    longest, room = max(map(font.getlength, labels)), min(shortest, MAX_COLUMNS) * cell
    if longest > room:
        font = ImageFont.load_default(LABEL_SIZE * room / longest)
    left = round(max(map(font.getlength, names))) + 16
    height = LABEL_SIZE + 12 + len(rows) * cell + 2 * pixel
    size = left + min(step, MAX_COLUMNS, n) * cell + 2 * pixel, len(parts) * height
    canvas = Image.new("RGB", size, (PAPER,) * 3)
    draw = ImageDraw.Draw(canvas)
    for number, part in enumerate(parts):
        top = number * height + LABEL_SIZE + 12
        grid = grid_image(torch.cat([row[part] for row in images]), len(labels[part]), pixel)
        canvas.paste(grid, (left, top))
        for k, name in enumerate(names):
            draw.text((left - 8, top + (k + 0.5) * cell), name, TEXT, font, anchor="rm")
        for k, label in enumerate(labels[part]):
            if k == 0 or label != labels[part][k - 1]:
                x = left + k * cell + 2 * pixel
                draw.text((x, top - 6), label, TEXT, font, anchor="ls")
    return canvas


def save_picture(path, picture):
    """Save a PIL image as a PNG."""
    with atomic_write(path) as file:
        picture.save(file, format="png")


def save_npz(path, images, labels, classes):
    """Save images (N, C, H, W) in [-1, 1] and labels (N,) in openai/guided-diffusion's format.

    `arr_0` is uint8 (N, H, W, C), `arr_1` int64 (N,); `classes` are the names of the labels.
    """
    pixels = to_uint8(images).permute(0, 2, 3, 1).numpy()
    with atomic_write(path) as file:
        np.savez(file, pixels, labels.numpy(), classes=np.array(classes))
