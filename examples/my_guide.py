"""A guide of your own, to copy and change: digits that lean to the right.

    python -m examples.my_guide                                      # results/my_guide.png
    python evaluate.py --n 500 --guide examples/my_guide.py:leaning    # are they still digits?

A guide is any function `log_p(x_t, t, y)` that returns one number per image, (B,), differentiable
in x_t. The number of an image may depend on no other image of the batch.
"""

import torch

from examples.shared import FAST, example, save_rows
from inference import Guided, growing_scale, predicted_image, sample

SLANT = 0.5  # pixels to the right for each pixel up; digits of MNIST have 0 to 0.3
STRICTNESS = 10  # 1 / (2 variance) of the slant


def leaning(ddpm, classifier):
    """The guide. `evaluate.py` gives it the networks of --models."""

    def log_p(x_t, t, y):
        """log p of the digits y (B,), and of the slant that the image is to have: (B,)."""
        error = slant(predicted_image(ddpm, x_t, t)) - SLANT
        return classifier.log_p(x_t, t, y) - STRICTNESS * error.square()

    return log_p


def slant(images):
    """How far the ink of images (B, 1, H, W) moves to the right for each pixel up: (B,)."""
    ink = (images[:, 0] + 1) / 2
    ink = ink / ink.sum(dim=(1, 2), keepdim=True)  # a distribution over the pixels
    place = torch.arange(ink.shape[-1], device=ink.device)
    right = place - (ink * place).sum(dim=(1, 2)).view(-1, 1, 1)
    down = place[:, None] - (ink * place[:, None]).sum(dim=(1, 2)).view(-1, 1, 1)
    return -(ink * right * down).sum(dim=(1, 2)) / (ink * down * down).sum(dim=(1, 2))


@example("my_guide")
def main(ddpm, classifier):
    y, seeds = torch.arange(10), range(10)
    rows = {}
    guides = {"upright": classifier.log_p, "leaning": leaning(ddpm, classifier)}
    for name, log_p in guides.items():
        method = Guided(ddpm, log_p, growing_scale(ddpm.scheduler))
        rows[name] = sample(method, y, seeds, **FAST)
        print(f"{name}: mean slant {slant(rows[name]).mean():.2f}")
    save_rows("my_guide", rows, y.tolist())


if __name__ == "__main__":
    main()
