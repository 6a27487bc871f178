"""The method in two pictures: unguided and guided samples from the same noise.

    python -m examples.same_noise    # results/compare.png, results/same_noise.png

The first picture uses ten noise images; the second uses one noise image for ten target digits.
"""

import torch

from examples.shared import example, read, save_rows
from inference import Guided, NoisePredictor, growing_scale, sample
from support.streams import image_seeds

SEED = 0
ONE_NOISE = 4  # index of the noise image in the second picture


@example
def main(ddpm, classifier):
    digits = torch.arange(10)
    guided = Guided(ddpm, classifier.log_p, growing_scale(ddpm.scheduler))
    ten = image_seeds(SEED, digits.tolist())
    for name, seeds in {"compare": ten, "same_noise": [ten[ONE_NOISE]] * 10}.items():
        rows = {
            "unguided": sample(NoisePredictor(ddpm), None, seeds),
            "guided": sample(guided, digits, seeds),
        }
        print(f"{name}: {(read(rows['guided']) == digits).sum()} of 10 digits are correct")
        save_rows(name, rows, digits.tolist(), ddpm.unet, classifier, seed=SEED)


if __name__ == "__main__":
    main()
