"""Measure samples: one row of metrics per name.

    ddpm, classifier = load_models()
    predict = guided(ddpm, gradient(classifier.log_p), 5)
    measure({
        "unguided": partial(sample, ddpm),
        "s = 5": partial(sample, ddpm, predict=predict, sampler="ddim", steps=20),
        "my samples": (images, labels),
    }, n=500, path="mine.csv")

Choose settings with the default split and seed; report results with split="test", seed=0.
"""

import csv
import io
import traceback
import warnings
from pathlib import Path

import diffusers
import torch
from tqdm import tqdm

from data import Dataset
from evaluation.judge import load_judge
from evaluation.metrics import METRICS, Scores, balanced_parts, readings
from support import UserError
from support.files import atomic_write
from support.pictures import to_uint8
from support.streams import image_seeds

SEED = 1  # 0 is for reported results
SHOWN = ("error", "accuracy", "frechet", "precision", "recall")
OF_MANY_IMAGES = ("precision", "recall", "class_frechet")
PER_CLASS = 10  # with fewer images per class, these metrics are left out


def measure(
    rows, n=2_000, split="validation", seed=SEED, dataset=None, judge=None, path=None, columns=None
):
    """Compare class-balanced samples with half of the real images of a split.

    Args:
        rows: name -> a function (y (N,), seeds (N ints)) -> images (N, C, H, W), such as
            `partial(sample, ddpm, predict=predict)`; or existing samples, (images, labels or None).
            Images are in [-1, 1] or uint8.
        n: samples per row, rounded down to a multiple of the number of classes.
        dataset, judge: a `Dataset`, and what `load_judge` returns; MNIST by default.
        path: a CSV file, written after every row. It is replaced, if an earlier call wrote it.
        columns: more columns, the same for every row, such as the sampler.

    Returns name -> dict of columns. Real images come first: the other half of the split and, with
    split="test", the validation images. If a row fails, it has a column `error` and no metrics; the
    other rows continue. The columns:

    METRICS in metrics.py: with a 95% confidence interval (_low, _high), and for functions the
        change from the first one (_change), which has the same noise, unless that one failed.
    n, split, seed, torch, diffusers, sha256 of the judge.

    Raises UserError if the judge was trained on another dataset, or if the file is not a table of
    `measure`.
    """
    dataset, (judge, info) = dataset or Dataset(), judge or load_judge()
    if info["dataset"] != dataset.info:
        names = f"{name_of(info['dataset'])}, not for {name_of(dataset.info)}"
        raise UserError(f"the judge is for {names}; train one with `python -m evaluation.judge`")
    if path and Path(path).exists() and not is_table(path):
        raise UserError(f"{path} is not a table of `measure`; choose another file")
    K = len(dataset.info["classes"])
    y = torch.arange(K).repeat_interleave(n // K)
    seeds = image_seeds(seed, y.tolist())
    here, there = balanced_parts(dataset.splits[split][1], 2, K)  # (K, M) each
    half = readings(judge, *taken(dataset, split, here))
    real = {"real images": taken(dataset, split, there[:, : n // K])}
    if split == "test":
        [index] = balanced_parts(dataset.splits["validation"][1], 1, K)
        real["real validation images"] = taken(dataset, "validation", index[:, : n // K])
    same = {"split": split, "seed": seed, "sha256 of judge": info["sha256"], **(columns or {})}
    same |= {"torch": torch.__version__, "diffusers": diffusers.__version__}

    first = next((name for name, row in rows.items() if callable(row)), None)
    table, baseline = {}, None  # the `Scores` of the first function
    for name, row in tqdm((real | rows).items(), desc="rows", disable=None):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("always", UserWarning)  # in every row, not only in the first
                images, labels = row if isinstance(row, tuple) else (row(y, seeds), y)
                images = to_uint8(images).cpu()
                scores = Scores(readings(judge, images, labels), half, usable(labels, half, K))
            table[name] = {"n": len(images)} | scores.row()
            if name == first:
                baseline = scores
            elif baseline and callable(row):
                table[name] |= scores.changes_from(baseline)
        except Exception as error:  # the other rows continue
            table[name] = {"error": f"{type(error).__name__}: {error}"}
            if not isinstance(error, UserError):
                tqdm.write(traceback.format_exc())
        table[name] |= same
        shown = (f"{key} {cell(table[name], key)}" for key in SHOWN if key in table[name])
        tqdm.write(f"{name}: {'  '.join(shown)}")
        if path:
            write_rows(path, [{"images": key} | row for key, row in table.items()])
    return table


def taken(dataset, split, index):
    """Images and labels of a split, (N, C, H, W) and (N,), at the indices (K, M)."""
    return tuple(part[index.flatten()] for part in dataset.splits[split])


def usable(labels, half, num_classes):
    """The names of the metrics for which there are labels, and enough images in every class."""
    if labels is None:
        return [name for name in METRICS if name not in ("accuracy", "class_frechet")]
    number = min(y.bincount(minlength=num_classes).min().item() for y in (labels, half.labels))
    if number >= PER_CLASS:
        return list(METRICS)
    warnings.warn(f"no {', '.join(OF_MANY_IMAGES)}: a class has {number} images", stacklevel=2)
    return [name for name in METRICS if name not in OF_MANY_IMAGES]


def name_of(info):
    """The name of a dataset, given its `Dataset.info`."""
    return info["kind"] if info["kind"] == info["name"] else f"the folder {info['name'][:8]}"


# --- CSV files ---


def write_rows(path, rows):
    """Write dicts as a CSV file; "-" where a row lacks a column."""
    names, text = list(dict.fromkeys(name for row in rows for name in row)), io.StringIO()
    lines = [[as_text(row.get(name, "-")) for name in names] for row in rows]
    csv.writer(text, lineterminator="\n").writerows([names, *lines])
    with atomic_write(path) as file:
        file.write(text.getvalue().encode())


def read_rows(path):
    """The rows of a CSV file as dicts of text, without the columns that a row lacks."""
    with open(path, newline="") as file:
        return [{k: v for k, v in row.items() if v != "-"} for row in csv.DictReader(file)]


def is_table(path):
    """Whether `measure` wrote this file."""
    try:
        return "sha256 of judge" in read_rows(path)[0]
    except (IndexError, ValueError):  # it is empty, or not a text
        return False


def as_text(value):
    """A value for a CSV file: floats with six significant digits."""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def cell(row, column):
    """A column of a row as text, with its interval if it has one; "" if the row lacks it."""
    value = row.get(column, "")
    if f"{column}_low" not in row:
        return as_text(value)
    numbers = [float(row[column + end]) for end in ("", "_low", "_high")]
    digits = 4 if column.startswith(("accuracy", "mean_intensity")) else 3
    sign = "+" if column.endswith("_change") else ""
    value, low, high = (f"{number:{sign}.{digits}f}" for number in numbers)
    return f"{value} [{low}, {high}]"
