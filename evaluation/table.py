"""Measures the rows of a table, and keeps them in a CSV file.

There, a row has its settings, the SHA-256 of what made it, the measures with their intervals,
seconds per image, and the change from the first row that is drawn. Of a guide or a variant in
FILE.py, only that file is hashed, and not what it reads.
"""

import csv
import io
import platform
import re
import time
from pathlib import Path

import diffusers
import torch
from tqdm import tqdm

from evaluation.measures import nearest_distances
from support.cli import UserError, require
from support.files import atomic_write

SHOWN = {  # the main measures -> their names for readers
    "accuracy": "accuracy",
    "frechet": "Fréchet distance",
    "precision": "precision",
    "recall": "recall",
}


def measure_rows(rows, reference, path=None, resume=False):
    """Measure every row, print it, and keep it in a CSV file.

    Args:
        rows: a list of `rows.Row`. reference: a `rows.Reference`.
        path: the CSV file, or None. resume: continue that file.

    Raises:
        UserError: the file cannot be written; with `resume`, it has other rows.
    """
    done = resumed_rows(path, rows) if resume else []
    first = next((row for row in rows if row.sampled), None)
    first_scores = None
    for row in rows[len(done) :]:
        scores, result = measure_row(row, reference)
        if row is first:
            first_scores = scores
        elif row.sampled:
            if first_scores is None:  # the first row was done before
                first_scores, _ = measure_row(first, reference)
            result |= scores.changes_from(first_scores)
        done.append(result | where_it_ran(reference.device))
        print_row(row, result)
        if path:
            write_rows(path, done)


def measure_row(row, reference):
    """The `Scores` of a row, and all that is told of it: a dict."""
    draw = row.load()
    start = time.perf_counter()
    images, labels = draw()
    seconds = (time.perf_counter() - start) / len(images)
    scores = reference.scores(images, labels)
    measured = scores.row()
    if labels is None:  # what the judge reads was taken for right
        measured = {name: v for name, v in measured.items() if not name.startswith("accuracy")}
    if row.sampled:
        measured["seconds"] = seconds
    nearest = nearest_distances(images, reference.train_images)  # is it copying?
    measured |= {"nearest": nearest.min().item(), "nearest_median": nearest.median().item()}
    return scores, row.settings | measured


def where_it_ran(device):
    """The versions of torch and diffusers, the device, and the name of the CPU: a dict."""
    cpu = platform.processor()
    if Path("/proc/cpuinfo").exists():  # on Linux, where platform does not know it
        found = re.search("model name.*: (.*)", Path("/proc/cpuinfo").read_text())
        cpu = found[1] if found else cpu
    versions = {"torch": torch.__version__, "diffusers": diffusers.__version__}
    return versions | {"device": str(device), "cpu": cpu}


def print_row(row, result):
    """Print what a row is, and its main measures."""
    shown = [value for name, value in row.settings.items() if "sha256" not in name]
    measures = []
    for column, title in SHOWN.items():
        if column in result:
            value, low, high = (result[column + end] for end in ("", "_low", "_high"))
            measures.append(f"{title} {value:.4f} [{low:.4f}, {high:.4f}]")
    tqdm.write(f"{', '.join(shown)}\n    {'  '.join(measures)}")


def resumed_rows(path, rows):
    """The rows of a file. Raises UserError if they are not the first of those wanted."""
    done = read_rows(path) if path.exists() else []
    same = all(result.items() >= row.settings.items() for result, row in zip(done, rows))
    other = f"--resume: {path} has rows of other settings or weights; name another file"
    require(same and len(done) <= len(rows), other)
    print(f"--resume: {len(done)} of {len(rows)} rows are taken from {path}")
    return done


def read_rows(path):
    """The rows of a CSV file, dicts of strings. Raises UserError if it cannot be read."""
    try:
        with open(path, newline="") as file:
            return list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: {error}") from error


def write_rows(path, rows):
    """Write dicts as a CSV file, numbers with four decimals; where a row lacks a column, "-"."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="-", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({k: f"{v:.4f}" if isinstance(v, float) else v for k, v in row.items()})
    with atomic_write(path) as file:
        file.write(text.getvalue().encode())
