"""Export our DDPM to diffusers, and guide a third-party pipeline without a classifier.

    python -m examples.stock_diffusers    # digits/, and thick and thin digits in results/stock.png

`ddpm.save_pretrained` writes the folder digits/, which diffusers can load without this repository;
see its model card. In the other direction, any unconditional `DDPMPipeline.from_pretrained(...)`
can be guided, whatever its noise schedule, number of timesteps, image size, and prediction type
(eps or v). Here the guide controls the mean intensity.
"""

import shutil
from pathlib import Path

import torch
from diffusers import DDPMPipeline

from diffusion import predicted_image
from examples.shared import FAST, example, save_rows
from inference import Guided, NoisePredictor, sample

FOLDER, CARD = "digits", Path(__file__).with_name("model_card.md")
N = 10
STRICTNESS = 1_000  # 1 / (2 variance) of the mean intensity


def mean_intensity(images):
    """The mean pixel intensity, from 0 to 1, of images (B, C, H, W) in [-1, 1]: (B,)."""
    return (images.mean(dim=(1, 2, 3)) + 1) / 2


@example
def main(ddpm, classifier):
    ddpm.save_pretrained(FOLDER)
    shutil.copy(CARD, Path(FOLDER, "README.md"))
    pipeline = DDPMPipeline.from_pretrained(FOLDER, low_cpu_mem_usage=False)  # or any other

    def log_p(x_t, t, y):
        """The guide: a mean intensity of about y (B,) in the predicted image."""
        return -STRICTNESS * (mean_intensity(predicted_image(pipeline, x_t, t)) - y).square()

    rows = {"unguided": sample(NoisePredictor(pipeline), None, range(N), **FAST)}
    guided = Guided(pipeline, log_p, scale=1)
    for name, target in {"thin": 0.07, "thick": 0.2}.items():
        rows[name] = sample(guided, torch.full((N,), target), range(N), **FAST)
    for name, images in rows.items():
        print(f"{name}: mean intensity {mean_intensity(images).mean():.3f}")
    save_rows("stock", rows, [""] * N, ddpm.unet)


if __name__ == "__main__":
    main()
