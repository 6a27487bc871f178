"""Write course/blanks/, the students' copies of the notebooks: python -m course.make_blanks

Of the lines between `# blank: HINT` and `# end`, only the name stays that the last one sets: None.
"""

import re

import nbformat

from support.cli import ROOT, ArgumentParser, one_line_errors
from support.files import atomic_write

BLANK = re.compile(r"^( *)# blank: (.*)\n(?:.*\n)*? *(\w+) = .*\n\1# end$", re.MULTILINE)
LINK = re.compile(r"\]\((?!\w+:|#|[1-6]_)")  # to a file that is no notebook of the course


def student_copy(notebook):
    """Blank the lines of a notebook, in place, and clear its outputs: the notebook."""
    notebook.metadata = {"kernelspec": notebook.metadata.kernelspec}
    for cell in notebook.cells:
        cell.metadata = {}
        if cell.cell_type == "code":
            cell.source = BLANK.sub(r"\1\3 = None  # your code: \2", cell.source)
            cell.outputs, cell.execution_count = [], None
        else:
            cell.source = LINK.sub("](../", cell.source)  # a copy lies one folder deeper
    return notebook


@one_line_errors
def main(argv=None):
    ArgumentParser(__doc__).parse_args(argv)
    for path in sorted((ROOT / "course").glob("[1-6]_*.ipynb")):
        with atomic_write(path.parent / "blanks" / path.name) as file:
            copy = student_copy(nbformat.read(path, as_version=4))
            file.write(f"{nbformat.writes(copy)}\n".encode())


if __name__ == "__main__":
    main()
