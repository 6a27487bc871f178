"""Completes test digits from their upper half: the guide is the likelihood of the seen pixels.

    python -m examples.inpainting    # results/inpainting.png

With the class's log p too, the sum is not exact at t > 0. The variance 1 - abar_t was chosen among
four on 40 validation digits. A guide of pixels is steep: it needs a constant scale.
"""

from functools import partial

import torch

from diffusion import abar, predicted_x_0
from evaluation.measures import share
from examples.shared import example, read, save_rows
from guidance import sample
from mnist import load_mnist

N = 200


def log_p_upper_half(unet, images, x_t, t, y):
    """log p of the upper half of the images with the numbers y (B,), up to a constant: (B,)."""
    x_0 = predicted_x_0(x_t, t, unet(x_t, t).sample).clamp(-1, 1)
    error = (x_0 - images[y])[:, :, :14]
    return -error.square().sum(dim=(1, 2, 3)) / (2 * (1 - abar(t)).flatten())


@example
def main(unet, classifier):
    x_0, labels = (part[:N] for part in load_mnist("test"))
    pixels = partial(log_p_upper_half, unet, x_0)

    def pixels_and_class(x_t, t, y):
        return pixels(x_t, t, y) + classifier.log_p(x_t, t, labels[y])

    rows = {"digit": x_0, "seen": x_0 * (torch.arange(28) < 14)[:, None]}
    for name, guide in {"no class": pixels, "with class": pixels_and_class}.items():
        rows[name] = sample(unet, guide, torch.arange(N), range(N), scale=1)
        print(f"{name}: read as its label: {share(read(rows[name]) == labels)}")
    save_rows("inpainting", rows, labels.tolist(), scale_growth=0)


if __name__ == "__main__":
    main()
