"""The bench: draws samples by the settings of a row, and measures them against real images."""

from functools import partial
from pathlib import Path

import torch
from tqdm import tqdm

import inference
from classifier import NUM_CLASSES
from diffusion import make_sampler
from evaluation.judge import judge_images, load_judge
from evaluation.measures import balanced_subset, measure
from evaluation.variants import variants
from mnist import load_mnist
from support.checkpoints import provenance
from support.files import sha256
from support.tables import fill_table

NAMES = (*inference.NAMES, "judge.pth")


class Bench:
    """Measures rows of a table.

    Args:
        models, data: folders of the checkpoints and of the data set.
        split: the real images to measure against: "validation" to choose, "test" to report.
        seed: of the samples. device: a torch.device.
        resume: continue the tables that were interrupted.
    """

    def __init__(self, models, data, split, seed, device, resume=False):
        self.models, self.split, self.seed, self.device = Path(models), split, seed, device
        self.resume = resume
        self.unet, self.classifier = inference.load_models(models, device)
        self.judge = load_judge(models, device)
        self.hashes = {Path(name).stem: sha256(self.models / name) for name in NAMES}
        self.made_from = {"torch": torch.__version__, "device": str(device), **self.hashes}
        self.real_images, self.real_labels = load_mnist(split, data)
        self.real_features, _ = judge_images(self.judge, self.real_images, device)
        self.train_images, self.train_labels = load_mnist("train", data)

    def settings(self, n, **changes):
        """The settings of a row: the defaults of inference.py with `changes`, as strings."""
        settings = {
            "variant": "ADM Algorithm 2",
            "sampler": inference.SAMPLER,
            "steps": inference.STEPS,
            "guidance_scale": inference.GUIDANCE_SCALE,
            "early_scale": inference.EARLY_SCALE,
        }
        settings |= {**changes, "n": n, "seed": self.seed, "against": self.split}
        return {name: as_text(value) for name, value in settings.items()}

    def real(self, n):
        """The settings of the row that real training images get at the same n."""
        blank = dict.fromkeys(("sampler", "steps", "guidance_scale", "early_scale"), "-")
        return self.settings(n, variant="real images", **blank)

    def draw(self, settings):
        """Class-balanced samples by a row's settings: images and labels."""
        y = torch.arange(NUM_CLASSES).repeat_interleave(int(settings["n"]) // NUM_CLASSES)
        steps, scale = int(settings["steps"]), float(settings["guidance_scale"])
        early_scale, form = float(settings["early_scale"]), variants(steps)[settings["variant"]]
        log_p = self.classifier.log_p
        predict_noise = inference.noise_predictor(self.unet, log_p, scale, early_scale, form)
        clip = scale == 0
        new_sampler = partial(make_sampler, settings["sampler"], steps, self.device, clip=clip)
        return inference.sample_with(predict_noise, new_sampler, y, self.seed), y

    def row(self, settings):
        """Draw and measure: the settings, the measures, and what made the row."""
        if settings["variant"] == "real images":  # the floor: training images as samples
            n = int(settings["n"])
            images, labels = balanced_subset(self.train_images, self.train_labels, n)
        else:
            images, labels = self.draw(settings)
        measures = measure(self.judge, images, labels, self.real_features, self.device)
        row = {**settings, **measures, **self.made_from}
        print_row(row)
        return row

    def fill(self, path, all_settings):
        """Measure the rows of a table and write them to `path`, if that is not None: the rows."""
        wanted = [{**settings, **self.made_from} for settings in all_settings]
        return fill_table(path, wanted, self.row, self.resume)

    def provenance(self, **settings):
        """What made a figure, as one line of JSON."""
        return provenance(self.models, NAMES, self.device, **settings)


def as_text(value):
    return f"{value:g}" if isinstance(value, float) else str(value)


def print_row(row):
    scales = f"scale {row['guidance_scale']}, early {row['early_scale']}"
    name = f"{row['variant']}, {row['sampler']}, {row['steps']} steps, {scales}"
    tqdm.write(
        f"{name:68s} n {row['n']}: "
        f"accuracy {row['accuracy']} [{row['accuracy_low']}, {row['accuracy_high']}]  "
        f"Fréchet {row['frechet']}  precision {row['precision']}  recall {row['recall']}"
    )
