"""What was tried for train_classifier.py: each row one change of the recipe, trained for the same time on one core.

    python benchmarks/classifier_recipe.py                          # the rows that results/classifier_recipe.csv lacks
    python benchmarks/classifier_recipe.py "label smoothing .1"     # this one, anew

As benchmarks/recipe.py does it: by the clock and in float32, so compare within the table. Each classifier guides the shipped
U-Net, with s growing as there; measured on the validation set, n = 2,000. Three minutes a row.
"""

import math
import platform
import sys
import time
from pathlib import Path

import torch
from torch.nn import functional as F

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import train_classifier  # noqa: E402
from classifier import Classifier  # noqa: E402
from diffusion import (  # noqa: E402
    NUM_TRAIN_TIMESTEPS,
    UNet,
    batch_indices,
    generator,
    load_checkpoint,
    make_scheduler,
    stratified_timesteps,
)
from evaluate import NUM_SWEEP, Judge, judge_images, measure  # noqa: E402
from inference import draw_samples, make_labels  # noqa: E402
from mnist import load_mnist  # noqa: E402
from recipe import GUIDED, fill_table  # noqa: E402

OUTPUT = ROOT / "results" / "classifier_recipe.csv"
SECONDS = 60
RECIPES = {
    "the recipe": {},
    "another seed": {"seed": 1},
    "a third seed": {"seed": 2},
    "16 channels": {"channels": 16},
    "48 channels": {"channels": 48},
    "label smoothing .1": {"label_smoothing": 0.1},
    "t below 800 only": {"t_below": 800},
    "low t more often": {"t_power": 2},
    "t not stratified": {"stratified": False},
    "no weight decay": {"weight_decay": 0.0},
    "batch 64": {"batch_size": 64},
}


def train(
    seconds, channels=32, batch_size=train_classifier.BATCH_SIZE, weight_decay=train_classifier.WEIGHT_DECAY,
    label_smoothing=0.0, stratified=True, t_below=NUM_TRAIN_TIMESTEPS, t_power=1, seed=0,
):  # fmt: skip
    """Train by the clock: the learning rate warms up over 7 % of the time and falls to 0. The classifier and its steps.

    t is `t_below` times u to the power `t_power`, u uniform over 0 .. 1.
    """
    torch.manual_seed(seed)
    classifier = Classifier(channels)
    peak = train_classifier.LEARNING_RATE
    optimizer = torch.optim.AdamW(classifier.parameters(), lr=peak, weight_decay=weight_decay, fused=True)
    images, labels = load_mnist("train", ROOT / "data")
    scheduler = make_scheduler()
    step, start = 0, time.monotonic()
    while (progress := (time.monotonic() - start) / seconds) < 1:
        optimizer.param_groups[0]["lr"] = peak * min(1, progress / 0.07) * (1 + math.cos(math.pi * progress)) / 2
        rng = generator(seed, 1, step)
        index = batch_indices(len(images), batch_size, seed, step)
        t = stratified_timesteps(batch_size, rng) if stratified else torch.randint(0, 1000, (batch_size,), generator=rng)
        t = (t_below * (t / NUM_TRAIN_TIMESTEPS) ** t_power).round().long()  # unchanged with the defaults
        x_t = scheduler.add_noise(images[index], torch.randn((batch_size, *images.shape[1:]), generator=rng), t)
        loss = F.cross_entropy(classifier(x_t, t), labels[index], label_smoothing=label_smoothing)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(classifier.parameters(), 1.0)
        optimizer.step()
        step += 1
    return classifier.eval().requires_grad_(False), step


def measured(name, seconds):
    """A row of the table."""
    recipe = RECIPES[name]
    classifier, steps = train(seconds, **recipe)
    validation = load_mnist("validation", ROOT / "data")
    t = train_classifier.validation_timesteps(len(validation[0]))
    probabilities = train_classifier.predict_noised(classifier, validation[0], t)  # (N, 10)
    cross_entropy = F.nll_loss(probabilities.clamp(min=1e-12).log(), validation[1]).item()
    unet, _ = load_checkpoint(ROOT / "models" / "ddpm_unet.pth", UNet, "train_ddpm.py")
    judge, _ = load_checkpoint(ROOT / "models" / "judge.pth", Judge, "evaluate.py --train-judge")
    digits, numbers = make_labels(range(10), NUM_SWEEP // 10)
    images = draw_samples(unet, classifier, digits, numbers, **GUIDED)
    guided = measure(judge, images, digits, judge_images(judge, validation[0])[0])
    return {
        "recipe": name,
        "parameters": sum(parameter.numel() for parameter in classifier.parameters()),
        "images_a_second": round(steps * recipe.get("batch_size", train_classifier.BATCH_SIZE) / seconds),
        "steps": steps,
        "seconds": seconds,
        "cross_entropy": f"{cross_entropy:.4f}",
        "calibration_error": f"{train_classifier.calibration_error(probabilities, validation[1]):.4f}",
        **{name: guided[name] for name in ("accuracy", "accuracy_low", "accuracy_high", "frechet", "precision", "recall")},
        "n": NUM_SWEEP,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


if __name__ == "__main__":
    fill_table(__doc__, RECIPES, measured, SECONDS, OUTPUT)
