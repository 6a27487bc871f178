"""Evaluate samples in one table, with one row per name.

    from functools import partial
    from evaluation.table import measure
    from inference import Guided, NoisePredictor, load_models, sample

    ddpm, classifier = load_models()
    mine = Mine(ddpm, classifier.log_p)
    measure({
        "unguided": NoisePredictor(ddpm),
        "constant 5": Guided(ddpm, classifier.log_p, 5),
        "mine, DDIM": partial(sample, mine, sampler="ddim", steps=20),
        "my samples": (images, labels),
    }, n=500)

Choose settings with the default split and seed; report results with split="test", seed=0.
"""

import csv
import hashlib
import io
import time
import warnings
from functools import partial

import diffusers
import torch
from diffusers import UNet2DModel
from torch.nn.modules.module import register_module_forward_pre_hook
from tqdm import tqdm

from classifier import Classifier
from data import Dataset
from evaluation.judge import load_judge
from evaluation.measures import Scores, balanced_parts, nearest_distances, readings
from inference import SAMPLER, STEPS, sample
from support.cli import UserError
from support.files import atomic_write
from support.pictures import to_uint8
from support.streams import image_seeds

SHOWN = ("accuracy", "frechet", "precision", "recall", "network_calls")


def measure(rows, n=2_000, split="validation", seed=1, dataset=None, judge=None, path=None):
    """Compare class-balanced samples with half of the real images of a split.

    Args:
        rows: name -> a method, sampled with the default sampler; or a function (y, seeds) ->
            images (N, C, H, W), such as `partial(sample, method, steps=20)`; or existing samples,
            (images, labels or None). Images are in [-1, 1] or uint8.
        n: samples per row, rounded down to a multiple of the number of classes.
        dataset, judge: a `Dataset` and its `Judge`; MNIST and the shipped judge by default.
        path: path of a CSV file, updated after every row.

    Returns:
        name -> dict of columns: the metrics with 95% confidence intervals, and the provenance of
        the row. Real images come first: the other half of the split and, with split="test", the
        validation images. Changes are relative to the first sampled row (same noise).
    """
    dataset, judge = dataset or Dataset(), judge or load_judge()
    if judge.dataset != dataset.info:
        raise UserError(f"{judge.checkpoint} was trained on a different dataset")
    num_classes = len(dataset.info["classes"])
    y = torch.arange(num_classes).repeat_interleave(n // num_classes)
    seeds = image_seeds(seed, y.tolist())
    images, labels = dataset.splits[split]
    here, there = balanced_parts(labels, 2, num_classes)  # (K, M) each
    reference = readings(judge, images[here.flatten()], labels[here.flatten()])
    table, first = {}, None

    def add(name, images, labels, **columns):
        scores = Scores(readings(judge, images, labels), reference)
        columns |= {"n": len(images), "split": split} | scores.row()
        if labels is None:
            columns = {key: value for key, value in columns.items() if "accuracy" not in key}
        nearest = nearest_distances(images, dataset.splits["train"][0])
        columns |= {"nearest": nearest.min().item(), "nearest_median": nearest.median().item()}
        columns["sha256 of images"] = hashlib.sha256(images.numpy().tobytes()).hexdigest()
        columns |= {"sha256 of judge": judge.sha256, "torch": torch.__version__}
        columns["diffusers"] = diffusers.__version__
        table[name] = columns
        shown = [f"{key} {cell(columns, key)}" for key in SHOWN if key in columns]
        tqdm.write(f"{name}: {'  '.join(shown)}")
        return scores

    def add_real(name, split, index):
        index = index[:, : n // num_classes].flatten()
        add(name, *(part[index] for part in dataset.splits[split]))

    add_real("real images", split, there)
    if split == "test":
        [everything] = balanced_parts(dataset.splits["validation"][1], 1, num_classes)
        add_real("real validation images", "validation", everything)
    for name, row in tqdm(rows.items(), desc="rows", disable=None):
        if isinstance(row, tuple):
            add(name, to_uint8(row[0]), row[1])
        else:
            samples, columns = draw(row, y, seeds)
            scores = add(name, samples, y, seed=seed, **columns)
            if first:
                table[name] |= {"changes_from": first[0]} | scores.changes_from(first[1])
            first = first or (name, scores)
        if path:
            write_rows(path, [{"images": key} | row for key, row in table.items()])
    return table


def draw(row, y, seeds):
    """The samples of a row as uint8, and their provenance, a dict of columns."""
    row = partial(sample, row) if hasattr(row, "abar") else row  # a method
    columns, calls, hashes = {}, [], set()
    if isinstance(row, partial) and row.func is sample:
        sampler = row.keywords.get("sampler", SAMPLER)
        columns["sampler"] = getattr(sampler, "__name__", sampler)
        columns["steps"] = row.keywords.get("steps", STEPS)
        columns["scale"] = describe_scale(row.args[0])

    def count(module, inputs):
        if isinstance(module, (UNet2DModel, Classifier)):
            calls.append(len(inputs[0]))
            if hasattr(module, "sha256"):  # loaded from a checkpoint
                hashes.add(f"{module.checkpoint} {module.sha256}")

    start = time.perf_counter()
    with register_module_forward_pre_hook(count), warnings.catch_warnings():
        warnings.simplefilter("always")  # in every row, not only in the first
        samples = to_uint8(row(y, seeds))
    columns["seconds"] = (time.perf_counter() - start) / len(y)  # per image
    columns["network_calls"] = round(sum(calls) / len(y))  # per image
    columns["networks"] = " ".join(sorted(hashes))
    return samples, columns


def describe_scale(method):
    """The guidance scale of a method as text; if it varies with t, its range."""
    scale = getattr(method, "scale", None)
    if not callable(scale):
        return "none" if scale is None else f"{scale:.4g}"
    values = [scale(t) for t in range(len(method.abar) - 1)]
    low, high = min(values), max(values)
    return f"{low:.4g}" if low == high else f"{low:.4g} to {high:.4g}"


def cell(row, column):
    """A column of a row as text, with its interval if it has one; "" if the row lacks it."""
    value = row.get(column, "-")
    if value in ("-", ""):
        return ""
    if column == "mcnemar_p":
        return f"{float(value):.2g}" if float(value) >= 1e-4 else "< 0.0001"
    if f"{column}_low" not in row:
        return as_text(value)
    numbers = [float(row[column + end]) for end in ("", "_low", "_high")]
    digits = 4 if column.startswith(("accuracy", "mean_intensity", "intensity")) else 3
    sign = "+" if column.endswith("_change") else ""
    value, low, high = (f"{number:{sign}.{digits}f}" for number in numbers)
    return f"{value} [{low}, {high}]"


def as_text(value):
    """A value for a CSV file: floats with six significant digits."""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def write_rows(path, rows):
    """Write dicts as a CSV file; "-" where a row lacks a column."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    lines = [[as_text(row.get(column, "-")) for column in columns] for row in rows]
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([columns, *lines])
    with atomic_write(path) as file:
        file.write(text.getvalue().encode())
