"""Write the lecturer's copy of the notebook: its solution lines become blanks to fill in.

    python examples/make_exercise.py exercise.ipynb

A line `name = ...  # BLANK: hint` becomes `name = None  # your code: hint`. The checks stay, and
say what is still blank. Outputs are cleared.
"""

import re
import sys
from pathlib import Path

import nbformat

NOTEBOOK = Path(__file__).resolve().parent.parent / "quick_demo_CGD.ipynb"
SOLUTION = re.compile(r"^( *\w+) = .*  # BLANK", re.MULTILINE)


def make_exercise(notebook):
    """Blank the solution lines of a notebook, in place, and clear its outputs: the notebook."""
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.source = SOLUTION.sub(r"\1 = None  # your code", cell.source)
            cell.outputs, cell.execution_count = [], None
    return notebook


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    nbformat.write(make_exercise(nbformat.read(NOTEBOOK, as_version=4)), sys.argv[1])
    print(f"{sys.argv[1]}: the lecturer's copy")
