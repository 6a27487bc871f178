"""Digits that read as another digit when turned upside down: the sum of two guides.

    python -m examples.ambigram    # results/ambigram.png

At t > 0, the sum only approximates the log-probability of both conditions. It works for about half
of the pairs.
"""

import torch

from evaluation.measures import proportion
from examples.shared import FAST, example, judge_log_p, save_rows
from inference import gradient, growing_scale, guided, sample

N = 10  # per pair
SHOWN = (1, 7), (2, 3), (2, 7), (6, 7), (6, 9)  # chosen by eye


def both_ways(log_p):
    """The guide log p(a | x_t, t) + log p(b | x_t rotated by 180 degrees, t), y (B, 2) = a, b."""
    return lambda x_t, t, y: log_p(x_t, t, y[:, 0]) + log_p(x_t.flip(2, 3), t, y[:, 1])


@example
def main(ddpm, classifier):
    digits = torch.arange(10)
    y = torch.cartesian_prod(digits, digits).repeat_interleave(N, dim=0)  # (100 N, 2)
    # less growth than for one digit: equally accurate, with fewer disconnected strokes
    scale = growing_scale(ddpm, w=1, g=6)
    eps_hat = guided(ddpm, gradient(both_ways(classifier.log_p)), scale)
    images = sample(ddpm, y, range(len(y)), eps_hat, **FAST)
    upright, rotated = judge_log_p(images), judge_log_p(images.flip(2, 3))  # (100 N, 10) each
    right = (upright.argmax(dim=1) == y[:, 0]) & (rotated.argmax(dim=1) == y[:, 1])
    print(f"correct in both orientations: {proportion(right)}")
    print(f"number correct out of {N} (rows: upright digit, columns: upside-down digit):")
    print(right.view(10, 10, N).sum(dim=2))
    log_p = torch.minimum(upright.gather(1, y[:, :1]), rotated.gather(1, y[:, 1:]))  # (100 N, 1)
    surest = log_p.view(100, N).argmax(dim=1)  # which image of each pair
    pairs = torch.tensor([10 * a + b for a, b in SHOWN])
    shown = images[N * pairs + surest[pairs]]
    labels = [f"{a}, {b}" for a, b in SHOWN]
    rows = {"upright": shown, "upside down": shown.flip(2, 3)}
    save_rows("ambigram", rows, labels, ddpm.unet, classifier)


if __name__ == "__main__":
    main()
