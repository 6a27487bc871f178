"""Export our DDPM to diffusers and back, and guide a third-party pipeline without a classifier.

    python -m examples.stock_diffusers    # digits/, and thick and thin digits in results/stock.png

Writes the folder digits/, which diffusers can load without this repository; see its model card. In
the other direction, any unconditional `DDPMPipeline.from_pretrained(...)` can be guided, whatever
its noise schedule, number of timesteps, image size, and prediction type. Here the guide controls
the mean intensity. `save_as_checkpoint` makes a checkpoint for `load_ddpm` from a pipeline.
"""

import shutil
from inspect import signature
from pathlib import Path

import torch
from diffusers import DDPMPipeline, DDPMScheduler

from diffusion import DDPM
from examples.shared import FAST, example, save_rows
from inference import gradient, guided, sample
from support.files import save_checkpoint

FOLDER, CARD = "digits", Path(__file__).with_name("model_card.md")
N = 10
STRICTNESS = 1_000  # 1 / (2 variance) of the mean intensity


def mean_intensity(images):
    """The mean pixel intensity, from 0 to 1, of images (B, C, H, W) in [-1, 1]: (B,)."""
    return (images.mean(dim=(1, 2, 3)) + 1) / 2


def save_as_checkpoint(path, folder, dataset):
    """Save a pipeline, a folder or a name on the Hub, as a checkpoint; dataset: `Dataset.info`."""
    pipeline = DDPMPipeline.from_pretrained(folder, low_cpu_mem_usage=False)
    config = pipeline.scheduler.config
    schedule = {key: config[key] for key in signature(DDPMScheduler).parameters if key in config}
    save_checkpoint(Path(path), pipeline.unet, schedule, dataset, training={})


@example
def main(ddpm, classifier):
    DDPMPipeline(ddpm.unet, ddpm.scheduler).save_pretrained(FOLDER)
    shutil.copy(CARD, Path(FOLDER, "README.md"))
    pipeline = DDPMPipeline.from_pretrained(FOLDER, low_cpu_mem_usage=False)  # or any other
    theirs = DDPM(pipeline.unet, pipeline.scheduler)

    def log_p(x_t, t, y):
        """The guide: a mean intensity of about y (B,) in the predicted image."""
        return -STRICTNESS * (mean_intensity(theirs.x_0(x_t, t)) - y).square()

    eps_hat, rows = guided(theirs, gradient(log_p), 1), {}
    rows["unguided"] = sample(theirs, None, range(N), **FAST)
    for name, target in {"thin": 0.07, "thick": 0.2}.items():
        rows[name] = sample(theirs, torch.full((N,), target), range(N), eps_hat, **FAST)
    for name, images in rows.items():
        print(f"{name}: mean intensity {mean_intensity(images).mean():.3f}")
    save_rows("stock", rows, [""] * N, ddpm.unet)


if __name__ == "__main__":
    main()
