"""The bench: draws samples by the settings of a row, and measures them against real images."""

from functools import partial
from pathlib import Path

import torch
from tqdm import tqdm

import inference
from diffusion import make_sampler
from evaluation import measures
from evaluation.guides import guide_path, load_guide
from evaluation.judge import load_judge
from evaluation.rivals import DIFFUSERS_DDIM, course_sampler, load_rival, rival_path
from evaluation.solvers import SOLVERS, Solver
from evaluation.variants import GUIDE_OF, RIVAL_OF, brought, variants
from support.checkpoints import provenance
from support.errors import require
from support.files import sha256
from support.tables import fill_table

SHOWN = {"accuracy": "accuracy", "Fréchet": "frechet", "precision": "precision", "recall": "recall"}
NAMES = (*inference.NAMES, "judge.pth")


class Bench:
    """Measures rows of a table.

    Half of the real images, equally many of each class, are what samples are compared with. The
    other half gets a row as if it were samples: the floor, which no sampler can be expected to
    beat. Against the test set, so do the validation images, which other people wrote.

    Args:
        models: folder of the checkpoints. dataset: the `mnist.Dataset` that they are of.
        split: the real images to measure against: "validation" to choose, "test" to report.
        seed: of the samples. device: a torch.device.
        resume: continue the tables that were interrupted.
        judge_in: folder of the judge, if that is another.

    Rows say how far they are from the default of the bench `compared`, which is itself unless set.

    Raises:
        UserError: a checkpoint is missing, or of another data set; there are too few real images.
    """

    def __init__(self, models, dataset, split, seed, device, resume=False, judge_in=None):
        self.models, self.split, self.seed, self.device = Path(models), split, seed, device
        self.resume = resume
        self.unet, self.classifier = inference.load_models(models, device)
        judge_path = Path(judge_in or models, NAMES[-1])
        self.judge = load_judge(judge_path.parent, device)
        self.classes = dataset.info["classes"]
        check_dataset(self.unet.dataset, dataset.info, self.models / NAMES[0])
        check_dataset(self.judge.dataset, dataset.info, judge_path)
        self.made_from = {"torch": torch.__version__, "device": str(device)}
        self.made_from |= {Path(name).stem: sha256(self.models / name) for name in NAMES[:-1]}
        self.made_from["judge"] = sha256(judge_path)
        self.dataset = dataset
        self.networks, self.defaults, self.compared = {}, {}, self
        images, labels = dataset.load(split)
        here, there = balanced_parts(labels, 2, self.classes, split)  # (C, M) each
        self.real_images = images[here.flatten()]
        self.real = measures.see(self.judge, self.real_images, labels[here.flatten()], device)
        self.floors = {f"other half of the {split} set": images[there]}  # (C, M, 1, 28, 28)
        if split == "test":
            images, labels = dataset.load("validation")
            [index] = balanced_parts(labels, 1, self.classes, "validation")
            self.floors["validation images"] = images[index]

    def settings(self, n, **changes):
        """The settings of a row: the defaults of inference.py with `changes`, as strings."""
        settings = {
            "variant": "ADM Algorithm 2",
            "sampler": inference.SAMPLER,
            "steps": inference.STEPS,
            "guidance_scale": inference.GUIDANCE_SCALE,
            "scale_growth": inference.SCALE_GROWTH,
        }
        n -= n % len(self.classes)  # equally many of each
        settings |= {**changes, "n": n, "seed": self.seed, "against": self.split}
        return {name: as_text(value) for name, value in settings.items()}

    def floor_settings(self, n):
        """The settings of the rows of real images, n of each or all that there are."""
        rows = []
        for name, images in self.floors.items():
            blank = dict.fromkeys(("sampler", "steps", "guidance_scale", "scale_growth"), "-")
            most = images.shape[0] * images.shape[1]
            rows.append(self.settings(min(n, most), variant=name, **blank))
        return rows

    def draw(self, settings):
        """Class-balanced images by a row's settings, or real ones, and labels."""
        per_class = int(settings["n"]) // len(self.classes)
        y = torch.arange(len(self.classes)).repeat_interleave(per_class)
        if settings["variant"] in self.floors:
            return self.floors[settings["variant"]][:, :per_class].flatten(0, 1), y
        return inference.sample_with(*self.sampling(settings), y, self.seed), y

    def sampling(self, settings):
        """predict_noise and new_sampler of a row, for `inference.sample_with`."""
        steps, name = int(settings["steps"]), settings["variant"]
        scale, growth = float(settings["guidance_scale"]), float(settings["scale_growth"])
        form = brought(name) if ":" in name else variants(steps, len(self.classes))[name]
        unet, guide, _ = self.networks_of(name)
        predict_noise = inference.noise_predictor(unet, guide.log_p, scale, growth, form)
        sampler = settings["sampler"]
        if sampler == DIFFUSERS_DDIM:
            return predict_noise, partial(course_sampler, steps, self.device)
        if sampler in SOLVERS:
            return predict_noise, partial(Solver, sampler, steps, self.device)
        return predict_noise, partial(make_sampler, sampler, steps, self.device, clip=scale == 0)

    def networks_of(self, variant):
        """The U-Net and the guide that a variant takes, and the SHA-256 of both by column.

        Raises UserError if a file is missing or damaged, or of another data set.
        """
        if variant not in self.networks:
            unet, guide, hashes = self.unet, self.classifier, {}
            if variant in RIVAL_OF:
                path = rival_path(RIVAL_OF[variant], self.models)
                unet = load_rival(RIVAL_OF[variant], self.models, self.device)
                hashes["ddpm_unet"] = sha256(path)
                check_dataset(unet.dataset, self.dataset.info, path)
            if variant in GUIDE_OF:
                path = guide_path(GUIDE_OF[variant], self.models)
                guide = load_guide(GUIDE_OF[variant], self.models, self.device)
                hashes["classifier"] = sha256(path)
                check_dataset(guide.dataset, self.dataset.info, path)
            if ":" in variant:  # a guide of the user's own, see `brought`
                hashes["classifier"] = sha256(variant.rpartition(":")[0])
            self.networks[variant] = unet, guide, hashes
        return self.networks[variant]

    def row(self, settings):
        """Draw and measure: the settings, the measures, and what made the row."""
        n, real = int(settings["n"]), settings["variant"] in self.floors
        measured, changes = self.measured(settings), dict.fromkeys(measures.CHANGES, "-")
        if not real and measured is not (default := self.compared.default(n)[1]):
            changes = measured.changes_from(default)
        row = {**settings, **measured.row(), **changes, **self.made_from_of(settings["variant"])}
        print_row(row)
        return row

    def measured(self, settings):
        """`Measured` images of a row. Those of the default are kept, as others are compared."""
        images, labels = self.draw(settings)
        seen = measures.see(self.judge, images, labels, self.device)
        measured = measures.Measured(seen, self.real)
        if settings.items() >= self.settings(len(labels)).items():  # it may have hashes too
            self.defaults[len(labels)] = images, measured
        return measured

    def default(self, n):
        """n images of the default settings, and as `Measured`."""
        if n not in self.defaults:
            self.measured(self.settings(n))
        return self.defaults[n]

    def made_from_of(self, variant):
        """`made_from` of the rows of a variant, with the hashes of the networks that it takes."""
        return self.made_from | self.networks_of(variant)[2]

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


def balanced_parts(labels, num_parts, classes, split):
    """`measures.balanced_parts`. Raises UserError if these are too small to be measured."""
    parts = measures.balanced_parts(labels, num_parts)  # (num_parts, C, M)
    enough = parts.shape[1] == len(classes) and parts[0].numel() >= measures.NUM_LEAST
    require(enough, f"the {split} images are too few, of one class at least, to measure against")
    return parts


def as_text(value):
    return f"{value:g}" if isinstance(value, float) else str(value)


def print_row(row):
    scales = f"w {row['guidance_scale']}, g {row['scale_growth']}"
    name = f"{row['variant']}, {row['sampler']}, {row['steps']} steps, {scales}"
    shown = (
        f"{name} {row[column]} [{row[f'{column}_low']}, {row[f'{column}_high']}]"
        for name, column in SHOWN.items()
    )
    tqdm.write(f"{name:68s} n {row['n']}: {'  '.join(shown)}")
