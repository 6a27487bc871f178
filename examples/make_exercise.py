"""Write exercise.ipynb, the student's copy of the notebook: some lines become blanks to fill in.

    python -m examples.make_exercise

In a cell of the notebook, `# blank: HINT` and `# end` enclose the lines of a blank. In the copy,
the name that the last of them sets is None. Each `guess` loses its number, and all cells their
outputs. The checks stay, and say what is still blank.
"""

import re

import nbformat

from support.cli import ROOT, ArgumentParser, one_line_errors
from support.files import atomic_write

BLANK = re.compile(r"^( *)# blank: (.*)\n((?:.*\n)*?)\1# end$", re.MULTILINE)


def blank(match):
    """What stands in the place of a `BLANK`: its name and its hint."""
    indent, hint, lines = match.groups()
    name = lines.strip().split("\n")[-1].split(" = ")[0].strip()
    return f"{indent}{name} = None  # your code: {hint}"


def make_exercise(notebook):
    """Blank the lines of a notebook, in place, and clear its outputs: the notebook."""
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            source = BLANK.sub(blank, cell.source)
            guess = r"^guess = .*$"
            cell.source = re.sub(guess, "guess = None  # your guess", source, flags=re.MULTILINE)
            cell.outputs, cell.execution_count = [], None
    return notebook


@one_line_errors
def main(argv=None):
    ArgumentParser(__doc__).parse_args(argv)
    notebook = nbformat.read(ROOT / "quick_demo_CGD.ipynb", as_version=4)
    with atomic_write(ROOT / "exercise.ipynb") as file:
        file.write(f"{nbformat.writes(make_exercise(notebook))}\n".encode())
    print(ROOT / "exercise.ipynb")


if __name__ == "__main__":
    main()
