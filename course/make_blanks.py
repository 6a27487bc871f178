"""Write the students' copies of the lessons to course/blanks/.

    python -m course.make_blanks

The metadata of a code cell has its blank: hint -> lines, which are replaced by the hint and `...`.
They follow the cell as a collapsed solution. Text cells with the tag "result" say what the cell
above shows; they are collapsed, too.
"""

import re
import textwrap

import nbformat

from support.files import ROOT, atomic_write

LINK = re.compile(r"(\]\(|src=\")(?!\w+:|#|attachment:)")
FOLD = "<details><summary>{}</summary>\n\n{}\n\n</details>"
LESSONS = sorted((ROOT / "course").glob("[12]_*.ipynb"))


def student_copy(notebook):
    """A copy of a lesson with blanks and without outputs."""
    copy = nbformat.v4.new_notebook(metadata={"kernelspec": notebook.metadata.kernelspec})
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            source = relinked(cell.source)
            if "result" in cell.metadata.get("tags", []):
                source = FOLD.format("What you see", source)
            copy.cells.append(nbformat.v4.new_markdown_cell(source, id=cell.id))
            continue
        code = nbformat.v4.new_code_cell(cell.source, id=cell.id)
        copy.cells.append(code)
        for hint, lines in cell.metadata.get("blanks", {}).items():
            code.source = code.source.replace(lines, emptied(hint, lines))
            solution = FOLD.format("Solution", f"```python\n{textwrap.dedent(lines)}\n```")
            copy.cells.append(nbformat.v4.new_markdown_cell(solution, id=f"{cell.id}-solution"))
    return copy


def emptied(hint, lines):
    """What replaces the lines of a blank: inside a function `...`, elsewhere NAME = None."""
    indent = re.match(r"\n*( *)", lines)[1]
    if indent:
        return f"{indent}# your lines: {hint}\n{indent}..."
    return f"# your answer: {hint}\n{lines.split(' = ')[0]} = None"


def relinked(text):
    """Links from course/blanks/ to the same files; copies link to copies."""
    return re.sub(r"\]\(\.\./(?=[12]_)", "](", LINK.sub(r"\1../", text))


def main():
    for path in LESSONS:
        copy = nbformat.writes(student_copy(nbformat.read(path, as_version=4)))
        with atomic_write(ROOT / "course" / "blanks" / path.name) as file:
            file.write(f"{copy}\n".encode())


if __name__ == "__main__":
    main()
