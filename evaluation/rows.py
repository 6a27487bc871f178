"""The rows of a table: samples by any settings, anybody's samples, real images."""

import functools
import hashlib
import os
import runpy
import sys
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from classifier import load_classifier
from diffusion import SAMPLERS, load_unet
from evaluation.exact_guide import ExactGuide
from evaluation.rivals import classifier_free, load_rival
from evaluation.variants import VARIANTS
from guidance import growing_scale, sample
from inference import SAMPLING, add_sampling_flags
from mnist import add_data_flags, check_same_dataset
from support import cli
from support.errors import UserError, require
from support.files import MODELS, sha256
from support.pictures import to_uint8
from support.streams import image_seeds

SETTINGS = ("models", "variant", "guide", *SAMPLING)  # the last ones change fastest
LEAST_IMAGES = 100
unet_of_file = functools.cache(load_unet)  # each network is loaded once, for all rows


class Row(NamedTuple):
    """A row to be measured."""

    settings: dict  # what identifies it: settings and hashes
    draw: Callable  # () -> images uint8 (N, C, H, W), and labels (N,) or None
    sampled: bool = False  # by a U-Net: timed, and compared with the first such row


def add_row_flags(parser, n):
    """The flags of the rows, by default of n samples, and of the real images."""
    title = "several values make several rows; a scale s(t) or sampler may be FILE.py:NAME, too"
    group = parser.add_argument_group(title)
    add = group.add_argument
    names = f"forms of the guidance: {', '.join(VARIANTS)}, or FILE.py:NAME"
    guides = "FILE.py:NAME of a log_p(x_t, t, y) -> (B,), FILE.pth of a classifier, or exact"
    samples = ".npz, .npy or folder of PNGs; without --models, nothing else is drawn"
    add("--models", nargs="+", default=[], metavar="DIR", help="folders of both networks")
    add("--variant", nargs="+", default=["guided_noise"], metavar="NAME", help=names)
    add("--guide", nargs="+", default=["classifier"], help=guides)
    add_sampling_flags(group, nargs="+", own_functions=True)
    add("--samples", nargs="+", default=[], metavar="FILE", help=samples)
    add = parser.add_argument
    add("--n", type=cli.number(int, 100), default=n, help="samples, equally many of each class")
    add("--split", choices=("test", "validation"), default="test", help="of the real images")
    add("--csv", type=Path, metavar="CSV", help="keep the rows in a new file")
    cli.add_run_flags(parser)
    add_data_flags(parser)


def sample_rows(args, dataset):
    """The rows of samples, of a `Dataset`'s classes, that the flags ask for. Raises UserError."""
    if not args.models and not args.samples:
        args.models = [os.path.relpath(MODELS)]
    choices = [getattr(args, name) for name in SETTINGS]
    rows = [sampled_row(dict(zip(SETTINGS, values)), args, dataset) for values in product(*choices)]
    return unique(rows + [file_row(path, dataset.info) for path in args.samples])


def unique(rows):
    """The rows without those that are asked for twice."""
    kept = {}
    for row in rows:
        kept[tuple(row.settings.items())] = row
    return list(kept.values())


def real_row(name, split, index):
    """The row of some images of a split (images, labels), by their numbers (N,)."""
    return Row({"images": name, "n": len(index)}, lambda: [part[index] for part in split])


def file_row(path, info):
    """The row of anybody's samples, of a file or a folder of PNGs.

    Raises UserError unless it holds images of the shape, and labels of the classes, of `info`.
    """
    channels, height, width = info["shape"]
    num_classes = len(info["classes"])
    labels = None
    try:
        if Path(path).is_dir():
            mode = "RGB" if channels == 3 else "L"
            pngs = sorted(Path(path).glob("*.png"))
            images = np.stack([Image.open(png).convert(mode) for png in pngs])
        else:
            images = np.load(path)  # runs no code in the file
        if not isinstance(images, np.ndarray):  # an .npz
            images, labels = images["arr_0"], images.get("arr_1")
        if channels == 1 and images.ndim == 3:
            images = images[..., None]
        found = f"it holds {images.dtype} {images.shape}"
        require(images.dtype == np.uint8 and len(images) >= LEAST_IMAGES, found)
        require(images.shape[1:] == (height, width, channels), found)
        if labels is not None:
            good = labels.shape == (len(images),) and np.isin(labels, range(num_classes)).all()
            require(good, "its labels are others")
            labels = torch.from_numpy(labels).long()
    except Exception as error:  # numpy, zipfile and PIL raise many kinds on what they cannot read
        raise UserError(
            f"{path}: {error}; what is read is {LEAST_IMAGES} or more uint8 images (N, {height}, "
            f"{width}, {channels}): arr_0 of an .npz, with or without labels (N,) from 0 to "
            f"{num_classes - 1} in arr_1, an .npy, or a folder of {height}x{width} PNGs"
        ) from error
    images = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
    digest = hashlib.sha256(images.numpy().tobytes()).hexdigest()
    settings = {"images": path, "n": len(images), "sha256 of images": digest}
    return Row(settings, lambda: (images, labels))


def sampled_row(settings, args, dataset):
    """The row of --n samples by `settings`, one of each of `SETTINGS`. Raises UserError."""
    num_classes = len(dataset.info["classes"])
    require(args.n >= num_classes, f"--n {args.n}: there are {num_classes} classes")
    y = torch.arange(num_classes).repeat_interleave(args.n // num_classes)
    seeds = image_seeds(args.seed, y.tolist())
    folder = Path(settings["models"])
    variant_file, variant = None, VARIANTS.get(settings["variant"])
    if variant is None:
        variant_file, variant = find_function(settings["variant"])
    if variant is classifier_free:  # it has its own U-Net, no guide, and a constant scale
        unet = load_rival(folder, args.device)
        guide_file, log_p = None, None
        settings = settings | {"guide": "-", "scale_growth": 0.0}
    else:
        unet = unet_of_file(folder / "ddpm_unet.pth", args.device)
        guide_file, log_p = find_guide(settings["guide"], folder, dataset, args.device)
    check_same_dataset(unet.dataset, dataset.info, unet.path)
    scale_file, scale = find_scale(settings)
    if scale_file:
        settings = settings | {"scale_growth": "-", "window": "-"}
    sampler_file, sampler = find_sampler(settings["sampler"])
    files = {"U-Net": unet.path, "guide": guide_file, "variant": variant_file}
    files |= {"scale": scale_file, "sampler": sampler_file}
    hashes = {f"sha256 of {name}": sha256(path) for name, path in files.items() if path}
    sampling = {"scale": scale, "sampler": sampler, "steps": settings["steps"]}

    def draw():
        return to_uint8(sample(unet, log_p, y, seeds, variant=variant, **sampling)), y

    return Row({"images": "samples", **settings, **hashes, "n": len(y)}, draw, sampled=True)


@functools.cache
def find_guide(name, folder, dataset, device):
    """The file of a guide of --guide, or None, and its log_p. Raises UserError."""
    if name == "exact":
        return None, ExactGuide(*dataset.load("train"), device).log_p
    if ".py:" in name:
        return find_function(name)
    path = folder / "classifier.pth" if name == "classifier" else Path(name)
    known = "write classifier, exact, FILE.pth or FILE.py:NAME"
    require(path.suffix == ".pth", f"--guide {name}: {known}")
    classifier = load_classifier(path, device)
    check_same_dataset(classifier.dataset, dataset.info, path)
    return path, classifier.log_p


def find_scale(settings):
    """The file of a scale s(t) that is FILE.py:NAME, or None, and the scale. Raises UserError."""
    w = settings["guidance_scale"]
    if isinstance(w, str):
        return find_function(w)
    return None, growing_scale(w, settings["scale_growth"], settings["window"])


def find_sampler(name):
    """The file of a sampler that is FILE.py:NAME, or None, and what `sample` takes for it.

    In a file it is a function (x_t, x_0, t, u, z) -> x_u, of order 1. Raises UserError.
    """
    if name in SAMPLERS:
        return None, name
    file, function = find_function(name)
    return file, (function, 1)


@functools.cache
def run_file(path):
    """The names that a FILE.py defines: a dict. It can import its neighbours, as a script can."""
    sys.path.insert(0, str(Path(path).resolve().parent))
    return runpy.run_path(path)


def find_function(text):
    """The file and the function of FILE.py:NAME. Raises UserError if there is none."""
    path, _, name = text.rpartition(":")
    known = "write FILE.py:NAME, or a name of --help"
    require(Path(path).is_file(), f"{text}: there is no such file; {known}")
    function = run_file(path).get(name)
    require(callable(function), f"{text}: {path} has no function {name!r}")
    return Path(path), function
