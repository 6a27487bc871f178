"""The rows of a table: samples by any settings, anybody's samples, real images."""

import functools
import hashlib
import inspect
import os
import runpy
import sys
import zipfile
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from classifier import load_classifier
from diffusion import load_ddpm
from evaluation.exact import Exact
from evaluation.judge import load_judge
from evaluation.methods import METHODS
from inference import DEFAULT_SCALE, SAMPLER, SAMPLERS, STEPS, check_betas, check_guide
from inference import (
    check_window,
    checked_request,
    growing_scale,
    parse_window,
    sample,
    scale_of_flags,
)
from mnist import add_data_flags, check_pixels, check_same_dataset
from support import cli
from support.errors import UserError
from support.files import MODELS, sha256
from support.pictures import to_uint8
from support.streams import image_seeds

SETTINGS = ("models", "method", "guide", "guidance_scale", "growth", "window", "sampler", "steps")
CHECKPOINTS = {"ddpm": "ddpm_unet.pth", "rival": "rival_classifier_free.pth"}
JUDGE = "judge.pth"
LEAST_IMAGES = 100
DEFAULT = "default"  # a method's own scale
NOT_USED = "-"
ARGUMENTS = "a method takes ddpm or rival, log_p, exact, scale; a guide's maker ddpm, classifier"


class Row(NamedTuple):
    """A row to be measured."""

    settings: dict  # what identifies it: settings and hashes
    draw: Callable  # () -> images uint8 (N, C, H, W), and labels (N,) or None
    sampled: bool = False  # by a U-Net: timed, and compared with the first such row


def add_row_flags(parser, n):
    """The flags of the rows, by default of n samples, and of the real images."""
    title = "several values make several rows; the last options vary fastest"
    add = parser.add_argument_group(title).add_argument
    samples = ".npz, .npy or folder of PNGs; without --models, nothing else is drawn"
    add("--models", nargs="+", default=[], metavar="DIR", help="folders of both networks")
    methods = f"{', '.join(METHODS)}, or FILE.py:NAME of a class like these"
    add("--method", nargs="+", default=["guided"], metavar="NAME", help=methods)
    guides = "FILE.py:NAME of a log_p(x_t, t, y) -> (B,), FILE.pth of a classifier, or exact"
    add("--guide", nargs="+", default=["classifier"], help=guides)
    scales = f"s, as in inference.py, '{DEFAULT}' for the method's own, or FILE.py:NAME of an s(t)"
    add("--guidance-scale", nargs="+", default=[DEFAULT], type=scale_or_name, help=scales)
    number = cli.number(float, 0)
    add("--growth", nargs="+", default=[None], type=number, help="G of s = S (1 + G SNR)")
    windows = "guide at LOW <= t < HIGH only, such as 250-750"
    add("--window", nargs="+", default=[None], type=parse_window, metavar="LOW-HIGH", help=windows)
    samplers = f"{', '.join(SAMPLERS)}, or FILE.py:NAME of a generator like these"
    add("--sampler", nargs="+", default=[SAMPLER], metavar="NAME", help=samplers)
    add("--steps", nargs="+", default=[STEPS], type=cli.number(int, 1), help="of the sampler")
    add("--samples", nargs="+", default=[], metavar="FILE", help=samples)
    add = parser.add_argument
    number_help = "samples, equally many of each class"
    add("--n", type=cli.number(int, 100, 100_000), default=n, help=number_help)
    splits_help = "of the real images; use test only for reported results"
    add("--split", choices=("validation", "test"), default="validation", help=splits_help)
    add("--judge", type=cli.folder, default=MODELS, metavar="DIR", help=f"folder of {JUDGE}")
    add("--csv", type=cli.file(".csv"), metavar="CSV", help="keep the rows in a new file")
    cli.add_run_flags(parser, seed=1)
    add_data_flags(parser)


def scale_or_name(text):
    """An argparse type: a scale as a number, the word `DEFAULT`, or FILE.py:NAME."""
    return text if text == DEFAULT or ".py:" in text else cli.number(float, 0)(text)


def sample_rows(args, dataset):
    """The rows of samples, of a `Dataset`'s classes, that the flags ask for. Raises UserError."""
    if not args.models and not args.samples:
        args.models = [os.path.relpath(MODELS)]
    choices = [getattr(args, name) for name in SETTINGS]
    rows = [sampled_row(dict(zip(SETTINGS, values)), args, dataset) for values in product(*choices)]
    return unique(rows + [file_row(path, dataset.info) for path in args.samples])


def judge_of(args, dataset):
    """The judge of --judge. Raises UserError unless it has learned from the data set."""
    path = args.judge / JUDGE
    judge = load_judge(path, args.device)
    remedy = "name the folder of a judge of this data set with --judge, or another data set"
    check_same_dataset(judge.dataset, dataset.info, path, remedy)
    return judge


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
            pngs = sorted(p for p in Path(path).iterdir() if p.suffix.lower() == ".png")
            opened = [Image.open(png) for png in pngs]
            for png, image in zip(pngs, opened):
                check_pixels(image, png)
            images = np.stack([image.convert(mode) for image in opened])
        else:
            if Path(path).suffix not in (".npz", ".npy"):
                raise ValueError("it is no .npz, .npy or folder")
            if Path(path).suffix == ".npz" and not zipfile.is_zipfile(path):
                raise ValueError("it is damaged")  # numpy would advise to allow pickles
            images = np.load(path)  # runs no code in the file
        if not isinstance(images, np.ndarray):  # an .npz
            images, labels = images["arr_0"], images.get("arr_1")
        if channels == 1 and images.ndim == 3:
            images = images[..., None]
        shape = (len(images), height, width, channels)
        if images.dtype != np.uint8 or images.shape != shape or len(images) < LEAST_IMAGES:
            raise ValueError(f"it holds {images.dtype} {images.shape}")
        if images.max() <= 1:
            raise ValueError("its pixels are 0 and 1, where 0 to 255 are read")
        if labels is not None:
            if labels.shape != shape[:1] or not np.isin(labels, range(num_classes)).all():
                raise ValueError("its labels are others")
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


# --- rows that are drawn ---


def sampled_row(settings, args, dataset):
    """The row of --n samples by `settings`, one of each of `SETTINGS`. Raises UserError.

    What its method does not take is `NOT_USED` in its settings.
    """
    num_classes = len(dataset.info["classes"])
    if args.n < num_classes:
        raise UserError(f"--n {args.n}: there are {num_classes} classes")
    y = torch.arange(num_classes).repeat_interleave(args.n // num_classes)
    seeds = image_seeds(args.seed, y.tolist())
    method_class, method_file = named(settings["method"], METHODS)
    sampler, sampler_file = named(settings["sampler"], SAMPLERS)
    files = {"method": method_file, "sampler": sampler_file}

    takes, given = inspect.signature(method_class).parameters, {}
    for name, checkpoint in CHECKPOINTS.items():
        if name in takes:
            path = Path(settings["models"], checkpoint)
            given[name] = loaded_ddpm(path, args.device)
            check_same_dataset(given[name].unet.dataset, dataset.info, path)
            files[name] = path
    ddpm = given.get("ddpm") or given.get("rival")
    if ddpm is None:
        raise UserError(f"--method {settings['method']}: {ARGUMENTS}")
    if "exact" in takes:
        given["exact"] = exact_networks(Path(settings["models"]), dataset, args.device)
    if "log_p" in takes:
        folder = Path(settings["models"])
        given["log_p"], files["guide"] = find_guide(settings["guide"], folder, dataset, args.device)
    else:
        settings = settings | {"guide": NOT_USED}
    if "scale" in takes:
        default = getattr(method_class, "default_scale", DEFAULT_SCALE)
        given["scale"], files["scale"], used = find_scale(settings, ddpm.scheduler, default)
        settings = settings | used
    else:
        settings = settings | dict.fromkeys(("guidance_scale", "growth", "window"), NOT_USED)
    method = call(settings["method"], method_class, given)
    if "log_p" in takes:
        check_guide(given["log_p"], method, y)  # before other rows are measured
    checked_request(method, y, seeds, sampler, settings["steps"])
    if settings["window"] != NOT_USED:
        check_window(settings["window"], method.abar, settings["steps"])
    hashes = {f"sha256 of {name}": sha256(path) for name, path in files.items() if path}

    def draw():
        return to_uint8(sample(method, y, seeds, sampler, settings["steps"])), y

    return Row({"images": "samples", **settings, **hashes, "n": len(y)}, draw, sampled=True)


@functools.cache
def loaded_ddpm(path, device):
    """The DDPMPipeline of a checkpoint, loaded once for all rows."""
    return load_ddpm(path, device)


@functools.cache
def exact_networks(folder, dataset, device):
    """The `Exact` networks of the training images, under the scheduler of a folder's U-Net."""
    scheduler = loaded_ddpm(folder / CHECKPOINTS["ddpm"], device).scheduler
    return Exact(*dataset.load("train"), scheduler, device)


@functools.cache
def find_guide(name, folder, dataset, device):
    """The log_p of a guide of --guide, and its file or None. Raises UserError.

    A function of a FILE.py whose arguments are named `ddpm` or `classifier` is given these of the
    folder, and returns the log_p.
    """
    path = folder / "classifier.pth" if name == "classifier" else Path(name)
    if name == "exact":
        return exact_networks(folder, dataset, device).log_p, None
    if ".py:" in name:
        guide, path = named(name, {})
        takes, given = inspect.signature(guide).parameters, {}
        if "ddpm" in takes:
            given["ddpm"] = loaded_ddpm(folder / CHECKPOINTS["ddpm"], device)
        if "classifier" in takes:
            classifier = given["classifier"] = load_classifier(folder / "classifier.pth", device)
            check_betas(classifier.log_p, loaded_ddpm(folder / CHECKPOINTS["ddpm"], device))
        return (call(name, guide, given) if given else guide), path
    if path.suffix != ".pth":
        known = "write classifier, exact, FILE.pth or FILE.py:NAME"
        raise UserError(f"--guide {name}: {known}")
    classifier = load_classifier(path, device)
    check_same_dataset(classifier.dataset, dataset.info, path)
    return classifier.log_p, path


def call(name, thing, given):
    """What a class or a function makes of the arguments that it is given. Raises UserError."""
    try:
        inspect.signature(thing).bind(**given)
    except TypeError as error:
        raise UserError(f"{name}: {error}; {ARGUMENTS}") from error
    return thing(**given)


def find_scale(settings, scheduler, default):
    """The scale of a row, its file or None, and the settings that it used. Raises UserError.

    `default` is w and g of `growing_scale`, where no flag says anything.
    """
    s = settings["guidance_scale"]
    if isinstance(s, str) and s != DEFAULT:
        if settings["growth"] is not None or settings["window"] is not None:
            raise UserError(f"--guidance-scale {s} knows no --growth and no --window")
        scale, file = named(s, {})
        return scale, file, {"growth": NOT_USED, "window": NOT_USED}
    w, g = scale_of_flags(None if s == DEFAULT else s, settings["growth"], default)
    scale = growing_scale(scheduler, w, g, settings["window"])
    window = settings["window"] or NOT_USED
    return scale, None, {"guidance_scale": w, "growth": g, "window": window}


def named(text, known):
    """What a name of `known` stands for, and None; or NAME of FILE.py:NAME, and its file.

    Raises UserError if there is none.
    """
    if text in known:
        return known[text], None
    path, _, name = text.rpartition(":")
    if not Path(path).is_file():
        raise UserError(f"{text}: there is no such file; write FILE.py:NAME, or a name of --help")
    thing = run_file(path).get(name)
    if not callable(thing):
        raise UserError(f"{text}: {path} does not define {name!r}")
    return thing, Path(path)


@functools.cache
def run_file(path):
    """The names that a FILE.py defines: a dict. It can import its neighbours, as a script can."""
    folder, before = Path(path).resolve().parent, set(sys.modules)
    sys.path.insert(0, str(folder))
    names = runpy.run_path(path)
    for name in set(sys.modules) - before:  # another FILE.py may have a neighbour of this name
        if str(getattr(sys.modules[name], "__file__", None)).startswith(str(folder)):
            del sys.modules[name]
    return names
