"""Digits that read as another digit upside down: the sum of two guides, for all 100 pairs.

    python examples/ambigram.py    # results/ambigrams.csv, ambigrams.png; ambigram.png (6 and 9)

At t > 0 the sum of two noisy guides is not exact; it works for about half of the pairs.
"""

import sys
from pathlib import Path
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from evaluation.examples import one_line_errors, parse_args, read, save_rows, save_table, share
from inference import load_models, sample


def both_ways(log_p):
    """The guide log p(a | x_t, t) + log p(b | x_t turned by 180 degrees, t), y (B, 2) the a, b."""
    return lambda x_t, t, y: log_p(x_t, t, y[:, 0]) + log_p(x_t.flip(2, 3), t, y[:, 1])


@one_line_errors
def main(argv=None):
    args = parse_args(__doc__, argv, "ambigrams.csv", "ambigrams.png", "ambigram.png", n=10)
    (unet, classifier), n = load_models(), args.n
    y = torch.cartesian_prod(torch.arange(10), torch.arange(10), torch.arange(n))[:, :2]
    images = sample(unet, both_ways(classifier.log_p), y)  # n of each pair
    right = (read(images) == y[:, 0]) & (read(images.flip(2, 3)) == y[:, 1])
    counts = right.view(100, n).sum(dim=1)
    print(f"both ways: {share(right)}; of {n}, upright down, turned across:", counts.view(10, 10))
    table = [{"pair": f"{k // 10}/{k % 10}", "right": int(c), "n": n} for k, c in enumerate(counts)]
    save_table(args.folder / "ambigrams.csv", table)
    grid = dict(zip(range(10), images[::n].split(10)))
    save_rows(args.folder / "ambigrams.png", grid, [f"{b}↻" for b in range(10)], n=n)
    pair = images[69 * n : 70 * n]
    save_rows(args.folder / "ambigram.png", {"6": pair, "turned: 9": pair.flip(2, 3)}, [], n=n)


if __name__ == "__main__":
    main()
