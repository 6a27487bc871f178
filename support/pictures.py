"""Images as files: PNG grids, figures, GIF animations, NPZ samples."""

import math

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo
from torchvision.utils import make_grid

from support.files import atomic_write

PAPER, INK_GRAY = 250, 25  # gray levels, out of 255
INK, ACCENT = "#222222", "#c8500a"  # colors of figures
ORANGE, BLUE = (200, 80, 10), (0, 100, 173)  # more ink, less ink
MAX_FRAMES, COLORS = 13, 64  # per animation; color images use 256 colors
FRAME_MS, LAST_FRAME_MS = 160, 3_000
DPI = 120
LABEL_SIZE = 13  # points


def to_uint8(images):
    """Images in [-1, 1] as uint8, clipped; uint8 images are returned unchanged."""
    if images.dtype == torch.uint8:
        return images
    return images.clamp(-1, 1).add(1).mul(127.5).round().to(torch.uint8)


def from_uint8(images):
    """uint8 images as floats in [-1, 1]."""
    return images.float().div(127.5).sub(1)


def as_displayed(images, dataset_info):
    """Images (N, C, H, W) in [-1, 1] as uint8, on the CPU: MNIST and its variants as ink on paper.

    Images from a folder keep their colors. `dataset_info` is `Dataset.info`.
    """
    images = images.cpu()
    return to_uint8(images) if dataset_info["kind"] == "folder" else ink_on_paper(images)


def ink_on_paper(images):
    """Grayscale images (N, 1, H, W) in [-1, 1] as uint8: -1 is light, and 1 is dark."""
    if images.shape[1] == 3:
        return to_uint8(images)
    ink = (images.clamp(-1, 1) + 1) / 2
    return (PAPER + (INK_GRAY - PAPER) * ink).round().to(torch.uint8)


def gradient_in_colors(grad):
    """Gradients (N, C, H, W) as uint8 colors (N, 3, H, W): orange adds ink, blue removes it.

    Each image is scaled by its largest absolute value.
    """
    grad = grad.mean(dim=1, keepdim=True)
    values = grad / grad.abs().amax(dim=(1, 2, 3), keepdim=True).clamp(min=1e-12)
    orange, blue = (torch.tensor(color).view(3, 1, 1) for color in (ORANGE, BLUE))
    color = torch.where(values > 0, orange, blue)
    return (PAPER + (color - PAPER) * values.abs()).round().to(torch.uint8)


def grid_image(images, columns, pixel=4):
    """A PIL image of a grid, row by row; each image pixel is `pixel` screen pixels wide.

    images: (N, C, H, W) in [-1, 1], or uint8 as displayed.
    """
    if images.dtype != torch.uint8:
        images = ink_on_paper(images)
    grid = make_grid(images, nrow=columns, pad_value=PAPER).permute(1, 2, 0)
    pixels = grid if images.shape[1] == 3 else grid[..., 0]  # make_grid repeats a gray channel
    picture = Image.fromarray(pixels.numpy())
    return picture.resize((pixel * picture.width, pixel * picture.height), Image.NEAREST)


def save_grid(path, images, columns, made_from):
    """Save images (N, C, H, W) in [-1, 1] as a PNG grid, with its provenance."""
    text = PngInfo()
    text.add_text("provenance", made_from)
    with atomic_write(path) as file:
        grid_image(images, columns).save(file, format="png", pnginfo=text)


def save_labeled_grid(path, rows, column_labels, made_from):
    """Save rows, a dict of label -> images (N, C, H, W) in [-1, 1], as a labeled PNG grid.

    Each column label is centered over an equal number of images.
    """
    from matplotlib.figure import Figure  # imported here, so that scripts start faster

    images = torch.cat(list(rows.values()))
    grid = np.asarray(grid_image(images, len(images) // len(rows), pixel=1))
    height, width = grid.shape[:2]
    figure = Figure(figsize=(3 * width / DPI, 3 * height / DPI), facecolor=(PAPER / 255,) * 3)
    axes = figure.add_axes((0, 0, 1, 1))  # labels are outside; "tight" makes room for them
    axes.imshow(grid, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    sides = (axes.yaxis, list(rows), height), (axes.xaxis, column_labels, width)
    for axis, labels, length in sides:
        centers = [(k + 0.5) * length / len(labels) - 0.5 for k in range(len(labels))]
        axis.set_ticks(centers, labels, fontsize=LABEL_SIZE, color=INK, parse_math=False)
    if any(len(label) > 4 for label in column_labels):
        axes.tick_params(axis="x", labelrotation=90)
    axes.tick_params(length=0, labeltop=True, labelbottom=False)
    axes.spines[:].set_visible(False)
    save_figure(path, figure, made_from, bbox_inches="tight")


def show(rows, titles=(), signed=()):
    """Draw rows in a notebook: label -> images (N, 1, H, W) in [-1, 1], or probabilities (N, K).

    Signed rows are orange where ink is added, and blue where it is removed. Returns the figure.
    """
    import matplotlib.pyplot as plt
    from matplotlib.colors import LinearSegmentedColormap

    ends = [tuple(channel / 255 for channel in color) for color in (BLUE, ORANGE)]
    signed_colors = LinearSegmentedColormap.from_list("", [ends[0], "white", ends[1]])
    n = max(len(row) for row in rows.values())
    figure, axes = plt.subplots(len(rows), n, figsize=(8, 8 / n * len(rows)), squeeze=False)
    for line, (label, row) in zip(axes, rows.items()):
        line[0].set_ylabel(label, rotation=0, ha="right", va="center")
        for axis, image in zip(line, row):
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_color("0.8")
            if image.ndim == 1:
                axis.bar(range(len(image)), image, color=ACCENT)
                axis.set(ylim=(0, 1), box_aspect=1)
                axis.set_xticks(range(len(image)), range(len(image)), fontsize=6)
            else:
                cmap = signed_colors if label in signed else "gray_r"
                axis.imshow(image[0], cmap=cmap, vmin=-1, vmax=1)
    for axis, title in zip(axes[0], titles):
        axis.set_title(title, fontsize=10)
    return figure


def plain_figure(width, height):
    """A matplotlib figure in inches, and its axes without the spines at the top and right."""
    from matplotlib.figure import Figure  # imported here, so that scripts start faster

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def save_figure(path, figure, made_from, **settings):
    """Save a matplotlib figure as a PNG, with its provenance; `settings` are passed to savefig."""
    settings |= {"format": "png", "dpi": DPI, "metadata": {"provenance": made_from}}
    with atomic_write(path) as file:
        figure.savefig(file, **settings)


def save_animation(path, steps, grad, num_steps, columns, dataset_info, made_from):
    """Save a GIF of a trajectory: x_t, the predicted x_0, and the gradient.

    It shows at most MAX_FRAMES steps, and then the sample, which is the last x_0.

    Args:
        steps: yields `num_steps` tuples (t, x_t, x_0), such as `trajectory`.
        grad: (x_t, t) -> the gradient to show, or None.
    """

    def frame(clock, x_t, x_0):
        images = as_displayed(x_t, dataset_info), as_displayed(x_0, dataset_info)
        return animation_frame(clock, *images, push, columns)

    every, frames = math.ceil(num_steps / MAX_FRAMES), []
    for number, (t, x_t, x_0) in enumerate(steps):
        push = grad(x_t, t) if grad else None
        if number % every == 0:
            frames.append(frame(f"t = {t}", x_t, x_0))
    frames.append(frame("done", x_0, x_0))
    with atomic_write(path) as file:
        write_gif(file, frames, FRAME_MS, comment=made_from.encode())


def write_gif(file, frames, frame_ms, **settings):
    """Write PIL images as a GIF; `settings` are passed to PIL.

    The last frame is also the first one, for viewers that do not play animations.
    """
    durations = [LAST_FRAME_MS] + [frame_ms] * len(frames)
    settings |= {"append_images": frames, "duration": durations, "loop": 0}
    frames[-1].save(file, "gif", save_all=True, **settings)


def animation_frame(clock, x_t, x_0, grad, columns):
    """A frame of an animation, a PIL image: grids of x_t, x_0, and a gradient or None."""
    rows = {"noisy image": x_t, "predicted image": x_0}
    if grad is not None:
        rows["classifier gradient"] = gradient_in_colors(grad.cpu())
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
    return frame.quantize(COLORS if x_0.shape[1] == 1 else 256, Image.Quantize.FASTOCTREE)


def save_npz(path, images, labels, classes):
    """Save images (N, C, H, W) in [-1, 1] and labels (N,) in openai/guided-diffusion's format.

    `arr_0` is uint8 (N, H, W, C), `arr_1` int64 (N,); `classes` are the names of the labels.
    """
    pixels = to_uint8(images).permute(0, 2, 3, 1).numpy()
    with atomic_write(path) as file:
        np.savez(file, pixels, labels.numpy(), classes=np.array(classes))
