"""Pictures for the lessons."""

import matplotlib.pyplot as plt
from PIL import Image, ImageDraw, ImageOps
from torchvision.transforms.functional import pil_to_tensor

from support.pictures import BLACK, BLUE, ORANGE

CLASS_COLORS = [BLUE, ORANGE]  # of points in the plane


def plot_steps(axes, title, times, curves):
    """Plot curves, label -> one value per timestep, with the noise decreasing to the right."""
    for (label, values), color in zip(curves.items(), (BLACK, ORANGE, "0.6")):
        axes.plot(times, values, "o-", color=color, label=label)
    axes.set(xlim=(times[0] + 20, times[-1] - 20), title=title, xlabel="t")
    axes.legend(frameon=False, fontsize=8)


def draw_strokes(strokes):
    """Draw lines, each a list of points (x, y) from 0 to 28: (1, 1, 28, 28) in [-1, 1]."""
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
    figure, axes = plt.subplots(rows, columns, figsize=size, layout="constrained", dpi=90)
    for axis in figure.axes:
        axis.spines[["top", "right"]].set_visible(False)
    return axes


def plane(axis, **settings):
    """Format axes as a map of the plane, without ticks."""
    axis.set(aspect="equal", xticks=[], yticks=[], **settings)
    axis.spines[:].set_visible(False)
