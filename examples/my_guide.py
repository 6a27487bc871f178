"""A custom guide to copy and change: digits that lean to the right.

    python -m examples.my_guide    # results/my_guide.png, and a table

A guide is any function `log_p(x_t, t, y)` that returns one number per image, (B,), differentiable
in x_t. The value for one image must not depend on the other images in the batch.
"""

from functools import partial

import torch

from evaluation.table import measure
from examples.shared import FAST, example, save_rows
from inference import gradient, growing_scale, guided, sample

SLANT = 0.5  # pixels to the right per pixel up; MNIST digits have 0 to 0.3
STRICTNESS = 10  # 1 / (2 variance) of the slant
N = 500  # per row of the table


def leaning(ddpm, classifier):
    """The guide: log p of the digits y (B,), minus a penalty on the error of the slant."""

    def log_p(x_t, t, y):
        error = slant(ddpm.x_0(x_t, t)) - SLANT
        return classifier.log_p(x_t, t, y) - STRICTNESS * error.square()

    return log_p


def slant(images):
    """The rightward shift of the ink in images (B, 1, H, W) per pixel upward: (B,)."""
    ink = (images[:, 0] + 1) / 2
    ink = ink / ink.sum(dim=(1, 2), keepdim=True)  # a distribution over the pixels
    place = torch.arange(ink.shape[-1], device=ink.device)
    right = place - (ink * place).sum(dim=(1, 2)).view(-1, 1, 1)
    down = place[:, None] - (ink * place[:, None]).sum(dim=(1, 2)).view(-1, 1, 1)
    return -(ink * right * down).sum(dim=(1, 2)) / (ink * down * down).sum(dim=(1, 2))


@example
def main(ddpm, classifier):
    y, seeds = torch.arange(10), range(10)
    guides = {"default": classifier.log_p, "leaning": leaning(ddpm, classifier)}
    rows, table = {}, {}
    for name, log_p in guides.items():
        eps_hat = guided(ddpm, gradient(log_p), growing_scale(ddpm))
        table[name] = partial(sample, ddpm, eps_hat=eps_hat, **FAST)
        rows[name] = table[name](y, seeds)
        print(f"{name}: mean slant {slant(rows[name]).mean():.2f}")
    save_rows("my_guide", rows, y.tolist(), ddpm.unet, classifier)
    measure(table, n=N)


if __name__ == "__main__":
    main()
