"""The bench: draws samples by the settings of a row, and measures them against real images."""

from functools import partial
from pathlib import Path

import torch
from tqdm import tqdm

import inference
from diffusion import make_sampler
from evaluation.guides import guide_path, load_guide
from evaluation.judge import judge_images, load_judge
from evaluation.measures import balanced_subset, measure
from evaluation.variants import GUIDE_OF, brought, variants
from support.checkpoints import provenance
from support.errors import require
from support.files import sha256
from support.tables import fill_table

NAMES = (*inference.NAMES, "judge.pth")


class Bench:
    """Measures rows of a table.

    Args:
        models: folder of the checkpoints. dataset: the `mnist.Dataset` that they are of.
        split: the real images to measure against: "validation" to choose, "test" to report.
        seed: of the samples. device: a torch.device.
        resume: continue the tables that were interrupted.

    Raises:
        UserError: a checkpoint is missing, or of another data set.
    """

    def __init__(self, models, dataset, split, seed, device, resume=False):
        self.models, self.split, self.seed, self.device = Path(models), split, seed, device
        self.resume = resume
        self.unet, self.classifier = inference.load_models(models, device)
        self.judge = load_judge(models, device)
        self.classes = dataset.info["classes"]
        for name, network in zip((NAMES[0], NAMES[-1]), (self.unet, self.judge)):
            check_dataset(network.dataset, dataset.info, self.models / name)
        self.hashes = {Path(name).stem: sha256(self.models / name) for name in NAMES}
        self.made_from = {"torch": torch.__version__, "device": str(device), **self.hashes}
        self.real_images, self.real_labels = dataset.load(split)
        self.real_features, _ = judge_images(self.judge, self.real_images, device)
        self.train_images, self.train_labels = dataset.load("train")

    def settings(self, n, **changes):
        """The settings of a row: the defaults of inference.py with `changes`, as strings."""
        settings = {
            "variant": "ADM Algorithm 2",
            "sampler": inference.SAMPLER,
            "steps": inference.STEPS,
            "guidance_scale": inference.GUIDANCE_SCALE,
            "early_scale": inference.EARLY_SCALE,
        }
        n -= n % len(self.classes)  # equally many of each
        settings |= {**changes, "n": n, "seed": self.seed, "against": self.split}
        return {name: as_text(value) for name, value in settings.items()}

    def real(self, n):
        """The settings of the row that real training images get at the same n."""
        blank = dict.fromkeys(("sampler", "steps", "guidance_scale", "early_scale"), "-")
        return self.settings(n, variant="real images", **blank)

    def draw(self, settings):
        """Class-balanced samples by a row's settings: images and labels."""
        num_classes = len(self.classes)
        y = torch.arange(num_classes).repeat_interleave(int(settings["n"]) // num_classes)
        steps, scale = int(settings["steps"]), float(settings["guidance_scale"])
        early_scale, name = float(settings["early_scale"]), settings["variant"]
        form = brought(name) if ":" in name else variants(steps, num_classes)[name]
        log_p = self.guide_of(name).log_p
        predict_noise = inference.noise_predictor(self.unet, log_p, scale, early_scale, form)
        clip = scale == 0
        new_sampler = partial(make_sampler, settings["sampler"], steps, self.device, clip=clip)
        return inference.sample_with(predict_noise, new_sampler, y, self.seed), y

    def row(self, settings):
        """Draw and measure: the settings, the measures, and what made the row."""
        if settings["variant"] == "real images":  # the floor: training images as samples
            n = int(settings["n"])
            most = len(self.classes) * torch.bincount(self.train_labels).min()
            require(n <= most, f"{n} real images are needed: use --n {most} or fewer")
            images, labels = balanced_subset(self.train_images, self.train_labels, n)
        else:
            images, labels = self.draw(settings)
        measures = measure(self.judge, images, labels, self.real_features, self.device)
        row = {**settings, **measures, **self.made_from_of(settings["variant"])}
        print_row(row)
        return row

    def guide_of(self, variant):
        """The guide that a variant takes. Raises UserError if its file is missing or damaged."""
        if variant not in GUIDE_OF:
            return self.classifier
        guide = load_guide(GUIDE_OF[variant], self.models, self.device)
        check_dataset(guide.dataset, self.unet.dataset, guide_path(GUIDE_OF[variant], self.models))
        return guide

    def made_from_of(self, variant):
        """`made_from` of its rows: `classifier` is the SHA-256 of the guide that it takes."""
        if variant not in GUIDE_OF:
            return self.made_from
        self.guide_of(variant)  # what is wrong with its file is said before the work starts
        guide = guide_path(GUIDE_OF[variant], self.models)
        return {**self.made_from, "classifier": sha256(guide)}

    def fill(self, path, all_settings):
        """Measure the rows of a table and write them to `path`, if that is not None: the rows."""
        wanted = [{**row, **self.made_from_of(row["variant"])} for row in all_settings]
        return fill_table(path, wanted, self.row, self.resume)

    def provenance(self, **settings):
        """What made a figure, as one line of JSON."""
        return provenance(self.models, NAMES, self.device, **settings)


def check_dataset(trained, given, path):
    """Raises UserError if the network of a file was trained on another data set."""
    names = f"{trained['name']}, not {given['name']}"
    names += " with the same classes and --invert" * (trained["name"] == given["name"])
    require(trained == given, f"{path} is of the data set {names}: see --dataset")


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
