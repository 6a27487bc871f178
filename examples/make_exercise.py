"""Write the lecturer's copy of the notebook: its solution lines become blanks to fill in.

    python examples/make_exercise.py exercise.ipynb

A line `name = ...  # BLANK: hint` becomes `name = None  # your code: hint`. The checks stay, and
say what is still blank. Outputs are cleared.
"""

import re
import sys
from pathlib import Path

import nbformat

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from support import cli, errors, files

NOTEBOOK = files.beside("quick_demo_CGD.ipynb")
SOLUTION = re.compile(r"^( *\w+) = .*  # BLANK", re.MULTILINE)


def make_exercise(notebook):
    """Blank the solution lines of a notebook, in place, and clear its outputs: the notebook."""
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.source = SOLUTION.sub(r"\1 = None  # your code", cell.source)
            cell.outputs, cell.execution_count = [], None
    return notebook


@cli.one_line_errors
def main(argv=None):
    parser = cli.ArgumentParser(__doc__)
    parser.add_argument("output", metavar="FILE.ipynb", type=Path)
    output = parser.parse_args(argv).output
    errors.require(output.resolve() != NOTEBOOK, f"{output} has the solutions: name another file")
    files.check_writable(output)
    notebook = make_exercise(nbformat.read(NOTEBOOK, as_version=4))
    with files.atomic_write(output) as file:
        file.write(f"{nbformat.writes(notebook)}\n".encode())
    print(f"{output}: the lecturer's copy")


if __name__ == "__main__":
    main()
