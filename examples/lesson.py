"""What quick_demo_CGD.ipynb uses to show pictures, to draw batches and to check answers."""

import time

import matplotlib.pyplot as plt
import torch

from support.pictures import grid_image

PITCH = 30  # pixels from one image of the grid to the next


def show(images, columns, titles=(), rows=()):
    """Draw images (N, 1, 28, 28) in [-1, 1], row by row.

    Args:
        titles: labels above the columns. rows: labels left of the rows.
    """
    height = -(-len(images) // columns)
    figure, axes = plt.subplots(figsize=(0.72 * columns + 0.2, 0.72 * height + 0.2))
    axes.imshow(grid_image(images, columns), cmap="gray", vmin=0, vmax=255)
    axes.xaxis.tick_top()
    for set_ticks, labels in ((axes.set_xticks, titles), (axes.set_yticks, rows)):
        set_ticks([PITCH * i + PITCH / 2 for i in range(len(labels))], labels)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    plt.show()


def batches(num_images, losses, num_steps=150, batch_size=64):
    """Yield the indices (B,) of a random batch per step, then plot the losses and the seconds."""
    start = time.perf_counter()
    yield from torch.randperm(num_images)[: num_steps * batch_size].split(batch_size)
    title = f"{num_steps} steps in {time.perf_counter() - start:.0f} s"
    axes = plt.figure(figsize=(6, 2)).add_subplot(xlabel="step", ylabel="loss", title=title)
    axes.plot([loss.item() for loss in losses])
    plt.show()


def check(name, yours, exact, tolerance, clip=False):
    """Print that `yours` is correct. Raises AssertionError if it is blank or not `exact`.

    `clip`: clip it to [-1, 1] first, as `sample` does with its images.
    """
    assert yours is not None, f"{name}: still blank"
    yours = yours.clamp(-1, 1) if clip else yours
    error = (yours - exact).abs().max().item()
    assert error < tolerance, f"{name}: wrong by up to {error:.2g}"
    print(f"{name}: correct (largest difference {error:.0e})")
