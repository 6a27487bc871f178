"""Steer somebody else's pipeline, with a guide of your own and no classifier.

    python -m examples.stock_diffusers    # digits/, and bold and thin digits in results/stock.png

`ddpm.save_pretrained` writes our DDPM as diffusers does: the folder digits/ draws digits anywhere,
without this repository, see its model card. Then the other way round: any unconditional
`DDPMPipeline.from_pretrained(...)` can be steered, whatever its betas, its number of timesteps, its
image size, and whether it predicts eps or v. Here the guide asks for ink.
"""

import shutil
from pathlib import Path

import torch
from diffusers import DDPMPipeline

from examples.shared import FAST, example, save_rows
from inference import Guided, Unguided, predicted_image, sample
from support.errors import UserError

FOLDER, CARD = "digits", Path(__file__).with_name("model_card.md")
N = 10
STRICTNESS = 1_000  # 1 / (2 variance) of the ink that is asked for, as a share of all pixels


def export(ddpm, folder):
    """Write the DDPM with a model card."""
    ddpm.save_pretrained(folder)
    shutil.copy(CARD, Path(folder, "README.md"))


def ink(images):
    """The mean pixel, from 0 to 1, of images (B, C, H, W) in [-1, 1]: (B,)."""
    return (images.mean(dim=(1, 2, 3)) + 1) / 2


@example("stock")
def main(ddpm, classifier):
    card = Path(FOLDER, "README.md")
    if Path(FOLDER).exists() and not (card.exists() and card.read_text() == CARD.read_text()):
        raise UserError(f"{FOLDER}/ is there, and not from this script: rename it")
    export(ddpm, FOLDER)
    pipeline = DDPMPipeline.from_pretrained(FOLDER, low_cpu_mem_usage=False)  # or anybody's

    def log_p(x_t, t, y):
        """The guide: about as much ink as y (B,), in the image that x_t is to become."""
        return -STRICTNESS * (ink(predicted_image(pipeline, x_t, t)) - y).square()

    rows = {"unguided": sample(Unguided(pipeline), None, range(N), **FAST)}
    guided = Guided(pipeline, log_p, scale=1)
    for name, wanted in {"thin": 0.07, "bold": 0.2}.items():
        rows[name] = sample(guided, torch.full((N,), wanted), range(N), **FAST)
    for name, images in rows.items():
        print(f"{name}: ink {ink(images).mean():.3f}")
    save_rows("stock", rows)


if __name__ == "__main__":
    main()
