"""The method in two pictures: what is asked for beside what chance draws, from the same noise.

    python -m examples.wishes    # results/compare.png, results/wishes.png

Above, ten noises; below, one noise that is asked for ten digits.
"""

import torch

from examples.shared import example, read, save_rows
from inference import Guided, Unguided, growing_scale, sample
from support.streams import image_seeds

SEED = 0
ONE_NOISE = 4  # of the ten


@example("compare", "wishes")
def main(ddpm, classifier):
    digits = torch.arange(10)
    guided = Guided(ddpm, classifier.log_p, growing_scale(ddpm.scheduler))
    ten = image_seeds(SEED, digits.tolist())
    for name, seeds in {"compare": ten, "wishes": [ten[ONE_NOISE]] * 10}.items():
        rows = {
            "left to chance": sample(Unguided(ddpm), None, seeds),
            "asked for": sample(guided, digits, seeds),
        }
        print(f"{name}: read as asked for: {(read(rows['asked for']) == digits).sum()} of 10")
        save_rows(name, rows, digits.tolist(), seed=SEED)


if __name__ == "__main__":
    main()
