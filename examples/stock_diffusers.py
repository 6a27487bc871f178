"""Export our DDPM to diffusers and back, and guide a third-party pipeline without a classifier.

    python -m examples.stock_diffusers    # output/digits/, and output/stock.png

Writes the folder digits/, which diffusers can load without this repository; see its model card. In
the other direction, any unconditional `DDPMPipeline.from_pretrained(...)` can be guided, whatever
its noise schedule, number of timesteps, image size, and prediction type. Here the guide controls
the mean intensity.
"""

import shutil
from pathlib import Path

import torch
from diffusers import DDPMPipeline

from diffusion import DDPM, load_ddpm
from inference import gradient, guided, sample
from support import cli
from support.files import MODELS
from support.pictures import save_labeled_grid

CARD = Path(__file__).with_name("model_card.md")
N = 10
FAST = {"sampler": "sde-dpmsolver++", "steps": 20}
STRICTNESS = 500  # 1 / (2 variance) of the mean intensity


def mean_intensity(images):
    """The mean pixel intensity, from 0 to 1, of images (B, C, H, W) in [-1, 1]: (B,)."""
    return (images.mean(dim=(1, 2, 3)) + 1) / 2


@cli.one_line_errors
def main(argv=None):
    parser = cli.make_parser(__doc__)
    folder_help = "output folder (default: output)"
    parser.add_argument("--output", type=Path, default=Path("output"), help=folder_help)
    folder = parser.parse_args(argv).output
    ddpm, digits = load_ddpm(MODELS / "ddpm_unet.pth"), folder / "digits"
    DDPMPipeline(ddpm.unet, ddpm.scheduler).save_pretrained(digits)
    shutil.copy(CARD, digits / "README.md")
    pipeline = DDPMPipeline.from_pretrained(digits, low_cpu_mem_usage=False)  # or any other
    theirs = DDPM(pipeline.unet, pipeline.scheduler)

    def log_p(x_t, t, y):
        """The guide: a mean intensity of about y (B,) in the predicted image."""
        return -STRICTNESS * (mean_intensity(theirs.x_0(x_t, t)) - y).square()

    predict = guided(theirs, gradient(log_p), 1)
    rows = [("unguided", sample(theirs, None, range(N), **FAST))]
    for name, target in ("thin", 0.07), ("thick", 0.2):
        rows.append((name, sample(theirs, torch.full((N,), target), range(N), predict, **FAST)))
    for name, images in rows:
        print(f"{name}: mean intensity {mean_intensity(images).mean():.3f}")
    save_labeled_grid(folder / "stock.png", rows, [""] * N)


if __name__ == "__main__":
    main()
