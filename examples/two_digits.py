"""Between two digits: the weighted sum of two guides, (1 - w) log p(a | x_t) + w log p(b | x_t).

    python examples/two_digits.py               # results/two_digits.png: from 3 to 8
    python examples/two_digits.py --pair 4 9    # the same file, from 4 to 9

A row for each w, a column for each noise. At the default growth of the scale, 24, guides that
disagree leave noise in the image; 4, chosen by eye on seed 1, leaves less. At t > 0 the sum of both
is not exact.
"""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from evaluation.examples import one_line_errors, parse_args, read, save_rows, share
from inference import load_models, sample


def between(log_p, w):
    """The guide (1 - w) log p(a | x_t, t) + w log p(b | x_t, t), y (B, 2) the pairs a, b."""
    return lambda x_t, t, y: (1 - w) * log_p(x_t, t, y[:, 0]) + w * log_p(x_t, t, y[:, 1])


@one_line_errors
def main(argv=None):
    args = parse_args(__doc__, argv, "two_digits.png", n=100, pair=[3, 8])
    (unet, classifier), y = load_models(), torch.tensor([args.pair] * args.n)  # (n, 2)
    rows, read_as = {}, {}
    for w in (0, 0.25, 0.5, 0.75, 1):
        name = f"w = {w}"
        rows[name] = images = sample(unet, between(classifier.log_p, w), y, scale_growth=4)
        read_as[name] = {digit: share(read(images) == digit) for digit in args.pair}
        print(f"{name}: read as", read_as[name], flush=True)
    save_rows(args.folder / "two_digits.png", rows, [], n=args.n, pair=args.pair, read_as=read_as)


if __name__ == "__main__":
    main()
