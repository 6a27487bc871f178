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

CHECK = re.compile(r"check(?:_guide)?\(")
NO_PICTURES = 'import matplotlib; matplotlib.use("agg")'  # faster


def code_cells(notebook):
    """Those without sliders: ipykernel 7 sometimes loses a message beside them, and waits."""
    return [c for c in notebook.cells if c.cell_type == "code" and "interact(" not in c.source]


def run(cells, path):
    """Run cells in the folder of a notebook: what each prints."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(NO_PICTURES), *cells])
    resources = {"metadata": {"path": str(path.parent)}}
    NotebookClient(notebook, timeout=600, resources=resources).execute()
    return ["".join(o.get("text", "") for o in cell.outputs) for cell in notebook.cells[1:]]


def test_the_quick_demo_runs():
    path = ROOT / "quick_demo_CGD.ipynb"
    run(code_cells(read(path)), path)


@each_lesson
def test_it_runs_with_our_lines_and_then_with_blanks(path):
    """Our lines in a blank are correct. Then it is empty, and all cells below run all the same."""
    ours, blanks = code_cells(read(path)), code_cells(student_copy(read(path)))
    cells, wanted = [], []  # and for some slices of the cells, what they print, and how often
    for k, (cell, blank) in enumerate(zip(ours, blanks)):
        if cell.source != blank.source:  # its check is here, or in the next cell
            with_check = ours[k : k + 1] if CHECK.search(cell.source) else ours[k : k + 2]
            checks = sum(len(CHECK.findall(each.source)) for each in with_check)
            wanted.append((len(cells), len(with_check), ": correct", checks))
            cells += with_check
            empty = blank.source.count(" = None  # your code: ")
            wanted.append((len(cells), len(with_check), ": still blank", empty))
        cells.append(blank)
    printed = run(cells, path)
    for start, length, words, count in wanted:
        assert "".join(printed[start : start + length]).count(words) == count, cells[start].source
    everything = "".join(printed)  # also of checks below, which have no blank of their own
    assert not re.search(": (wrong by|it raises|the shape is) ", everything)
    blank = sum(count for _, _, words, count in wanted if words == ": still blank")
    assert everything.count(": still blank") == blank


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
    mistakes = [("the cosine", torch.cos)]
    check("it", torch.cos, torch.sin, (torch.ones(2),), mistakes=mistakes)
    printed = capsys.readouterr().out
    said = re.findall("(?m)^it: (\\w+ \\w+|correct)", printed)
    wanted = ["wrong by", "still blank", "correct", "still blank", "it raises", "the shape"]
    assert said == [*wanted, "wrong by"] and printed.endswith(": the cosine\n")
