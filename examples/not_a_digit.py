"""Anything but a 1: a negative guide, log(1 - p(1 | x_t, t)).

    python -m examples.not_a_digit    # results/not_a_1.png

The first row has five unguided samples that the judge classifies as 1, and five that it does not;
the second row has guided samples from the same noise. Ideally, the last five would not change, but
some do.
"""

import torch

from evaluation.measures import proportion
from examples.shared import FAST, example, read, save_rows
from inference import Guided, NoisePredictor, growing_scale, sample

N = 1_000


@example
def main(ddpm, classifier):
    def anything_but(x_t, t, y):
        """log(1 - p(y | x_t, t)) (B,), as the log-sum over the other classes: finite at p = 1."""
        log_p = classifier(x_t, t).log_softmax(dim=1)
        return log_p.scatter(1, y[:, None], -torch.inf).logsumexp(dim=1)

    away_from = Guided(ddpm, anything_but, growing_scale(ddpm.scheduler))
    unguided = sample(NoisePredictor(ddpm), None, range(N), **FAST)
    guided = sample(away_from, torch.full((N,), 1), range(N), **FAST)
    before, after = read(unguided), read(guided)
    print(f"1s, unguided: {proportion(before == 1)}; guided: {proportion(after == 1)}")
    print(f"of the others, unchanged: {proportion((after == before)[before != 1])}")
    shown = torch.cat([torch.where(before == 1)[0][:5], torch.where(before != 1)[0][:5]])
    rows = {"unguided": unguided[shown], "not a 1": guided[shown]}
    save_rows("not_a_1", rows, before[shown].tolist(), ddpm.unet, classifier)


if __name__ == "__main__":
    main()
