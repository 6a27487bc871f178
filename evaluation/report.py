"""Tables: rows as dicts, in CSV files, and as they are shown on pages.

    python -m evaluation.report    # the tables of README.md and results/README.md

On a page, `<!-- table FILE.csv: COLUMN COLUMN ... -->` stands above a table of results/FILE.csv,
whose two lines of headings are left as they are.
"""

import csv
import io
import re

import diffusers
import torch

from support.cli import ArgumentParser, one_line_errors
from support.errors import UserError
from support.files import ROOT, atomic_write, check_outputs

VERSIONS = {"torch": torch.__version__, "diffusers": diffusers.__version__}  # columns
PAGES = (ROOT / "README.md", ROOT / "results" / "README.md")
HEADING = r"(?P<heading><!-- table (?P<file>\S+): (?P<columns>.*) -->\n\|.*\n\|.*\n)"
TABLE = re.compile(HEADING + r"(?P<rows>(?:\|.*\n)*)")


def as_text(value):
    """A value as it is in the file: a window as 250-750, other numbers with six digits."""
    if isinstance(value, tuple):
        return "-".join(map(str, value))
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def described(settings):
    """Settings in words, without hashes and without what is not used."""
    used = {name: as_text(value) for name, value in settings.items() if "sha256" not in name}
    return ", ".join(f"{name} {text}" for name, text in used.items() if text != "-")


def check_new_table(path):
    """Raises UserError if a file of rows cannot be written, or is there already."""
    check_outputs(path)
    if path.exists():
        raise UserError(f"{path} exists: name another file")


def read_rows(path):
    """The rows of a CSV file, dicts of strings. Raises UserError if it cannot be read."""
    try:
        with open(path, newline="") as file:
            return list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: {error}") from error


def write_rows(path, rows):
    """Write dicts as a CSV file, see `as_text`; where a row lacks a column, "-"."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    lines = [[as_text(row.get(column, "-")) for column in columns] for row in rows]
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([columns, *lines])
    with atomic_write(path) as file:
        file.write(text.getvalue().encode())


def page_with_tables(text):
    """The text of a page with its tables as in the CSV files.

    Raises UserError if a file, a column, or a row that the page has is missing.
    """

    def table(found):
        columns, rows = found["columns"].split(), read_rows(ROOT / "results" / found["file"])
        before = found["rows"].count("\n")
        if len(rows) < before:
            fewer = f"{found['file']} has {len(rows)} rows, but its table {before}"
            raise UserError(f"{fewer}: measure it again, or delete rows of the table first")
        for column in columns:
            if not any(column in row for row in rows):
                raise UserError(f"{found['file']} has no column {column!r}")
        lines = [f"| {' | '.join(cell(row, column) for column in columns)} |\n" for row in rows]
        return found["heading"] + "".join(lines)

    return TABLE.sub(table, text)


def cell(row, column):
    """A column of a row for readers: a setting, or a number with its interval if it has one."""
    text = row.get(column, "-")
    if column == "images" and text == "samples":
        text = row["method"]
    if text == "-":
        return ""
    if column == "mcnemar_p":
        return f"{float(text):.2g}" if float(text) >= 1e-4 else "< 0.0001"
    if f"{column}_low" not in row:
        return text.rpartition(".py:")[2]  # of FILE.py:NAME, the name
    numbers = [float(row[column + end]) for end in ("", "_low", "_high")]
    digits = 4 if column.startswith(("accuracy", "boldness")) else 3
    if abs(numbers[0]) >= 10:
        digits = 0
    sign = "+" if column.endswith("_change") else ""
    value, low, high = (f"{number:{sign}.{digits}f}" for number in numbers)
    return f"{value} [{low}, {high}]"


@one_line_errors
def main(argv=None):
    ArgumentParser(__doc__).parse_args(argv)
    texts = {page: page_with_tables(page.read_text()) for page in PAGES}
    for page, text in texts.items():
        with atomic_write(page) as file:
            file.write(text.encode())
        print(page)


if __name__ == "__main__":
    main()
