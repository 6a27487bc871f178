"""Anything but a 1: a negative guide, log(1 - p(1 | x_t, t)).

    python examples/not_a_digit.py    # results/not_a_1.png

Ten images that are a 1 unguided and ten that are not, named as the judge reads them; below, guided
from the same noise. The guide should leave the others alone, but changes some of them too.
"""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from evaluation.examples import one_line_errors, parse_args, read, save_rows, share
from inference import load_models, sample


def anything_but(classifier, x_t, t, y):
    """log(1 - p(y | x_t, t)) (B,), as the log of the sum of the others: finite where p is 1."""
    return classifier(x_t, t).log_softmax(1).scatter(1, y[:, None], -torch.inf).logsumexp(1)


@one_line_errors
def main(argv=None):
    args = parse_args(__doc__, argv, "not_a_1.png", n=1_000)
    (unet, classifier), y = load_models(), torch.ones(args.n, dtype=torch.long)
    free = sample(unet, None, y, guidance_scale=0)
    guided = sample(unet, lambda *x_t_y: anything_but(classifier, *x_t_y), y)
    before, after = read(free), read(guided)
    shares = {"1 unguided": share(before == 1), "1 guided": share(after == 1)}
    shares["others as before"] = share((after == before)[before != 1])
    print("read as", shares)
    shown = torch.cat([(before == 1).nonzero()[:10, 0], (before != 1).nonzero()[:10, 0]])
    rows = {"unguided": free[shown], "not a 1": guided[shown]}
    save_rows(args.folder / "not_a_1.png", rows, before[shown].tolist(), n=args.n, shares=shares)


if __name__ == "__main__":
    main()
