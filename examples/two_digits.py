"""Between two digits: the weighted sum of two guides, (1 - w) log p(3 | x_t) + w log p(8 | x_t).

    python -m examples.two_digits    # results/two_digits.png

A row for each w, a column for each noise. At the default growth of the scale, 24, guides that
disagree leave noise in the image; 4, chosen by eye on seed 1, leaves less. At t > 0 the sum of both
is not exact.
"""

import torch

from evaluation.measures import share
from examples.shared import read, save_rows
from guidance import sample
from inference import load_models
from support.cli import ArgumentParser, one_line_errors

N = 100
A, B = 3, 8


def between(log_p, w):
    """The guide (1 - w) log p(a | x_t, t) + w log p(b | x_t, t), y (B, 2) the pairs a, b."""
    return lambda x_t, t, y: (1 - w) * log_p(x_t, t, y[:, 0]) + w * log_p(x_t, t, y[:, 1])


@one_line_errors
def main(argv=None):
    ArgumentParser(__doc__).parse_args(argv)
    unet, classifier = load_models()
    y = torch.tensor([[A, B]] * N)
    rows = {}
    for w in (0, 0.25, 0.5, 0.75, 1):
        images = sample(unet, between(classifier.log_p, w), y, range(N), scale_growth=4)
        digits = read(images)
        print(f"w = {w}: read as {A}: {share(digits == A)}; as {B}: {share(digits == B)}")
        rows[f"w = {w}"] = images
    save_rows("two_digits", rows, scale_growth=4)


if __name__ == "__main__":
    main()
