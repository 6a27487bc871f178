"""Completes test digits from their upper half: the guide is the likelihood of the seen pixels.

    python -m examples.inpainting    # results/inpainting.png

With the class's log p too, the sum is not exact at t > 0. The variance 1 - abar_t was chosen among
four on 40 validation digits. A guide of pixels is steep: it needs a constant scale, scale_growth=0.
"""

from functools import partial

import torch

from diffusion import abar, predicted_x_0
from evaluation.measures import share
from examples.shared import read, save_rows
from inference import load_models, sample
from mnist import load_mnist
from support.cli import ArgumentParser, one_line_errors
from support.streams import image_seeds

N = 200
SEEN = 14 * 28  # pixels, the upper half


def seen_pixels(unet, log_p, x_t, t, y):
    """log p of the upper half, y[:, :SEEN], and by log_p, if any, of the label, y[:, SEEN]."""
    x_0 = predicted_x_0(x_t, t, unet(x_t, t).sample).clamp(-1, 1)
    error = x_0[:, 0, :14].flatten(1) - y[:, :SEEN]
    variance = (1 - abar(t)).flatten()
    log_p_pixels = -error.square().sum(dim=1) / (2 * variance)
    if log_p is None:
        return log_p_pixels
    return log_p_pixels + log_p(x_t, t, y[:, SEEN].long())


@one_line_errors
def main(argv=None):
    ArgumentParser(__doc__).parse_args(argv)
    unet, classifier = load_models()
    x_0, labels = (part[:N] for part in load_mnist("test"))
    y = torch.cat([x_0[:, 0, :14].flatten(1), labels[:, None]], dim=1)
    rows = {"digit": x_0, "seen": x_0 * (torch.arange(28) < 14)[:, None]}
    for name, log_p in {"no class": None, "with class": classifier.log_p}.items():
        guide = partial(seen_pixels, unet, log_p)
        rows[name] = sample(unet, guide, y, image_seeds(0, [0] * N), scale_growth=0)
        print(f"{name}: read as its label: {share(read(rows[name]) == labels)}")
    save_rows("inpainting", rows, labels.tolist(), seed=0, scale_growth=0)


if __name__ == "__main__":
    main()
