"""Complete test digits from their upper half: the guide is the likelihood of the known pixels.

    python -m examples.inpainting    # output/inpainting.png

Adding log p of the class is only an approximation at t > 0. The variance 1 - abar_t was chosen
from four candidates on 40 validation digits. The pixel guide has large gradients, so its scale is
constant.
"""

import torch

from data import load_mnist
from evaluation.metrics import proportion
from examples.shared import FAST, example, read, save_rows
from inference import gradient, guided, sample

N = 200


@example
def main(ddpm, classifier, folder):
    x_0, labels = (part[:N] for part in load_mnist("test"))

    def pixels(x_t, t, y):
        """log p of the upper half of the images with indices y (B,), up to a constant: (B,)."""
        error = (ddpm.x_0(x_t, t) - x_0[y])[:, :, :14]
        return -error.square().sum(dim=(1, 2, 3)) / (2 * (1 - ddpm.abar[t]))

    def pixels_and_class(x_t, t, y):
        return pixels(x_t, t, y) + classifier.log_p(x_t, t, labels[y])

    known = torch.where((torch.arange(28) < 14)[:, None], x_0, -1.0)  # the lower half is blank
    rows = {"test digit": x_0, "upper half": known}
    guides = {"completed": pixels, "with its label": pixels_and_class}
    for name, log_p in guides.items():
        predict = guided(ddpm, gradient(log_p), 1)
        rows[name] = sample(ddpm, torch.arange(N), range(N), predict, **FAST)
        print(
            f"{name}: {proportion(read(rows[name]) == labels)} are classified as the original digit"
        )
    first = {name: images[:8] for name, images in rows.items()}
    columns = labels[:8].tolist()
    save_rows(folder / "inpainting.png", first, columns, ddpm.unet, classifier, guidance_scale=1)


if __name__ == "__main__":
    main()
