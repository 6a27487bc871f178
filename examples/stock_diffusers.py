"""Classifier guidance in stock diffusers, where only the guide is ours: ten of each digit.

    python examples/export_to_diffusers.py digits && python examples/stock_diffusers.py digits

Writes stock.png.
"""

import sys
from pathlib import Path
import torch
from diffusers import DDPMPipeline, DPMSolverMultistepScheduler as Solver

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from evaluation.judge import accuracy_of, load_judge
from inference import MODELS, NAMES, load_models, provenance
from support import cli, errors, pictures


@cli.one_line_errors
def main(argv=None):
    parser = cli.ArgumentParser(__doc__)
    parser.add_argument("folder", metavar="DIR", help="made by export_to_diffusers.py")
    folder, classifier = parser.parse_args(argv).folder, load_models()[1]
    errors.require(Path(folder, "unet").is_dir(), f"{folder} is not an exported folder")
    pipe = DDPMPipeline.from_pretrained(folder)
    scheduler = Solver.from_config(pipe.scheduler.config, prediction_type="epsilon")
    scheduler.set_timesteps(20)
    x_t, y = torch.randn(100, 1, 28, 28, generator=torch.manual_seed(0)), torch.arange(100) // 10
    for t in scheduler.timesteps:
        a, x_t = scheduler.alphas_cumprod[t], x_t.detach().requires_grad_()
        grad = torch.autograd.grad(classifier.log_p(x_t, t.expand(100), y).sum(), x_t)[0]
        with torch.no_grad():
            x_0 = a.sqrt() * x_t - (1 - a).sqrt() * pipe.unet(x_t, t).sample  # it returns v
            eps = (x_t - a.sqrt() * x_0.clamp(-1, 1)) / (1 - a).sqrt()
            eps -= (1 + 24 * a / (1 - a)) * (1 - a).sqrt() * grad  # ADM (14), a growing scale
            x_t = scheduler.step(eps, t, x_t).prev_sample
    print(f"the judge reads {accuracy_of(load_judge(), x_t, y):.0%} of 100 as asked")
    pictures.save_grid("stock.png", x_t, 10, provenance(MODELS, NAMES[1:], "cpu", seed=0))


if __name__ == "__main__":
    main()
