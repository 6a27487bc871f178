"""What quick_demo_CGD.ipynb uses to show pictures and to check answers."""

import io

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from IPython.display import Image as Picture
from IPython.display import display
from ipywidgets import FloatSlider, IntRangeSlider, IntSlider
from PIL import Image

from support.pictures import grid_image

PITCH = 30  # pixels from one image of the grid to the next


def show(images, columns, titles=(), rows=(), wrong=()):
    """Draw images (N, 1, 28, 28) in [-1, 1], row by row.

    Args:
        titles: labels above the columns. rows: labels left of the rows.
        wrong: for each image, whether it gets a red frame.
    """
    height = -(-len(images) // columns)
    figure, axes = plt.subplots(figsize=(0.72 * columns + 0.2, 0.72 * height + 0.2))
    axes.imshow(grid_image(images, columns), cmap="gray", vmin=0, vmax=255)
    axes.xaxis.tick_top()
    for set_ticks, labels in ((axes.set_xticks, titles), (axes.set_yticks, rows)):
        set_ticks([PITCH * i + PITCH / 2 for i in range(len(labels))], labels)
    for number, is_wrong in enumerate(wrong):
        if is_wrong:
            corner = PITCH * (number % columns) + 1, PITCH * (number // columns) + 1
            axes.add_patch(plt.Rectangle(corner, PITCH - 1, PITCH - 1, fill=False, color="red"))
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    plt.show()


def check(name, yours, exact, tolerance, clip=False, up_to_constant=False):
    """Print that `yours` is correct. Raises AssertionError if it is blank or not `exact`.

    Args:
        clip: clip it to [-1, 1] first, as `sample` does with its images.
        up_to_constant: both may differ by a number.
    """
    assert yours is not None, f"{name}: still blank"
    yours = torch.tensor(yours) if isinstance(yours, (int, float)) else yours
    assert torch.is_tensor(yours), f"{name}: it is a {type(yours).__name__}, not a tensor"
    assert yours.isfinite().all(), f"{name}: it is not finite"
    assert yours.shape == exact.shape, f"{name}: the shape is wrong: {tuple(yours.shape)}"
    yours = yours.clamp(-1, 1) if clip else yours
    yours = yours - (yours - exact).mean() if up_to_constant else yours
    error = (yours - exact).abs().max().item()
    opposite = (-yours - exact).abs().max().item() < tolerance <= error
    assert not opposite, f"{name}: wrong by up to {error:.2g}; the sign is wrong"
    assert error < tolerance, f"{name}: wrong by up to {error:.2g}"
    print(f"{name}: correct (largest difference {error:.0e})")


def compare(guess, value):
    """Print a guess beside what came out."""
    print(f"your guess: {'none' if guess is None else guess}; it is {value:.3g}")


def slider(low, high, value, name):
    """A slider that draws when it is let go: for whole numbers, for others, or for a range."""
    kind = {tuple: IntRangeSlider, int: IntSlider, float: FloatSlider}[type(value)]
    return kind(value=value, min=low, max=high, description=name, continuous_update=False)


def draw_loop(x_t, x_0, eps, grad, eps_hat, guided_x_0, next_x_t):
    """Draw a step of guided sampling, with the images (1, 1, 28, 28) that occur in it."""
    axes = plt.figure(figsize=(13, 4.2)).add_axes((0, 0, 1, 1))
    axes.axis("off")
    pictures = {  # lower left corner -> image, name above it, whether it has a sign
        (0.2, 2.3): (x_t, "$x_t$", False),
        (3.1, 2.6): (x_0, r"$\hat x_0$, clipped", False),
        (4.9, 2.3): (eps, r"its noise $\epsilon(x_t, t)$", False),
        (4.9, 0.2): (grad, r"$\nabla\log p(y\mid x_t, t)$", True),
        (8.0, 2.3): (eps_hat, r"$\hat\epsilon$", False),
        (9.6, 2.3): (guided_x_0, r"its $\hat x_0$", False),
        (11.9, 2.3): (next_x_t, "next $x_t$", False),
    }
    for (left, bottom), (image, name, signed) in pictures.items():
        limit = image.abs().max() if signed else 1
        extent = left, left + 1.1, bottom, bottom + 1.1
        cmap = "bwr" if signed else "gray"
        axes.imshow(image[0, 0], extent=extent, cmap=cmap, vmin=-limit, vmax=limit)
        axes.text(left + 0.55, bottom + 1.2, name, ha="center", fontsize=13)
    axes.set(xlim=(0, 13), ylim=(0, 4.2), aspect="auto")
    box = {"boxstyle": "round,pad=0.4", "facecolor": "white", "edgecolor": "C0"}
    boxes = {
        (2.3, 2.5): "U-Net",
        (2.3, 0.75): "classifier,\nautograd",
        (7.1, 2.85): "minus",
        (11.25, 2.85): "step",
    }
    for place, word in boxes.items():
        axes.text(*place, word, ha="center", va="center", fontsize=13, bbox=box)
    axes.text(2.3, 0.1, "digit $y$", ha="center", fontsize=13)
    axes.text(6.2, 0.3, r"times $s\,\sqrt{1-\bar\alpha_t}$", fontsize=13)
    unguided = [  # each path ends in an arrow
        [(1.35, 2.5), (1.85, 2.5)], [(2.75, 2.5), (4.85, 2.5)], [(6.05, 2.85), (6.65, 2.85)],
        [(7.55, 2.85), (7.95, 2.85)], [(9.15, 2.85), (9.55, 2.85)],
        [(10.75, 2.85), (10.9, 2.85)], [(11.6, 2.85), (11.85, 2.85)],
        [(8.55, 2.25), (8.55, 1.8), (11.25, 1.8), (11.25, 2.5)],
        [(0.75, 3.75), (0.75, 4.1), (10.15, 4.1), (10.15, 3.85)],
    ]  # fmt: skip
    by_guide = [
        [(0.75, 2.25), (0.75, 0.75), (1.65, 0.75)], [(2.95, 0.75), (4.85, 0.75)],
        [(6.05, 0.75), (7.1, 0.75), (7.1, 2.6)],
    ]  # fmt: skip
    for color, paths in (("C0", unguided), ("C3", by_guide)):
        arrow = {"arrowstyle": "->", "color": color, "shrinkA": 0, "shrinkB": 0}
        for path in paths:
            axes.plot(*zip(*path[:-1]), color=color, linewidth=1)
            axes.annotate("", path[-1], path[-2], arrowprops=arrow)
    plt.show()


def play(figures):
    """Show matplotlib figures, made one at a time, as a film that rests on the last."""
    frames = []
    for figure in figures:
        buffer = io.BytesIO()
        figure.savefig(buffer)
        plt.close(figure)
        frames.append(Image.open(buffer).convert("P", palette=Image.ADAPTIVE))
    gif, durations = io.BytesIO(), [300] * (len(frames) - 1) + [3_000]
    frames[0].save(gif, "gif", save_all=True, append_images=frames[1:], duration=durations, loop=0)
    display(Picture(gif.getvalue()))


def film(unguided, guided, gradients, titles):
    """Show a film of three rows of images, a frame for each step.

    Args:
        unguided, guided: lists of predicted images (N, 1, 28, 28) in [-1, 1].
        gradients: a list of gradients. Of these the square root is drawn, which makes small ones
            visible, from blue, negative, over white to red, on one scale for all frames.
    """
    roots = [grad.sign() * grad.abs().sqrt() for grad in gradients]
    limit = torch.stack(roots).abs().max()

    def pictures():
        for k, title in enumerate(titles):
            figure, panels = plt.subplots(3, 1, figsize=(10, 3.3), dpi=80, layout="constrained")
            gray = {"cmap": "gray", "vmin": 0, "vmax": 255}
            panels[0].imshow(grid_image(unguided[k], len(unguided[k])), **gray)
            panels[1].imshow(grid_image(guided[k], len(guided[k])), **gray)
            row = torch.cat(list(F.pad(roots[k], (1, 1, 1, 1))[:, 0]), dim=1)
            row = F.pad(row, (1, 1, 1, 1))  # now each image stands below those of the grids
            panels[2].imshow(row, cmap="bwr", vmin=-limit, vmax=limit)
            names = r"$\hat x_0$ unguided", r"$\hat x_0$ guided", "gradient"
            for panel, name in zip(panels, names):
                panel.set(xticks=[], yticks=[])
                panel.set_ylabel(name, rotation=0, ha="right", va="center")
            figure.suptitle(title)
            yield figure

    play(pictures())
