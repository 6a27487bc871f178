"""Trials for train_ddpm.py: each row changes the recipe once and trains for the same time.

    python -m benchmarks.recipe                             # the whole table
    python -m benchmarks.recipe --resume                    # continue it
    python -m benchmarks.recipe "AdamW alone" "attention"   # these rows, printed only

Writes results/recipe.csv. One core and float32, six minutes per row. A clock is not reproducible:
rows differ a little from run to run and much from machine to machine, so compare them within the
table only. In so short a time small batches win: the recipe here takes 32 images per step, where
train_ddpm.py takes 64. Losses are measured on the validation set, samples with n = 500 and the
shipped classifier.
"""

import math
import platform

import torch
from diffusers import UNet2DModel
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.upsampling import Upsample2D
from diffusers.training_utils import EMAModel
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

import train_ddpm
from benchmarks.trials import TimedRun, random_timesteps, trials_command
from diffusion import ALPHAS_CUMPROD, UNET_CONFIG, UNet, stratified_timesteps
from evaluation.judge import judge_images, load_judge
from evaluation.measures import measure
from inference import load_models, sample
from mnist import load_mnist
from support.files import beside
from train_ddpm import MAX_LOSS_WEIGHT, loss_weights, validation_loss

OUTPUT = beside("results") / "recipe.csv"
SECONDS = 240
NUM_SAMPLES = 500
BATCH_SIZE, LEARNING_RATE, EMA_DECAY = 32, 2e-3, 0.999
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
    "t not stratified": {"draw_t": random_timesteps},
}


WEIGHTINGS = {  # of L_simple, by abar_t
    "L_simple": torch.ones_like,
    "min-SNR-5": lambda abar: (5 * (1 - abar) / abar).clamp(max=1),  # Hang et al. 2023
    "v": lambda abar: 1 / abar,  # the squared error of v, Salimans & Ho 2022
    "v, at most 5": lambda abar: (1 / abar).clamp(max=MAX_LOSS_WEIGHT),
    "v, at most 20, half at t < 150": lambda abar: loss_weights(abar, max_weight=20),
    "the recipe": loss_weights,
}


class Denoiser(nn.Module):
    """The U-Net with changes: behind a pixel-unshuffle if it works at 14x14; without v if asked."""

    device = torch.device("cpu")

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
        """As UNet.forward."""
        out = self.unet(F.pixel_unshuffle(x_t, self.factor), t)
        out.sample = F.pixel_shuffle(out.sample, self.factor)
        return out


def train(
    seconds, unet=None, adamw_only=False, zero_residuals=False, batch_size=BATCH_SIZE,
    lr=LEARNING_RATE, muon=None, cosine=False, weighting="the recipe", skip=True,
    upsampling_convolution=False, draw_t=stratified_timesteps, seed=0,
):  # fmt: skip
    """The network and the number of its steps, by the loop of train_ddpm.py."""
    torch.manual_seed(seed)
    config = {**UNET_CONFIG, **(unet or {})}
    network = Denoiser(config, zero_residuals, skip, upsampling_convolution)
    if adamw_only:
        adamw = {"betas": train_ddpm.ADAM_BETAS, "weight_decay": 0.0, "fused": True}
        optimizers = [torch.optim.AdamW(network.parameters(), lr=lr, **adamw)]
    else:
        optimizers = train_ddpm.make_optimizers(network.unet, lr)
        optimizers[0].param_groups[0].update(muon or {})
    ema = EMAModel(network.parameters(), decay=EMA_DECAY, foreach=True)
    images, _ = load_mnist("train")
    settings = {"batch_size": batch_size, "seed": seed, "precision": "float32"}
    decay = (lambda u: (1 + math.cos(math.pi * u)) / 2) if cosine else (lambda u: 1 - u)
    run = TimedRun(seconds, settings, len(images), optimizers, warmup=0.03, decay=decay)
    weights = WEIGHTINGS[weighting](ALPHAS_CUMPROD)
    train_ddpm.train(run, network, ema, optimizers, images, weights, draw_t)
    ema.copy_to(network.parameters())
    return network.eval().requires_grad_(False), run.step


def measured(name, seconds):
    """A row of the table."""
    recipe = RECIPES[name]
    network, steps = train(seconds, **recipe)
    with FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, 1, 28, 28), torch.zeros(1, dtype=torch.long))
    images, _ = load_mnist("validation")
    _, classifier = load_models()
    judge, y = load_judge(), torch.arange(10).repeat_interleave(NUM_SAMPLES // 10)
    real_features, _ = judge_images(judge, images)
    unguided = measure(judge, sample(network, None, y, guidance_scale=0), y, real_features)
    guided = measure(judge, sample(network, classifier.log_p, y), y, real_features)
    return {
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "mflop_forward": round(counter.get_total_flops() / 1e6),
        "images_a_second": round(steps * recipe.get("batch_size", BATCH_SIZE) / seconds),
        "steps": steps,
        "validation_loss": f"{validation_loss(network, images):.5f}",
        # with the weights of the recipe in every row
        "weighted_loss": f"{validation_loss(network, images, loss_weights()):.5f}",
        **{f"{name}_unguided": unguided[name] for name in ("frechet", "precision", "recall")},
        **{name: guided[name] for name in ("accuracy", "frechet", "precision", "recall")},
        "n": NUM_SAMPLES,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


if __name__ == "__main__":
    trials_command(__doc__, RECIPES, measured, SECONDS, OUTPUT)
