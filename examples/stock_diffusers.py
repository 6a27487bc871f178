"""Classifier guidance in stock diffusers, where only the guide is ours.

    python -m examples.stock_diffusers    # the folder digits/, and results/stock.png

The folder draws digits anywhere, without this repository: see its model card, digits/README.md.
"""

import shutil
from pathlib import Path

import torch
from diffusers import DDPMPipeline, DDPMScheduler, DPMSolverMultistepScheduler

from diffusion import SCHEDULE
from evaluation.measures import share
from examples.shared import read, save_rows
from inference import load_models
from support.cli import ArgumentParser, one_line_errors

FOLDER = "digits"


def export(unet, folder):
    """Write the U-Net as a DDPMPipeline, with a model card."""
    scheduler = DDPMScheduler(**SCHEDULE, timestep_spacing="trailing")
    DDPMPipeline(unet, scheduler).save_pretrained(folder)
    shutil.copy(Path(__file__).with_name("model_card.md"), Path(folder, "README.md"))


def guide(pipeline, classifier, y):
    """Images (N, 1, 28, 28) of the digits y (N,), with nothing but diffusers and the guide."""
    x_t = torch.randn(len(y), 1, 28, 28, generator=torch.manual_seed(0))
    scheduler = DPMSolverMultistepScheduler(**SCHEDULE, timestep_spacing="trailing")
    scheduler.set_timesteps(20)
    for t in scheduler.timesteps:
        abar = scheduler.alphas_cumprod[t]
        x_t = x_t.detach().requires_grad_()
        [grad] = torch.autograd.grad(classifier.log_p(x_t, t.expand(len(y)), y).sum(), x_t)
        with torch.no_grad():
            eps = pipeline.unet(x_t, t).sample
            x_0 = ((x_t - (1 - abar).sqrt() * eps) / abar.sqrt()).clamp(-1, 1)
            eps = (x_t - abar.sqrt() * x_0) / (1 - abar).sqrt()
            s = 1 + 24 * abar / (1 - abar)  # a growing scale
            eps_hat = eps - s * (1 - abar).sqrt() * grad  # ADM (14), scaled by s
            x_t = scheduler.step(eps_hat, t, x_t).prev_sample
    return x_t


@one_line_errors
def main(argv=None):
    ArgumentParser(__doc__).parse_args(argv)
    unet, classifier = load_models()
    export(unet, FOLDER)
    y = torch.arange(10).repeat_interleave(10)
    images = guide(DDPMPipeline.from_pretrained(FOLDER), classifier, y)
    print(f"{FOLDER}/ is written; read as asked: {share(read(images) == y)}")
    save_rows("stock", {str(digit): images[y == digit] for digit in range(10)})


if __name__ == "__main__":
    main()
