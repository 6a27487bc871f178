"""Helpers for the lessons: pictures, and checks of answers."""

import copy
import functools
import io
import traceback
from itertools import pairwise

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler
from IPython.display import Image as Picture
from IPython.display import display
from PIL import Image, ImageDraw, ImageOps
from torchvision.transforms.functional import pil_to_tensor

from data import load_mnist
from diffusion import END, SCHEDULE, implied_noise, predicted_x_0
from inference import make_scheduler, reverse
from support.pictures import BLUE, INK, ORANGE, PAPER, animation_frame, write_gif

BACKGROUND = (PAPER / 255,) * 3
FRAME_MS = 300
CLASS_COLORS = [tuple(c / 255 for c in color) for color in (BLUE, ORANGE)]  # of points in the plane
SCHEDULER = DDPMScheduler(**SCHEDULE)
ABAR = F.pad(SCHEDULER.alphas_cumprod, (0, 1), value=1.0)  # ABAR[END] is 1
TOLERANCE = 1e-4


@functools.cache
def real(digit):
    """An MNIST digit that no network was trained on: (1, 1, 28, 28) in [-1, 1]."""
    images, labels = load_mnist("validation")
    return images[labels == digit][:1]


def path_of(predict, x_t, y, times):
    """Sample from the noise x_t by DDIM: a list of (t, x_t, x_0). `times` ends with END."""
    scheduler = make_scheduler("ddim", SCHEDULER, times[:-1])
    return list(reverse(predict, scheduler, x_t, y, rngs=None))


def clipped_noise(x_t, eps, abar_t):
    """The noise in x_t after clipping the x_0 predicted from eps to [-1, 1]."""
    return implied_noise(x_t, predicted_x_0(x_t, eps, abar_t).clamp(-1, 1), abar_t)


# --- checks of answers ---


def checked_path(function, inputs, guidance, times, bugs=None):
    """Check a sampler at every step, and print the first quantity that differs.

    Args:
        function: the student's (x_t, y, s, ...) -> a list of (t, x_t, x_0).
        inputs: its arguments.
        guidance: our function s -> `predict`.
        times: the timesteps, and END.
        bugs: description -> the function `predict` that has this bug.

    Returns the student's path, or None if it is not a path, and whether it is correct.
    """
    path = path_from(function, inputs, times)
    if path is None:
        return None, False
    problem = diagnosis(path, function, inputs, guidance, times, bugs or {})
    result = f"not yet. {problem}" if problem else "correct."
    print(f"{function.__name__} with s = {inputs[2]:g}: {result}")
    return path, not problem


def diagnosis(path, function, inputs, guidance, times, bugs):
    """Describe the first quantity in a path that differs; "" if there is none."""
    x_T, y, s, *others = inputs
    found = first_difference(path, y, guidance(s))
    if not found:
        return ""
    quantity, t, x_t, yours, ours = found
    near = min(TOLERANCE, 0.05 * (yours - ours).abs().max())  # much closer to the bug than to ours
    for bug, predict in bugs.items():
        if (yours - predict(x_t, t, y)).abs().max() < near:
            return f"It looks like this bug: {bug}."
    unguided = path_from(function, (x_T, y, 0.0, *others), times)
    if unguided is None:
        return "It fails with s = 0."
    if torch.equal(unguided[-1][2], path[-1][2]):
        return "With s = 0 it returns the same: the gradient, or s, is not used."
    found_unguided = first_difference(unguided, y, guidance(0.0))
    if found_unguided:
        quantity, t, _, yours, ours = found_unguided
        known, where = "Start with s = 0, where `eps_hat` is `eps`.", f"at t = {t}"
    else:
        eps = guidance(0.0)(x_t, t, y)
        yours, ours = yours - eps, ours - eps
        known, where = "With s = 0 it is correct.", f"at t = {t}; after subtracting `eps`"
    return f"{known} The first difference is in {quantity}, {where}: {difference(yours, ours)}."


def first_difference(path, y, predict):
    """The first quantity that differs from ours: (name, t, x_t, yours, ours), or None.

    A step of the path is determined by two noises, which we compute from its images: the noise
    removed from x_t to get x_0, and the noise added to x_0 to get the next x_t.
    """
    end = END, path[-1][2], None
    for (t, x_t, x_0), (u, x_u, _) in pairwise([*path, end]):
        eps_hat = predict(x_t, t, y)
        removed = implied_noise(x_t, x_0, ABAR[t])
        added = removed if u == END else implied_noise(x_u, x_0, ABAR[u])
        if difference(removed, eps_hat):
            both = difference(added, eps_hat)
            name = "`eps_hat`" if both else "the noise removed to get `x_0`"
            return name, t, x_t, removed, eps_hat
        if difference(added, eps_hat):
            return "the noise added to get the next `x_t`", t, x_t, added, eps_hat
    return None


def difference(yours, ours):
    """Describe how a tensor differs from ours; "" if every element agrees."""
    if malformed(yours, ours):
        return malformed(yours, ours)
    yours, ours = yours.double(), ours.double()
    wrong = (yours - ours).abs() > TOLERANCE * ours.abs().max().clamp(min=1)
    if not wrong.any():
        return ""
    if ours.dim() == 0:
        return f"the ratio to ours is {yours / ours:.3f}"
    ratio = yours.norm() / ours.norm()
    cosine = F.cosine_similarity(yours.flatten(), ours.flatten(), dim=0)
    count = f"{wrong.sum():,} of {wrong.numel():,} values differ by up to"
    largest = (yours - ours).abs().max()
    return f"norm ratio {ratio:.3f}, cosine {cosine:.3f}, {count} {largest:.2g}"


def malformed(yours, ours):
    """Describe what makes a tensor impossible to compare with ours; "" if nothing does."""
    if yours.shape != ours.shape:
        return f"expected shape {tuple(ours.shape)}, got {tuple(yours.shape)}"
    if yours.is_complex() or not yours.isfinite().all():
        return "expected finite real numbers"
    return ""


def path_from(function, inputs, times):
    """What a student's sampler returns; None, with a message, if it is not a path."""
    path, x_T = answer(function, *inputs), inputs[0]
    if path is None:
        return None
    if not (isinstance(path, list) and all(map(is_step, path))):
        print(f"{function.__name__}: expected a list of tuples (t, x_t, x_0): an int, two tensors.")
        return None
    path = [(t, x_t.detach(), x_0.detach()) for t, x_t, x_0 in path]
    if [t for t, _, _ in path] != times[:-1]:
        print(f"{function.__name__}: expected t = {times[0]}, {times[1]}, ... {times[-2]}.")
        return None
    for t, x_t, x_0 in path:
        for name, image in {"x_t": x_t, "x_0": x_0}.items():
            if malformed(image, x_T):
                print(f"{function.__name__}: {name} at t = {t}: {malformed(image, x_T)}.")
                return None
    if (path[0][1] != x_T).any():
        print(f"{function.__name__}: the first x_t must be the noise; store x_t before its step.")
        return None
    return path


def is_step(entry):
    """Whether an entry of a path is (t, x_t, x_0)."""
    if not (isinstance(entry, tuple) and len(entry) == 3):
        return False
    return isinstance(entry[0], int) and all(map(torch.is_tensor, entry[1:]))


def answer(function, *inputs):
    """What a student's function returns; None, with a message, if it is empty or fails."""
    name, copies = function.__name__, copy.deepcopy(inputs)
    try:
        result = function(*copies)
    except Exception as error:  # your code can raise anything
        own = [line for line in traceback.extract_tb(error.__traceback__) if line.name == name]
        where = f" in `{own[-1].line}`" if own else ""
        print(f"{name} raises {type(error).__name__}{where}: {error}")
        if "does not require grad" in str(error):
            print("Call `requires_grad_()` on the image before it goes through the classifier.")
        return None
    if result is None or result is ...:
        print(f"{name} returns nothing: it is still empty, or `return` is missing.")
        return None
    for before, after in zip(inputs, copies):
        if isinstance(before, torch.Tensor) and not torch.equal(before, after):
            print(f"{name}: not yet. It changes its input in place; work on x.clone().")
            return None
    return result


def verdict(name, yours, ours):
    """Print whether an answer equals ours, and return it. `yours` is None if there is none."""
    if yours is None:
        return False
    try:
        problem = difference(torch.as_tensor(yours).detach(), ours)
    except (TypeError, ValueError, RuntimeError):
        problem = f"expected a tensor, got {type(yours).__name__}"
    print(f"{name}: not yet; {problem}." if problem else f"{name}: correct.")
    return not problem


# --- pictures ---


def film(path, gradient, y):
    """Play a path, a list of (t, x_t, x_0), with the gradient at each x_t."""
    frames = []
    for t, x_t, x_0 in path[::3]:
        frames.append(animation_frame(f"t = {t}", x_t, x_0, gradient(x_t, t, y), len(x_t)))
    _, _, end = path[-1]
    animate([*frames, animation_frame("done", end, end, torch.zeros_like(end), len(end))])


def animate(frames):
    """Play PIL images as a GIF."""
    file = io.BytesIO()
    write_gif(file, frames, FRAME_MS)
    display(Picture(file.getvalue(), format="png"))  # GitHub shows a GIF only under this name


def plot_steps(title, values, unguided):
    """Plot values, one per timestep (t -> value), and the unguided value as a horizontal line."""
    axes = panels(1, size=(6, 2.6))
    axes.plot(list(values), list(values.values()), "o-", color=INK)
    axes.axhline(unguided, color="0.5", linestyle="--")
    axes.text(0, unguided, "unguided", va="bottom", ha="right", color="0.4")
    axes.set(xlim=(1020, -20), xlabel="t: less noise to the right", title=title)
    axes.set_ylim(bottom=0)
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


def panels(columns, rows=1, size=(3.0, 2.6)):
    """Axes without frames, as returned by `plt.subplots`; `size` is that of one panel."""
    size = columns * size[0], rows * size[1]
    figure, axes = plt.subplots(rows, columns, figsize=size, layout="constrained", dpi=90)
    figure.set_facecolor(BACKGROUND)
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
