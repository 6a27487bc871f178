"""Evaluate samples in one table, with one row per name.

    from functools import partial
    from evaluation.table import measure
    from inference import gradient, guided, load_models, sample

    ddpm, classifier = load_models()
    eps_hat = guided(ddpm, gradient(classifier.log_p), 5)
    measure({
        "unguided": partial(sample, ddpm),
        "s = 5": partial(sample, ddpm, eps_hat=eps_hat),
        "s = 5, DDIM": partial(sample, ddpm, eps_hat=eps_hat, sampler="ddim", steps=20),
        "my samples": (images, labels),
    }, n=500)

Choose settings with the default split and seed; report results with split="test", seed=0.
"""

import contextlib
import hashlib
import time
import traceback
import warnings
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import diffusers
import torch
from torch.nn.modules.module import register_module_forward_hook
from torch.nn.modules.module import register_module_forward_pre_hook
from tqdm import tqdm

from data import Dataset, from_uint8
from evaluation.judge import load_judge
from evaluation.measures import Scores, balanced_parts, nearest_distances, readings
from inference import SAMPLER, STEPS, sample
from support.cli import UserError
from support.files import as_number, as_text, read_rows, write_rows
from support.pictures import to_uint8
from support.streams import image_seeds

SHOWN = ("accuracy", "frechet", "precision", "recall", "network_calls")
PER_CLASS = 10  # with fewer images per class, precision and recall mean nothing


def measure(
    rows, n=2_000, split="validation", seed=1, dataset=None, judge=None, path=None, extra=None
):
    """Compare class-balanced samples with half of the real images of a split.

    Args:
        rows: name (text) -> a function (y (N,), seeds (N ints)) -> images (N, C, H, W), such as
            `partial(sample, ddpm, eps_hat=eps_hat)`; or existing samples, (images, labels or None).
            Images are in [-1, 1] or uint8. A function is called twice, first with the first label
            and seed of each class.
        n: samples per row, rounded down to a multiple of the number of classes.
        dataset, judge: a `Dataset` and its `Judge`; MNIST and the shipped judge by default.
        path: a CSV file, updated after every row. Sampled rows after the first are skipped if the
            file has them: same name, n, split, seed, and judge, same first row, and same first
            image of each class. Rows with other names stay in the file. To add columns, delete it.
        extra: (images (N, C, H, W) in [-1, 1], labels) -> dict of additional columns.

    Returns:
        name -> dict of columns: the metrics with 95% confidence intervals, and the provenance of
        the row. Real images come first: the other half of the split and, with split="test", the
        validation images. Changes are relative to the first sampled row (same noise). If a row
        fails, its only column is `error`, and the other rows continue.

    Raises UserError if n is too small, or if the judge was trained on a different dataset.
    """
    dataset, judge = dataset or Dataset(), judge or load_judge()
    if judge.dataset != dataset.info:
        raise UserError(f"{judge.checkpoint} was trained on a different dataset")
    num_classes = len(dataset.info["classes"])
    if n < PER_CLASS * num_classes:
        raise UserError(f"n must be at least {PER_CLASS * num_classes}, {PER_CLASS} per class")
    y = torch.arange(num_classes).repeat_interleave(n // num_classes)
    seeds = image_seeds(seed, y.tolist())
    images, labels = dataset.splits[split]
    here, there = balanced_parts(labels, 2, num_classes)  # (K, M) each
    reference = readings(judge, images[here.flatten()], labels[here.flatten()])
    stored = {row["images"]: row for row in read_rows(path)} if path and Path(path).exists() else {}
    table, first = {}, SimpleNamespace(scores=None)

    def add(name, images, labels, columns):
        """Add a row to the table, and return its `Scores`."""
        scores = Scores(readings(judge, images, labels), reference)
        columns = {"n": len(images), "split": split} | columns | scores.row()
        if labels is None:
            columns = {key: value for key, value in columns.items() if "accuracy" not in key}
        nearest = nearest_distances(images, dataset.splits["train"][0])
        columns |= {"nearest": nearest.min().item(), "nearest_median": nearest.median().item()}
        columns |= {"sha256 of images": digest(images), "sha256 of judge": judge.sha256}
        columns |= {"torch": torch.__version__, "diffusers": diffusers.__version__}
        shown = [f"{key} {cell(columns, key)}" for key in SHOWN if key in columns]
        tqdm.write(f"{name}: {'  '.join(shown)}")
        table[name] = columns
        return scores

    def add_real(name, split, index):
        index = index[:, : n // num_classes].flatten()
        add(name, *(part[index] for part in dataset.splits[split]), {"split": split})

    def add_existing(name, images, labels):
        if len(images) < PER_CLASS * num_classes:
            raise UserError(f"got {len(images)} images; {PER_CLASS} per class are needed")
        images = to_uint8(images)
        add(name, images, labels, extra(from_uint8(images), labels) if extra else {})

    def add_sampled(name, row):
        few = slice(None, None, n // num_classes)  # the first image of each class
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            columns = {"seed": seed, "sha256 of first images": digest(row(y[few], seeds[few]))}
        if first.scores:
            columns |= {"changes_from": first.name, "sha256 of changes_from": first.digest}
            key = columns | {"n": len(y), "split": split, "sha256 of judge": judge.sha256}
            if all(stored.get(name, {}).get(k) == str(value) for k, value in key.items()):
                tqdm.write(f"{name}: already in {path}")
                table[name] = {k: as_number(value) for k, value in stored[name].items()}
                return
        samples, provenance = draw(row, y, seeds)
        columns |= provenance | (extra(from_uint8(samples), y) if extra else {})
        scores = add(name, samples, y, columns)
        if first.scores:
            table[name] |= scores.changes_from(first.scores)
        else:
            first.name, first.scores, first.digest = name, scores, digest(samples)

    add_real("real images", split, there)
    if split == "test":
        [everything] = balanced_parts(dataset.splits["validation"][1], 1, num_classes)
        add_real("real validation images", "validation", everything)
    for name, row in tqdm(rows.items(), desc="rows", disable=None):
        try:
            if isinstance(row, tuple):
                add_existing(name, *row)
            else:
                add_sampled(name, row)
        except Exception as error:  # the other rows continue
            table[name] = {"error": f"{type(error).__name__}: {error}"}
            shown = str(error) if isinstance(error, UserError) else traceback.format_exc()
            tqdm.write(f"{name}: error: {shown}")
        if path:
            content = {**stored, **table}
            write_rows(path, [{"images": key} | row for key, row in content.items()])
    return table


def digest(images):
    """The SHA-256 of images as uint8."""
    return hashlib.sha256(to_uint8(images).cpu().numpy().tobytes()).hexdigest()


def draw(row, y, seeds):
    """The samples of a row as uint8, and their provenance, a dict of columns."""
    start = time.perf_counter()
    with counted_calls() as counted, warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)  # in every row, not only in the first
        samples = to_uint8(row(y, seeds)).cpu()
    columns = arguments_of(row)
    columns["seconds"] = (time.perf_counter() - start) / len(y)  # per image
    columns["network_calls"] = counted.images / len(y)  # per image
    columns["networks"] = " ".join(sorted(counted.hashes))
    return samples, columns


@contextlib.contextmanager
def counted_calls():
    """Count the images that networks process: those of modules not called by another module.

    Yields `images`, a count, and `hashes`, the checkpoints of the networks. A network is called
    with its images as the first argument.
    """
    counted, depth = SimpleNamespace(images=0, hashes=set()), 0

    def enter(module, inputs):
        nonlocal depth
        depth += 1
        if depth == 1 and next(module.parameters(), None) is not None:
            counted.images += len(inputs[0])
        if hasattr(module, "sha256"):  # saved in a checkpoint
            counted.hashes.add(f"{module.checkpoint} {module.sha256}")

    def leave(*module_inputs_output):
        nonlocal depth
        depth -= 1

    with (
        register_module_forward_pre_hook(enter),
        register_module_forward_hook(leave, always_call=True),
    ):
        yield counted


def arguments_of(row):
    """The keyword arguments of a row that is a partial, as columns."""
    if not isinstance(row, partial):
        return {}
    settings = {"sampler": SAMPLER, "steps": STEPS} if row.func is sample else {}
    for key, value in row.keywords.items():
        settings[key] = described(value)
    return settings


def described(value):
    """A function by its name, a partial with its keyword arguments, anything else as it is."""
    if isinstance(value, partial):
        return f"{described(value.func)} {value.keywords}"
    return getattr(value, "__name__", type(value).__name__) if callable(value) else value


def cell(row, column):
    """A column of a row as text, with its interval if it has one; "" if the row lacks it."""
    value = row.get(column, "")
    if value == "":
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
