"""Trials for train_classifier.py: each row changes the recipe once and trains for the same time.

    python -m benchmarks.classifier_recipe                        # the whole table
    python -m benchmarks.classifier_recipe --resume               # continue it
    python -m benchmarks.classifier_recipe "label smoothing .1"   # this row, printed only

Writes results/classifier_recipe.csv, as benchmarks/recipe.py does: compare within the table only.
Each classifier guides the shipped U-Net, n = 2,000. Three minutes per row.
"""

import math
import platform

import torch
from torch.nn import functional as F

import train_classifier
from benchmarks.trials import TimedRun, random_timesteps, trials_command
from classifier import Classifier
from diffusion import NUM_TRAIN_TIMESTEPS, stratified_timesteps
from evaluation.judge import judge_images, load_judge
from evaluation.measures import measure
from evaluation.tables import NUM_SWEEP
from inference import load_models, sample
from mnist import load_mnist
from support.files import beside

OUTPUT = beside("results") / "classifier_recipe.csv"
SECONDS = 60
BATCH_SIZE = train_classifier.BATCH_SIZE


def below_800(batch_size, rng):
    """t uniform over 0 .. 799: (B,)."""
    return (0.8 * stratified_timesteps(batch_size, rng)).round().long()


def low_more_often(batch_size, rng):
    """t = 1000 u^2, u uniform over 0 .. 1: (B,)."""
    u = stratified_timesteps(batch_size, rng) / NUM_TRAIN_TIMESTEPS
    return (NUM_TRAIN_TIMESTEPS * u**2).round().long()


RECIPES = {
    "the recipe": {},
    "another seed": {"seed": 1},
    "a third seed": {"seed": 2},
    "16 channels": {"channels": 16},
    "48 channels": {"channels": 48},
    "label smoothing .1": {"smoothing": 0.1},
    "t below 800 only": {"draw_t": below_800},
    "low t more often": {"draw_t": low_more_often},
    "t not stratified": {"draw_t": random_timesteps},
    "no weight decay": {"weight_decay": 0.0},
    "batch 64": {"batch_size": 64},
}


def train(
    seconds, channels=32, batch_size=BATCH_SIZE, weight_decay=train_classifier.WEIGHT_DECAY,
    smoothing=0.0, draw_t=stratified_timesteps, seed=0,
):  # fmt: skip
    """The classifier and the number of its steps, by the loop of train_classifier.py."""
    torch.manual_seed(seed)
    classifier = Classifier(channels)
    adamw = {"lr": train_classifier.LEARNING_RATE, "weight_decay": weight_decay, "fused": True}
    optimizer = torch.optim.AdamW(classifier.parameters(), **adamw)
    images, labels = load_mnist("train")
    settings = {"batch_size": batch_size, "seed": seed}
    run = TimedRun(seconds, settings, len(images), [optimizer], warmup=0.07,
                   decay=lambda u: (1 + math.cos(math.pi * u)) / 2)  # fmt: skip
    train_classifier.train(run, classifier, optimizer, images, labels, draw_t, smoothing)
    return classifier.eval().requires_grad_(False), run.step


def measured(name, seconds):
    """A row of the table."""
    recipe = RECIPES[name]
    classifier, steps = train(seconds, **recipe)
    images, labels = load_mnist("validation")
    t = train_classifier.validation_timesteps(len(images))
    probabilities = train_classifier.predict_noised(classifier, images, t)  # (N, 10)
    cross_entropy = F.nll_loss(probabilities.clamp(min=1e-12).log(), labels).item()
    calibration_error = train_classifier.calibration_error(probabilities, labels)
    unet, _ = load_models(guide=False)
    judge, y = load_judge(), torch.arange(10).repeat_interleave(NUM_SWEEP // 10)
    guided = measure(judge, sample(unet, classifier.log_p, y), y, judge_images(judge, images)[0])
    measures = ("accuracy", "accuracy_low", "accuracy_high", "frechet", "precision", "recall")
    return {
        "parameters": sum(parameter.numel() for parameter in classifier.parameters()),
        "images_a_second": round(steps * recipe.get("batch_size", BATCH_SIZE) / seconds),
        "steps": steps,
        "cross_entropy": f"{cross_entropy:.4f}",
        "calibration_error": f"{calibration_error:.4f}",
        **{name: guided[name] for name in measures},
        "n": NUM_SWEEP,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


if __name__ == "__main__":
    trials_command(__doc__, RECIPES, measured, SECONDS, OUTPUT)
