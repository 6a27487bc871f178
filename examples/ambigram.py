"""Digits that read as another digit when turned upside down: the sum of two guides.

    python -m examples.ambigram    # results/ambigram.png: a selection

The sum of two guides is not exact at t > 0, but works for about half of the pairs.
"""

import math

import torch

from evaluation.measures import proportion
from examples.shared import FAST, example, judge_log_p, save_rows
from examples.when import surprise
from inference import Guided, growing_scale, sample

N = 10  # per pair
SHOWN = 7


def both_ways(log_p):
    """The guide log p(a | x_t, t) + log p(b | x_t rotated by 180 degrees, t), y (B, 2) = a, b."""
    return lambda x_t, t, y: log_p(x_t, t, y[:, 0]) + log_p(x_t.flip(2, 3), t, y[:, 1])


@example
def main(ddpm, classifier):
    digits = torch.arange(10)
    y = torch.cartesian_prod(digits, digits).repeat_interleave(N, dim=0)  # (100 N, 2)
    # less growth than for one digit: equally accurate, with fewer disconnected strokes
    scale = growing_scale(ddpm.scheduler, 1, 6)
    guided = Guided(ddpm, both_ways(classifier.log_p), scale)
    images = sample(guided, y, range(len(y)), **FAST)
    upright, rotated = judge_log_p(images), judge_log_p(images.flip(2, 3))  # (100 N, 10) each
    right = (upright.argmax(dim=1) == y[:, 0]) & (rotated.argmax(dim=1) == y[:, 1])
    print(f"correct in both orientations: {proportion(right)}")
    print(f"number correct out of {N} (rows: upright digit, columns: upside-down digit):")
    print(right.view(10, 10, N).sum(dim=2))
    # of each pair of different digits, the correct image that looks most like a digit
    unusual = surprise(ddpm, images).masked_fill(~right | (y[:, 0] >= y[:, 1]), math.inf)
    lowest, best = unusual.view(100, N).min(dim=1)
    pairs = lowest.topk(SHOWN, largest=False).indices.sort().values
    shown = images[pairs * N + best[pairs]]
    labels = [f"{a}, {b}" for a, b in y[pairs * N].tolist()]
    rows = {"upright": shown, "upside down": shown.flip(2, 3)}
    save_rows("ambigram", rows, labels, ddpm.unet, classifier)


if __name__ == "__main__":
    main()
