"""The rows of a table: real images, samples by any settings, anybody's samples."""

import functools
import hashlib
import os
import runpy
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from classifier import load_classifier
from diffusion import load_unet
from evaluation.exact_guide import ExactGuide
from evaluation.judge import accuracy_of, load_judge
from evaluation.measures import Scores, balanced_parts, readings
from evaluation.rivals import CHECKPOINT, classifier_free, load_rival
from evaluation.variants import VARIANTS
from guidance import sample
from inference import add_sampling_flags
from mnist import add_data_flags, check_same_dataset
from support import cli
from support.cli import MODELS, UserError, require
from support.files import sha256
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

    These are half of the images of a split of the `Dataset`, equally many of each class. The other
    half gets a row as if it were samples: no sampler can be expected to beat it. Against the test
    set, so do the validation images, which other people wrote.

    Raises UserError if the judge is missing, of another data set, or wrong too often.
    """

    def __init__(self, judge_folder, dataset, split, device="cpu"):
        self.dataset, self.device = dataset, device
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

    settings: dict  # what identifies it: settings and hashes
    draw: Callable  # () -> images uint8 (N, C, H, W), and labels (N,) or None
    sampled: bool = False  # by a U-Net: timed, and compared with the first such row


def add_row_flags(parser, n):
    """The flags of the rows, by default of n samples, and of the real images."""
    group = parser.add_argument_group("several values make several rows")
    add = group.add_argument
    names = f"forms of the guidance: {', '.join(VARIANTS)}, or FILE.py:NAME"
    guides = f"FILE.py:NAME of a log_p(x_t, t, y) -> (B,), FILE.pth of a classifier, or {EXACT}"
    samples = ".npz, .npy or folder of PNGs; without --models, nothing else is drawn"
    add("--models", nargs="+", default=[], metavar="DIR", help="folders of both networks")
    add("--variant", nargs="+", default=["guided_noise"], metavar="NAME", help=names)
    add("--guide", nargs="+", default=[OWN_CLASSIFIER], help=guides)
    add_sampling_flags(group, nargs="+")
    add("--samples", nargs="+", default=[], metavar="FILE", help=samples)
    add = parser.add_argument
    add("--n", type=cli.number(int, 100), default=n, help="samples, equally many of each class")
    add("--split", choices=("test", "validation"), default="test", help="of the real images")
    add("--csv", type=cli.file_name(".csv"), metavar="CSV", help="keep the rows in a new file")
    cli.add_run_flags(parser)
    add_data_flags(parser)


def sample_rows(args, dataset):
    """The rows of samples that the flags ask for, of the classes of a `Dataset`.

    Raises UserError.
    """
    models = args.models
    if not models and not args.samples:
        models = [os.path.relpath(MODELS)]
    choices = {**vars(args), "models": models}
    rows = []
    for values in product(*(choices[name] for name in SETTINGS)):
        rows.append(sampled_row(dict(zip(SETTINGS, values)), args, dataset))
    rows += [file_row(path, dataset.info) for path in args.samples]
    return rows


def as_text(value):
    """A setting as it is in the file."""
    if isinstance(value, tuple):
        return "-".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


# --- the three kinds of rows ---


def real_row(name, images, n):
    """The row of n real images, or all that there are, of uint8 images (K, M, C, H, W)."""
    num_classes, most = images.shape[:2]
    per_class = min(most, n // num_classes)
    some = images[:, :per_class].flatten(0, 1)
    labels = torch.arange(num_classes).repeat_interleave(per_class)
    return Row({"images": name, "n": len(some)}, lambda: (some, labels))


def file_row(path, info):
    """The row of anybody's samples. Raises UserError."""
    images, labels = read_samples(Path(path), info)
    digest = hashlib.sha256(images.numpy().tobytes()).hexdigest()
    settings = {"images": path, "n": len(images), "sha256 of images": digest}
    return Row(settings, lambda: (images, labels))


def sampled_row(values, args, dataset):
    """The row of --n samples by `values`, one of each of `SETTINGS`. Raises UserError."""
    num_classes = len(dataset.info["classes"])
    require(args.n >= num_classes, f"--n {args.n}: there are {num_classes} classes")
    y = torch.arange(num_classes).repeat_interleave(args.n // num_classes)
    seeds = image_seeds(args.seed, y.tolist())
    models = values["models"]
    variant_file, variant = find_variant(values["variant"])
    if variant is classifier_free:  # it has its own U-Net, no guide, and a constant scale
        unet_file, unet = Path(models, CHECKPOINT), rival_unet(models, args.device)
        guide_file, log_p = None, None
        values = values | {"guide": "-", "scale_growth": 0.0}
    else:
        unet_file = Path(models, "ddpm_unet.pth")
        unet = ddpm_unet(unet_file, args.device)
        guide_file, log_p = find_guide(values["guide"], models, dataset, args.device)
    check_same_dataset(unet.dataset, dataset.info, unet_file)
    files = {"U-Net": unet_file, "guide": guide_file, "variant": variant_file}
    hashes = {f"sha256 of {name}": sha256(path) for name, path in files.items() if path}

    def draw():
        sampling = {name: values[name] for name in SAMPLING}
        images = sample(unet, log_p, y, seeds, variant=variant, **sampling)
        return to_uint8(images), y

    return Row({"images": "samples", **values, **hashes, "n": len(y)}, draw, sampled=True)


# --- each network is loaded once, and each FILE.py run once, for all rows ---

ddpm_unet = functools.cache(load_unet)
guide_network = functools.cache(load_classifier)
rival_unet = functools.cache(load_rival)
run_file = functools.cache(runpy.run_path)


@functools.cache
def exact_guide(dataset, device):
    """The `ExactGuide` of the training images."""
    return ExactGuide(*dataset.load("train"), device)


# --- guides and variants by name, or in a file ---


def find_guide(name, models, dataset, device):
    """The file of a guide of --guide, or None, and its log_p. Raises UserError."""
    if name == EXACT:
        return None, exact_guide(dataset, device).log_p
    if ".py:" in name:
        return find_function(name)
    path = Path(models, "classifier.pth") if name == OWN_CLASSIFIER else Path(name)
    classifier = guide_network(path, device)
    check_same_dataset(classifier.dataset, dataset.info, path)
    return path, classifier.log_p


def find_variant(name):
    """The file of a variant of --variant, or None, and the variant. Raises UserError."""
    if name in VARIANTS:
        return None, VARIANTS[name]
    names = ", ".join(VARIANTS)
    require(".py:" in name, f"--variant {name}: it is not one of {names}, or FILE.py:NAME")
    return find_function(name)


def find_function(text):
    """The file and the function of FILE.py:NAME. Raises UserError if there is none."""
    path, _, name = text.rpartition(":")
    require(Path(path).is_file(), f"{text}: there is no file {path!r}; write FILE.py:NAME")
    function = run_file(path).get(name)
    require(callable(function), f"{text}: {path} has no function {name!r}")
    return Path(path), function


# --- anybody's samples ---


def read_samples(path, info):
    """Images uint8 (N, C, H, W) and labels (N,), or None, of a file or a folder of PNGs.

    Raises UserError if it is not as this says, for the classes and the image shape of `info`.
    """
    channels, height, width = info["shape"]
    num_classes = len(info["classes"])
    what_is_read = (
        f"what is read is {LEAST_IMAGES} or more uint8 images (N, {height}, {width}, {channels}): "
        f"arr_0 of an .npz with or without labels (N,) in arr_1, an .npy, or a folder of "
        f"{height}x{width} PNGs"
    )
    try:
        images, labels = arrays_of(path, "RGB" if channels == 3 else "L")
    except Exception as error:  # numpy, zipfile and PIL raise many kinds on what they cannot read
        raise UserError(f"{path} cannot be read ({error}); {what_is_read}") from error
    if channels == 1 and images.ndim == 3:
        images = images[..., None]
    as_wanted = (
        images.dtype == np.uint8
        and images.shape[1:] == (height, width, channels)
        and len(images) >= LEAST_IMAGES
    )
    require(as_wanted, f"{path} holds {images.dtype} {images.shape}; {what_is_read}")
    images = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
    if labels is None:
        return images, None
    as_wanted = labels.shape == (len(images),) and np.isin(labels, np.arange(num_classes)).all()
    require(as_wanted, f"{path}: arr_1 should hold (N,) labels from 0 to {num_classes - 1}")
    return images, torch.from_numpy(labels).long()


def arrays_of(path, mode):
    """The images of a file, or of a folder of PNGs in a mode of PIL, and the labels or None."""
    if path.is_dir():
        pictures = [Image.open(png).convert(mode) for png in sorted(path.glob("*.png"))]
        return np.stack([np.asarray(picture) for picture in pictures]), None
    found = np.load(path, allow_pickle=False)
    if isinstance(found, np.ndarray):
        return found, None
    arrays = dict(found)
    images, labels = arrays.pop("arr_0"), arrays.pop("arr_1", None)
    if arrays:
        raise ValueError(f"it also holds {', '.join(arrays)}")
    return images, labels
