"""The demo runs with what a reader may try; the lessons run, and name a wrong answer."""

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

from course.lesson import verdict
from course.make_blanks import LESSONS, student_copy

read = partial(nbformat.read, as_version=4)
DEMO = ROOT / "quick_demo_CGD.ipynb"
each_lesson = pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)

FEWER = {  # samples and steps
    "torch.arange(10).repeat(10)": "torch.arange(10)",
    "torch.randn(100, 1, 28, 28,": "torch.randn(10, 1, 28, 28,",
    "1_000_000)": "100_000)",
    "2_000_000, 2)": "200_000, 2)",
    "repeat_interleave(20)": "repeat_interleave(4)",
    "arange(200).view(10, 20)": "arange(40).view(10, 4)",
    "repeat_interleave(10)": "repeat_interleave(2)",
    "arange(100).view(10, 10)": "arange(20).view(10, 2)",
    "[:20] for digit": "[:4] for digit",
    "(10, 20, 50, 100, 200)": "(10, 20)",
    "digits.repeat(30)": "digits.repeat(3)",
    "range(300)": "range(30)",
    "(my_training, unet, 600)": "(my_training, unet, 20)",
    "steps=150": "steps=20",
    "repeat(20), range(1_000, 1_200)": "repeat(1), range(1_000, 1_010)",
    '("train")': '("validation")',
    "levels = 699, 599, 499, 399, 299, 199, 99, 49": "levels = 499, 49",
    "(part[:300] for": "(part[:20] for",
    "torch.full((300,), t)": "torch.full((20,), t)",
    "torch.full((200,), t)": "torch.full((20,), t)",
    "5_000, 100)": "5_000, 10)",
    "9_000, 300)": "9_000, 10)",
    'sampler="sde-dpmsolver++", steps=10': 'sampler="sde-dpmsolver++", steps=3',
}
CHECK = re.compile(r"verdict\(|checked_path\(|judge_comparison\(")
FAILED = re.compile("[Nn]ot yet|still empty|not finished|raises [A-Z]|nothing to|expected")
WRONG = {  # notebook -> a line, a mistake in it, and how it is named
    "1_two_arrows": ("eps - s * root", "eps + s * root", "added instead of subtracted"),
    "2_guidance": ("log_p.sum()", "log_p.mean()", "mean: the ten numbers"),
    "3_train_your_own_pair": ("eps + s * (eps_y", "eps + (s + 1) * (eps_y", "uses s + 1"),
    "4_measure_it": ("min(2 * heads", "min(1 * heads", "one-sided"),
    "5_why_one_is_not_enough": ("(free.eps(x_t, t, none) -", "-(free.eps(x_t, t, none) -", "sign"),
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
BOTH_WAYS = "return classifier.log_p(x_t, t, y) + classifier.log_p(x_t.flip(2, 3), t, turned)"
EVEN = "return classifier(x_t, t).log_softmax(dim=1)[:, ::2].logsumexp(dim=1)"
TRIES = {  # what a reader may change in the demo
    "nothing": {},
    "a short number": {NUMBER: "[0, 1, 7]", "noise(1, seed=1)": "noise(1, seed=9)"},
    "a long number": {NUMBER: "[0] * 11", "target = 5": "target = 3"},
    "a seed and a scale": {"seed = 5": "seed = 77", "s, y = 1,": "s, y = 20,", "== 3]": "== 4]"},
    "any even digit": {BOTH_WAYS: EVEN},
    "a mirror": {".flip(2, 3)": ".flip(3)", "5, 9, 7, 8, 6]": "2, 6, 7, 8, 9]"},
}


@pytest.mark.parametrize("change", TRIES)
def test_the_demo_runs_with_what_a_reader_may_try(change, run, monkeypatch):
    fewer = {"steps=20": "steps=5", "(949, 799,": "(199,) or (949, 799,"}
    cells = code_cells(read(DEMO))
    monkeypatch.setattr(plt.Figure, "savefig", lambda *args, **settings: None)
    for old, new in (TRIES[change] | fewer).items():
        assert any(old in cell for cell in cells)
        cells = [cell.replace(old, new) for cell in cells]
    run(cells, DEMO)


@each_lesson
def test_it_runs_and_names_a_wrong_answer(path, run):
    cells, (right, wrong, name) = code_cells(read(path)), WRONG[path.stem]
    task = next(k for k, cell in enumerate(cells) if right in cell)
    checks = [cell for cell in cells[task + 1 : task + 4] if CHECK.search(cell)]
    again = [cells[task].replace(right, wrong), *checks[:1]]
    printed = run([*cells, *again], path)
    assert not FAILED.search("".join(printed[: len(cells)]))
    assert name in "".join(printed[len(cells) :])


@each_lesson
def test_it_runs_with_every_blank_empty(path, run):
    copy = student_copy(read(path))
    printed = "".join(run(code_cells(copy), ROOT / "course" / "blanks" / path.name))
    assert FAILED.search(printed)


@each_lesson
def test_the_copy_in_blanks_is_up_to_date(path):
    made = student_copy(read(path))  # else: python -m course.make_blanks
    assert read(ROOT / "course" / "blanks" / path.name) == made
    assert any("Solution</summary>" in cell.source for cell in made.cells)


@pytest.mark.parametrize("path", [DEMO, *LESSONS], ids=lambda path: path.stem)
def test_it_is_saved_with_the_outputs_of_one_run(path):
    counts = [cell.execution_count for cell in read(path).cells if cell.cell_type == "code"]
    assert counts == [*range(1, len(counts) + 1)]


def test_a_verdict(capsys):
    mistakes = {"the cosine": lambda: torch.ones(2).cos()}
    right, other = torch.ones(2).sin(), torch.zeros(2)
    for answer in (right, torch.ones(2).cos(), other, torch.zeros(3), None):
        verdict("it", answer, right, mistakes)
    lines = capsys.readouterr().out.splitlines()
    expected = ["correct", "the cosine", "not a mistake we recognize", "got (3,)", "nothing"]
    assert all(words in line for words, line in zip(expected, lines, strict=True))
