"""Images as files: PNG grids, figures, GIF films, NPZ samples.

Gray images are shown as ink on paper: -1, the background of MNIST, is light, and 1 is dark.
"""

import math

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo
from torchvision.utils import make_grid

from support.files import atomic_write

PAPER, INK_GRAY = 250, 25  # of 255
INK, ACCENT = "#222222", "#c8500a"  # colours of figures
ORANGE, BLUE = (200, 80, 10), (0, 100, 173)  # more ink, less ink
MAX_FRAMES = 20
FRAME_MS, LAST_FRAME_MS = 160, 3_000
DPI = 120
LABEL_SIZE = 13  # points: readable where a grid is as wide as a printed page


def to_uint8(images):
    """Images (..., H, W) in [-1, 1], clipped, as uint8 0 .. 255 of the same shape."""
    return images.clamp(-1, 1).add(1).mul(127.5).round().to(torch.uint8)


def on_paper(images):
    """Images (N, C, H, W) in [-1, 1] as they are shown, uint8: gray ones from PAPER to INK_GRAY."""
    if images.shape[1] == 3:
        return to_uint8(images)
    ink = (images.clamp(-1, 1) + 1) / 2
    return (PAPER + (INK_GRAY - PAPER) * ink).round().to(torch.uint8)


def push_on_paper(grad):
    """Gradients (N, C, H, W) as colours, uint8 (N, 3, H, W): orange is more ink, blue is less.

    The colours of each image are as strong as its largest value.
    """
    push = grad.mean(dim=1, keepdim=True)
    return in_colors(push / push.abs().amax(dim=(1, 2, 3), keepdim=True).clamp(min=1e-12))


def in_colors(push):
    """Numbers (N, 1, H, W) in [-1, 1] as colours between BLUE, PAPER and ORANGE: (N, 3, H, W)."""
    orange, blue = (torch.tensor(color).view(3, 1, 1) for color in (ORANGE, BLUE))
    color = torch.where(push > 0, orange, blue)
    return (PAPER + (color - PAPER) * push.abs()).round().to(torch.uint8)


def grid_image(images, columns, pixel=4):
    """A PIL image of images (N, C, H, W), row by row, `columns` in a row.

    They are in [-1, 1], or as `on_paper` makes them. Each pixel has `pixel` screen pixels.
    """
    if images.dtype != torch.uint8:
        images = on_paper(images)
    grid = make_grid(images, nrow=columns, pad_value=PAPER).permute(1, 2, 0)
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
    """Write rows, label -> images (N, C, H, W) in [-1, 1], as a PNG, three screen pixels a pixel.

    A column label is above equally many images.
    """
    from matplotlib.figure import Figure  # here, since scripts start faster without it

    images = torch.cat(list(rows.values()))
    grid = np.asarray(grid_image(images, len(images) // len(rows), pixel=1))
    height, width = grid.shape[:2]
    figure = Figure(figsize=(3 * width / DPI, 3 * height / DPI), facecolor=(PAPER / 255,) * 3)
    axes = figure.add_axes((0, 0, 1, 1))  # the labels stand outside, where "tight" makes room
    axes.imshow(grid, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    sides = (axes.yaxis, list(rows), height), (axes.xaxis, column_labels, width)
    for axis, labels, length in sides:  # the labels share the length equally
        centres = [(k + 0.5) * length / len(labels) - 0.5 for k in range(len(labels))]
        axis.set_ticks(centres, labels, fontsize=LABEL_SIZE, color=INK)
    if any(len(label) > 4 for label in column_labels):  # such as names of clothes
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
    """Write a GIF of images as they form: x_t, the x_0 in it, and the push of the guide.

    There are MAX_FRAMES frames at most, and the film rests on the last one.

    Args:
        steps: yields `num_steps` times t, x_t, x_0 (N, C, H, W) in [-1, 1], and the gradient of
            the guide at x_t, or None at the end.
    """
    every = math.ceil(num_steps / MAX_FRAMES)
    frames = []
    for number, (t, x_t, x_0, grad) in enumerate(steps, start=1):
        if number % every == 0 or number == num_steps:
            frames.append(film_frame(t, x_t, x_0, grad, columns))
    with atomic_write(path) as file:
        write_gif(file, frames, FRAME_MS, comment=made_from.encode())


def write_gif(file, frames, frame_ms, **settings):
    """Write PIL images as a film that rests on the last one; `settings` of PIL's GIF."""
    first, *others = frames
    durations = [frame_ms] * len(others) + [LAST_FRAME_MS]
    settings |= {"append_images": others, "duration": durations, "loop": 0}
    first.save(file, "gif", save_all=True, **settings)


def film_frame(t, x_t, x_0, grad, columns):
    """A frame of a film, a PIL image: a clock, grids of x_t and x_0, and the push of the guide.

    They are (N, C, H, W). At the end, `grad` is None.
    """
    clock = f"t = {t}" if grad is not None else "the end"
    push = grad if grad is not None else torch.zeros_like(x_t)
    rows = {
        "the noisy image": x_t,
        "what it would become": x_0,
        "the push of the guide": push_on_paper(push.cpu()),
    }
    font, line = ImageFont.load_default(18), 30
    grids = {label: grid_image(images.cpu(), columns, pixel=3) for label, images in rows.items()}
    width, height = next(iter(grids.values())).size
    frame = Image.new("RGB", (max(width, 260), len(grids) * (line + height)), (PAPER,) * 3)
    draw = ImageDraw.Draw(frame)
    for number, (label, grid) in enumerate(grids.items()):
        top = number * (line + height)
        draw.text((8, top + 4), label, fill=INK, font=font)
        frame.paste(grid.convert("RGB"), (0, top + line))
    draw.text((frame.width - 8, 4), clock, fill=INK, font=font, anchor="ra")
    return frame.quantize(palette=film_palette())


def film_palette():
    """The colours of a film, few for a small file: grays, and from blue over paper to orange."""
    grays = torch.linspace(INK_GRAY, PAPER, 16).round().int().view(16, 1).expand(16, 3)
    pushes = in_colors(torch.linspace(-1, 1, 31).view(31, 1, 1, 1)).view(31, 3).int()
    colors = torch.cat([grays, pushes])
    palette = Image.new("P", (1, 1))
    palette.putpalette(colors.flatten().tolist())
    return palette


def save_npz(path, images, labels):
    """Write images (N, C, H, W) in [-1, 1] and labels (N,) as openai/guided-diffusion does.

    `arr_0` is uint8 (N, H, W, C), `arr_1` is int64 (N,).
    """
    with atomic_write(path) as file:
        np.savez(file, to_uint8(images).permute(0, 2, 3, 1).numpy(), labels.numpy())
