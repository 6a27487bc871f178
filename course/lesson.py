"""What the quick demo and the course use to show pictures and to check answers."""

import io
import math

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from IPython.display import Image as Picture
from IPython.display import display
from ipywidgets import FloatSlider, IntRangeSlider, IntSlider
from PIL import Image, ImageDraw
from torchvision.transforms.functional import pil_to_tensor

from inference import gradient
from support.pictures import grid_image


def show(images, columns, titles=(), rows=(), wrong=()):
    """Draw images (N, 1, H, H) in [-1, 1], row by row, with labels above and at the left.

    `wrong` says of each image whether it gets a red frame.
    """
    height = math.ceil(len(images) / columns)
    pitch = images.shape[-1] + 2  # pixels from one image of the grid to the next
    figure, axes = plt.subplots(figsize=(0.72 * columns + 0.2, 0.72 * height + 0.2))
    axes.imshow(grid_image(images, columns, pixel=1), cmap="gray", vmin=0, vmax=255)
    axes.xaxis.tick_top()
    for set_ticks, labels in ((axes.set_xticks, titles), (axes.set_yticks, rows)):
        set_ticks([pitch * i + pitch / 2 for i in range(len(labels))], labels)
    for number, is_wrong in enumerate(wrong):
        if is_wrong:
            corner = pitch * (number % columns) + 1, pitch * (number // columns) + 1
            axes.add_patch(plt.Rectangle(corner, pitch - 1, pitch - 1, fill=False, color="red"))
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    plt.show()


def check(name, yours, exact, inputs=None, tolerance=1e-4, mistakes=()):
    """Print whether `yours` is right, and return what to go on with: yours if it is, else `exact`.

    Both are tensors or numbers; with `inputs`, functions, which are compared on these. `mistakes`
    are pairs: the name of a common mistake, and a function that makes it.
    """
    right = torch.as_tensor(exact(*inputs) if inputs else exact)
    try:
        mine = torch.as_tensor(yours(*inputs) if inputs else yours)
    except Exception as error:  # a wrong answer can raise anything
        if "NoneType" in str(error):  # as in None + 1, where a blank stands
            print(f"{name}: still blank, so the cells below use the project's own")
        else:
            print(f"{name}: it raises {type(error).__name__}: {error}")
        return exact
    if mine.shape != right.shape:
        print(f"{name}: the shape is {tuple(mine.shape)}, not {tuple(right.shape)}")
        return exact
    error = (mine - right).abs().max().item()
    if error < tolerance:
        print(f"{name}: correct")
        return yours
    reason = ", only the sign is wrong" if (mine + right).abs().max() < tolerance else ""
    for mistake, function in mistakes:
        if (mine - function(*inputs)).abs().max() < tolerance:
            reason = f": {mistake}"
    print(f"{name}: wrong by up to {error:.2g}{reason}")
    return exact


def check_guide(name, yours, exact, inputs):
    """As `check`, of two guides: it compares their gradients, since sampling takes nothing else."""

    def gradient_of(log_p):  # `gradient` has one t for all images; here each has its own
        return lambda x_t, t, y: gradient(lambda x_t, _, y: log_p(x_t, t, y), x_t, 0, y)

    right = gradient_of(exact)
    agreed = check(name, gradient_of(yours), right, inputs, tolerance=1e-2)
    return exact if agreed is right else yours


def slider(low, high, value, name):
    """A slider that draws when it is let go: for whole numbers, for others, or for a range."""
    kind = {tuple: IntRangeSlider, int: IntSlider, float: FloatSlider}[type(value)]
    return kind(value=value, min=low, max=high, description=name, continuous_update=False)


def draw_strokes(strokes):
    """Draw white lines on black: lists of points (x, y) from 0 to 28 -> (1, 1, 28, 28) in [-1, 1].

    (0, 0) is the upper left corner. Each list of points becomes a line.
    """
    large = Image.new("L", (280, 280))
    for points in strokes:
        scaled = [(10 * x, 10 * y) for x, y in points]
        ImageDraw.Draw(large).line(scaled, fill=255, width=24, joint="curve")
    return pil_to_tensor(large.resize((28, 28)))[None] / 127.5 - 1


def picture_equations(rows, signed=()):
    """Draw equations, one below the other, with pictures in the place of symbols.

    A row is a list of texts, and of pairs: a symbol, and its picture (1, 1, 28, 28). Pictures are
    gray from -1 to 1, those of `signed` blue, white and red: negative, zero and positive.
    """
    figure, axes = plt.subplots(figsize=(8.5, 1.9 * len(rows)), layout="constrained")
    axes.axis("off")
    for bottom, row in zip(range(2 * len(rows), 0, -2), rows):
        left = 0
        for item in row:
            if isinstance(item, str):
                axes.text(left + 1, bottom + 0.75, item, ha="center", va="center", fontsize=13)
                left += 2
                continue
            symbol, picture = item
            cmap, limit = "gray", 1
            if any(picture is each for each in signed):
                cmap, limit = "bwr", picture.abs().max()
            extent = left, left + 1.5, bottom, bottom + 1.5
            axes.imshow(picture[0, 0], extent=extent, cmap=cmap, vmin=-limit, vmax=limit)
            axes.text(left + 0.75, bottom + 1.57, symbol, ha="center", fontsize=13)
            left += 1.5
    axes.set(xlim=(0, 8.5), ylim=(1.9, 2 * len(rows) + 1.9))
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
    display(Picture(gif.getvalue(), format="png"))  # so GitHub shows it; browsers animate it


def film(rows, gradients, times):
    """Show a film of rows of images, and the length of the gradient, a frame for each t of `times`.

    `rows` has the images of all steps, name -> a list of (N, 1, 28, 28) in [-1, 1]. Gradients are
    blue, white and red, with a scale of each frame: the lengths differ by orders of magnitude.
    """
    lengths = [grad.flatten(1).norm(dim=1).mean() for grad in gradients]

    def pictures():
        for k, t in enumerate(times):
            figure = plt.figure(figsize=(11, 3.5), dpi=64, layout="constrained")
            mosaic = [[name, "length"] for name in (*rows, "gradient")]
            panels = figure.subplot_mosaic(mosaic, width_ratios=(3.4, 1))
            length = panels.pop("length")
            for name, images in rows.items():
                grid = grid_image(images[k], len(images[k]), pixel=1)
                panels[name].imshow(grid, cmap="gray", vmin=0, vmax=255)
            row = torch.cat(list(F.pad(gradients[k], (1, 1, 1, 1))[:, 0]), dim=1)
            row = F.pad(row, (1, 1, 1, 1))  # now each image stands below those of the grids
            limit = row.abs().max()
            panels["gradient"].imshow(row, cmap="bwr", vmin=-limit, vmax=limit)
            for name, panel in panels.items():
                panel.set(xticks=[], yticks=[])
                panel.set_ylabel(name, rotation=0, ha="right", va="center")
            length.semilogy(times, lengths, color="0.7")
            length.plot(t, lengths[k], "o", color="C3")
            length.set(title="length of the gradient", xlabel="t, sampling runs to the left")
            figure.suptitle(f"t = {t}")
            yield figure

    play(pictures())
