"""The tables in README.md and in the report, filled in from the CSV files in results/.

In a page, a comment `<!-- table FILE.csv: COLUMN COLUMN ... -->` precedes each table. The first
column selects rows of results/FILE.csv by name; the other cells are filled in.
"""

import re

from evaluation.table import cell
from support.cli import UserError
from support.files import ROOT, atomic_write, read_rows

PAGES = (ROOT / "README.md", ROOT / "results" / "README.md")
TABLE = re.compile(
    r"(?P<heading><!-- table (?P<file>\S+): (?P<columns>.*) -->\n\|.*\n\|.*\n)(?P<rows>(?:\|.*\n)*)"
)


def with_tables(text):
    """The text of a page with its tables filled in."""

    def table(found):
        columns = found["columns"].split()
        rows = {row[columns[0]]: row for row in read_rows(ROOT / "results" / found["file"])}
        names = [line.split("|")[1].strip() for line in found["rows"].splitlines()]
        for name in names:
            if name not in rows or "error" in rows[name]:
                raise UserError(f"results/{found['file']} lacks the row {name!r}")
        lines = [f"| {' | '.join(cell(rows[name], key) for key in columns)} |\n" for name in names]
        return found["heading"] + "".join(lines)

    return TABLE.sub(table, text)


def update():
    """Fill in the tables of all pages."""
    for page in PAGES:
        text = with_tables(page.read_text())
        with atomic_write(page) as file:
            file.write(text.encode())
        print(page)
