"""Images as files: PNG grids, figures, GIF films, NPZ samples."""

import math

import numpy as np
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torchvision.utils import make_grid

from support.files import atomic_write

MAX_COLUMNS = 100  # a PNG or GIF shows at most that many images of a label
MAX_FRAMES = 25
FRAME_MS, LAST_FRAME_MS = 120, 2_500
DPI = 120
LABEL_SIZE = 14  # points: readable where a grid is as wide as a printed page


def to_uint8(images):
    """Images (..., 1, H, W) in [-1, 1], clipped, as uint8 0 .. 255 of the same shape."""
    return images.clamp(-1, 1).add(1).mul(127.5).round().to(torch.uint8)


def grid_image(images, columns):
    """A PIL image of images (N, 1, H, W), row by row.

    Args:
        images: float in [-1, 1], or uint8.
        columns: images per row.
    """
    images = images if images.dtype == torch.uint8 else to_uint8(images)
    return Image.fromarray(make_grid(images, nrow=columns)[0].numpy())  # (H, W), uint8


def save_grid(path, images, columns, made_from):
    """Write images (N, 1, H, W) in [-1, 1] as a PNG, with its provenance inside."""
    text = PngInfo()
    text.add_text("provenance", made_from)
    with atomic_write(path) as file:
        grid_image(images, columns).save(file, format="png", pnginfo=text)


def save_labelled_grid(path, images, row_labels, column_labels, made_from):
    """Write images (N, 1, H, W) in [-1, 1] as a PNG with labels, 2 pixels a pixel.

    Args:
        images: row by row, equally many for each of the row labels.
        column_labels: each above equally many columns.
    """
    from matplotlib.figure import Figure

    grid = make_grid(images, nrow=len(images) // len(row_labels), pad_value=1)[0]
    height, width = grid.shape
    figure = Figure(figsize=(2 * width / DPI, 2 * height / DPI))
    ax = figure.add_axes((0, 0, 1, 1))  # the labels stand outside, where "tight" makes room
    ax.imshow(grid, cmap="gray", vmin=-1, vmax=1, interpolation="nearest")
    for axis, length, labels in ((ax.xaxis, width, column_labels), (ax.yaxis, height, row_labels)):
        centres = [(k + 0.5) * length / len(labels) - 0.5 for k in range(len(labels))]
        axis.set_ticks(centres, labels, fontsize=LABEL_SIZE)
    ax.tick_params(length=0, labeltop=True, labelbottom=False)
    ax.spines[:].set_visible(False)
    save_figure(path, figure, made_from, bbox_inches="tight")


def line_plot(x, curves, **axes):
    """A figure with a line for each label: y in `curves`; `axes` are settings of its axes."""
    import matplotlib.pyplot as plt  # here, since inference.py starts faster without it

    figure, ax = plt.subplots(figsize=(6, 3.5), layout="constrained")
    for label, y in curves.items():
        ax.plot(x, y, marker=".", label=label)
    ax.set(**axes)
    ax.legend()
    return figure


def save_figure(path, figure, made_from, **settings):
    """Write a matplotlib figure as a PNG, with its provenance inside; `settings` of savefig."""
    with atomic_write(path) as file:
        metadata = {"provenance": made_from}
        figure.savefig(file, format="png", dpi=DPI, metadata=metadata, **settings)


def save_samples(args, rows, labels, film, made_from):
    """Write what --output, --npz and --gif name, and say so.

    Args:
        args: the flags, with `num_samples` (images of each label), `names` of labels, `compare`.
        rows: one tensor (N, 1, H, W) in [-1, 1] per guidance scale. labels: (N,).
        film: a `Film` of the last row.
    """
    outputs = [path for path in (args.output, args.npz, args.gif) if path]
    shown = torch.arange(len(labels)) % args.num_samples < MAX_COLUMNS
    parts, columns = [row[shown] for row in rows], min(args.num_samples, MAX_COLUMNS)
    groups = len(labels) // args.num_samples
    if args.compare:  # a column per label, or a single label's images side by side
        by_label = [part.unflatten(0, (groups, -1)).transpose(0, 1).flatten(0, 1) for part in parts]
        images = torch.cat(by_label if groups > 1 else parts)
        names = [name for name in ("unguided", "guided") for _ in range(columns)]
        names = names if groups > 1 else names[::columns]
        save_labelled_grid(args.output, images, names, args.names, made_from)
    else:
        grid_columns = columns if len(rows) == 1 else len(parts[0])
        save_grid(args.output, torch.cat(parts), grid_columns, made_from)
    if args.npz:
        save_npz(args.npz, rows[-1], labels)
    if args.gif:
        film.save(args.gif, rows[-1], shown, columns, made_from)
    print(f"{' and '.join(map(str, outputs))}: {len(labels) * len(rows)} images")


class Film:
    """Records images as they form, left, beside other images computed from them, right.

    Args:
        times: those of the sampler; at most MAX_FRAMES of them are kept, evenly spaced.
    """

    def __init__(self, times):
        every = math.ceil(len(times) / MAX_FRAMES) or 1
        self.frames = {t: [] for t in times[::every]}

    def watch(self, predict_noise, beside):
        """The same predict_noise(x_t, t, y), recorded from now on; `beside`: (x_t, t, eps)."""
        for parts in self.frames.values():
            parts.clear()

        def recorded(x_t, t, y):
            eps = predict_noise(x_t, t, y)
            if int(t) in self.frames:
                pair = torch.stack([x_t, beside(x_t, t, eps)])
                self.frames[int(t)].append(to_uint8(pair).cpu())
            return eps

        return recorded

    def save(self, path, last, shown, columns, made_from):
        """Write a GIF that rests on the images `last` (N, 1, H, W); `shown` (N,) selects images."""
        pairs = [torch.cat(parts, dim=1)[:, shown] for parts in self.frames.values()]
        pictures = []
        for left, right in [*pairs, (last[shown], last[shown])]:
            left, right = (np.asarray(grid_image(part, columns)) for part in (left, right))
            gap = np.full((len(left), 10), 255, dtype=np.uint8)
            picture = np.concatenate([left, gap, right], axis=1) // 32 * 36  # 8 grays: small files
            pictures.append(Image.fromarray(picture))
        durations = [FRAME_MS] * len(pairs) + [LAST_FRAME_MS]
        settings = {"append_images": pictures[1:], "duration": durations, "loop": 0}
        with atomic_write(path) as file:
            pictures[0].save(
                file, format="gif", save_all=True, comment=made_from.encode(), **settings
            )


def save_npz(path, images, labels):
    """Write images (N, 1, H, W) and labels (N,) in the layout of openai/guided-diffusion.

    `arr_0` is uint8 (N, H, W, 1), `arr_1` is int64 (N,).
    """
    with atomic_write(path) as file:
        np.savez(file, to_uint8(images).permute(0, 2, 3, 1).numpy(), labels.numpy())
