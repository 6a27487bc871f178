"""What the parts of both training recipes are for: each row changes one, in the same time.

    python -m benchmarks.recipe                  # results/recipe.csv and classifier_recipe.csv
    python -m benchmarks.recipe unet             # the first of them; classifier: the second
    python -m benchmarks.recipe unet --resume    # continue a table that was interrupted
    python -m benchmarks.recipe --seconds 5 --output trial    # a short trial in another folder

Rows are trained by the loops and settings that ship, in float32 on one thread: a U-Net for 150 s, a
classifier for 60 s of the processor's time, a fraction of a whole training. They repeat roughly,
and compare within a table only. The recipe has three seeds, its changes have the first: less than
the spread of the three is no difference. A U-Net is guided by the classifier that ships, and a
classifier guides the U-Net that ships.
"""

import argparse
import hashlib
import re
import time
from functools import partial
from pathlib import Path

import torch
from diffusers import UNet2DModel, optimization
from diffusers.training_utils import EMAModel
from torch.nn import functional as F

import train_classifier
import train_ddpm
from classifier import Classifier
from diffusion import ALPHAS_CUMPROD, NUM_TRAIN_TIMESTEPS, make_unet, stratified_timesteps
from evaluate import SWEEP_SEED
from evaluation.bench import Bench, as_text
from mnist import Dataset
from support import cli
from support.checkpoints import MODELS
from support.errors import require
from support.files import beside, check_writable, make_folders
from support.tables import fill_table
from support.training import Run, keep_memory
from train_ddpm import loss_weights, make_optimizers, validation_loss

NUM_SAMPLES = 500
SEEDS = (0, 1, 2)  # of the training
FILES = {"unet": "recipe.csv", "classifier": "classifier_recipe.csv"}
SECONDS = {"unet": 150, "classifier": 60}


class TimedRun(Run):
    """A run of some seconds. Learning rates follow a whole training's by the share of time."""

    def __init__(self, settings, num_images, optimizers, schedule_of, warmup):
        super().__init__("trial", settings, {}, num_images, end_epoch=None)
        self.schedules = [schedule_of(each, warmup, settings["steps"]) for each in optimizers]
        self.limit = settings["seconds"]

    def __iter__(self):
        start = time.process_time()
        while (share := (time.process_time() - start) / self.limit) < 1:
            for schedule in self.schedules:
                factor = schedule.lr_lambdas[0](share * self.settings["steps"])
                schedule.optimizer.param_groups[0]["lr"] = schedule.base_lrs[0] * factor
            yield self.step
            self.step += 1


def train_unet(bench, settings, network=make_unet, optimizers_of=make_optimizers,
               weights=loss_weights, draw_t=stratified_timesteps, augment=None):  # fmt: skip
    """As train_ddpm.py with changes: the steps, both losses, and unguided samples measured."""
    (images, _), (validation, _) = map(bench.dataset.load, ("train", "validation"))
    images = augment(images) if augment else images
    unet = network()
    ema = EMAModel(unet.parameters(), decay=settings["ema_decay"], foreach=True)
    optimizers = optimizers_of(unet, settings["lr"])
    linear, warmup = optimization.get_linear_schedule_with_warmup, train_ddpm.WARMUP_STEPS
    run = TimedRun(settings, len(images), optimizers, linear, warmup)
    train_ddpm.train(run, unet, ema, optimizers, images, weights(), draw_t)
    ema.copy_to(unet.parameters())
    bench.unet = unet.eval().requires_grad_(False)
    unguided = bench.measured(bench.settings(NUM_SAMPLES, guidance_scale=0.0)).row()
    return {
        "training_steps": run.step,
        "validation_loss": f"{validation_loss(unet, validation):.5f}",
        "weighted_loss": f"{validation_loss(unet, validation, loss_weights()):.5f}",
        **{re.sub("(_low|_high|)$", r"_unguided\1", name, count=1): text
           for name, text in unguided.items() if not name.startswith("accuracy")},
    }  # fmt: skip


def train_guide(bench, settings, channels=32, **changes):
    """As train_classifier.py with changes: the steps, cross-entropy and calibration error."""
    (images, labels), validation = map(bench.dataset.load, ("train", "validation"))
    classifier = Classifier(channels)
    adamw = {"lr": settings["lr"], "weight_decay": settings["weight_decay"], "fused": True}
    optimizer = torch.optim.AdamW(classifier.parameters(), **adamw)
    cosine, warmup = optimization.get_cosine_schedule_with_warmup, train_classifier.WARMUP_STEPS
    run = TimedRun(settings, len(images), [optimizer], cosine, warmup)
    train_classifier.train(run, classifier, optimizer, images, labels, **changes)
    bench.classifier = classifier.eval().requires_grad_(False)
    t = train_classifier.validation_timesteps(len(validation[1]))
    p = train_classifier.predict_noised(classifier, validation[0], t)  # (N, 10)
    return {
        "training_steps": run.step,
        "cross_entropy": f"{F.nll_loss(p.clamp(min=1e-12).log(), validation[1]).item():.4f}",
        "calibration_error": f"{train_classifier.calibration_error(p, validation[1]):.4f}",
    }


def adamw_alone(unet, lr):
    adamw = {"lr": lr, "betas": train_ddpm.ADAM_BETAS, "weight_decay": 0.0, "fused": True}
    return [torch.optim.AdamW(unet.parameters(), **adamw)]


def library_muon(unet, lr):
    """torch.optim.Muon, which takes matrices only, on views of the same kernels."""
    ours, adamw = make_optimizers(unet, lr)
    kernels = ours.param_groups[0]["params"]
    matrices = [torch.nn.Parameter(kernel.detach().flatten(1)) for kernel in kernels]

    def take_gradients(*_):
        for kernel, matrix in zip(kernels, matrices):
            matrix.grad = kernel.grad.flatten(1)

    same = {name: ours.defaults[name] for name in ("lr", "momentum", "weight_decay")}
    muon = torch.optim.Muon(matrices, **same)
    muon.register_step_pre_hook(take_gradients)
    return muon, adamw


def shifted(images):
    """Images (N, 1, 28, 28) and the same moved by a pixel to each side: (5 N, 1, 28, 28)."""
    moves = [(1, 2), (-1, 2), (1, 3), (-1, 3)]  # the border is black, nearly always
    return torch.cat([images, *(images.roll(*move) for move in moves)])


def unet_of_eps():
    """The U-Net without the v form of `UNet.forward`: its layers predict eps."""
    unet = make_unet()
    unet.forward = partial(UNet2DModel.forward, unet)
    return unet


def random_timesteps(batch_size, rng):
    """t uniform over 0 .. 999, not stratified: (B,)."""
    return torch.randint(0, NUM_TRAIN_TIMESTEPS, (batch_size,), generator=rng)


SETTINGS = {  # of every training; `steps` are those of a whole one
    "unet": {"steps": train_ddpm.TRAIN_STEPS, "batch_size": train_ddpm.BATCH_SIZE,
             "lr": train_ddpm.LEARNING_RATE, "ema_decay": train_ddpm.EMA_DECAY},
    "classifier": {"steps": train_classifier.STEPS, "batch_size": train_classifier.BATCH_SIZE,
                   "lr": train_classifier.LEARNING_RATE,
                   "weight_decay": train_classifier.WEIGHT_DECAY},
}  # fmt: skip
CHANGES = {  # arguments of `train_unet` and `train_guide`
    "unet": {
        "the recipe": {},
        "AdamW alone": {"optimizers_of": adamw_alone},
        "L_simple, no weights": {"weights": partial(torch.ones_like, ALPHAS_CUMPROD)},
        "32/64/64": {"network": partial(make_unet, block_out_channels=(32, 64, 64))},
        "two layers a block": {"network": partial(make_unet, layers_per_block=2)},
        "torch.optim.Muon": {"optimizers_of": library_muon},
        "shifts by a pixel": {"augment": shifted},
        "dropout .1": {"network": partial(make_unet, dropout=0.1)},
        "t not stratified": {"draw_t": random_timesteps},
        "predicts eps": {"network": unet_of_eps},
    },
    "classifier": {
        "the recipe": {},
        "16 channels": {"channels": 16},
        "label smoothing .1": {"smoothing": 0.1},
        "t not stratified": {"draw_t": random_timesteps},
    },
}


def row_of(bench, name, wanted):
    """Train and measure the network of a row: the row of what is `wanted`."""
    settings = SETTINGS[name] | {"precision": wanted["trained_in"]}
    settings |= {"seconds": float(wanted["seconds"]), "seed": int(wanted["training_seed"])}
    bench.networks.clear()  # those of the row before
    torch.manual_seed(settings["seed"])  # for the initial weights
    train = {"unet": train_unet, "classifier": train_guide}[name]
    row = wanted | train(bench, settings, **CHANGES[name][wanted["recipe"]])
    row |= bench.measured(bench.settings(NUM_SAMPLES)).row()
    row |= {key: row.pop(key) for key in bench.made_from if key in row}  # last
    weights = [tensor.numpy() for tensor in getattr(bench, name).state_dict().values()]
    row["parameters"] = sum(weight.size for weight in weights)
    row["weights"] = hashlib.sha256(b"".join(weight.tobytes() for weight in weights)).hexdigest()
    print(row, flush=True)
    return row


def fill(name, path, seconds, resume):
    """Train and measure the rows of a table, "unet" or "classifier", and write them to `path`."""
    bench = Bench(MODELS, Dataset(), "validation", SWEEP_SEED, torch.device("cpu"))
    made_from = dict(bench.made_from)
    del made_from["ddpm_unet" if name == "unet" else name]  # trained by the row
    shared = {key: as_text(value) for key, value in SETTINGS[name].items() if key != "steps"}
    shared |= {"trained_in": "float32", "seconds": f"{seconds:g}"}
    shared |= bench.settings(NUM_SAMPLES) | made_from
    wanted = [{"recipe": recipe, "training_seed": str(seed), **shared} for recipe in CHANGES[name]
              for seed in (SEEDS if recipe == "the recipe" else SEEDS[:1])]  # fmt: skip
    fill_table(path, wanted, partial(row_of, bench, name), resume)


@cli.one_line_errors
def main(argv=None):
    parser = cli.ArgumentParser(__doc__)
    parser.add_argument("table", nargs="?", choices=[*FILES], help="one of them only")
    seconds = f"of training, each row (default: {SECONDS})"
    parser.add_argument("--seconds", type=cli.number(float, 0, exclusive=True), help=seconds,
                        default=argparse.SUPPRESS)  # fmt: skip
    parser.add_argument("--output", type=Path, default=beside("results"), metavar="DIR")
    parser.add_argument("--resume", action="store_true", help="continue an interrupted table")
    args = parser.parse_args(argv)
    if args.resume and not args.table:
        parser.error(f"argument --resume: name the table, {' or '.join(FILES)}")
    if args.table != "classifier":
        needed = "the row torch.optim.Muon needs torch 2.9 or newer: pip install --upgrade torch"
        require(hasattr(torch.optim, "Muon"), needed)
    torch.set_num_threads(1)
    keep_memory()
    paths = {name: args.output / FILES[name] for name in FILES if args.table in (None, name)}
    make_folders(args.output)
    check_writable(*paths.values())
    for name, path in paths.items():
        fill(name, path, getattr(args, "seconds", SECONDS[name]), args.resume)


if __name__ == "__main__":
    main()
