"""Digits that read as another digit upside down: the sum of two guides.

    python examples/ambigram.py     # results/ambigram.png: 6 one way up, 9 the other

Writes ten samples above the same images turned by 180 degrees, and prints what the judge reads.
At t > 0 the sum of two noisy log-probabilities is not the log-probability of both: this is a guide
that works, not an exact posterior.
"""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from evaluation.judge import accuracy_of, load_judge  # noqa: E402
from inference import NAMES, load_models, sample  # noqa: E402
from support.checkpoints import MODELS, provenance  # noqa: E402
from support.files import beside  # noqa: E402
from support.pictures import save_grid  # noqa: E402


def main():
    unet, classifier = load_models()
    y, other = torch.full((10,), 6), torch.full((10,), 9)

    def log_p(x_t, t, y):
        return classifier.log_p(x_t, t, y) + classifier.log_p(x_t.flip(2, 3), t, other)

    images = sample(unet, log_p, y)
    turned, judge = images.flip(2, 3), load_judge()
    rights = accuracy_of(judge, images, y), accuracy_of(judge, turned, other)
    print(f"the judge reads {rights[0]:.0%} as 6 and {rights[1]:.0%} of the turned ones as 9")
    made_from = provenance(MODELS, NAMES, "cpu", guide="log p(6 | x) + log p(9 | x turned)")
    save_grid(beside("results") / "ambigram.png", torch.cat([images, turned]), 10, made_from)


if __name__ == "__main__":
    main()
