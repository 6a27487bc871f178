"""The quick demo and the course: every notebook runs, and an empty blank stops nothing."""

import re
from functools import partial

import nbformat
import pytest
import torch
from conftest import ROOT
from nbclient import NotebookClient

from course.lesson import check
from course.make_blanks import student_copy

COURSE = sorted((ROOT / "course").glob("[1-6]_*.ipynb"))
each = partial(pytest.mark.parametrize, "path", ids=lambda path: path.stem)
each_notebook, each_lesson = each([ROOT / "quick_demo_CGD.ipynb", *COURSE]), each(COURSE)
read = partial(nbformat.read, as_version=4)


NO_PICTURES = 'import matplotlib; matplotlib.use("agg")'  # faster


def run(notebook, folder):
    """Run the code of a notebook in a folder: the source of each cell, and what it prints."""
    # no sliders: ipykernel 7 sometimes loses a message beside them, and waits for ever
    cells = [c for c in notebook.cells if c.cell_type == "code" and "interact(" not in c.source]
    notebook.cells = [nbformat.v4.new_code_cell(NO_PICTURES), *cells]
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(folder)}}).execute()
    return [(cell.source, "".join(o.get("text", "") for o in cell.outputs)) for cell in cells]


@each_notebook
def test_it_runs_and_every_check_is_correct(path):
    for source, printed in run(read(path), path.parent):
        assert printed.count(": correct\n") >= len(re.findall(r"\bcheck\(", source)), printed
        assert not re.search(": (wrong by|still blank|the shape is) ", printed), printed


@each_lesson
def test_with_nothing_filled_in_it_runs_to_its_end(path):
    cells = run(student_copy(read(path)), path.parent / "blanks")
    for k, (source, _) in enumerate(cells):  # a check is in the cell of its blank, or in the next
        printed = "".join(printed for _, printed in cells[k : k + 2])
        assert printed.count(": still blank") >= source.count(" = None  # your code: "), source


@each_lesson
def test_the_copy_is_what_the_tool_makes(path):
    made = student_copy(read(path))
    assert read(path.parent / "blanks" / path.name) == made  # else: python -m course.make_blanks
    text = "\n".join(cell.source for cell in made.cells if cell.cell_type == "code")
    assert text.count(" = None  # your code: ") >= 3 and "# blank:" not in text


@each_notebook
def test_it_is_saved_with_the_outputs_of_one_run(path):
    counts = [cell.execution_count for cell in read(path).cells if cell.cell_type == "code"]
    assert counts == [*range(1, len(counts) + 1)]


def test_a_check_says_what_is_wrong_and_goes_on(capsys):
    assert [check("it", yours, 2.0) for yours in (1.0, None, 2.0)] == [2.0, 2.0, 2.0]
    for mistake in (lambda x: None + x, lambda x: (x, x), lambda x: len(x)):
        check("it", mistake, torch.sin, (torch.ones(2, 2),))
    said = re.findall("(?m)^it: (\\w+ \\w+|correct)", capsys.readouterr().out)
    assert said == ["wrong by", "still blank", "correct", "still blank", "it raises", "the shape"]
