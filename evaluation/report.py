"""Write the tables of README.md and results/README.md from the CSV files of results/.

    python -m evaluation.report

In a page, a table stands between `<!-- table FILE.csv: COLUMN COLUMN ... -->` and `<!-- end -->`.
A column that has an interval in the file is shown with it.
"""

import re

from evaluation.table import read_rows
from support.cli import ROOT, ArgumentParser, one_line_errors
from support.files import atomic_write

PAGES = (ROOT / "README.md", ROOT / "results" / "README.md")
TABLE = re.compile(r"(<!-- table (\S+): ([^\n]*) -->\n).*?(<!-- end -->)", re.S)
HEADINGS = {  # where a column is not named as in the file
    "guidance_scale": "w",
    "scale_growth": "g",
    "window": "guided at",
    "frechet": "Fréchet",
    "frechet_change": "Fréchet, change",
    "precision_change": "precision, change",
    "recall_change": "recall, change",
    "mcnemar_p": "p",
    "snr": "SNR",
    "wrong_exact": "log p, exact",
    "wrong_ours": "log p, ours",
    "ratio": "length, exact / ours",
}


def page_with_tables(text):
    """The text of a page with its tables as in the CSV files. Raises UserError without a file."""
    return TABLE.sub(lambda found: found[1] + table(found[2], found[3].split()) + found[4], text)


def table(name, columns):
    """A table in Markdown of some columns of a CSV file of results/."""
    lines = [[HEADINGS.get(column, column) for column in columns], ["---"] * len(columns)]
    for row in read_rows(ROOT / "results" / name):
        lines.append([cell(row, column) for column in columns])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def cell(row, column):
    """What a table shows of a column: a setting, or a number with its interval if it has one."""
    text = row.get(column, "-")
    if column == "images" and text == "samples":
        text = row["variant"]
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
    for page in PAGES:
        text = page_with_tables(page.read_text())
        with atomic_write(page) as file:
            file.write(text.encode())
        print(page)


if __name__ == "__main__":
    main()
