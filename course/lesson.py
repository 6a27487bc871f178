"""Helpers for the lessons: pictures, and checks of answers."""

import functools
import io
import math
import traceback

import matplotlib.pyplot as plt
import torch
from IPython.display import Image as Picture
from diffusers import DDPMScheduler
from IPython.display import display
from PIL import Image, ImageDraw, ImageOps
from torchvision.transforms.functional import pil_to_tensor

import data
from diffusion import END, SCHEDULE, implied_noise, predicted_x_0, sampling_times
from examples.shared import read
from inference import SAMPLERS, reverse
from support.pictures import BLUE, INK, ORANGE, PAPER, animation_frame, gradient_in_colors
from support.pictures import grid_image, write_gif

BACKGROUND = (PAPER / 255,) * 3
FRAME_MS = 300
CLASS_COLORS = [tuple(c / 255 for c in color) for color in (BLUE, ORANGE)]  # of points in the plane
TIMES = [*sampling_times(1000, 20), END]  # 999, 949, ... 49, and the end
load_mnist = functools.cache(data.load_mnist)


def real(digit):
    """An MNIST digit that no network was trained on: (1, 1, 28, 28) in [-1, 1]."""
    images, labels = load_mnist("validation")
    return images[labels == digit][:1]


def path_of(eps_hat, x_t, y, times=TIMES):
    """Sample from x_t (B, 1, 28, 28) by DDIM, in 20 steps by default: a list of (t, x_t, x_0)."""
    scheduler = SAMPLERS["ddim"](DDPMScheduler(**SCHEDULE))
    scheduler.set_timesteps(timesteps=[t for t in times if t != END])
    return list(reverse(lambda x, t: eps_hat(x, t, y).detach(), scheduler, x_t, rngs=None))


# --- checks of answers ---


def answer(function, *inputs):
    """What a student's function returns; None, with a message, if it is empty or fails."""
    name = getattr(function, "__name__", "your function")
    copies = [x.clone() if isinstance(x, torch.Tensor) else x for x in inputs]
    try:
        result = function(*copies)
    except Exception as error:  # your code can raise anything
        lines = traceback.extract_tb(error.__traceback__)
        own = [line for line in lines if line.name == name]
        where = f" in `{own[-1].line}`" if own else ""
        uses_ellipsis = isinstance(error, TypeError) and "ellipsis" in str(error)
        if uses_ellipsis or isinstance(error, NameError):  # a blank that was not filled in
            print(f"{name} is not finished{where}: {error}")
        else:
            print(f"{name} raises {type(error).__name__}{where}: {error}")
        return None
    if result is None or result is ...:
        print(f"{name} returns nothing: it is still empty, or `return` is missing.")
        return None
    for before, after in zip(inputs, copies):
        if isinstance(before, torch.Tensor) and not torch.equal(before, after):
            print(f"{name}: not yet. It changes its input in place; work on x.clone().")
            return None
    return result


def verdict(name, yours, ours, mistakes=(), tolerance=1e-3):
    """Print whether an answer is correct and, if not, which common mistake it matches.

    Returns whether it is correct.

    Args:
        yours, ours: tensors, or anything that can be converted to one; `yours` is None if empty.
        mistakes: description -> a function that returns the result of this mistake.
    """
    if yours is None:
        print(f"{name}: nothing to compare yet.")
        return False
    try:
        yours, ours = torch.as_tensor(yours).detach(), torch.as_tensor(ours)
    except (TypeError, ValueError, RuntimeError):
        print(f"{name}: expected a tensor {tuple(ours.shape)}, got {type(yours).__name__}.")
        return False
    if yours.shape != ours.shape:
        print(f"{name}: expected shape {tuple(ours.shape)}, got {tuple(yours.shape)}.")
        return False
    if yours.is_complex() or not yours.isfinite().all():
        print(f"{name}: not yet; expected real, finite numbers.")
        return False
    error = largest_difference(yours, ours)
    if error < tolerance:
        print(f"{name}: correct.")
        return True
    for mistake, make in dict(mistakes).items():
        if largest_difference(yours, torch.as_tensor(make())) < tolerance:
            print(f"{name}: not yet. It looks like this mistake: {mistake}.")
            return False
    print(f"{name}: not yet; it is off by up to {error:.2g}. This is not a mistake we recognize.")
    return False


def largest_difference(a, b):
    """The largest absolute difference of two tensors; infinite if one of them is not finite."""
    if not (a.isfinite().all() and b.isfinite().all()):
        return math.inf
    return (a.double() - b.double()).abs().max().item()


def checked_path(name, yours, ours, mistakes=()):
    """Check a path, a list of (t, x_t, x_0). Return yours if it is a path, otherwise ours."""
    if yours is None:
        verdict(name, None, None)
        return ours
    if not (isinstance(yours, list) and yours and all(map(is_step, yours))):
        print(f"{name}: expected a list of all (t, x_t, x_0).")
        return ours
    if [t for t, _, _ in yours] != [t for t, _, _ in ours]:
        print(f"{name}: expected t = 999, 949, ... 49, the timestep before each step.")
        return ours
    mistakes = {"x_t and x_0 are swapped in the list": lambda: ours[-1][1], **dict(mistakes)}
    if verdict(name, yours[-1][2], ours[-1][2], mistakes):
        mine, every = (torch.stack([x_t for _, x_t, _ in path]) for path in (yours, ours))
        after = torch.cat([every[1:], ours[-1][2][None]])
        late = {"x_t is stored after the step instead of before": lambda: after}
        if not verdict("the x_t in your list", mine, every, late, tolerance=0.01):
            return ours
    return yours


def is_step(part):
    """Whether an entry of a path is (t, x_t, x_0)."""
    return isinstance(part, tuple) and len(part) == 3 and all(map(torch.is_tensor, part[1:]))


def clipped_noise(x_t, eps, abar_t):
    """The noise in x_t after clipping the x_0 predicted from eps to [-1, 1]."""
    return implied_noise(x_t, predicted_x_0(x_t, eps, abar_t).clamp(-1, 1), abar_t)


# --- pictures ---


def show(rows, columns=(), target=None, read=read):
    """Draw rows of images, name -> (N, 1, H, H) in [-1, 1]; `columns` are labels above.

    With target digits (N,), a red frame marks the images that `read` classifies as another digit.
    """
    rows = {name: images.detach() for name, images in rows.items() if images is not None}
    if not rows:
        return
    width, _, _, size = next(iter(rows.values())).shape
    figure = plt.figure(figsize=(0.72 * width, 0.72 * len(rows)), dpi=100, facecolor=BACKGROUND)
    axes = figure.add_axes((0, 0, 1, 1))
    grid = grid_image(torch.cat(list(rows.values())), width, pixel=1)
    axes.imshow(grid, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    axes.xaxis.tick_top()
    pitch = size + 2  # pixels from one image to the next
    names = [f"{label}" for label in columns], list(rows)
    for set_ticks, labels in zip((axes.set_xticks, axes.set_yticks), names):
        set_ticks([pitch * (i + 0.5) for i in range(len(labels))], labels, fontsize=11, color=INK)
    if target is not None:
        for row, images in enumerate(rows.values()):
            for column in torch.where(read(images) != target)[0].tolist():
                corner = pitch * column + 0.5, pitch * row + 0.5
                frame = plt.Rectangle(corner, pitch, pitch, fill=False, color="#d00000", lw=1.8)
                axes.add_patch(frame)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    plt.show()


def show_gradients(rows, columns):
    """Draw rows of gradients, name -> (N, 1, 28, 28): orange adds ink, blue removes it."""
    colors = {name: gradient_in_colors(grad) for name, grad in rows.items()}
    figure, axes = plt.subplots(
        len(rows), len(columns), figsize=(1.4 * len(columns), 1.4 * len(rows)), squeeze=False,
        layout="constrained", facecolor=BACKGROUND,
    )  # fmt: skip
    for line, (name, images) in zip(axes, colors.items()):
        line[0].set_ylabel(name, color=INK)
        for axis, image in zip(line, images):
            axis.imshow(image.permute(1, 2, 0), interpolation="nearest")
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_color("0.8")
    for axis, label in zip(axes[0], columns):
        axis.set_title(label, fontsize=11, color=INK)
    plt.show()


def film(path, gradient, y):
    """Play a path, a list of (t, x_t, x_0), with the gradient at each x_t."""
    frames = []
    for t, x_t, x_0 in path[::3]:
        grad = gradient(x_t, t, y)
        frames.append(animation_frame(f"t = {t}", x_t, x_0.detach(), grad, len(x_t)))
    end = path[-1][2].detach()
    animate([*frames, animation_frame("done", end, end, torch.zeros_like(end), len(end))])


def animate(frames):
    """Play PIL images as a GIF."""
    file = io.BytesIO()
    write_gif(file, frames, FRAME_MS)
    display(Picture(file.getvalue(), format="png"))  # GitHub shows a GIF only under this name


def plot_steps(title, values, **others):
    """Plot values, one per timestep (t -> value), and horizontal lines (label -> value)."""
    figure, axes = plt.subplots(figsize=(6, 2.6), layout="constrained", facecolor=BACKGROUND)
    axes.set_facecolor(BACKGROUND)
    axes.plot(list(values), list(values.values()), "o-", color=INK)
    for (label, value), style in zip(others.items(), ("--", ":", "-.")):
        axes.axhline(value, color="0.5", linestyle=style)
        axes.text(0, value, label, va="bottom", ha="right", color="0.4")
    axes.set(xlim=(1020, -20), xlabel="t: less noise to the right", title=title)
    axes.set_ylim(bottom=0)
    axes.spines[["top", "right"]].set_visible(False)
    plt.show()


def draw_strokes(strokes):
    """Draw lines of ink: lists of points (x, y) from 0 to 28 -> (1, 1, 28, 28) in [-1, 1].

    (0, 0) is the upper left corner. Each list of points becomes a line.
    """
    large = Image.new("L", (280, 280))
    for points in strokes:
        scaled = [(10 * x, 10 * y) for x, y in points]
        ImageDraw.Draw(large).line(scaled, fill=255, width=24, joint="curve")
    return pil_to_tensor(large.resize((28, 28)))[None] / 127.5 - 1


def read_photo(path):
    """A photo of something dark on a light background, as ink: (1, 1, 28, 28) in [-1, 1]."""
    photo = ImageOps.exif_transpose(Image.open(path)).convert("L")
    photo = ImageOps.autocontrast(ImageOps.fit(photo, (28, 28)), cutoff=(10, 40))
    return -(pil_to_tensor(photo)[None] / 127.5 - 1)


def panels(columns, rows=1, size=(3.0, 2.6), **settings):
    """Axes without frames, as returned by `plt.subplots`."""
    figure, axes = plt.subplots(
        rows,
        columns,
        figsize=(columns * size[0], rows * size[1]),
        layout="constrained",
        facecolor=BACKGROUND,
        dpi=90,
        **settings,
    )
    for axis in figure.axes:
        axis.set_facecolor(BACKGROUND)
        axis.spines[["top", "right"]].set_visible(False)
    return axes


def plane(axis, **settings):
    """Format axes as a map of the plane, without ticks."""
    axis.set(aspect="equal", xticks=[], yticks=[], **settings)
    axis.spines[:].set_visible(False)


def frame_of(figure):
    """A matplotlib figure as a frame for `animate`."""
    file = io.BytesIO()
    figure.savefig(file, facecolor=BACKGROUND)
    plt.close(figure)
    return Image.open(file).convert("RGB").quantize(32)
