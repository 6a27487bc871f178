"""Figures: the colors, and images in a notebook."""

import matplotlib.pyplot as plt
from matplotlib.colors import LinearSegmentedColormap

INK, ACCENT = "#222222", "#c8500a"
ORANGE, BLUE = (200, 80, 10), (0, 100, 173)  # ink is added, removed


def show(rows, titles=(), signed=()):
    """Draw rows in a notebook: label -> images (N, 1, H, W) in [-1, 1], or probabilities (N, K).

    Signed rows are orange where ink is added, and blue where it is removed. Returns the figure.
    """
    ends = [tuple(channel / 255 for channel in color) for color in (BLUE, ORANGE)]
    signed_colors = LinearSegmentedColormap.from_list("", [ends[0], "white", ends[1]])
    n = max(len(row) for row in rows.values())
    figure, axes = plt.subplots(len(rows), n, figsize=(8, 8 / n * len(rows)), squeeze=False)
    for line, (label, row) in zip(axes, rows.items()):
        line[0].set_ylabel(label, rotation=0, ha="right", va="center")
        for axis, image in zip(line, row):
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_color("0.8")
            if image.ndim == 1:
                axis.bar(range(len(image)), image, color=ACCENT)
                axis.set(ylim=(0, 1), box_aspect=1)
                axis.set_xticks(range(len(image)), range(len(image)), fontsize=6)
            else:
                cmap = signed_colors if label in signed else "gray_r"
                axis.imshow(image[0], cmap=cmap, vmin=-1, vmax=1)
    for axis, title in zip(axes[0], titles):
        axis.set_title(title, fontsize=10)
    return figure
