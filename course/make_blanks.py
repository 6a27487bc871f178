"""Write the students' copies of the lessons to course/blanks/.

    python -m course.make_blanks

The metadata of a code cell lists its blanks: hint -> lines, which are replaced by the hint and
`...`. They follow the cell as a collapsed solution. Text cells with the tag "result" or "answer"
start with what the cell above shows; this part is collapsed, too.
"""

import re
import textwrap

import nbformat

from support.files import ROOT, atomic_write

LINK = re.compile(r"(\]\(|src=\")(?!\w+:|#|attachment:)")
RESULT = re.compile(r"\A(.+?)\s*(?=\n\n## |\n\n\*\*|\Z)\n*", re.DOTALL)
FOLD = "<details><summary>{}</summary>\n\n{}\n\n</details>\n\n"
LESSONS = sorted((ROOT / "course").glob("[1-5]_*.ipynb"))


def student_copy(notebook):
    """A copy of a lesson with blanks and without outputs."""
    copy = nbformat.v4.new_notebook(metadata={"kernelspec": notebook.metadata.kernelspec})
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            source = relinked(cell.source)
            if {"result", "answer"} & set(cell.metadata.get("tags", [])):
                source = RESULT.sub(lambda found: FOLD.format("What you see", found[1]), source)
            copy.cells.append(nbformat.v4.new_markdown_cell(source.rstrip(), id=cell.id))
            continue
        source, blanks = cell.source, cell.metadata.get("blanks", {})
        for hint, lines in blanks.items():
            source = source.replace(lines, emptied(hint, lines))
        copy.cells.append(nbformat.v4.new_code_cell(source, id=cell.id))
        if blanks:
            order = sorted(blanks, key=lambda hint: cell.source.index(blanks[hint]))
            lines = [textwrap.dedent(blanks[hint].strip("\n")) for hint in order]
            code = "\n\n".join(f"# {hint}\n{part}" for hint, part in zip(order, lines))
            solution = FOLD.format("Solution", f"```python\n{code}\n```").rstrip()
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
    return re.sub(r"\]\(\.\./(?=[1-5]_)", "](", LINK.sub(r"\1../", text))


def main():
    for path in LESSONS:
        copy = nbformat.writes(student_copy(nbformat.read(path, as_version=4)))
        with atomic_write(ROOT / "course" / "blanks" / path.name) as file:
            file.write(f"{copy}\n".encode())


if __name__ == "__main__":
    main()
