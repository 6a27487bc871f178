"""CSV files, and the tables of the pages that are filled in from them."""

import csv
import io
import re

from support.cli import UserError
from support.files import ROOT, write_files

REAL = "real images"  # the row that others are compared with
WIDEST = "± at most"  # a row with the largest half-width of the intervals of each column
TABLE = re.compile(r"(<!-- table (\S+): (.*) -->\n\|.*\n\|.*\n)((?:\|.*\n)*)")


def write_rows(path, rows):
    """Write dicts as a CSV file: floats with six digits, and "-" where a row lacks a column."""
    names, text = dict.fromkeys(name for row in rows for name in row), io.StringIO()
    writer = csv.DictWriter(text, names, restval="-", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({k: f"{x:.6g}" if isinstance(x, float) else x for k, x in row.items()})
    write_files({path: text.getvalue().encode()})


def read_rows(path):
    """The rows of a CSV file as dicts of text, without the columns that a row lacks."""
    with open(path, newline="") as file:
        return [{k: v for k, v in row.items() if v != "-"} for row in csv.DictReader(file)]


def cell(row, column):
    """A column of a row as text, with its interval if it has one; COLUMN= is without it."""
    name = column.removesuffix("=")
    if f"{name}_low" not in row:
        return str(row.get(name, ""))
    digits = 3 if "frechet" in name or name.startswith(("precision", "recall")) else 4
    style = f"{'+' if name.endswith('_change') else ''}.{digits}f"
    value, low, high = (f"{float(row[name + end]):{style}}" for end in ("", "_low", "_high"))
    return value if column.endswith("=") else f"{value} [{low}, {high}]"


def half_width(row, column):
    """The larger half of the interval of a column, or 0 if it has none."""
    name = column.removesuffix("=")
    value, low, high = (float(row.get(name + end, 0)) for end in ("", "_low", "_high"))
    return max(high - value, value - low) if f"{name}_low" in row else 0


def with_tables(page, folder=ROOT / "results"):
    """The text of a page with its tables filled in from the CSV files in a folder.

    Before each table, a comment has the form `<!-- table FILE.csv: COLUMN COLUMN ... -->`; FILE may
    be a pattern. The first column selects rows by name. Raises UserError if a row is missing.
    """

    def filled(table):
        head, files, columns, lines = table.groups()
        key, *columns = columns.split()
        rows = {row[key]: row for path in folder.glob(files) for row in read_rows(path)}
        names = [line.split("|")[1].strip() for line in lines.splitlines()]
        for name in names:
            if name == WIDEST:
                widest = (max(half_width(rows[n], c) for n in names if n != name) for c in columns)
                head += f"| {' | '.join([name, *(f'{width:.3f}' for width in widest)])} |\n"
                continue
            if name not in rows:
                raise UserError(f"{files} has no row {name!r}, which is in a table of a page")
            head += f"| {' | '.join([name, *(cell(rows[name], c) for c in columns)])} |\n"
        return head

    return TABLE.sub(filled, page)
