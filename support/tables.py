"""Tables that are measured row by row, and can be continued after an interruption."""

import csv
import io
import sys
from pathlib import Path

from support.errors import UserError
from support.files import atomic_write, check_writable


def fill_table(path, wanted, measure, resume=False):
    """Measure every row and write them to `path`: the rows.

    Rows measured so far are in `<name>.partial.csv` until the table is whole.

    Args:
        path: the CSV file, or None to write nothing.
        wanted: a dict of strings for each row: what identifies it, such as settings and hashes.
        measure: such a dict -> the row, which contains it.
        resume: take the rows of the partial file as measured.

    Raises:
        UserError: the file cannot be written; with `resume`, there is no partial file, or it has
            other rows.
    """
    partial = path and Path(path).with_suffix(".partial.csv")
    if path:
        check_writable(path, partial)
    rows = resumed_rows(partial, wanted) if resume else []
    try:
        for settings in wanted[len(rows) :]:
            rows.append(measure(settings))
            if partial:
                write_rows(partial, rows)
    except KeyboardInterrupt:
        if partial and rows:
            print(f"{len(rows)} rows are in {partial}; --resume continues", file=sys.stderr)
        raise
    if partial:
        write_rows(path, rows)
        partial.unlink()
    return rows


def resumed_rows(partial, wanted):
    """The rows of a partial file. Raises UserError if they are not the first of those wanted."""
    if not partial.exists():
        raise UserError(f"--resume: there is no {partial}; start without --resume")
    rows = read_rows(partial)
    pairs = list(zip(rows, wanted))
    same = all(row.get(name) == value for row, want in pairs for name, value in want.items())
    if len(rows) > len(wanted) or not same:
        raise UserError(
            f"--resume: {partial} has rows of other settings or weights; start without --resume"
        )
    print(f"--resume: {len(rows)} of {len(wanted)} rows are taken from {partial}")
    return rows


def read_rows(path):
    """The rows of a CSV file, dicts of strings."""
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def write_rows(path, rows):
    """Write dicts as a CSV file."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    with atomic_write(path) as file:
        file.write(text.getvalue().encode())
