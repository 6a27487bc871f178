"""Write the lecturer's copy of the notebook: its solution lines become blanks to fill in.

    python -m examples.make_exercise    # exercise.ipynb

A line `name = ...  # BLANK: hint` becomes `name = None  # your code: hint`. The checks stay, and
say what is still blank. Outputs are cleared.
"""

import re

import nbformat

from support.cli import ROOT, ArgumentParser, one_line_errors
from support.files import atomic_write

SOLUTION = re.compile(r"^( *\w+) = .*  # BLANK", re.MULTILINE)


def make_exercise(notebook):
    """Blank the solution lines of a notebook, in place, and clear its outputs: the notebook."""
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.source = SOLUTION.sub(r"\1 = None  # your code", cell.source)
            cell.outputs, cell.execution_count = [], None
    return notebook


@one_line_errors
def main(argv=None):
    ArgumentParser(__doc__).parse_args(argv)
    notebook = nbformat.read(ROOT / "quick_demo_CGD.ipynb", as_version=4)
    with atomic_write(ROOT / "exercise.ipynb") as file:
        file.write(f"{nbformat.writes(make_exercise(notebook))}\n".encode())
    print(f"{ROOT / 'exercise.ipynb'}: the lecturer's copy")


if __name__ == "__main__":
    main()
