"""The rows of a table: real images, samples by any settings, anybody's samples."""

import hashlib
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from classifier import Classifier
from diffusion import SCHEDULE
from evaluation.judge import accuracy_of, load_judge
from evaluation.measures import Scores, balanced_parts, readings
from evaluation.rivals import CHECKPOINT, load_rival
from evaluation.variants import variants
from inference import load_models, sample
from mnist import check_same_dataset
from support.cli import UserError, require
from support.files import load_checkpoint, sha256
from support.pictures import from_uint8

SAMPLING = ("sampler", "steps", "guidance_scale", "scale_growth")  # arguments of `sample`
SETTINGS = ("models", "variant", "guide", *SAMPLING)
OWN_CLASSIFIER = "classifier"  # the guide of a row that takes the classifier of its folder
LEAST_ACCURACY = 0.9  # of a judge on real images
LEAST_IMAGES = 100
WHAT_IS_READ = (
    "what is read is 100 or more uint8 images (N, 28, 28) or (N, 28, 28, 1): arr_0 of an .npz with "
    "or without labels (N,) in arr_1, an .npy, or a folder of grey 28x28 PNGs"
)


class Reference:
    """What samples are measured against: real images as the judge sees them.

    These are half of the real images of a split, equally many of each class. The other half gets a
    row as if it were samples: no sampler can be expected to beat it. Against the test set, so do
    the validation images, which other people wrote.

    Args:
        judge_folder: where judge.pth is. dataset: a `mnist.Dataset`.
        split: "validation" to choose, "test" to report.

    Raises:
        UserError: the judge is missing, of another data set, or wrong too often.
    """

    def __init__(self, judge_folder, dataset, split, device="cpu"):
        self.split, self.info, self.device = split, dataset.info, device
        self.judge_path = Path(judge_folder, "judge.pth")
        self.judge = load_judge(judge_folder, device)
        check_same_dataset(self.judge.dataset, dataset.info, self.judge_path)
        validation_images, validation_labels = dataset.load("validation")
        accuracy = accuracy_of(self.judge, validation_images, validation_labels, device)
        require(
            accuracy >= LEAST_ACCURACY,
            f"{self.judge_path} is right on {accuracy:.3f} of the validation images, and "
            f"{LEAST_ACCURACY} is the least to measure with: train it for more steps",
        )
        self.train_images, _ = dataset.load("train")
        images, labels = dataset.load(split)
        num_classes = len(dataset.info["classes"])
        here, there = balanced_parts(labels, 2, num_classes)  # (C, M) each
        self.real = readings(self.judge, images[here.flatten()], labels[here.flatten()], device)
        self.floors = {f"other half of the {split} set": images[there]}  # (C, M, 1, 28, 28)
        if split == "test":
            [index] = balanced_parts(validation_labels, 1, num_classes)
            self.floors["validation images"] = validation_images[index]

    def scores(self, images, labels):
        """The `Scores` of images (N, 1, 28, 28), with labels (N,) or None."""
        return Scores(readings(self.judge, images, labels, self.device), self.real)


class Row(NamedTuple):
    """A row to be measured."""

    settings: dict  # what identifies it, settings and hashes: strings
    draw: Callable  # () -> images (N, 1, 28, 28) in [-1, 1], and labels (N,) or None
    sampled: bool  # by a U-Net: timed, and compared with the first such row


# --- the three kinds of rows ---


def real_row(name, images, n):
    """The row of n real images, or all that there are, of images (C, M, 1, 28, 28)."""
    num_classes, most = images.shape[:2]
    per_class = min(most, n // num_classes)
    some = images[:, :per_class].flatten(0, 1)
    labels = torch.arange(num_classes).repeat_interleave(per_class)
    settings = {**blank_settings(), "variant": name, "n": str(len(some))}
    return Row(settings, lambda: (some, labels), sampled=False)


def sampled_row(values, n, seed, reference):
    """The row of n samples by `values`, one of each of `SETTINGS`. Raises UserError."""
    variant, num_classes = values["variant"], len(reference.info["classes"])
    if variant == "algorithm_1":
        require(values["sampler"] == "ddpm", f"--variant {variant}: it needs --sampler ddpm")
    if variant.startswith("exact_"):
        require(reference.info["name"] == "mnist", f"--variant {variant}: it is for mnist only")
    require(n >= num_classes, f"--n {n}: there are {num_classes} classes")
    unet, log_p, paths = load_networks(values, reference)
    y = torch.arange(num_classes).repeat_interleave(n // num_classes)

    predict_noise = variants(values["steps"])[variant]
    sampling = {name: values[name] for name in SAMPLING}

    def draw():
        return sample(unet, log_p, y, seed=seed, predict_noise=predict_noise, **sampling), y

    settings = {name: as_text(value) for name, value in values.items()}
    if log_p is None:  # classifier-free
        settings["guide"] = "-"
    hashes = {name: sha256(path) for name, path in paths.items()}
    return Row({**settings, "n": str(len(y)), **hashes}, draw, sampled=True)


def file_row(path, reference):
    """The row of anybody's samples. Raises UserError."""
    images, labels = read_samples(Path(path), len(reference.info["classes"]))
    settings = {**blank_settings(), "variant": str(path), "n": str(len(images))}
    settings["samples"] = hashlib.sha256(images.numpy().tobytes()).hexdigest()
    return Row(settings, lambda: (images, labels), sampled=False)


def blank_settings():
    return dict.fromkeys(SETTINGS, "-")


def as_text(value):
    return f"{value:g}" if isinstance(value, float) else str(value)


def load_networks(values, reference):
    """The U-Net, the guide, and the files that they were read from, of a row. Raises UserError."""
    models, info, device = values["models"], reference.info, reference.device
    if values["variant"] == "classifier_free":
        unet, log_p = load_rival(models, device), None
        paths = {"ddpm_unet": Path(models, CHECKPOINT)}
    elif values["guide"] == OWN_CLASSIFIER:
        unet, classifier = load_models(models, device)
        log_p = classifier.log_p
        paths = {name: Path(models, f"{name}.pth") for name in ("ddpm_unet", "classifier")}
    else:
        unet, _ = load_models(models, device, guide=False)
        log_p, guide_path = load_guide(values["guide"], info, device)
        paths = {"ddpm_unet": Path(models, "ddpm_unet.pth"), "classifier": guide_path}
    check_same_dataset(unet.dataset, info, paths["ddpm_unet"])
    return unet, log_p, paths


def load_guide(text, info, device="cpu"):
    """The guide of --guide, FILE.py:NAME or the checkpoint of a classifier, and its file.

    Raises UserError if there is no such guide, or if it is of another data set than `info`.
    """
    if text.endswith(".pth"):
        guide = load_checkpoint(text, Classifier, SCHEDULE, "train_classifier.py", device)
        check_same_dataset(guide.dataset, info, text)
        return guide.log_p, text
    path, _, name = text.rpartition(":")
    require(Path(path).is_file(), f"--guide {text}: there is no file {path!r}; write FILE.py:NAME")
    log_p = runpy.run_path(path).get(name)
    require(callable(log_p), f"--guide {text}: {path} has no function {name!r}")
    return log_p, path


# --- anybody's samples ---


def read_samples(path, num_classes):
    """Images (N, 1, 28, 28) in [-1, 1] and labels (N,), or None, of a file or a folder of PNGs.

    Raises UserError if it is not as `WHAT_IS_READ` says.
    """
    labels = None
    try:
        if path.is_dir():
            pictures = [Image.open(png).convert("L") for png in sorted(path.glob("*.png"))]
            images = np.stack([np.asarray(picture) for picture in pictures])
        else:
            images = np.load(path, allow_pickle=False)
        if isinstance(images, np.lib.npyio.NpzFile):
            arrays = dict(images)
            images, labels = arrays.pop("arr_0"), arrays.pop("arr_1", None)
            require(not arrays, f"{path} also holds {', '.join(arrays)}; {WHAT_IS_READ}")
    except UserError:
        raise
    except Exception as error:  # numpy, zipfile and PIL raise many kinds on what they cannot read
        raise UserError(f"{path} cannot be read ({error}); {WHAT_IS_READ}") from error
    good = images.dtype == np.uint8 and images.shape[1:] in ((28, 28), (28, 28, 1))
    found = f"{path} holds {images.dtype} {images.shape}"
    require(good and len(images) >= LEAST_IMAGES, f"{found}; {WHAT_IS_READ}")
    images = from_uint8(torch.from_numpy(images).view(-1, 1, 28, 28))
    if labels is None:
        return images, None
    good = labels.shape == (len(images),) and np.isin(labels, np.arange(num_classes)).all()
    require(good, f"{path}: arr_1 should hold (N,) labels from 0 to {num_classes - 1}")
    return images, torch.from_numpy(labels).long()
