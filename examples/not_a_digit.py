"""Anything but a 1: a negative guide, log(1 - p(1 | x_t, t)).

    python -m examples.not_a_digit    # results/not_a_1.png

Five images that are a 1 when left to chance and five that are not, named as the judge reads them;
below, guided from the same noise. The guide should leave the others alone, but changes some of them
too.
"""

import torch

from evaluation.measures import share
from examples.shared import FAST, example, read, save_rows
from inference import Guided, Unguided, growing_scale, sample

N = 1_000


@example("not_a_1")
def main(ddpm, classifier):
    def anything_but(x_t, t, y):
        """log(1 - p(y | x_t, t)) (B,), as the log of the sum of the others: finite where p is 1."""
        log_p = classifier(x_t, t).log_softmax(dim=1)
        return log_p.scatter(1, y[:, None], -torch.inf).logsumexp(dim=1)

    away_from = Guided(ddpm, anything_but, growing_scale(ddpm.scheduler))
    free = sample(Unguided(ddpm), None, range(N), **FAST)
    guided = sample(away_from, torch.full((N,), 1), range(N), **FAST)
    before, after = read(free), read(guided)
    print(f"read as 1, unguided: {share(before == 1)}; guided: {share(after == 1)}")
    print(f"of the others, read as before: {share((after == before)[before != 1])}")
    shown = torch.cat([torch.where(before == 1)[0][:5], torch.where(before != 1)[0][:5]])
    rows = {"left to chance": free[shown], "not a 1": guided[shown]}
    save_rows("not_a_1", rows, before[shown].tolist())


if __name__ == "__main__":
    main()
