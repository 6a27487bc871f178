"""Measure samples: a table with one row of metrics per name. examples/README.md has examples."""

from functools import partial

import diffusers
import torch
from tqdm import tqdm

from data import Dataset
from diffusion import load_ddpm
from evaluation.classifier_free import classifier_free
from evaluation.judge import judge_images, load_judge
from evaluation.metrics import METRICS, balanced_parts, scores_of, with_intervals
from evaluation.tables import REAL, cell, write_rows
from inference import gradient, growing_scale, guided, load_models, sample
from support.cli import UserError
from support.files import MODELS, sha256
from support.pictures import to_uint8
from support.seeds import image_seeds

SEED = 1  # for choosing settings; results are reported with split="test", seed=0
PER_CLASS = 10  # with fewer images of a class, nothing is measured
SHOWN = ("accuracy", "frechet", "precision", "recall")
OF_LABELS = ("accuracy", "class_frechet")


def measure(
    rows, n=2_000, split="validation", seed=SEED, dataset=None, judge=None, path=None, columns=None
):
    """Compare class-balanced samples with half of the real images of a split.

    Args:
        rows: name -> a function (y (N,), seeds (N ints)) -> images (N, C, H, W), in [-1, 1] or
            uint8, such as `partial(sample, ddpm, predict=predict)`, or (images, None) if there are
            no target classes; or existing samples, (images, labels).
        n: samples per row, rounded down to a multiple of the number of classes.
        path: a CSV file, written after every row.
        columns: more columns of the functions, such as the sampler.

    Returns name -> dict of `METRICS` with 95% confidence intervals (_low, _high), and for functions
    the paired change from the first one (_change). Real images come first: the other half of the
    split and, with split="test", the validation images.

    Raises UserError if the judge was trained on another dataset, or if a class has fewer than
    PER_CLASS images, real or not.
    """
    dataset, judge = dataset or Dataset(), judge or load_judge()
    advice = f"train one: python -m evaluation.judge --dataset {dataset.name} --models DIR"
    check_dataset(judge, dataset, "the judge", advice)
    K = len(dataset.info["classes"])
    y = torch.arange(K).repeat_interleave(n // K)
    seeds = image_seeds(seed, y.tolist())

    reference, held_out = balanced_parts(*dataset.splits[split], 2, K)
    reference, real = judge_images(judge, *reference), {REAL: held_out}
    if split == "test":
        [real["real validation images"]] = balanced_parts(*dataset.splits["validation"], 1, K)
    real = {name: (images[: len(y)], labels[: len(y)]) for name, (images, labels) in real.items()}
    shared = {"split": split, "seed": seed, "sha256 of judge": judge.checkpoint["sha256"]}
    shared |= {"torch": torch.__version__, "diffusers": diffusers.__version__}

    table, first = {}, None  # the scores of the first function
    for name, row in tqdm((real | rows).items(), desc="rows", disable=None):
        images = row(y, seeds) if callable(row) else row
        images, labels = images if isinstance(images, tuple) else (images, y)
        if labels is not None and labels.bincount(minlength=K).min() < PER_CLASS:
            raise UserError(f"{name}: at least {PER_CLASS} images of each class are needed")
        samples = judge_images(judge, to_uint8(images).cpu(), labels)
        names = [key for key in METRICS if labels is not None or key not in OF_LABELS]
        scores = scores_of(samples, reference, names)
        table[name] = {"n": len(images)} | with_intervals(scores, len(images))
        if callable(row) and first:  # paired: the halves are the same, and so is the noise
            changes = {f"{k}_change": scores[k] - first[k] for k in scores if k in first}
            table[name] |= with_intervals(changes)
        elif callable(row):
            first = scores
        table[name] |= shared
        if callable(row):
            table[name] |= columns or {}
        shown = (f"{key} {cell(table[name], key)}" for key in SHOWN if key in table[name])
        tqdm.write(f"{name}: {'  '.join(shown)}")
        if path:
            write_rows(path, [{"images": key} | row for key, row in table.items()])
    return table


def check_dataset(network, dataset, name, advice):
    """Raise UserError if a network from a checkpoint was trained on another dataset."""
    if network.checkpoint["dataset"] != dataset.info:
        raise UserError(f"{name} was not trained on {dataset.name}; {advice}")


def load_method(method, folder=MODELS, device="cpu"):
    """A built-in method: its DDPM, a function scale -> predict, and columns with its networks."""
    if method == "guided":
        names = "ddpm_unet.pth", "classifier.pth"
        ddpm, classifier = load_models(folder, device)
        predict = partial(guided, ddpm, gradient(classifier.log_p))
    else:
        names = ["ddpm_unet.pth" if method == "unguided" else "classifier_free.pth"]
        ddpm = load_ddpm(folder / names[0], device)
        predict = partial(classifier_free, ddpm)
    return ddpm, predict, {f"sha256 of {name}": sha256(folder / name) for name in names}


def named_scales(ddpm, *pairs):
    """A list of (name, scale) for pairs (s, b) of the scale s (1 + b SNR)."""
    return [(scale_name(s, b), growing_scale(ddpm, s, b)) for s, b in pairs]


def scale_name(s, b):
    """A name such as "s = 3", "1 + 12 SNR", or "2 (1 + 12 SNR)"."""
    if b == 0:
        return f"s = {s:g}"
    return f"1 + {b:g} SNR" if s == 1 else f"{s:g} (1 + {b:g} SNR)"


def scale_rows(ddpm, method, scales, prefix="", **settings):
    """Rows for `measure`, one for each of the (name, scale). method: scale -> predict."""
    return {prefix + k: partial(sample, ddpm, predict=method(s), **settings) for k, s in scales}


def unguided(ddpm, **settings):
    """A row for `measure`: samples without target classes."""
    return lambda y, seeds: (sample(ddpm, None, seeds, **settings), None)
