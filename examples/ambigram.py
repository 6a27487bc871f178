"""Digits that read as another digit upside down: the sum of two guides.

    python -m examples.ambigram    # results/ambigrams.png, all pairs; results/ambigram.png, 6 and 9

At t > 0 the sum of two noisy guides is not exact; it works for about half of the pairs.
"""

import torch

from evaluation.measures import share
from examples.shared import FAST, example, read, save_rows
from inference import Guided, growing_scale, sample

N = 10  # of each pair


def both_ways(log_p):
    """The guide log p(a | x_t, t) + log p(b | x_t turned by 180 degrees, t), y (B, 2) the a, b."""
    return lambda x_t, t, y: log_p(x_t, t, y[:, 0]) + log_p(x_t.flip(2, 3), t, y[:, 1])


@example("ambigrams", "ambigram")
def main(ddpm, classifier):
    digits = torch.arange(10)
    y = torch.cartesian_prod(digits, digits).repeat_interleave(N, dim=0)  # (100 N, 2)
    guided = Guided(ddpm, both_ways(classifier.log_p), growing_scale(ddpm.scheduler))
    images = sample(guided, y, range(len(y)), **FAST)
    right = (read(images) == y[:, 0]) & (read(images.flip(2, 3)) == y[:, 1])
    print(f"read as asked both ways up: {share(right)}; of {N}, a column per digit upside down:")
    print(right.view(10, 10, N).sum(dim=2))
    first = images[::N].view(10, 10, 1, 28, 28)  # one of each pair
    save_rows("ambigrams", dict(zip("0123456789", first)), [f"{digit}↻" for digit in range(10)])
    pair = images[69 * N : 70 * N]  # 6 and 9
    save_rows("ambigram", {"6": pair, "turned: 9": pair.flip(2, 3)})


if __name__ == "__main__":
    main()
