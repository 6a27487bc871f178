"""Helpers for the lessons: checks of answers, and pictures."""

import copy
import io
import re
import reprlib
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

from diffusion import END, SCHEDULE, add_noise, eps_from_x_0, x_0_from_eps
from inference import make_scheduler, reverse
from support.pictures import BLUE, INK, ORANGE, PAPER, animation_frame, write_gif

BACKGROUND = (PAPER / 255,) * 3
CLASS_COLORS = [tuple(c / 255 for c in color) for color in (BLUE, ORANGE)]  # of points in the plane
SCHEDULER = DDPMScheduler(**SCHEDULE)
ABAR = F.pad(SCHEDULER.alphas_cumprod, (0, 1), value=1.0)  # ABAR[END] is 1
IN_PLACE = "Compute a new tensor, `x_t = ...`, instead of changing one in place."
NO_GRAPH = """
`log_p` must depend on the image by which you differentiate: call `requires_grad_()` on the image
before `log_p` is computed, do not detach anything in between, and use `no_grad` only for the U-Net.
"""


def path_of(predict, x_t, y, times):
    """Sample from the noise x_t by DDIM: a list of (t, x_t, x_0). `times` ends with END."""
    scheduler = make_scheduler("ddim", SCHEDULER, times[:-1])
    return list(reverse(predict, scheduler, x_t, y, rngs=None))


def clipped_noise(x_t, eps, abar_t):
    """The noise in x_t after clipping the x_0 predicted from eps to [-1, 1]."""
    return eps_from_x_0(x_t, x_0_from_eps(x_t, eps, abar_t).clamp(-1, 1), abar_t)


# --- checks of answers ---


class NotYet(Exception):
    """An answer is not correct; the message says why."""


def checked_path(function, inputs, guidance, times, bugs=None):
    """Check a sampler at every step, and print what differs.

    Args:
        function: the student's (x_t, y, s, ...) -> a list of (t, x_t, x_0).
        inputs: its arguments.
        guidance: our function s -> `predict`.
        times: the timesteps, and END.
        bugs: description -> the function `predict` that has this bug.

    Returns the student's path, or None if it is not a path, and whether it is correct.
    """
    path, result = None, "correct."
    try:
        path = path_from(function, inputs, times)
        check_path(path, function, inputs, guidance, times, bugs or {})
    except NotYet as problem:
        result = f"not yet. {problem}"
    print(f"{function.__name__} with s = {inputs[2]:g}: {result}")
    return path, result == "correct."


def check_path(path, function, inputs, guidance, times, bugs):
    """Raise NotYet with a description of the quantity that differs most from ours."""
    x_T, y, s, *others = inputs
    found = largest_difference(path, y, guidance(s))
    if not found:
        return
    name, t, x_t, yours, ours = found
    if t != END:
        for bug, predict in bugs.items():
            theirs = x_0_from_eps(x_t, predict(x_t, t, y), ABAR[t])
            if (yours - theirs).abs().max() < 0.05 * (yours - ours).abs().max():
                raise NotYet(f"It looks like this bug: {bug}.")
    if s:
        unguided, correct = checked_path(function, (x_T, y, 0.0, *others), guidance, times)
        if unguided and torch.equal(unguided[-1][2], path[-1][2]):
            raise NotYet("With s = 0 it returns the same: the gradient, or s, is not used.")
        if not correct:
            raise NotYet("Start with s = 0, where `eps_hat` is `eps`.")
        if t != END:
            x_0 = x_0_from_eps(x_t, guidance(0.0)(x_t, t, y), ABAR[t])
            name, yours, ours = f"how the gradient changes {name}", yours - x_0, ours - x_0
    raise NotYet(f"It differs in {name}: {difference(yours, ours, t)}.")


def largest_difference(path, y, predict):
    """What differs from ours in most elements: (name, t, x_t, yours, ours), or None.

    Ours are computed from the student's x_t and x_0, so an error in one step does not spread. If a
    predicted image differs, it is the answer; else the next x_t, with END in place of t.
    """
    predicted, noised = [], []
    for (t, x_t, x_0), (u, x_u, _) in pairwise([*path, (END, path[-1][2], None)]):
        ours = x_0_from_eps(x_t, predict(x_t, t, y), ABAR[t])
        predicted.append((f"`x_0` at t = {t}", t, x_t, x_0, ours))
        ours = add_noise(x_0, eps_from_x_0(x_t, x_0, ABAR[t]), ABAR[u])
        noised.append((f"`x_t` at t = {u}", END, x_t, x_u, ours))
    for quantities in (predicted, noised):
        counts = [wrong(yours, ours, t).sum() for _, t, _, yours, ours in quantities]
        if max(counts):
            return quantities[counts.index(max(counts))]
    return None


def wrong(yours, ours, t=END):
    """Where a tensor, or an x_0 predicted at t, differs from ours by more than rounding errors."""
    return (yours - ours).abs() > 1e-4 * max(ours.abs().max(), ABAR[t] ** -0.5)


def difference(yours, ours, t=END):
    """Describe how a tensor differs from ours."""
    factor, largest = (yours * ours).sum() / ours.square().sum(), (yours - ours).abs().max()
    if abs(factor - 1) > 0.001 and (yours - factor * ours).norm() < 0.01 * yours.norm():
        return f"yours is {factor:.3f} times ours"
    return f"{wrong(yours, ours, t).sum():,} of {ours.numel():,} values, by up to {largest:.2g}"


def check_form(name, yours, ours):
    """Raise NotYet if a tensor cannot be compared with ours."""
    if yours.shape != ours.shape:
        expected, got = tuple(ours.shape), tuple(yours.shape)
        raise NotYet(f"{name} should have the shape {expected}; its shape is {got}.")
    if not (yours.is_floating_point() and yours.isfinite().all()):
        raise NotYet(f"{name} should have finite floating-point values.")


def path_from(function, inputs, times):
    """What a student's sampler returns. Raises NotYet if it is not a path from the noise."""
    path, x_T, expected = answer(function, *inputs), inputs[0], [*times[:-1]]
    if not (isinstance(path, list) and all(map(is_step, path))):
        raise NotYet("It should return a list of tuples (t, x_t, x_0): an int and two tensors.")
    got = [t for t, _, _ in path]
    if got != expected:
        expected, got = (f"{reprlib.repr(ts)} ({len(ts)})" for ts in (expected, got))
        raise NotYet(f"The timesteps should be {expected}; they are {got}.")
    for t, x_t, x_0 in path:
        check_form(f"`x_t` at t = {t}", x_t, x_T)
        check_form(f"`x_0` at t = {t}", x_0, x_T)
    if (path[0][1] != x_T).any():
        raise NotYet(f"The first `x_t` is not the argument. Store it before the step. {IN_PLACE}")
    return [(t, x_t.detach().float(), x_0.detach().float()) for t, x_t, x_0 in path]


def is_step(entry):
    """Whether an entry of a path is (t, x_t, x_0)."""
    types = int, torch.Tensor, torch.Tensor
    return isinstance(entry, tuple) and len(entry) == 3 and all(map(isinstance, entry, types))


def checked_value(title, function, inputs, ours):
    """Check what a function returns, print the result, and return whether it is correct."""
    result = "correct."
    try:
        yours = torch.as_tensor(answer(function, *inputs)).detach()
        check_form("The value", yours, ours)
        if wrong(yours, ours).any():
            raise NotYet(f"It differs: {difference(yours, ours)}.")
    except NotYet as problem:
        result = f"not yet. {problem}"
    except (TypeError, ValueError, RuntimeError):
        result = "not yet. It should return a tensor."
    print(f"{title}: {result}")
    return result == "correct."


def answer(function, *inputs):
    """What a student's function returns. Raises NotYet if it is empty or fails."""
    name, copies = function.__name__, copy.deepcopy(inputs)
    try:
        result = function(*copies)
    except Exception as error:  # your code can raise anything
        own = [line for line in traceback.extract_tb(error.__traceback__) if line.name == name]
        where = f" in `{own[-1].line}`" if own else ""
        advice = NO_GRAPH if re.search("require grad|used in the graph", str(error)) else ""
        raise NotYet(f"It raises {type(error).__name__}{where}: {error}{advice}") from error
    if result is None or result is ...:
        raise NotYet("It returns nothing: it is still empty, or `return` is missing.")
    for before, after in zip(inputs, copies):
        if isinstance(before, torch.Tensor) and not torch.equal(before, after):
            raise NotYet(f"It changes its arguments. {IN_PLACE}")
    return result


# --- pictures ---


def film(path, gradient, y):
    """Play a path, a list of (t, x_t, x_0), with the gradient at each x_t."""
    steps = [(f"t = {t}", x_t, x_0, gradient(x_t, t, y)) for t, x_t, x_0 in path[::3]]
    end = path[-1][2]
    steps.append(("done", end, end, torch.zeros_like(end)))
    animate([animation_frame(*step, len(end)) for step in steps])


def animate(frames):
    """Play PIL images as a GIF."""
    file = io.BytesIO()
    write_gif(file, frames, frame_ms=300)
    display(Picture(file.getvalue(), format="png"))  # GitHub shows a GIF only under this name


def plot_steps(title, values, unguided):
    """Plot values, one per timestep (t -> value), and the unguided value as a horizontal line."""
    axes = panels(1, size=(6, 2.6))
    axes.plot(list(values), list(values.values()), "o-", color=INK)
    axes.axhline(unguided, color="0.5", linestyle="--")
    axes.text(1000, unguided, "unguided", va="bottom", color="0.4")
    axes.set(xlim=(1020, -20), ylim=(0, None), xlabel="t: less noise to the right", title=title)
    plt.show()


def draw_strokes(strokes):
    """Draw lines of ink: lists of points (x, y) from 0 to 28 -> (1, 1, 28, 28) in [-1, 1].

    (0, 0) is the upper left corner. Each list of points becomes a line.
    """
    large = Image.new("L", (280, 280))
    for points in strokes:
        line = [(10 * x, 10 * y) for x, y in points]
        ImageDraw.Draw(large).line(line, fill=255, width=24, joint="curve")
    return pil_to_tensor(large.resize((28, 28)))[None] / 127.5 - 1


def read_photo(path):
    """A photo of something dark on a light background, as ink: (1, 1, 28, 28) in [-1, 1]."""
    photo = ImageOps.exif_transpose(Image.open(path)).convert("L")
    photo = ImageOps.autocontrast(ImageOps.fit(photo, (28, 28)), cutoff=(10, 40))
    return -(pil_to_tensor(photo)[None] / 127.5 - 1)


def panels(columns, rows=1, size=(3.0, 2.6)):
    """Axes without frames, as returned by `plt.subplots`; `size` is that of one panel."""
    size = columns * size[0], rows * size[1]
    paper = {"facecolor": BACKGROUND}
    settings = {"figsize": size, "layout": "constrained", "dpi": 90, "subplot_kw": paper} | paper
    figure, axes = plt.subplots(rows, columns, **settings)
    for axis in figure.axes:
        axis.spines[["top", "right"]].set_visible(False)
    return axes


def plane(axis, **settings):
    """Format axes as a map of the plane, without ticks."""
    axis.set(aspect="equal", xticks=[], yticks=[], **settings)
    axis.spines[:].set_visible(False)


def frame_of(figure):
    """A matplotlib figure as a frame for `animate`."""
    file = io.BytesIO()
    figure.savefig(file)
    plt.close(figure)
    return Image.open(file).convert("RGB").quantize(32)
