"""The rows of a table: real images, samples by any settings, anybody's samples."""

import functools
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
from evaluation.exact_guide import ExactGuide
from evaluation.judge import accuracy_of, load_judge
from evaluation.measures import Scores, balanced_parts, readings
from evaluation.rivals import CHECKPOINT, classifier_free, load_rival
from evaluation.variants import VARIANTS
from inference import load_models, sample
from mnist import check_same_dataset
from support.cli import UserError, require
from support.files import load_checkpoint, sha256
from support.pictures import to_uint8
from support.streams import image_seeds

SAMPLING = ("sampler", "steps", "guidance_scale", "scale_growth", "window")  # flags of `sample`
SETTINGS = ("models", "variant", "guide", *SAMPLING)
OWN_CLASSIFIER = "classifier"  # the guide of a row that takes the classifier of its folder
EXACT = "exact"  # the guide that knows the training images
LEAST_ACCURACY = 0.9  # of a judge on real images
LEAST_IMAGES = 100


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
        self.dataset, self.info, self.device = dataset, dataset.info, device
        self.judge_path = Path(judge_folder, "judge.pth")
        self.judge = load_judge(judge_folder, device)
        check_same_dataset(self.judge.dataset, dataset.info, self.judge_path)
        validation_images, validation_labels = dataset.splits["validation"]
        accuracy = accuracy_of(self.judge, validation_images, validation_labels, device)
        require(
            accuracy >= LEAST_ACCURACY,
            f"{self.judge_path} is right on {accuracy:.3f} of the validation images, and "
            f"{LEAST_ACCURACY} is the least to measure with: train it for more steps",
        )
        self.train_images, _ = dataset.splits["train"]
        images, labels = dataset.splits[split]
        num_classes = len(dataset.info["classes"])
        here, there = balanced_parts(labels, 2, num_classes)  # (K, M) each
        self.real = readings(self.judge, images[here.flatten()], labels[here.flatten()], device)
        self.floors = {f"other half of the {split} set": images[there]}  # (K, M, C, H, W)
        if split == "test":
            [index] = balanced_parts(validation_labels, 1, num_classes)
            self.floors["validation images"] = validation_images[index]

    def scores(self, images, labels):
        """The `Scores` of uint8 images (N, C, H, W), with labels (N,) or None."""
        return Scores(readings(self.judge, images, labels, self.device), self.real)


class Row(NamedTuple):
    """A row to be measured."""

    settings: dict  # what identifies it, settings and hashes: strings
    load: (
        Callable  # () -> draw, a function () -> images uint8 (N, C, H, W), and labels (N,) or None
    )
    sampled: bool  # by a U-Net: timed, and compared with the first such row


# --- the three kinds of rows ---


def real_row(name, images, n):
    """The row of n real images, or all that there are, of uint8 images (K, M, C, H, W)."""
    num_classes, most = images.shape[:2]
    per_class = min(most, n // num_classes)
    some = images[:, :per_class].flatten(0, 1)
    labels = torch.arange(num_classes).repeat_interleave(per_class)
    settings = {"images": name, "n": str(len(some))}
    return Row(settings, lambda: lambda: (some, labels), sampled=False)


def file_row(path, reference):
    """The row of anybody's samples. Raises UserError."""
    images, labels = read_samples(Path(path), reference.info)
    digest = hashlib.sha256(images.numpy().tobytes()).hexdigest()
    settings = {"images": str(path), "n": str(len(images)), "sha256 of images": digest}
    return Row(settings, lambda: lambda: (images, labels), sampled=False)


def sampled_row(values, n, seed, reference):
    """The row of n samples by `values`, one of each of `SETTINGS`. Raises UserError.

    Its networks are read by `load`, when it is its turn.
    """
    num_classes = len(reference.info["classes"])
    require(n >= num_classes, f"--n {n}: there are {num_classes} classes")
    y = torch.arange(num_classes).repeat_interleave(n // num_classes)
    seeds = image_seeds(seed, y.tolist())
    models, device = values["models"], reference.device
    variant_file, predict_noise = find_variant(values["variant"])
    guide_file, load_guide = find_guide(values["guide"], models, reference)
    unet_file, load_unet = Path(models, "ddpm_unet.pth"), load_unguided
    settings = {name: as_text(value) for name, value in values.items()}
    if predict_noise is classifier_free:  # it has its own U-Net, and no guide
        unet_file, load_unet = Path(models, CHECKPOINT), load_rival
        guide_file, load_guide, settings["guide"] = None, lambda: None, "-"
    for name, path in (("U-Net", unet_file), ("guide", guide_file), ("variant", variant_file)):
        if path:
            require(path.is_file(), f"{path} is missing: train it, or name other --models")
            settings[f"sha256 of {name}"] = sha256(path)

    def load():
        unet, log_p = load_unet(models, device), load_guide()
        check_same_dataset(unet.dataset, reference.info, unet_file)
        sampling = {name: values[name] for name in SAMPLING}

        def draw():
            images = sample(unet, log_p, y, seeds, predict_noise=predict_noise, **sampling)
            return to_uint8(images), y

        return draw

    return Row({"images": "samples", **settings, "n": str(len(y))}, load, sampled=True)


def load_unguided(models, device):
    """The U-Net of a folder. Raises UserError."""
    return load_models(models, device, guide=False)[0]


def as_text(value):
    if isinstance(value, tuple):
        return "-".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


# --- guides and variants by name, or in a file ---


def find_guide(name, models, reference):
    """The file of a guide of --guide, or None, and a function that loads its log_p.

    Raises UserError if FILE.py has no such function.
    """
    device = reference.device
    if name == EXACT:
        return None, lambda: ExactGuide(*reference.dataset.load("train"), device).log_p
    if ".py:" in name:
        path, log_p = find_function("--guide", name)
        return path, lambda: log_p
    path = Path(models, "classifier.pth") if name == OWN_CLASSIFIER else Path(name)

    def load():
        classifier = load_checkpoint(path, Classifier, SCHEDULE, "train_classifier.py", device)
        check_same_dataset(classifier.dataset, reference.info, path)
        return classifier.log_p

    return path, load


def find_variant(name):
    """The file of a variant of --variant, or None, and the variant. Raises UserError."""
    if name in VARIANTS:
        return None, VARIANTS[name]
    names = f"one of {', '.join(VARIANTS)}, or FILE.py:NAME"
    require(".py:" in name, f"--variant {name}: it is not {names}")
    return find_function("--variant", name)


def find_function(flag, text):
    """The file and the function of FILE.py:NAME. Raises UserError if there is none."""
    path, _, name = text.rpartition(":")
    require(Path(path).is_file(), f"{flag} {text}: there is no file {path!r}; write FILE.py:NAME")
    function = names_in(path).get(name)
    require(callable(function), f"{flag} {text}: {path} has no function {name!r}")
    return Path(path), function


@functools.cache
def names_in(path):
    """What a Python file defines: it is run once."""
    return runpy.run_path(path)


# --- anybody's samples ---


def read_samples(path, info):
    """Images uint8 (N, C, H, W) and labels (N,), or None, of a file or a folder of PNGs.

    Raises UserError if it is not as this says, for the classes and the image shape of `info`.
    """
    channels, height, width = info["shape"]
    size = f"{height}, {width}, {channels}"
    what_is_read = (
        f"what is read is {LEAST_IMAGES} or more uint8 images (N, {size}): arr_0 of an .npz with "
        f"or without labels (N,) in arr_1, an .npy, or a folder of {height}x{width} PNGs"
    )
    labels = None
    try:
        if path.is_dir():
            mode = "RGB" if channels == 3 else "L"
            pictures = [Image.open(png).convert(mode) for png in sorted(path.glob("*.png"))]
            images = np.stack([np.asarray(picture) for picture in pictures])
        else:
            images = np.load(path, allow_pickle=False)
        if isinstance(images, np.lib.npyio.NpzFile):
            arrays = dict(images)
            images, labels = arrays.pop("arr_0"), arrays.pop("arr_1", None)
            require(not arrays, f"{path} also holds {', '.join(arrays)}; {what_is_read}")
    except UserError:
        raise
    except Exception as error:  # numpy, zipfile and PIL raise many kinds on what they cannot read
        raise UserError(f"{path} cannot be read ({error}); {what_is_read}") from error
    found = f"{path} holds {images.dtype} {images.shape}"
    if channels == 1 and images.ndim == 3:
        images = images[..., None]
    good = images.dtype == np.uint8 and images.shape[1:] == (height, width, channels)
    require(good and len(images) >= LEAST_IMAGES, f"{found}; {what_is_read}")
    images = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
    if labels is None:
        return images, None
    num_classes = len(info["classes"])
    good = labels.shape == (len(images),) and np.isin(labels, np.arange(num_classes)).all()
    require(good, f"{path}: arr_1 should hold (N,) labels from 0 to {num_classes - 1}")
    return images, torch.from_numpy(labels).long()
