"""Images as files: PNG grids, figures, GIF animations, NPZ samples."""

import math

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torchvision.utils import make_grid

from support.files import atomic_write

PAPER, INK_GRAY = 250, 25  # gray levels, out of 255
INK, ACCENT = "#222222", "#c8500a"  # colors of figures
ORANGE, BLUE = (200, 80, 10), (0, 100, 173)  # more ink, less ink
MAX_COLUMNS = 22  # of a labeled grid, about 2,000 pixels
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


def save_grid(path, images, columns):
    """Save images (N, C, H, W) in [-1, 1], or uint8 as displayed, as a PNG grid."""
    with atomic_write(path) as file:
        grid_image(images, columns).save(file, format="png")


def save_labeled_grid(path, rows, labels):
    """Save rows of images as a labeled PNG grid.

    Args:
        rows: a list of (label, images (N, C, H, W) in [-1, 1], or uint8 as displayed).
        labels: of the N columns, shown where they change. After MAX_COLUMNS columns, or before,
            at the end of a label, the grid continues below.
    """
    from matplotlib.figure import Figure  # imported here, so that scripts start faster

    size = MAX_COLUMNS - MAX_COLUMNS % labels.count(labels[0]) or MAX_COLUMNS
    parts = [slice(k, k + size) for k in range(0, len(labels), size)]
    grids = [torch.cat([images[part] for _, images in rows]) for part in parts]
    grids = [np.asarray(grid_image(grid, len(grid) // len(rows), pixel=1)) for grid in grids]
    (height, width), longest = grids[0].shape[:2], max(map(len, labels))
    block = height + (4 * longest if longest > 4 else 14)  # with the labels above it
    inches = 3 * width / DPI, 3 * block * len(parts) / DPI
    figure = Figure(figsize=inches, facecolor=(PAPER / 255,) * 3)
    for k, (part, grid) in enumerate(zip(parts, grids)):
        # labels are outside of the axes; "tight" makes room for them
        place = 0, 1 - (k + 1) / len(parts), grid.shape[1] / width, height / block / len(parts)
        axes = figure.add_axes(place)
        axes.imshow(grid, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        shown = labels[part]
        columns = [b if a != b else "" for a, b in zip([None, *shown], shown)]
        sides = (axes.xaxis, columns, grid.shape[1]), (axes.yaxis, [r for r, _ in rows], height)
        for axis, texts, length in sides:
            centers = (np.arange(len(texts)) + 0.5) * length / len(texts) - 0.5
            axis.set_ticks(centers, texts, fontsize=LABEL_SIZE, color=INK, parse_math=False)
        axes.tick_params(axis="x", labelrotation=90 if longest > 4 else 0)
        axes.tick_params(length=0, labeltop=True, labelbottom=False)
        axes.spines[:].set_visible(False)
    save_figure(path, figure, bbox_inches="tight")


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


def plain_figure(width, height, columns=1):
    """A matplotlib figure in inches, and its axes without the spines at the top and right."""
    from matplotlib.figure import Figure  # imported here, so that scripts start faster

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(1, columns)
    for axis in figure.axes:
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes


def save_figure(path, figure, **settings):
    """Save a matplotlib figure as a PNG; `settings` are passed to savefig."""
    with atomic_write(path) as file:
        figure.savefig(file, format="png", dpi=DPI, **settings)


def save_animation(path, steps, grad, columns, dataset_info):
    """Save a GIF of a trajectory: x_t, the predicted x_0, and the gradient.

    It shows at most MAX_FRAMES steps, and then the sample, which is the last x_0.

    Args:
        steps: yields (t, x_t, x_0), such as `trajectory`.
        grad: (x_t, t) -> the gradient to show, or None.
    """

    def frame(clock, x_t, x_0, push):
        shown = as_displayed(x_t, dataset_info), as_displayed(x_0, dataset_info)
        return animation_frame(clock, *shown, push, columns)

    steps = list(steps)
    shown = steps[:: math.ceil(len(steps) / MAX_FRAMES)] + steps[-1:]
    pushes = [grad and grad(x_t, t) for t, x_t, _ in shown]
    frames = [frame(f"t = {t}", x_t, x_0, push) for (t, x_t, x_0), push in zip(shown, pushes)]
    x_0 = steps[-1][2]
    frames[-1] = frame("done", x_0, x_0, pushes[-1])
    with atomic_write(path) as file:
        write_gif(file, frames, FRAME_MS)


def write_gif(file, frames, frame_ms):
    """Write PIL images as a GIF.

    The last frame is also the first one, for viewers that do not play animations.
    """
    durations = [LAST_FRAME_MS] + [frame_ms] * len(frames)
    frames[-1].save(file, "gif", save_all=True, append_images=frames, duration=durations, loop=0)


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
