"""Write course/blanks/, the students' copies of demo and lessons: python -m course.make_blanks

The lines between `# blank: HINT` and `# end` go: a function is left with `...`, a name with None.
They come back below the cell as a solution, folded. What a text tagged as a result says, up to a
heading or a bold question, is folded too. A fold is HTML, which Jupyter, Colab and GitHub know.
"""

import re
import textwrap

import nbformat

from support.files import ROOT, atomic_write

BLANK = re.compile(r"^( *)# blank: (.*)\n((?:.*\n)*?)\1# end$", re.MULTILINE)
LINK = re.compile(r"\]\((?!\w+:|#|attachment:)")
RESULT = re.compile(r"\A(.+?)\s*(?=\n\n## |\n\n\*\*|\Z)\n*", re.DOTALL)
FOLD = "<details><summary>{}</summary>\n\n{}\n\n</details>\n\n"
NOTEBOOKS = [ROOT / "quick_demo_CGD.ipynb", *sorted((ROOT / "course").glob("[1-5]_*.ipynb"))]


def student_copy(notebook, path):
    """The copy of a notebook that lies at `path`, without outputs."""
    made = nbformat.v4.new_notebook(metadata={"kernelspec": notebook.metadata.kernelspec})
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            source = relinked(cell.source, path)
            if "result" in cell.metadata.get("tags", []):
                source = RESULT.sub(folded_result, source)
            made.cells.append(nbformat.v4.new_markdown_cell(source.rstrip(), id=cell.id))
            continue
        blanks = BLANK.findall(cell.source)
        source = BLANK.sub(emptied, cell.source)
        made.cells.append(nbformat.v4.new_code_cell(source, id=cell.id))
        if blanks:
            lines = "\n\n".join(textwrap.dedent(body).strip("\n") for _, _, body in blanks)
            solution = FOLD.format("A solution", f"```python\n{lines}\n```").rstrip()
            made.cells.append(nbformat.v4.new_markdown_cell(solution, id=f"{cell.id}-solution"))
    return made


def emptied(blank):
    """What stands in the place of a blank."""
    indent, hint, body = blank.groups()
    if indent:
        return f"{indent}# your lines: {hint}\n{indent}..."
    name = body.split(" = ")[0]
    return f"# your answer: {hint}\n{name} = None"


def folded_result(found):
    """The result at the top of a text, behind a fold."""
    return FOLD.format("What we see", found[1])


def relinked(text, path):
    """A text whose links lead to the same files from course/blanks/; copies link to copies."""
    text = LINK.sub("](../../" if path.parent == ROOT else "](../", text)
    return re.sub(r"\]\(\.\./(?=[1-5]_)", "](", text)


def main():
    for path in NOTEBOOKS:
        copy = nbformat.writes(student_copy(nbformat.read(path, as_version=4), path))
        with atomic_write(ROOT / "course" / "blanks" / path.name) as file:
            file.write(f"{copy}\n".encode())


if __name__ == "__main__":
    main()
