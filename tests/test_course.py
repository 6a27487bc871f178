"""The demo runs with what a reader may try; the lessons run, and notice wrong answers."""

import contextlib
import io
import re
import sys
from functools import partial

import matplotlib
import matplotlib.pyplot as plt
import nbformat
import pytest
import torch
from conftest import ROOT
from PIL import Image

from course.lesson import checked_value, read_photo
from course.make_blanks import LESSONS, student_copy

read = partial(nbformat.read, as_version=4)
DEMO = ROOT / "quick_demo_CGD.ipynb"
each_lesson = pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)

FEWER = {  # samples and steps of the demo and of the lessons
    '("train")': '("validation")',
    "1_000_000)": "100_000)",
    "*sampling_times(1000, 20), END": "999, 699, 399, 199, END",
    "y = torch.arange(10)": "y = torch.arange(2)",
    "y.repeat(5)": "y",
    "times[:-1:3]": "(699, 399)",
}
FAILED = re.compile("not yet|still empty")
CLIP = "clipped_noise(x_t, unet(x_t, t).sample - s * root * grad, abar[t])"
WRONG = {  # lesson -> code of an exercise, a mistake in it, and a keyword of the message
    "1_two_arrows": [
        ("eps - s * root", "eps + s * root", "wrong sign"),
        ("eps - s * root", "eps - 1.37 * s * root", "1.370 times"),
        ("guide(x_t, t, y, world)", "guide(x_t, t, 1, world)", "another x_t"),
        ("abar[u]).sqrt() * eps_hat", "abar[u]).sqrt() * eps", "in `x_t` at"),
        ("path.append", "x_0[3, 0] += 0.01; path.append", "1 of 800"),
        ("centers, path", "x_t = start[: len(x_t)]; centers, path", "not the argument"),
    ],
    "2_guidance": [
        ("eps - s * root", "eps + s * root", "plus"),
        ("s * root *", "s *", "root"),
        ("log_p.sum()", "log_p.mean()", "mean"),
        ("eps - s * root * grad", CLIP, "clip"),
        ("eps - s * root", "eps - 1.37 * s * root", "1.370 times"),
        ("s * root *", "s * root**2 *", "without the root"),
        ("eps = clipped_noise(x_t, eps, abar[t])", "pass", "not clipped"),
        ("t), y)", "t), torch.arange(len(x)))", "another s"),
        ("x_t, x_0))", "x_t, x_0[:1]))", "shape"),
        ("path = []", "path, x_t = [], x_T[: len(x_t)]", "not the argument"),
        ("t), y)", "t), y).detach()", "do not detach"),
        ("return change", "return 2 * change", "2.000"),
        ("classifier(x_t, t, y), (1", "classifier(x_t, 399, y), (1", "times"),
    ],
}


def code_cells(notebook):
    return [cell.source for cell in notebook.cells if cell.cell_type == "code"]


@pytest.fixture
def run(monkeypatch):
    """Run code in the folder of a notebook, with fewer samples and steps: what each cell prints."""
    matplotlib.use("agg")
    monkeypatch.setattr(sys, "path", [*sys.path])

    def run(cells, path):
        monkeypatch.chdir(path.parent)
        names, printed = {"__name__": "__main__"}, []
        for cell in cells:
            for many, few in FEWER.items():
                cell = cell.replace(many, few)
            with contextlib.redirect_stdout(io.StringIO()) as out:
                exec(compile(cell, path.name, "exec"), names)
            plt.close("all")
            printed.append(out.getvalue())
        return printed

    return run


NUMBER = "[3, 1, 4, 1, 5, 9, 2, 6, 5, 3]"
TRIES = {  # what a reader may change in the demo
    "breaking it": {"return eps - s": "return eps + s", "log_p_y.sum()": "log_p_y.mean()"},
    "others": {NUMBER: "[0] * 11", "seed = 2": "seed = 77", "size, x_T = 5": "size, x_T = 3"},
}


@pytest.mark.parametrize("change", TRIES)
def test_the_demo_runs_with_what_a_reader_may_try(change, run, monkeypatch):
    fewer = {"steps=20": "steps=5", "(**SCHEDULE), 500": "(**SCHEDULE), 60"}
    guide = re.search(r"```python\n(.*)```", read(DEMO).cells[-1].source, re.DOTALL)[1]
    both = {"    more = ": f"{guide}    more = more + "}  # with the guide that it suggests
    cells = code_cells(read(DEMO))
    monkeypatch.setattr(plt.Figure, "savefig", lambda *args, **settings: None)
    for old, new in (TRIES[change] | fewer | both).items():
        assert any(old in cell for cell in cells)
        cells = [cell.replace(old, new) for cell in cells]
    run(cells, DEMO)


@each_lesson
def test_it_runs_and_notices_wrong_answers(path, run):
    cells, mistakes, again = code_cells(read(path)), WRONG[path.stem], []
    for right, wrong, _ in mistakes:
        task = next(k for k, cell in enumerate(cells) if right in cell)
        again += [cells[task].replace(right, wrong).replace("-10)", "-111)"), cells[task + 1]]
    printed = run([*cells, *again], path)
    assert not FAILED.search("".join(printed[: len(cells)]))
    for (*_, keyword), message in zip(mistakes, printed[len(cells) + 1 :: 2], strict=True):
        assert FAILED.search(message) and keyword in message


@each_lesson
def test_it_runs_with_every_blank_empty(path, run):
    printed = run(code_cells(student_copy(read(path))), ROOT / "course" / "blanks" / path.name)
    assert FAILED.search("".join(printed))


@each_lesson
def test_the_copy_in_blanks_is_up_to_date(path):
    assert read(ROOT / "course" / "blanks" / path.name) == student_copy(read(path))


@pytest.mark.parametrize("path", [DEMO, *LESSONS], ids=lambda path: path.stem)
def test_it_is_saved_with_the_outputs_of_one_run(path):
    counts = [cell.execution_count for cell in read(path).cells if cell.cell_type == "code"]
    assert counts == [*range(1, len(counts) + 1)]


def test_a_check_compares_every_element():
    right = torch.tensor([1.0, 2.0, 3.0])
    wrong = right.flip(0), right[:2], right / 0, right + 1j, "123", None
    assert not any(checked_value("it", lambda it: it, (x,), right) for x in wrong)


def test_a_photo_becomes_ink(tmp_path):
    photo = Image.new("L", (280, 280), 220)  # light, with a dark square
    photo.paste(30, (90, 90, 190, 190))
    photo.save(tmp_path / "photo.png")
    ink = read_photo(tmp_path / "photo.png")
    assert ink[0, 0, 14, 14] == 1 and ink[0, 0, 2, 2] == -1
