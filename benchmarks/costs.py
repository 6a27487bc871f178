"""What each method costs: seconds an image, minutes of training, parameters.

    python -m benchmarks.costs

Run it on an otherwise idle machine: three minutes on two cores. Everything is timed in turn, round
after round, and the median is taken, so the rows compare with each other. A training is timed for
some steps of its own loop and scaled to all of them. The precision is float32.

"notebook U-Net" is what the usual MNIST notebook trains: 63.5 million parameters on 32x32 images,
ten epochs in batches of 128 with AdamW, 1000 ancestral steps. It is only timed, by a few steps
that are scaled to all: to train it would take a day, so nothing is known of its quality.

Writes results/costs.csv. The quality of the others is in results/rivals.csv.
"""

import platform
import time
from functools import partial
from statistics import median
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from diffusers import UNet2DModel
from diffusers.training_utils import EMAModel
from tqdm import tqdm

import inference
import train_classifier
import train_ddpm
from benchmarks.rivals import METHODS
from classifier import Classifier
from diffusion import make_unet
from evaluation.bench import Bench
from evaluation.rivals import RIVALS
from evaluation.variants import RIVAL_OF
from mnist import Dataset, load_mnist
from support import cli
from support.checkpoints import MODELS
from support.files import beside, check_writable
from support.tables import write_rows
from support.training import keep_memory

OUTPUT = beside("results") / "costs.csv"
ROUNDS = 2
NUM_IMAGES = 50  # at a time
NOTEBOOK = {"in_channels": 1, "out_channels": 1, "block_out_channels": (64, 128, 256, 512)}
NOTEBOOK_CALLS, NOTEBOOK_BATCH, NOTEBOOK_TRAIN_STEPS = 1_000, 128, 10 * 60_000 // 128


@cli.one_line_errors
def main(argv=None):
    cli.ArgumentParser(__doc__).parse_args(argv)
    check_writable(OUTPUT)
    bench = Bench(MODELS, Dataset(), "test", 0, torch.device("cpu"))
    keep_memory()
    images, labels = load_mnist("train")
    notebook = UNet2DModel(sample_size=32, layers_per_block=2, **NOTEBOOK)
    draw = {name: partial(seconds_an_image, bench, changes) for name, changes in METHODS.items()}
    draw["notebook U-Net"] = partial(seconds_a_call, notebook)
    steps = {
        "U-Net": partial(train_unet, images),
        "classifier": partial(train_guide, images, labels),
        **{name: partial(train_rival, rival, images, labels) for name, rival in RIVALS.items()},
        "notebook U-Net": partial(train_notebook, notebook, images),
    }
    seconds = {job: [] for job in (*draw.values(), *steps.values())}
    for _ in tqdm(range(ROUNDS), disable=None):
        for job, taken in seconds.items():
            taken.append(job())
    an_image = {name: median(seconds[job]) for name, job in draw.items()}
    an_image["notebook U-Net"] *= NOTEBOOK_CALLS
    minutes = {name: median(seconds[job]) * NUM_STEPS[name] / 60 for name, job in steps.items()}
    rows = [
        {
            "method": name,
            "seconds_an_image": three_digits(an_image[name]),
            "ratio": three_digits(an_image[name] / an_image["ours"]),
            "training_minutes": three_digits(sum(minutes[part] for part in trained(name))),
            "parameters": parameters(bench, notebook, name),
            **versions(bench),
        }
        for name in draw
    ]
    write_rows(OUTPUT, rows)
    for row in rows:
        print(*list(row.values())[:5], sep="  ")


NUM_STEPS = {
    "U-Net": train_ddpm.TRAIN_STEPS,
    "classifier": train_classifier.STEPS,
    **{name: rival["steps"] for name, rival in RIVALS.items()},
    "notebook U-Net": NOTEBOOK_TRAIN_STEPS,
}


def three_digits(value):
    """Three significant digits, without an exponent."""
    return f"{float(f'{value:.3g}'):g}"


def trained(method):
    """The trainings that a method needs. The guide with raw t counts as the classifier."""
    if method not in METHODS:
        return [method]
    changes = METHODS[method]
    unet = RIVAL_OF.get(changes.get("variant"), "U-Net")
    guided = changes.get("guidance_scale") != 0 and unet != "classifier_free"
    return [unet] + ["classifier"] * guided


def parameters(bench, notebook, method):
    """Of the U-Net, without the guide."""
    changes = METHODS.get(method, {})
    unet = bench.networks_of(changes.get("variant"))[0] if method in METHODS else notebook
    return sum(parameter.numel() for parameter in unet.parameters())


def versions(bench):
    """What made the rows."""
    made = {"images_at_a_time": NUM_IMAGES, "rounds": ROUNDS, "threads": torch.get_num_threads()}
    return made | {"python": platform.python_version(), **bench.made_from}


def seconds_an_image(bench, changes):
    predict_noise, new_sampler = bench.sampling(bench.settings(0, **changes))
    y, start = torch.arange(NUM_IMAGES) % 10, time.perf_counter()
    inference.sample_with(predict_noise, new_sampler, y)
    return (time.perf_counter() - start) / NUM_IMAGES


@torch.no_grad()
def seconds_a_call(unet, num_images=20):
    """A network call of the notebook U-Net, per image; its guide is not counted."""
    x_t, start = torch.randn(num_images, 1, 32, 32), time.perf_counter()
    unet(x_t, torch.tensor(500))
    return (time.perf_counter() - start) / num_images


class TimedSteps:
    """Stands for a `support.training.Run` of a few steps, and keeps how long they took."""

    def __init__(self, batch_size, steps=8):
        self.settings = {"batch_size": batch_size, "seed": 0, "precision": "float32"}
        self.steps, self.seconds = steps, []

    def __iter__(self):
        for step in range(1 + self.steps):
            start = time.perf_counter()
            yield step
            self.seconds.append(time.perf_counter() - start)

    def record(self, loss, grad_norm):
        loss.item()

    def median(self):
        return median(self.seconds[1:])


def train_unet(images):
    run, unet = TimedSteps(train_ddpm.BATCH_SIZE), make_unet()
    optimizers = train_ddpm.make_optimizers(unet, train_ddpm.LEARNING_RATE)
    train_ddpm.train(run, unet, new_ema(unet), optimizers, images, train_ddpm.loss_weights())
    return run.median()


def train_guide(images, labels):
    run, classifier = TimedSteps(train_classifier.BATCH_SIZE), Classifier()
    optimizer = torch.optim.AdamW(classifier.parameters(), fused=True)
    train_classifier.train(run, classifier, optimizer, images, labels)
    return run.median()


def train_rival(rival, images, labels):
    run, unet = TimedSteps(train_ddpm.BATCH_SIZE), rival["make"](10)
    rival["train"](run, unet, new_ema(unet), rival["optimizers"](unet, 1e-3), images, labels)
    return run.median()


def train_notebook(unet, images):
    run, no_ema = TimedSteps(NOTEBOOK_BATCH, steps=1), SimpleNamespace(step=lambda _: None)
    optimizers = [torch.optim.AdamW(unet.parameters(), lr=1e-4)]
    padded = F.pad(images[: 4 * NOTEBOOK_BATCH], (2, 2, 2, 2), value=-1.0)
    train_ddpm.train(run, unet, no_ema, optimizers, padded, torch.ones(1_000))
    return run.median()


def new_ema(unet):
    return EMAModel(unet.parameters(), decay=train_ddpm.EMA_DECAY, foreach=True)


if __name__ == "__main__":
    main()
