"""Images as files: PNG grids, figures, GIF animations, NPZ samples."""

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torchvision.utils import make_grid

from support.files import atomic_write

PAPER, INK_GRAY = 250, 25  # gray levels, out of 255
INK, ACCENT = "#222222", "#c8500a"  # colors of figures
ORANGE, BLUE = (200, 80, 10), (0, 100, 173)  # ink is added, removed
MAX_COLUMNS = 22  # of a labeled grid, about 2,000 pixels
COLORS = 64  # of an animation; color images use 256 colors
FRAME_MS, LAST_FRAME_MS = 160, 3_000
LABEL_SIZE = 22  # pixels


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
    """A PIL image of a grid of uint8 images (N, C, H, W); each pixel becomes `pixel` wide."""
    grid = make_grid(images, nrow=columns, pad_value=PAPER).permute(1, 2, 0)
    pixels = grid if images.shape[1] == 3 else grid[..., 0]  # make_grid repeats a gray channel
    picture = Image.fromarray(pixels.numpy())
    return picture.resize((pixel * picture.width, pixel * picture.height), Image.NEAREST)


def labeled_grid(rows, labels, pixel=3):
    """A PIL image of rows of images with labels.

    Args:
        rows: a list of (name, uint8 images (N, C, H, W)); C is 1 or 3.
        labels: of the N columns, shown where they change. A grid of more than MAX_COLUMNS columns
            continues below, if possible at a new label.
    """
    names, images = zip(*[(name, row.expand(-1, 3, -1, -1)) for name, row in rows])
    per_label = labels.count(labels[0]) if len(set(labels)) > 1 else 1
    cell = pixel * (images[0].shape[3] + 2)  # make_grid puts 2 pixels between images
    columns = min(max(MAX_COLUMNS // per_label, 1) * per_label, len(labels))
    font = ImageFont.load_default(LABEL_SIZE)
    longest = max(map(font.getlength, labels))
    if longest > per_label * cell:
        font = ImageFont.load_default(LABEL_SIZE * per_label * cell / longest)
    left = round(max(map(font.getlength, names))) + 16
    height = LABEL_SIZE + 12 + len(rows) * cell + 2 * pixel
    size = left + columns * cell + 2 * pixel, -(-len(labels) // columns) * height
    canvas = Image.new("RGB", size, (PAPER,) * 3)
    draw = ImageDraw.Draw(canvas)
    for number, start in enumerate(range(0, len(labels), columns)):
        part, top = slice(start, start + columns), number * height + LABEL_SIZE + 12
        grid = grid_image(torch.cat([row[part] for row in images]), len(labels[part]), pixel)
        canvas.paste(grid, (left, top))
        for k, name in enumerate(names):
            draw.text((left - 8, top + (k + 0.5) * cell), name, INK, font, anchor="rm")
        for k, label in enumerate(labels[part]):
            if k == 0 or label != labels[start + k - 1]:
                x = left + k * cell + 2 * pixel
                draw.text((x, top - 6), label, INK, font, anchor="ls")
    return canvas


def save_picture(path, picture):
    """Save a PIL image as a PNG."""
    with atomic_write(path) as file:
        picture.save(file, format="png")


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


def animation_frames(steps, as_shown):
    """PIL images of x_t, the predicted x_0, and the gradient at each step, and of the sample.

    Args:
        steps: a list of (t, x_t, x_0, gradient or None); the last x_0 is the sample.
        as_shown: converts images in [-1, 1] to uint8.
    """
    frames, (_, _, end, last_gradient) = [], steps[-1]
    colors = COLORS if end.shape[1] == 1 else 256
    for t, x_t, x_0, grad in [*steps, ("end", end, end, last_gradient)]:
        rows = [(f"t = {t}", as_shown(x_t)), ("predicted", as_shown(x_0))]
        rows += [] if grad is None else [("gradient", gradient_in_colors(grad.cpu()))]
        frame = labeled_grid(rows, [""] * len(x_t))
        frames.append(frame.quantize(colors, Image.Quantize.FASTOCTREE))
    return frames


def write_gif(file, frames):
    """Write PIL images as a GIF.

    The last frame is also the first one, for viewers that do not play animations.
    """
    durations = [LAST_FRAME_MS] + [FRAME_MS] * len(frames)
    frames[-1].save(file, "gif", save_all=True, append_images=frames, duration=durations, loop=0)


def save_npz(path, images, labels, classes):
    """Save images (N, C, H, W) in [-1, 1] and labels (N,) in openai/guided-diffusion's format.

    `arr_0` is uint8 (N, H, W, C), `arr_1` int64 (N,); `classes` are the names of the labels.
    """
    pixels = to_uint8(images).permute(0, 2, 3, 1).numpy()
    with atomic_write(path) as file:
        np.savez(file, pixels, labels.numpy(), classes=np.array(classes))
