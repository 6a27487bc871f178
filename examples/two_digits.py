"""Between two digits: the weighted sum of two guides, (1 - w) log p(3 | x_t) + w log p(8 | x_t).

    python -m examples.two_digits    # results/two_digits.png, a row for each w

At t > 0 the sum is not exact. Guides that disagree leave noise in the image: less at a growth of
the scale of 4, chosen by eye on seed 1, than at the default, 24.
"""

import torch

from evaluation.measures import share
from examples.shared import FAST, example, read, save_rows
from inference import Guided, growing_scale, sample

N = 100


@example("two_digits")
def main(ddpm, classifier):
    def between(x_t, t, w):  # what is asked for is w (B,)
        three, eight = torch.full_like(t, 3), torch.full_like(t, 8)
        return (1 - w) * classifier.log_p(x_t, t, three) + w * classifier.log_p(x_t, t, eight)

    rows, guided = {}, Guided(ddpm, between, growing_scale(ddpm.scheduler, g=4))
    for w in (0, 0.25, 0.5, 0.75, 1):
        images = sample(guided, torch.full((N,), w), range(N), **FAST)
        rows[f"w = {w}"] = images
        digits = read(images)
        print(f"w = {w}: read as 3: {share(digits == 3)}; as 8: {share(digits == 8)}")
    save_rows("two_digits", rows, growth=4)


if __name__ == "__main__":
    main()
