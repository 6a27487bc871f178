"""Measure samples: one row of metrics per name.

    ddpm, classifier = load_models()
    predict = guided(ddpm, gradient(classifier.log_p), 5)
    measure({
        "unguided": partial(sample, ddpm),
        "s = 5": partial(sample, ddpm, predict=predict, sampler="ddim", steps=20),
        "my samples": (images, labels),
    }, n=500)

Choose settings with the default split and seed; report results with split="test", seed=0.
"""

import hashlib
import time
import traceback
import warnings
from functools import partial
from pathlib import Path

import diffusers
import torch
from tqdm import tqdm

from data import Dataset
from evaluation.judge import load_judge
from evaluation.metrics import METRICS, Scores, balanced_parts, nearest_distances, readings
from inference import SAMPLER, STEPS, sample
from support import UserError
from support.files import as_number, as_text, read_rows, write_rows
from support.pictures import from_uint8, to_uint8
from support.streams import image_seeds

SEED = 1  # 0 is for reported results
SHOWN = ("error", "accuracy", "frechet", "precision", "recall")
OF_MANY_IMAGES = ("precision", "recall", "class_frechet")
PER_CLASS = 10  # with fewer images per class, these metrics are left out


def measure(
    rows, n=2_000, split="validation", seed=SEED, dataset=None, judge=None, path=None, extra=None
):
    """Compare class-balanced samples with half of the real images of a split.

    Args:
        rows: name (text) -> a function (y (N,), seeds (N ints)) -> images (N, C, H, W), such as
            `partial(sample, ddpm, predict=predict)`; or existing samples, (images, labels or None).
            Images are in [-1, 1] or uint8. A function is called twice, first with the first label
            and seed of each class.
        n: samples per row, rounded down to a multiple of the number of classes.
        dataset, judge: a `Dataset`, and what `load_judge` returns; by default, MNIST and the
            included judge.
        path: a CSV file, updated after every row. Sampled rows that it has are skipped: same name,
            settings, first image of each class, and first row. Other names stay in the file.
        extra: (images (N, C, H, W) in [-1, 1], labels) -> dict of additional columns.

    Returns name -> dict of columns. Real images come first: the other half of the split and, with
    split="test", the validation images. If a row fails, its only column is `error`; the other rows
    continue, and the file keeps an earlier measurement. The columns:

    n, split, seed, and the keyword arguments of a partial: method, scale, and run in the report.
    METRICS in metrics.py: with a 95% confidence interval (_low, _high).
    nearest, nearest_median: the distance to the nearest training image, smallest and median.
    seconds: per image.
    changes_from: the first sampled row, which has the same noise. The change in each metric
        (_change) is relative to it.

    Raises UserError if the judge was trained on a different dataset, or if the file has a row of
    the same name with other settings or another judge.
    """
    dataset, (judge, info) = dataset or Dataset(), judge or load_judge()
    if info["dataset"] != dataset.info:
        names = f"{name_of(info['dataset'])}, not for {name_of(dataset.info)}"
        raise UserError(f"the judge is for {names}; train one with `python -m evaluation.judge`")
    num_classes = len(dataset.info["classes"])
    per_class = n // num_classes
    y = torch.arange(num_classes).repeat_interleave(per_class)
    seeds = image_seeds(seed, y.tolist())
    here, there = balanced_parts(dataset.splits[split][1], 2, num_classes)  # (K, M) each
    half = readings(judge, *taken(dataset, split, here))
    score = partial(scored, judge, info, half, dataset.splits["train"][0])
    real = {"real images": taken(dataset, split, there[:, :per_class])}
    if split == "test":
        [index] = balanced_parts(dataset.splits["validation"][1], 1, num_classes)
        real["real validation images"] = taken(dataset, "validation", index[:, :per_class])
    rows = real | rows
    settings = {name: settings_of(row, y, split, seed) for name, row in rows.items()}
    stored = stored_rows(path, settings, info) if path and Path(path).exists() else {}

    table, scores, first = {}, {}, None  # the name of the first sampled row
    for name, row in tqdm(rows.items(), desc="rows", disable=None):
        try:
            if isinstance(row, tuple):
                table[name] = settings[name] | existing(score, *row, extra)
            else:
                key = settings[name] | digest_of_first(row, y, seeds, per_class)
                if first:
                    key |= {"changes_from": first}
                    key |= {"sha256 of changes_from": table[first]["sha256 of images"]}
                table[name] = resumed(stored.get(name, {}), key)
                if not table[name]:
                    if first and first not in scores:  # it was resumed
                        _, scores[first] = sampled(score, rows[first], y, seeds, extra)
                    columns, scores[name] = sampled(score, row, y, seeds, extra)
                    table[name] = key | columns
                    if first:
                        table[name] |= scores[name].changes_from(scores[first])
                first = first or name
        except Exception as error:  # the other rows continue
            table[name] = {"error": f"{type(error).__name__}: {error}"}
            if not isinstance(error, UserError):
                tqdm.write(traceback.format_exc())
        shown = (f"{key} {cell(table[name], key)}" for key in SHOWN if key in table[name])
        tqdm.write(f"{name}: {'  '.join(shown)}")
        if path:
            kept = stored | {k: v for k, v in table.items() if "error" not in v or k not in stored}
            write_rows(path, [{"images": key} | columns for key, columns in kept.items()])
    return table


def taken(dataset, split, index):
    """Images and labels of a split, (N, C, H, W) and (N,), at the indices (K, M)."""
    return tuple(part[index.flatten()] for part in dataset.splits[split])


def scored(judge, info, half, train_images, images, labels):
    """The columns of uint8 images, and their `Scores` against half of the real images."""
    names, number = list(METRICS), min(len(images), len(half.images))
    if number < PER_CLASS * len(info["dataset"]["classes"]):
        names = [name for name in names if name not in OF_MANY_IMAGES]
        warnings.warn(f"no {', '.join(OF_MANY_IMAGES)} with only {number} images", stacklevel=2)
    scores = Scores(readings(judge, images, labels), half, names)
    columns = scores.row()
    if labels is None:
        columns = {key: value for key, value in columns.items() if "accuracy" not in key}
    nearest = nearest_distances(images, train_images)
    columns |= {"nearest": nearest.min().item(), "nearest_median": nearest.median().item()}
    columns |= {"sha256 of images": digest(images), "sha256 of judge": info["sha256"]}
    return columns | {"torch": torch.__version__, "diffusers": diffusers.__version__}, scores


def existing(score, images, labels, extra):
    """The columns of real images, or of existing samples."""
    images = to_uint8(images)
    columns, _ = score(images, labels)
    return columns | (extra(from_uint8(images), labels) if extra else {})


def sampled(score, row, y, seeds, extra):
    """The columns of the samples of a function, and their `Scores`."""
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)  # in every row, not only in the first
        samples = to_uint8(row(y, seeds)).cpu()
    seconds = time.perf_counter() - start
    columns, scores = score(samples, y)
    columns |= {"seconds": seconds / len(y)}
    return columns | (extra(from_uint8(samples), y) if extra else {}), scores


# --- rows that a file has ---


def stored_rows(path, settings, info):
    """The measured rows of a CSV file: name -> columns, as text.

    Raises UserError if `measure` did not write it, or if a row would be replaced by one with other
    settings (name -> columns) or another judge.
    """
    try:
        stored = {row["images"]: row for row in read_rows(path) if "error" not in row}
    except (KeyError, ValueError) as error:  # another file's columns, or not a text
        raise UserError(f"{path} is not a table of `measure`; choose another file") from error
    for name in settings.keys() & stored.keys():
        for key, value in (settings[name] | {"sha256 of judge": info["sha256"]}).items():
            found = stored[name].get(key, as_text(value))
            if found != as_text(value):
                raise UserError(
                    f"{path} has {name!r} with {key} {found} instead of {value}; "
                    "choose another name or another file"
                )
    return stored


def settings_of(row, y, split, seed):
    """The settings of a row as columns; functions by their names."""
    if isinstance(row, tuple):
        return {"n": len(row[0]), "split": split}
    columns = {"n": len(y), "split": split, "seed": seed}
    if isinstance(row, partial):
        if row.func is sample:
            columns |= {"steps": STEPS} | ({} if "loop" in row.keywords else {"sampler": SAMPLER})
        for key, value in row.keywords.items():
            name = getattr(value, "__qualname__", type(value).__name__)
            columns[key] = name if callable(value) else value
    return columns


def digest_of_first(row, y, seeds, per_class):
    """The SHA-256 of the first image of each class, as a column."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {"sha256 of first images": digest(row(y[::per_class], seeds[::per_class]))}


def resumed(known, key):
    """The columns of a stored row as numbers; none of them if it differs from `key`."""
    same = all(known.get(column) == as_text(value) for column, value in key.items())
    return {column: as_number(value) for column, value in known.items()} if same else {}


# --- helpers ---


def digest(images):
    """The SHA-256 of images as uint8."""
    return hashlib.sha256(to_uint8(images).cpu().numpy().tobytes()).hexdigest()


def name_of(info):
    """The name of a dataset, given its `Dataset.info`."""
    return info["kind"] if info["kind"] == info["name"] else f"the folder {info['name'][:8]}"


def cell(row, column):
    """A column of a row as text, with its interval if it has one; "" if the row lacks it."""
    value = row.get(column, "")
    if value == "":
        return ""
    if f"{column}_low" not in row:
        return as_text(value)
    numbers = [float(row[column + end]) for end in ("", "_low", "_high")]
    digits = 4 if column.startswith(("accuracy", "mean_intensity")) else 3
    sign = "+" if column.endswith("_change") else ""
    value, low, high = (f"{number:{sign}.{digits}f}" for number in numbers)
    return f"{value} [{low}, {high}]"
