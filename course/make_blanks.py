"""Write course/blanks/, the students' copies of the notebooks: python -m course.make_blanks

Of the lines between `# blank: HINT` and `# end`, only the name stays that the last one sets: None.
What the text below a cell says of its result, up to a heading or a bold question, is folded.
A cell that is named as a check is folded too: Jupyter opens it at a click.
"""

import re

import nbformat

from support.files import ROOT, atomic_write

BLANK = re.compile(r"^( *)# blank: (.*)\n(?:.*\n)*? *(\w+) = .*\n\1# end$", re.MULTILINE)
LINK = re.compile(r"\]\((?!\w+:|#|[1-6]_)")  # to a file that is no notebook of the course
RESULT = re.compile(r"\A(?!<details>|## |\*\*)(.+?)\s*(?=\n\n## |\n\n\*\*|\Z)\n*", re.DOTALL)
FOLDED = "<details><summary>What we see</summary>\n\n\\1\n</details>\n\n"


def student_copy(notebook):
    """Blank the lines of a notebook, in place, fold, and clear its outputs: the notebook."""
    notebook.metadata = {"kernelspec": notebook.metadata.kernelspec}
    for before, cell in zip([None, *notebook.cells], notebook.cells):
        cell.metadata = {}
        if cell.cell_type == "code":
            cell.source = BLANK.sub(r"\1\3 = None  # your code: \2", cell.source)
            cell.outputs, cell.execution_count = [], None
            if cell.source.startswith("# The check"):
                cell.metadata = {"jupyter": {"source_hidden": True}}
            continue
        cell.source = LINK.sub("](../", cell.source)  # a copy lies one folder deeper
        if before and before.cell_type == "code":
            cell.source = RESULT.sub(FOLDED, cell.source)
    return notebook


def main():
    for path in (ROOT / "course").glob("[1-6]_*.ipynb"):
        copy = nbformat.writes(student_copy(nbformat.read(path, as_version=4)))
        with atomic_write(path.parent / "blanks" / path.name) as file:
            file.write(f"{copy}\n".encode())


if __name__ == "__main__":
    main()
