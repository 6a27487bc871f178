"""Pictures and answer checks for quick_demo_CGD.ipynb. The method itself is in the notebook."""

import contextlib
import functools
import io
import traceback
from itertools import pairwise

import matplotlib.pyplot as plt
import torch
from IPython.display import Image as Picture
from IPython.display import display
from tqdm.auto import tqdm

import data
import inference
from diffusion import END, add_noise, implied_noise, predicted_x_0, sampling_times
from inference import growing_scale, load_models, sample
from support.pictures import INK, PAPER, animation_frame, grid_image, gradient_in_colors
from support.pictures import ink_on_paper, write_gif

BACKGROUND = (PAPER / 255,) * 3
FRAME_MS = 300

ddpm, classifier = load_models()
unguided = ddpm  # unguided(x_t, t, y)
abar = ddpm.abar  # abar[t] for t = 0 ... 999, and abar[-1] = 1
our_gradient = inference.gradient(classifier.log_p)
times = [*sampling_times(1000, 20), END]  # 999, 949, ... 49, and -1: no noise is left
digits = torch.arange(10)
load_mnist = functools.cache(data.load_mnist)


def noise(n, seed=2):
    """Noise images (n, 1, 28, 28)."""
    return torch.randn(n, 1, 28, 28, generator=torch.Generator().manual_seed(seed))


def real(digit):
    """An MNIST digit that no network was trained on: (1, 1, 28, 28) in [-1, 1]."""
    images, labels = load_mnist("validation")
    return images[labels == digit][:1]


def read(images):
    """The digits in images (N, 1, 28, 28): the label of the nearest training image (N,)."""
    train, labels = load_mnist("train")
    return labels[torch.cdist(images.flatten(1), train.flatten(1)).argmin(dim=1)]


def ddim_path(x_t, predict_noise, y, times=times):
    """Sample from x_t (B, 1, 28, 28) by DDIM, in 20 steps by default: a list of (t, x_t, x_0)."""
    path = []
    for t, u in pairwise(times):
        eps = predict_noise(x_t, t, y).detach()
        x_0 = predicted_x_0(x_t, eps, abar[t])
        path.append((t, x_t, x_0))
        x_t = add_noise(x_0, eps, abar[u])
    return path


# --- pictures ---


def same_noise():
    """One noise image guided toward each digit: label -> images, for `show`."""
    eps_hat = inference.guided(ddpm, our_gradient, growing_scale(ddpm))
    images = sample(ddpm, digits, [4] * 10, eps_hat, sampler="sde-dpmsolver++", steps=20)
    return {"same noise": images}


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


def equation(digit, label, t, s=5.0):
    """Draw the guidance equation for a real digit with noise, guided toward another label."""
    x_t, y = add_noise(real(digit), noise(1, seed=1), abar[t]), torch.tensor([label])
    eps, grad = unguided(x_t, t, y), our_gradient(x_t, t, y)
    root = (1 - abar[t]).sqrt()
    eps_hat = eps - s * root * grad
    before, after = (predicted_x_0(x_t, each, abar[t]) for each in (eps, eps_hat))
    times_sign = rf"$-\ {s:g}\,\sqrt{{1-\bar\alpha_t}}\ \times$"
    draw_terms(
        [
            [("guided noise", eps_hat / 3), "=", ("predicted noise", eps / 3), times_sign]
            + [("classifier's gradient", gradient_in_colors(grad))],
            [("guided image", after), "=", ("predicted image", before), "+"]
            + [("what guidance adds", gradient_in_colors(after - before))],
        ]
    )


def draw_terms(rows):
    """Draw rows of (label, image) and operators."""
    figure = plt.figure(figsize=(8, 4.5), dpi=100, facecolor=BACKGROUND)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.axis("off")
    for bottom, row in zip((2.2, 0), rows):
        left = 0.1
        for term in row:
            if isinstance(term, str):
                gap = 1.5 if len(term) > 1 else 0.5
                axes.text(left + gap / 2, bottom + 0.75, term, ha="center", va="center", size=14)
                left += gap
                continue
            label, image = term
            if image.dtype != torch.uint8:
                image = ink_on_paper(image).expand(-1, 3, -1, -1)
            extent = left, left + 1.5, bottom, bottom + 1.5
            axes.imshow(image[0].permute(1, 2, 0), extent=extent, interpolation="nearest")
            frame = plt.Rectangle((left, bottom), 1.5, 1.5, fill=False, color="0.8", lw=0.8)
            axes.add_patch(frame)
            axes.text(left + 0.75, bottom + 1.58, label, ha="center", size=10.5, color=INK)
            left += 1.5
    axes.set(xlim=(0, 6.9), ylim=(-0.1, 4))
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


def progress(steps):
    """A progress bar over timesteps."""
    return tqdm(steps, leave=False)


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


# --- answer checks, which recognize common mistakes ---


def answer(function, *inputs):
    """What a student's function returns; None, with a message, if it is empty or fails."""
    name = getattr(function, "__name__", "your function")
    try:
        result = function(*inputs)
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
    return result


def matches(a, b):
    """Whether two tensors are equal up to rounding."""
    return a.shape == b.shape and torch.allclose(a.detach(), b, atol=1e-3, rtol=1e-3)


def check_reverse(reverse):
    """Check the loop of the notebook, step by step. Returns whether the notebook can use it."""
    x_t, y = noise(10), digits
    path = answer(reverse, x_t, unguided, y)
    if path is None:
        return False
    if [t for t, _, _ in path] != times[:-1]:
        print("The loop should take one step for each pair (t, u).")
        return False
    for (t, x_t, x_0), (u, x_u, _) in pairwise(path):
        eps = unguided(x_t, t, y)
        root, other = (1 - abar[t]).sqrt(), (1 - abar[u]).sqrt()
        expected = predicted_x_0(x_t, eps, abar[t])
        if not matches(x_0, expected):
            return mistake(f"x_0 at t = {t}", x_0, {
                "eps is added instead of subtracted": (x_t + root * eps) / abar[t].sqrt(),
                "1 - abar[t] lacks its square root": (x_t - (1 - abar[t]) * eps) / abar[t].sqrt(),
                "abar[t] lacks its square root": (x_t - root * eps) / abar[t],
                "both square roots are missing": (x_t - (1 - abar[t]) * eps) / abar[t],
                "the division by sqrt(abar[t]) is missing": x_t - root * eps,
                "t and u are swapped": predicted_x_0(x_t, eps, abar[u]),
            })  # fmt: skip
        if not matches(x_u, add_noise(x_0, eps, abar[u])):
            known = {
                "t and u are swapped, so no noise is removed": add_noise(x_0, eps, abar[t]),
                "no noise is put back": abar[u].sqrt() * x_0,
                "eps is subtracted instead of added": abar[u].sqrt() * x_0 - other * eps,
                "1 - abar[u] lacks its square root": abar[u].sqrt() * x_0 + (1 - abar[u]) * eps,
                "abar[u] lacks its square root": abar[u] * x_0 + other * eps,
                "both square roots are missing": abar[u] * x_0 + (1 - abar[u]) * eps,
                "x_0 lacks the factor sqrt(abar[u])": x_0 + other * eps,
            }
            recognized = any(matches(x_u, wrong) for wrong in known.values())
            if not recognized and is_fresh_noise(x_u, x_0, abar[u], other):
                print("You add fresh noise instead of eps. This is a correct sampler, too: a "
                      "stochastic one.\nFor the rest of this notebook, add eps.")  # fmt: skip
                return False
            return mistake(f"the new x_t, from t = {t} to u = {u}", x_u, known)
    print("Correct.")
    return True


def is_fresh_noise(x_u, x_0, abar_u, root):
    """Whether x_u is x_0 with other noise of the right strength."""
    if root == 0:
        return False
    eps = implied_noise(x_u, x_0, abar_u)
    return abs(eps.std() - 1) < 0.05 and abs(eps.mean()) < 0.05


def mistake(what, yours, known):
    """Print which known mistake an answer matches. Returns False."""
    for name, wrong in known.items():
        if matches(yours, wrong):
            print(f"Not yet: {what} is wrong. It looks as if {name}.")
            return False
    print(f"Not yet: {what} is wrong. This is not a mistake we recognize.")
    return False


def check_guidance(gradient, guided, s=5.0):
    """Check both functions of the notebook on ten images at two timesteps."""
    y, factors = digits.flip(0), []
    for t in (599, 199):
        x_t = add_noise(load_mnist("validation")[0][:10], noise(10), abar[t])
        grad = our_gradient(x_t, t, y)
        yours = answer(gradient, x_t, t, y)
        if yours is None:
            return False
        if isinstance(yours, tuple):
            print("Not yet: torch.autograd.grad returns a tuple; take its first element with [0].")
            return False
        if not matches(yours, grad):
            p = classifier.log_p(x_t, torch.full((10,), t), y).exp().detach().view(-1, 1, 1, 1)
            return mistake("gradient", yours, {
                "its sign is flipped": -grad,
                "you used .mean() instead of .sum(), so it is ten times too small": grad / 10,
                "this is the gradient of p, not of log p": p * grad,
            })  # fmt: skip
        eps, yours = unguided(x_t, t, y), answer(guided, x_t, t, y, s)
        if yours is None:
            return False
        shift = eps - yours.detach()
        factor = (shift * grad).sum() / grad.square().sum()
        if not matches(shift, factor * grad):
            print("Not yet: guided should differ from unguided by a multiple of the gradient.")
            return False
        factors.append(factor)
    a = abar[torch.tensor([599, 199])]
    before = abar[torch.tensor([598, 198])]
    known = {
        "Correct.": s * (1 - a).sqrt(),
        "Not yet: you add the gradient instead of subtracting it.": -s * (1 - a).sqrt(),
        "Not yet: the factor sqrt(1 - abar[t]) is missing.": s * a / a,
        "Not yet: the square root of 1 - abar[t] is missing.": s * (1 - a),
        "Not yet: you took the square root of abar[t] instead of 1 - abar[t].": s * a.sqrt(),
        "Not yet: the scale s is missing.": (1 - a).sqrt(),
        "Not yet: use abar[t], not abar[t-1].": s * (1 - before).sqrt(),
        "Not yet: guidance has no effect.": 0 * a,
    }
    for message, expected in known.items():
        if torch.allclose(torch.stack(factors), expected, rtol=5e-4, atol=1e-4):
            print(message)
            return message == "Correct."
    print("Not yet: the factor of the gradient is wrong. This is not a mistake we recognize.")
    return False


def yours_or_ours(reverse, gradient, guided):
    """Your three functions if they are correct; otherwise ours, so that the notebook continues."""
    with contextlib.redirect_stdout(io.StringIO()):
        correct = check_reverse(reverse) and check_guidance(gradient, guided)
    if correct:
        return reverse, gradient, guided
    print("From here on, the notebook uses our reverse, gradient, and guided.")

    def our_guided(x_t, t, y, s=5.0):
        return inference.guided(ddpm, our_gradient, s)(x_t, t, y)

    return ddim_path, our_gradient, our_guided


def check_guide(log_p):
    """Check a custom guide: its shape, and a gradient that is finite and not 0."""
    x_t, t, y = noise(4), 900, torch.tensor([3, 1, 4, 1])
    value = answer(log_p, x_t.clone().requires_grad_(), torch.full((4,), t), y)
    if value is None:
        return False
    if value.shape != (4,):
        print(f"The guide should return one number per image, (4,), not {tuple(value.shape)}.")
        return False
    grad = answer(inference.gradient(log_p), x_t, t, y)
    if grad is None:
        return False
    strength = (1 - abar[t]).sqrt() * grad.flatten(1).norm(dim=1).mean() / noise(1).norm()
    if not grad.isfinite().all() or not grad.any():
        print("The gradient of the guide is 0 or not finite. Does the guide depend on x_t?")
        return False
    print(f"At s = 1 and t = {t}, your guide changes the noise by {100 * strength:.1f}%.")
    if strength > 1:
        print("That is too much: scale your guide down.")
    return bool(strength <= 1)


def postcard(images, title, path="postcard.png"):
    """Save images (10, 1, 28, 28) with a title as a PNG, and show it."""
    figure = plt.figure(figsize=(7, 3.4), dpi=110, facecolor=BACKGROUND)
    axes = figure.add_axes((0.04, 0.02, 0.92, 0.82))
    axes.imshow(grid_image(images, 5, pixel=6), cmap="gray", vmin=0, vmax=255)
    axes.axis("off")
    figure.suptitle(title, fontsize=14, color=INK)
    figure.savefig(path, facecolor=BACKGROUND)
    plt.show()
