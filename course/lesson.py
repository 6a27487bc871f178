"""Helpers for the lessons: pictures, and checks of answers."""

import io
import math
from functools import partial
from itertools import pairwise

import matplotlib.pyplot as plt
import torch
from PIL import Image, ImageDraw, ImageOps
from torchvision.transforms.functional import pil_to_tensor

import quick_demo
from diffusion import DDPM, add_noise, implied_noise, predicted_x_0
from examples.shared import read
from inference import guided
from quick_demo import BACKGROUND
from support.pictures import BLUE, ORANGE

CLASS_COLORS = [tuple(c / 255 for c in color) for color in (BLUE, ORANGE)]  # of points in the plane
show = partial(quick_demo.show, read=read)  # the judge reads the digits


# --- checks of answers ---


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


def path_of(eps_hat, x_t, y, times=quick_demo.times):
    """Sample from x_t (B, C, H, W) by DDIM, in 20 steps by default: a list of (t, x_t, x_0)."""
    return quick_demo.ddim_path(x_t, eps_hat, y, times)


def checked_path(name, yours, ours, mistakes=()):
    """Check the last image of a path. Return your path, or ours if yours is not a path."""
    good = isinstance(yours, list) and yours and all(len(part) == 3 for part in yours)
    if yours is not None and not good:
        print(f"{name} does not return a list of all (t, x_t, x_0).")
    if good and [t for t, _, _ in yours] != [t for t, _, _ in ours]:
        print(f"{name}: expected t = 999, 949, ... 49, the timestep before each step.")
    mistakes = {"x_t and x_0 are swapped in the list": lambda: ours[-1][1], **dict(mistakes)}
    verdict(name, yours[-1][2] if good else None, ours[-1][2], mistakes)
    return yours if good else ours


def loop_mistakes(ddpm, grad, s, x_t, y):
    """Common mistakes in the loop: description -> a function that samples with it."""
    abar, times = ddpm.abar, quick_demo.times
    right = guided(ddpm, grad, s)
    unclipped = DDPM(
        ddpm.unet, type(ddpm.scheduler).from_config(ddpm.scheduler.config, clip_sample=False)
    )

    def eps_hat(x_t, t):
        return right(x_t, t, y)

    def drawn(removed, put_back):
        x = x_t
        for t, u in pairwise(times):
            x_0 = predicted_x_0(x, removed(x, t), abar[t])
            x = add_noise(x_0, put_back(x, t), abar[u])
        return x_0

    def stuck():
        return predicted_x_0(x_t, eps_hat(x_t, times[-2]), abar[times[-2]])

    return {
        "all noise is put back, as if u were t": stuck,
        "no noise is put back": lambda: drawn(eps_hat, lambda x, t: torch.zeros_like(x)),
        "the U-Net's noise is removed instead of the guided noise": lambda: drawn(ddpm, eps_hat),
        "the U-Net's noise is put back instead of the guided noise": lambda: drawn(eps_hat, ddpm),
        "the U-Net's image is not clipped": lambda: path_of(guided(unclipped, grad, s), x_t, y)[-1][
            2
        ],
    }


# --- guidance with a mistake ---


def without_root(ddpm, grad, s):
    """ADM (14) without sqrt(1 - abar_t)."""
    return lambda x_t, t, y: ddpm(x_t, t) - s * grad(x_t, t, y)


def clipped_after_guidance(ddpm, grad, s):
    """The predicted x_0 is clipped after the guidance, as diffusers' schedulers do."""

    def eps_hat(x_t, t, y):
        shift = s * (1 - ddpm.abar[t]).sqrt() * grad(x_t, t, y)
        return clipped_noise(x_t, ddpm.eps(x_t, t) - shift, ddpm.abar[t])

    return eps_hat


def clipped_noise(x_t, eps, abar_t):
    """The noise in x_t after clipping the x_0 predicted from eps to [-1, 1]."""
    return implied_noise(x_t, predicted_x_0(x_t, eps, abar_t).clamp(-1, 1), abar_t)


# --- pictures ---


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
    """A matplotlib figure as a frame for `quick_demo.animate`."""
    file = io.BytesIO()
    figure.savefig(file, facecolor=BACKGROUND)
    plt.close(figure)
    return Image.open(file).convert("RGB").quantize(32)
