"""Classifier guidance in stock diffusers, where only the guide is ours.

    python -m examples.stock_diffusers    # the folder digits/, and results/stock.png

`DDPMPipeline.from_pretrained("digits")()` then draws anywhere, without this repository.
"""

import torch
from diffusers import DDPMPipeline, DDPMScheduler, DPMSolverMultistepScheduler, UNet2DModel

from diffusion import SCHEDULE
from evaluation.measures import share
from examples.shared import read, save_rows
from inference import load_models
from support.cli import one_line_errors

FOLDER = "digits"


def export(unet, folder):
    """Write our U-Net as a DDPMPipeline. Its UNet2DModel has the same layers: it returns v."""
    stock = UNet2DModel.from_config(unet.config).eval()
    for name, weight in stock.named_parameters():
        if ".upsamplers." in name:  # the convolution that ours leaves out is the identity
            torch.nn.init.dirac_(weight) if weight.ndim == 4 else torch.nn.init.zeros_(weight)
    stock.load_state_dict(unet.state_dict(), strict=False)
    schedule = SCHEDULE | {"prediction_type": "v_prediction"}
    scheduler = DDPMScheduler(**schedule, timestep_spacing="trailing")
    DDPMPipeline(stock, scheduler).save_pretrained(folder)


def guide(pipe, classifier, y, num_steps=20):
    """Images (N, 1, 28, 28) of the digits y (N,), with nothing but diffusers and the guide."""
    x_t = torch.randn(len(y), 1, 28, 28, generator=torch.manual_seed(0))
    scheduler = DPMSolverMultistepScheduler(**SCHEDULE, timestep_spacing="trailing")
    scheduler.set_timesteps(num_steps)
    for t in scheduler.timesteps:
        abar = scheduler.alphas_cumprod[t]
        x_t = x_t.detach().requires_grad_()
        grad = torch.autograd.grad(classifier.log_p(x_t, t.expand(len(y)), y).sum(), x_t)[0]
        with torch.no_grad():
            v = pipe.unet(x_t, t).sample
            x_0 = (abar.sqrt() * x_t - (1 - abar).sqrt() * v).clamp(-1, 1)
            eps = (x_t - abar.sqrt() * x_0) / (1 - abar).sqrt()
            s = 1 + 24 * abar / (1 - abar)  # a growing scale
            eps_hat = eps - s * (1 - abar).sqrt() * grad  # ADM (14)
            x_t = scheduler.step(eps_hat, t, x_t).prev_sample
    return x_t


@one_line_errors
def main(argv=None):
    unet, classifier = load_models()
    export(unet, FOLDER)
    y = torch.arange(10).repeat_interleave(10)
    images = guide(DDPMPipeline.from_pretrained(FOLDER), classifier, y)
    print(f"{FOLDER}/ is written; read as asked: {share(read(images) == y)}")
    save_rows("stock", {str(digit): images[y == digit] for digit in range(10)})


if __name__ == "__main__":
    main()
