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
from support.files import atomic_write, check_outputs

SHOWN = {  # the main measures -> their names for readers
    "accuracy": "accuracy",
    "frechet": "Fréchet distance",
    "precision": "precision",
    "recall": "recall",
}


def check_new_table(path, remedy="name another file"):
    """Raises UserError, with a `remedy`, if a table cannot be kept in a new file."""
    if path:
        check_outputs(path)
        require(not path.exists(), f"{path} exists: {remedy}")


def measure_rows(rows, reference, path=None, resume=False):
    """Measure every `rows.Row` against a `rows.Reference`, and print it.

    Args:
        path: the CSV file that keeps the rows, or None. resume: continue that file.

    Raises UserError if the file cannot be written; with `resume`, if it has other rows.
    """
    done = resumed_rows(path, rows) if resume else []
    first = next((row for row in rows if row.sampled), None)
    first_scores = None
    for row in rows[len(done) :]:
        scores, measured = measure_row(row, reference)
        if row is first:
            first_scores = scores
        elif row.sampled:
            if first_scores is None:  # the first row was done before
                first_scores, _ = measure_row(first, reference)
            measured |= scores.changes_from(first_scores)
        done.append(row.settings | measured | where_it_ran(reference.device))
        print_row(row, measured)
        if path:
            write_rows(path, done)


def measure_row(row, reference):
    """The `Scores` of a row, and all that is measured of it: name -> a number or text."""
    start = time.perf_counter()
    images, labels = row.draw()
    seconds = (time.perf_counter() - start) / len(images)
    scores = reference.scores(images, labels)
    measured = scores.row()
    if labels is None:  # what the judge reads was taken for right
        measured = {name: v for name, v in measured.items() if not name.startswith("accuracy")}
    if row.sampled:
        measured["seconds"] = seconds
    train_images, _ = reference.dataset.splits["train"]
    nearest = nearest_distances(images, train_images)  # is it copying?
    measured["nearest"] = nearest.min().item()
    measured["nearest_median"] = nearest.median().item()
    return scores, measured


def where_it_ran(device):
    """The versions of torch and diffusers, the device, and the name of the CPU: a dict."""
    cpu = platform.processor()
    if Path("/proc/cpuinfo").exists():  # on Linux, where platform does not know it
        found = re.search("model name.*: (.*)", Path("/proc/cpuinfo").read_text())
        cpu = found[1] if found else cpu
    versions = {"torch": torch.__version__, "diffusers": diffusers.__version__}
    return versions | {"device": str(device), "cpu": cpu}


def print_row(row, measured):
    """Print what a row is, and its main measures."""
    shown = [value for name, value in row.settings.items() if "sha256" not in name]
    known = [name for name in SHOWN if name in measured]
    measures = [f"{SHOWN[name]} {interval_text(measured, name)}" for name in known]
    tqdm.write(f"{', '.join(shown)}\n    {'  '.join(measures)}")


def interval_text(row, name):
    """A measure of a row with its interval, as text."""
    return f"{row[name]:.4f} [{row[f'{name}_low']:.4f}, {row[f'{name}_high']:.4f}]"


def resumed_rows(path, rows):
    """The rows of a file. Raises UserError if they are not the first of those wanted."""
    done = read_rows(path) if path.exists() else []
    same = all(result.items() >= row.settings.items() for result, row in zip(done, rows))
    if not same or len(done) > len(rows):
        other = "rows of other settings or weights; name another file"
        raise UserError(f"--resume: {path} has {other}")
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
    """Write dicts as a CSV file, numbers with six digits; where a row lacks a column, "-"."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="-", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()})
    with atomic_write(path) as file:
        file.write(text.getvalue().encode())
