"""Write the students' copies of the lessons to course/blanks/.

    python -m course.make_blanks
    python -m course.make_blanks --no-solutions    # for a course

The metadata of a code cell has its blanks: hint -> lines, which are replaced by the hint and `...`.
They follow the cell as a collapsed solution. Text cells with the tag "result" say what the cell
above shows; they are collapsed, too.
"""

import argparse
import re
import textwrap

import nbformat

from support.files import ROOT, atomic_write

LINK = re.compile(r"(\]\(|src=\")(?!\w+:|#|attachment:)")
FOLD = "<details><summary>{}</summary>\n\n{}\n\n</details>"
LESSONS = sorted((ROOT / "course").glob("[12]_*.ipynb"))


def student_copy(notebook, solutions=True):
    """A copy of a lesson with blanks and without outputs."""
    copy = nbformat.v4.new_notebook(metadata={"kernelspec": notebook.metadata.kernelspec})
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            # links from course/blanks/ to the same files; copies link to copies
            source = re.sub(r"\]\(\.\./(?=[12]_)", "](", LINK.sub(r"\1../", cell.source))
            if "result" in cell.metadata.get("tags", []):
                source = FOLD.format("What you see", source)
            copy.cells.append(nbformat.v4.new_markdown_cell(source, id=cell.id))
            continue
        blanks = cell.metadata.get("blanks", {})
        code = nbformat.v4.new_code_cell(cell.source, id=cell.id)
        copy.cells.append(code)
        for hint, lines in blanks.items():
            # inside a function `...`, elsewhere `NAME = ...`
            indent, name = re.match(r"( *)(\w+ = )?", lines).groups()
            blank = f"{indent}# your lines: {hint}\n{indent}{'' if indent else name}..."
            code.source = code.source.replace(lines, blank)
        if blanks and solutions:
            text = "\n\n".join(map(textwrap.dedent, blanks.values()))
            source = FOLD.format("Solution", f"```python\n{text}\n```")
            copy.cells.append(nbformat.v4.new_markdown_cell(source, id=f"{cell.id}-solution"))
    return copy


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--no-solutions", action="store_true", help="leave out the solutions")
    solutions = not parser.parse_args().no_solutions
    for path in LESSONS:
        copy = nbformat.writes(student_copy(nbformat.read(path, as_version=4), solutions))
        with atomic_write(ROOT / "course" / "blanks" / path.name) as file:
            file.write(f"{copy}\n".encode())


if __name__ == "__main__":
    main()
