"""What the quick demo and the lessons share: pictures, films, and what is said of an answer."""

import io
import math
import traceback
from itertools import pairwise

import matplotlib.pyplot as plt
import torch
from IPython.display import Image as Picture
from IPython.display import display
from ipywidgets import FloatSlider, IntRangeSlider, IntSlider, interact
from PIL import Image, ImageDraw
from torchvision.transforms.functional import pil_to_tensor

from data import load_mnist
from diffusion import END, add_noise, clipped_noise, ddim_step, predicted_x_0, sampling_times
from examples.shared import read
from inference import Guided, NoisePredictor, first_order, gradient
from support.pictures import BLUE, INK, ORANGE, PAPER, animation_frame, grid_image
from support.pictures import ink_on_paper, gradient_in_colors, write_gif

BACKGROUND = (PAPER / 255,) * 3
CLASS_COLORS = [tuple(c / 255 for c in color) for color in (BLUE, ORANGE)]  # of points in the plane
FRAME_MS = 300  # long enough to read the clock


# --- what is said of an answer ---


def attempt(function, *inputs):
    """What a function of the reader's returns; None if it is empty or raises, which is printed."""
    try:
        answer = function(*inputs)
    except Exception as error:  # an answer can raise anything
        print(f"{function.__name__} raises {type(error).__name__}: {error}")
        written = [each for each in (function, *inputs) if hasattr(each, "__code__")]
        files = {each.__code__.co_filename for each in written}
        lines = [f for f in traceback.extract_tb(error.__traceback__) if f.filename in files]
        if lines:
            print(f"in the line `{lines[-1].line}`")
        return None
    if answer is None:
        print(f"{function.__name__} is still empty")
    return answer.detach() if isinstance(answer, torch.Tensor) else answer


def verdict(name, yours, ours, mistakes=(), tolerance=1e-3):
    """Print whether an answer is ours, and if it is not, which mistake makes it.

    Both are tensors; `yours` is None if it is empty. `mistakes` is a dict: what a common mistake
    is, and a function that makes it and returns its result.
    """
    if yours is None:
        print(f"{name}: nothing to compare yet")
        return
    try:
        yours, ours = torch.as_tensor(yours).detach(), torch.as_tensor(ours)
    except (TypeError, ValueError, RuntimeError):
        print(f"{name}: it is a {type(yours).__name__}, and should be a tensor {tuple(ours.shape)}")
        return
    if yours.shape != ours.shape:
        print(f"{name}: the shape is {tuple(yours.shape)}, and should be {tuple(ours.shape)}")
        return
    error = largest_difference(yours, ours)
    if error < tolerance:
        print(f"{name}: right, it differs from ours by {error:.1g} at most")
        return
    print(f"{name}: not yet, it differs from ours by up to {error:.2g}.", end=" ")
    for mistake, make in dict(mistakes).items():
        if largest_difference(yours, torch.as_tensor(make())) < tolerance:
            print(f"The picture is the one that this makes: {mistake}")
            return
    print("It is none of the mistakes that we know")


def largest_difference(a, b):
    """Of two tensors of one shape, a number; infinite if one of them is not finite."""
    if not (a.isfinite().all() and b.isfinite().all()):
        return math.inf
    return (a.double() - b.double()).abs().max().item()


def times_of(method):
    """The times of twenty steps of a `Method`, and `END`."""
    return [*sampling_times(len(method.abar) - 1, 20), END]


def path_of(method, x_t, y):
    """What a `Method` draws from noise x_t (B, C, H, W), by DDIM in twenty steps: its path.

    A path is a list of (t, x_t, x_0), one for each step.
    """
    times = times_of(method)

    def predict_noise(x_t, t):
        return method(x_t, t, y)

    path, t = [], times[0]
    for u, x_u, x_0 in first_order(ddim_step, predict_noise, method.abar, x_t, times, None):
        path.append((t, x_t, x_0))
        t, x_t = u, x_u
    return path


def checked_path(name, yours, ours, mistakes=()):
    """A path of the reader's, and what `verdict` says of its last image; ours if it is no path."""
    good = isinstance(yours, list) and yours and all(len(part) == 3 for part in yours)
    if yours is not None and not good:
        print(f"{name} does not return a list of all (t, x_t, x_0)")
    if good and [t for t, _, _ in yours] != [t for t, _, _ in ours]:
        print(f"{name}: the times in the list should be 999, 949, ... 49, those before each step")
    mistakes = {"x_t and x_0 are exchanged in the list": lambda: ours[-1][1], **dict(mistakes)}
    verdict(name, yours[-1][2] if good else None, ours[-1][2], mistakes)
    return yours if good else ours


def slips(method, x_t, y):
    """Slips in the loop of a `Method` from noise x_t: name -> a function that draws with it."""
    abar, times = method.abar, times_of(method)

    def eps_hat(x_t, t):
        return method(x_t, t, y)

    def drawn(taken_out, put_back):
        x = x_t
        for t, u in pairwise(times):
            x_0 = predicted_x_0(x, taken_out(x, t), abar[t])
            x = add_noise(x_0, put_back(x, t), abar[u])
        return x_0

    def stuck():
        return predicted_x_0(x_t, eps_hat(x_t, times[-2]), abar[times[-2]])

    found = {
        "all noise is put back, as if u were t": stuck,
        "no noise is put back": lambda: drawn(eps_hat, lambda x, t: torch.zeros_like(x)),
    }
    if isinstance(method, Guided):
        unguided = NoisePredictor(method.ddpm)
        unclipped = Guided(method.ddpm, method.log_p, method.scale)
        unclipped.limit = math.inf

        def eps(x_t, t):
            return unguided(x_t, t, y)

        found |= {
            "the U-Net's noise is taken out, not the guided one": lambda: drawn(eps, eps_hat),
            "the U-Net's noise is put back, not the guided one": lambda: drawn(eps_hat, eps),
            "the U-Net's image is not clipped": lambda: path_of(unclipped, x_t, y)[-1][2],
        }
    return found


# --- mistakes and combinations that the lessons show ---


class WithoutRoot(Guided):
    """ADM (14) without sqrt(1 - abar_t), a common mistake."""

    def __call__(self, x_t, t, y):
        return self.clipped_eps(x_t, t) - self.scale(t) * gradient(self.log_p, x_t, t, y)


class ClippedAfterGuidance(Guided):
    """The predicted x_0 is clipped after the guidance, as diffusers' schedulers do."""

    def __call__(self, x_t, t, y):
        with torch.no_grad():
            eps = self.eps(x_t, t)
        push = self.scale(t) * (1 - self.abar[t]).sqrt() * gradient(self.log_p, x_t, t, y)
        return clipped_noise(x_t, eps - push, self.abar[t], self.limit)


class OnClassifierFree(Guided):
    """A class-conditional U-Net, called without a label, and guided by a classifier."""

    def eps(self, x_t, t):
        no_label = self.ddpm.unet.config.num_class_embeds - 1
        return super().eps(x_t, t, torch.full((len(x_t),), no_label))


# --- digits ---


def show(rows, columns=(), asked=None, width=None):
    """Draw rows of images, name -> (N, 1, H, H) in [-1, 1], as ink on paper.

    A row that is None or no images is named and left out. With digits `asked` (N,), an image in
    which the judge reads another one gets a frame. `columns` are labels above; a line has `width`
    images, by default the whole row.
    """
    lines, framed, labels = [], [], []
    for name, images in rows.items():
        if not isinstance(images, torch.Tensor) or images.ndim != 4:
            what = "nothing to draw yet" if images is None else "these are not images (N, 1, H, H)"
            print(f"{name}: {what}")
            continue
        width = width or len(images)
        wrong = torch.zeros(len(images)) if asked is None else read(images) != asked
        lines.append(images.detach())
        framed += wrong.tolist()
        labels += [name] + [""] * (math.ceil(len(images) / width) - 1)
    if not lines:
        return
    grid = grid_image(torch.cat(lines), width, pixel=1)
    pitch = lines[0].shape[-1] + 2  # pixels from one image to the next
    figure = plt.figure(figsize=(0.72 * width, 0.72 * len(labels)), dpi=100, facecolor=BACKGROUND)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.imshow(grid, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    axes.xaxis.tick_top()
    columns = [f"{each}" for each in columns]
    for set_ticks, names in ((axes.set_xticks, columns), (axes.set_yticks, labels)):
        set_ticks([pitch * (i + 0.5) for i in range(len(names))], names, fontsize=11, color=INK)
    for number, is_framed in enumerate(framed):
        if is_framed:
            corner = pitch * (number % width) + 0.5, pitch * (number // width) + 0.5
            axes.add_patch(plt.Rectangle(corner, pitch, pitch, fill=False, color="#d00000", lw=1.8))
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    plt.show()


def film(path, gradient, y):
    """Play how images form: a path of (t, x_t, x_0), and below the push of the guide at x_t.

    Without a path, which an empty answer does not make, it says so.
    """
    if not path:
        print("the film: nothing to play yet")
        return
    frames = []
    path = [(t, x_t.detach(), x_0.detach()) for t, x_t, x_0 in path]
    for t, x_t, x_0 in path[::2]:
        frames.append(animation_frame(t, x_t, x_0, gradient(x_t, t, y), len(x_t)))
    end = path[-1][2]
    frames.append(animation_frame(END, end, end, None, len(end)))
    animate(frames)


def animate(frames):
    """Show PIL images as a film that rests on the last, inside of the notebook.

    It is a GIF that is called a PNG: so GitHub shows it, and every browser plays it.
    """
    file = io.BytesIO()
    write_gif(file, frames, FRAME_MS)
    display(Picture(file.getvalue(), format="png"))


def equation(x_t, abar_t, eps, grad, s, eps_hat):
    """ADM (14) in pictures, of one image x_t (1, 1, H, H), and what it does to the image in it."""
    if eps_hat is None:
        print("the equation: nothing to draw yet")
        return
    root = (1 - abar_t).sqrt()
    before, after = ((x_t - root * noise) / abar_t.sqrt() for noise in (eps, eps_hat))
    times = rf"$-\ {s:g}\,\sqrt{{1-\bar\alpha_t}}\ \times$"
    push = gradient_in_colors(grad)
    rows = [
        [("the guided noise", eps_hat / 3), "=", ("the U-Net's noise", eps / 3), times]
        + [("what the classifier wants", push)],
        [("the image it leaves", after), "=", ("the U-Net's guess", before), "+"]
        + [("the push", gradient_in_colors(after - before))],
    ]
    figure = plt.figure(figsize=(8, 4.5), dpi=100, facecolor=BACKGROUND)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.axis("off")
    for bottom, row in zip((2.2, 0), rows):
        left = 0.1
        for item in row:
            if isinstance(item, str):
                gap = 1.5 if len(item) > 1 else 0.5
                axes.text(left + gap / 2, bottom + 0.75, item, ha="center", va="center", size=14)
                left += gap
                continue
            label, image = item
            image = (
                image if image.dtype == torch.uint8 else ink_on_paper(image).expand(-1, 3, -1, -1)
            )
            extent = left, left + 1.5, bottom, bottom + 1.5
            axes.imshow(image[0].permute(1, 2, 0), extent=extent, interpolation="nearest")
            corner = left, bottom
            axes.add_patch(plt.Rectangle(corner, 1.5, 1.5, fill=False, color="0.8", lw=0.8))
            axes.text(left + 0.75, bottom + 1.58, label, ha="center", size=10.5, color=INK)
            left += 1.5
    axes.set(xlim=(0, 6.9), ylim=(-0.1, 4))
    plt.show()


def real(digit):
    """A digit of MNIST that no network was trained on: (1, 1, 28, 28) in [-1, 1]."""
    images, labels = load_mnist("validation")
    return images[labels == digit][:1]


def draw_strokes(strokes):
    """Draw lines of ink: lists of points (x, y) from 0 to 28 -> (1, 1, 28, 28) in [-1, 1].

    (0, 0) is the upper left corner. Each list of points becomes a line.
    """
    large = Image.new("L", (280, 280))
    for points in strokes:
        scaled = [(10 * x, 10 * y) for x, y in points]
        ImageDraw.Draw(large).line(scaled, fill=255, width=24, joint="curve")
    return pil_to_tensor(large.resize((28, 28)))[None] / 127.5 - 1


def play(draw, **ranges):
    """Call `draw` again whenever a slider is let go. A range is (lowest, highest, first value)."""
    kinds = {tuple: IntRangeSlider, int: IntSlider, float: FloatSlider}
    sliders = {}
    for name, (low, high, first) in ranges.items():
        settings = {"min": low, "max": high, "value": first, "continuous_update": False}
        sliders[name] = kinds[type(first)](**settings, description=name)
    interact(draw, **sliders)


# --- curves, and points in the plane ---


def panels(columns, rows=1, size=(3.0, 2.6), **settings):
    """Axes side by side on paper, without frames: an array, as `plt.subplots` gives it."""
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
    """Axes as a map of the plane, without numbers."""
    axis.set(aspect="equal", xticks=[], yticks=[], **settings)
    axis.spines[:].set_visible(False)


def frame_of(figure):
    """A matplotlib figure as a frame of `animate`."""
    file = io.BytesIO()
    figure.savefig(file, facecolor=BACKGROUND)
    plt.close(figure)
    return Image.open(file).convert("RGB").quantize(32)


def two_arrows(abar, t=200):
    """Two clouds of points under noise: score, guide and their sum, and paths that follow it.

    `abar` (T + 1,) is the schedule, and 1 at the end.
    """
    centers, width = torch.tensor([[-1.0, 0.0], [1.0, 0.0]]), 0.4

    def log_joint(x_t, t):  # log p(x_t, y) of both clouds y, up to a constant: (B, 2)
        squares = (x_t[:, None] - abar[t].sqrt() * centers).square().sum(dim=2)
        return -squares / (2 * (width**2 * abar[t] + 1 - abar[t]))

    def arrows(x_t, t):  # the gradients of log p(x_t) and of log p(orange | x_t)
        x_t = x_t.clone().requires_grad_()
        log_p = log_joint(x_t, t).logsumexp(dim=1)
        log_p_orange = log_joint(x_t, t).log_softmax(dim=1)[:, 1]
        return [torch.autograd.grad(each.sum(), x_t)[0] for each in (log_p, log_p_orange)]

    def path(s):  # of twelve points, along the score plus s times the guide
        def predict_noise(x_t, t):
            score, guide = arrows(x_t, t)
            return -(1 - abar[t]).sqrt() * (score + s * guide)

        start = torch.randn(12, 2, generator=torch.Generator().manual_seed(1))
        times = [*range(999, 0, -20), END]
        steps = first_order(ddim_step, predict_noise, abar, start, times, None)
        return torch.stack([start, *(x_t for _, x_t, _ in steps)])

    rng = torch.Generator().manual_seed(0)
    points = centers.repeat(120, 1) + width * torch.randn(240, 2, generator=rng)
    eps = torch.randn(240, 2, generator=rng)
    noisy = add_noise(points, eps, abar[t])
    grid = torch.cartesian_prod(torch.linspace(-2, 2, 11), torch.linspace(-1.2, 1.2, 5))
    score, guide = arrows(grid, t)
    fields = {"where points are dense": score, "where points are orange": guide}
    fields["the sum of both arrows"] = score + guide
    above, below = panels(3, 2, size=(3.1, 2.3))
    for axis, (name, field) in zip(above, fields.items()):
        axis.scatter(*noisy.T, c=CLASS_COLORS * 120, s=10, alpha=0.45, linewidth=0)
        axis.quiver(*grid.T, *field.T, scale=60, width=0.005, color=INK)
        axis.plot(0, 0.6, "o", color="#d00000", markersize=15, fillstyle="none")
        axis.set_title(name, fontsize=11, color=INK)
        plane(axis, xlim=(-2.4, 2.4), ylim=(-1.5, 1.5))
    for axis, s in zip(below, (0, 1, 5)):
        axis.scatter(*points.T, c=CLASS_COLORS * 120, s=8, alpha=0.35, linewidth=0)
        way = path(s)
        axis.plot(*way.unbind(2), color="0.45", linewidth=0.8)
        axis.plot(*way[-1].T, "o", color=INK, markersize=4)
        axis.set_title(f"twelve paths, s = {s}", fontsize=11, color=INK)
        plane(axis, xlim=(-2.8, 2.8), ylim=(-1.75, 1.75))
    plt.show()
