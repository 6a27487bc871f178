"""What was tried for train_ddpm.py: each row one change of the recipe, trained for the same time on one core.

    python benchmarks/recipe.py                          # the rows that results/recipe.csv lacks
    python benchmarks/recipe.py "AdamW alone" "attention"   # these, anew

A clock cannot be reproduced, so rows differ a little from run to run and much from machine to machine: compare within the
table. All train in float32, whatever the CPU knows. Weighted losses are not brought to one mean, so gradient clipping tells
on them differently. In so short a time smaller batches win, so these trials take 32 images a step where train_ddpm.py takes
64, at its own learning rate and EMA. Measured on the validation set, unguided and guided by the shipped classifier, with
the growing scale that was the default when most rows were made, n = 500. Six minutes a row; two commands run side by side
do not disturb each other.
"""

import argparse
import math
import platform
import sys
import time
from pathlib import Path

import torch
from diffusers import UNet2DModel
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.upsampling import Upsample2D
from diffusers.training_utils import EMAModel
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import train_ddpm  # noqa: E402
from classifier import Classifier  # noqa: E402
from diffusion import (  # noqa: E402
    UNET_CONFIG,
    UNet,
    batch_indices,
    generator,
    keep_memory,
    load_checkpoint,
    make_scheduler,
    stratified_timesteps,
)
from evaluate import VARIANTS, WITH_ABAR, Judge, judge_images, measure, read_rows, write_rows  # noqa: E402
from inference import draw_samples, make_labels  # noqa: E402
from mnist import load_mnist  # noqa: E402

OUTPUT = ROOT / "results" / "recipe.csv"
SECONDS = 240
NUM_SAMPLES = 500
BATCH_SIZE, LEARNING_RATE, EMA_DECAY = 32, 2e-3, 0.999  # of "the recipe" here
GUIDED = {**VARIANTS["s grows with abar_t"], **WITH_ABAR}
LEVELS_14 = {"sample_size": 14, "in_channels": 4, "out_channels": 4}
LEVELS_14 |= {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
RECIPES = {
    "the recipe": {},
    "another seed": {"seed": 1},
    "a third seed": {"seed": 2},
    "L_simple": {"weighting": "L_simple"},
    "v weighting": {"weighting": "v"},
    "v weighting, at most 5": {"weighting": "v, at most 5"},
    "v weighting, at most 20, half at t < 150": {"weighting": "v, at most 20, half at t < 150"},
    "min-SNR-5 weighting": {"weighting": "min-SNR-5"},
    "L_simple, no way past the layers": {"skip": False, "weighting": "L_simple"},
    "convolutions after upsampling": {"upsampling_convolution": True},
    "cosine decay": {"cosine": True},
    "AdamW alone": {"adamw_only": True},
    "both learning rates x 1.5": {"lr": 1.5 * LEARNING_RATE},
    "Muon lr .012": {"muon": {"lr": 0.012}},
    "Muon lr .003": {"muon": {"lr": 0.003}},
    "Muon without weight decay": {"muon": {"weight_decay": 0.0}},
    "16/32/96": {"unet": {"block_out_channels": (16, 32, 96)}},
    "24/48/96": {"unet": {"block_out_channels": (24, 48, 96)}},
    "32/32/64": {"unet": {"block_out_channels": (32, 32, 64)}},
    "32/64/64": {"unet": {"block_out_channels": (32, 64, 64)}},
    "attention": {"unet": {"add_attention": True}},
    "two layers a block": {"unet": {"layers_per_block": 2}},
    "pixel-unshuffle, 64/128": {"unet": {**LEVELS_14, "block_out_channels": (64, 128)}},
    "t only shifts": {"unet": {"resnet_time_scale_shift": "default"}},
    "4 groups": {"unet": {"norm_num_groups": 4}},
    "dropout .1": {"unet": {"dropout": 0.1}},
    "residuals from zero": {"zero_residuals": True},
    "batch 16": {"batch_size": 16},
    "batch 64": {"batch_size": 64},
    "t not stratified": {"stratified": False},
}


WEIGHTINGS = {  # of the squared error of eps, by abar_t
    "L_simple": torch.ones_like,
    "min-SNR-5": lambda abar: (5 * (1 - abar) / abar).clamp(max=1),  # Hang et al. 2023
    "v": lambda abar: 1 / abar,  # the squared error of v, Salimans & Ho 2022
    "v, at most 5": lambda abar: (1 / abar).clamp(max=train_ddpm.MAX_LOSS_WEIGHT),
    "v, at most 20, half at t < 150": lambda abar: train_ddpm.loss_weights(abar, at_most=20),
    "the recipe": train_ddpm.loss_weights,
}


class Denoiser(nn.Module):
    """The U-Net, behind a pixel-unshuffle where it works at 14x14; with `skip`, its way past the layers."""

    def __init__(self, config, zero_residuals, skip, upsampling_convolution):
        super().__init__()
        self.unet = UNet(**config) if skip else UNet2DModel(**config)
        for block in self.unet.up_blocks[:-1]:
            upsample = Upsample2D(block.upsamplers[0].channels, use_conv=upsampling_convolution)
            block.upsamplers = nn.ModuleList([upsample])
        for block in self.modules():
            if zero_residuals and isinstance(block, ResnetBlock2D):
                nn.init.zeros_(block.conv2.weight)
        nn.init.zeros_(self.unet.conv_out.weight)
        nn.init.zeros_(self.unet.conv_out.bias)
        self.factor = 28 // config["sample_size"]

    def forward(self, x_t, t):
        out = self.unet(F.pixel_unshuffle(x_t, self.factor), t)
        out.sample = F.pixel_shuffle(out.sample, self.factor)
        return out


def train(
    seconds, unet=None, adamw_only=False, zero_residuals=False, batch_size=BATCH_SIZE, lr=LEARNING_RATE,
    muon=None, cosine=False, weighting="the recipe", skip=True, upsampling_convolution=False, stratified=True, seed=0,
):  # fmt: skip
    """Train by the clock: the learning rate warms up over 3 % of the time and falls to 0. The network and its steps."""
    torch.manual_seed(seed)
    network = Denoiser({**UNET_CONFIG, **(unet or {})}, zero_residuals, skip, upsampling_convolution)
    if adamw_only:
        optimizers = [torch.optim.AdamW(network.parameters(), lr=lr, betas=train_ddpm.ADAM_BETAS, weight_decay=0.0, fused=True)]
    else:
        optimizers = train_ddpm.make_optimizers(network.unet, lr)
        optimizers[0].param_groups[0].update(muon or {})
    peaks = [optimizer.param_groups[0]["lr"] for optimizer in optimizers]
    ema = EMAModel(network.parameters(), decay=EMA_DECAY, foreach=True)
    images, _ = load_mnist("train", ROOT / "data")
    scheduler = make_scheduler()
    weights = WEIGHTINGS[weighting](scheduler.alphas_cumprod)  # (1000,)
    step, start = 0, time.monotonic()
    while (progress := (time.monotonic() - start) / seconds) < 1:
        decay = (1 + math.cos(math.pi * progress)) / 2 if cosine else 1 - progress
        for optimizer, peak in zip(optimizers, peaks):
            optimizer.param_groups[0]["lr"] = peak * min(1, progress / 0.03) * decay
        rng = generator(seed, 2, step)
        x_0 = images[batch_indices(len(images), batch_size, seed, step)]
        t = stratified_timesteps(batch_size, rng) if stratified else torch.randint(0, 1000, (batch_size,), generator=rng)
        eps = torch.randn(x_0.shape, generator=rng)
        error = (network(scheduler.add_noise(x_0, eps, t), t).sample - eps).square().mean(dim=(1, 2, 3))
        network.zero_grad()
        (weights[t] * error).mean().backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        ema.step(network.parameters())
        step += 1
    ema.copy_to(network.parameters())
    return network.eval().requires_grad_(False), step


def measured(name, seconds):
    """A row of the table."""
    recipe = RECIPES[name]
    network, steps = train(seconds, **recipe)
    with FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, 1, 28, 28), torch.zeros(1, dtype=torch.long))
    validation = load_mnist("validation", ROOT / "data")
    classifier, _ = load_checkpoint(ROOT / "models" / "classifier.pth", Classifier, "train_classifier.py")
    judge, _ = load_checkpoint(ROOT / "models" / "judge.pth", Judge, "evaluate.py --train-judge")
    labels, numbers = make_labels(range(10), NUM_SAMPLES // 10)
    weights = train_ddpm.loss_weights(make_scheduler().alphas_cumprod)  # the recipe's, for every row
    real_features, _ = judge_images(judge, validation[0])
    unguided = measure(judge, draw_samples(network, None, labels, numbers, 0), labels, real_features)
    guided = measure(judge, draw_samples(network, classifier, labels, numbers, **GUIDED), labels, real_features)
    return {
        "recipe": name,
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "mflop_forward": round(counter.get_total_flops() / 1e6),
        "images_a_second": round(steps * recipe.get("batch_size", BATCH_SIZE) / seconds),
        "steps": steps,
        "seconds": seconds,
        "validation_loss": f"{train_ddpm.validation_loss(network, validation[0]):.5f}",
        "weighted_loss": f"{train_ddpm.validation_loss(network, validation[0], weights=weights):.5f}",
        **{f"{name}_unguided": unguided[name] for name in ("frechet", "precision", "recall")},
        **{name: guided[name] for name in ("accuracy", "frechet", "precision", "recall")},
        "n": NUM_SAMPLES,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def fill_table(description, recipes, measured, seconds, output):
    """The command of a table of trials: `measured(name, seconds)` gives the row of each of the `recipes`."""
    parser = argparse.ArgumentParser(description=description.split("\n")[0])
    parser.add_argument("recipes", nargs="*", metavar="RECIPE", help="default: those that the table lacks")
    parser.add_argument("--seconds", type=float, default=seconds, help="of training, each")
    parser.add_argument("--output", type=Path, default=output, metavar="CSV")
    args = parser.parse_args()
    for name in args.recipes:
        if name not in recipes:
            parser.error(f"no recipe {name!r}; there are: {', '.join(recipes)}")
    torch.set_num_threads(1)
    keep_memory()
    known = [row["recipe"] for row in read_rows(args.output)]
    for name in args.recipes or [name for name in recipes if name not in known]:
        row = measured(name, args.seconds)
        print(row, flush=True)
        # read again: two of these may run side by side, one on each core
        write_rows(args.output, [*[old for old in read_rows(args.output) if old["recipe"] != name], row])


if __name__ == "__main__":
    fill_table(__doc__, RECIPES, measured, SECONDS, OUTPUT)
