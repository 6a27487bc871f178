"""The demo and the lessons run; the checks of the exercises are right."""

import re
from functools import partial
from itertools import pairwise

import nbformat
import pytest
import torch
from conftest import ROOT, run_cells

import inference
from course.checks import ABAR, check
from course.exercises import LESSON_1, LESSON_2
from inference import load_models

DEMO = nbformat.read(ROOT / "quick_demo_CGD.ipynb", as_version=4)
CODE = [cell.source for cell in DEMO.cells if cell.cell_type == "code"]
CHANGES = {  # steps and images; numbers and a guide of the reader's own
    'mnist.load("train")': "(real[:500], labels[:500])",
    'real, labels = mnist.load("validation")  # no network was trained on these images\n': "",
    "mnist = Dataset()": 'real, labels = Dataset().load("validation")',
    "range(151)": "range(2)",
    "* 10, predict)": "* 10, predict, steps=2)",
    "times = sampling_times(1000, steps=20)": "times = [799, 399, 49]",
    "699, 649, 599, 549, 499, 399, 299, 49]": "49]",
    "500, 400, 300, 200]\nrows": "200]\nrows",
    "[3, 1, 4, 1, 5,": "[0, 0,",
    "(x_0 - x_0.flip(3)).square()": "x_0",
}


def test_the_demo_runs_and_can_be_changed():
    assert all(any(old in cell for cell in CODE) for old in CHANGES)
    assert "of 7 are right" in "".join(run_cells(CODE, CHANGES))


def test_the_demo_is_short_and_saved_with_the_outputs_of_one_run():
    counts = [cell.execution_count for cell in DEMO.cells if cell.cell_type == "code"]
    assert counts == [*range(1, len(CODE) + 1)] and len(DEMO.cells) <= 18
    for question, cell in pairwise(DEMO.cells):
        assert "?**" not in question.source or "image/png" in str(cell.outputs)


LESSONS = {path.stem: path for path in sorted((ROOT / "course").glob("*.ipynb"))}
FEWER = {  # samples and steps
    '("train")': '("validation")',
    "1_000_000)": "100_000)",
    "y = torch.arange(10)": "y = torch.arange(2)",
    "*sampling_times(1000, 20), END": "999, 699, 399, 199, END",
    "[::2], 3": "[::2], 1",
    "levels = 8, [899, 799, 699, 599, 499, 399, 299, 199]": "levels = 8, [899, 199]",
    "y.repeat(5)": "y",
    "times[:-1:3]": "(699, 399)",
    "(299, 449, 599, 749)": "(399,)",
    "(0, 85, 93, 97, 99, 100)": "(0, 100)",
}
SIGNATURES = {
    "1": "x_0, eps, t",
    "2": "x_t, eps, t",
    "3": "x_t, t, y",
    "4": "eps, grad, s, t",
    "5": "x_t, eps_hat, t, u",
    "6": "x_0, y",
    "7": "grad, t, u",
    "8": "eps, eps_y, s",
}
GRADIENT = "torch.autograd.grad(classifier.log_p({0}, {1}, y){2}, x)[0]"
X, T = "(x := x_t.detach().requires_grad_())", "torch.full((3,), t)"
ANSWERS = [  # exercise of lesson 2, answer, keywords of the message
    ("1", "abar[t] ** 0.5 * x_0 + eps * (1 - abar[t]) ** 0.5", "correct."),
    ("2", "x_t / abar[t].sqrt() - (1 / abar[t] - 1).sqrt() * eps", "correct."),
    ("3", GRADIENT.format(X, T, ".sum()"), "correct."),
    ("5", "(abar[u] / abar[t]).sqrt() * (x_t - (1 - abar[t]).sqrt() * eps_hat) + "
     "(1 - abar[u]).sqrt() * eps_hat", "correct."),
    ("6", "-(x_0 - x_0.flip(3)).square().mean(dim=(1, 2, 3))", "it runs"),
    ("1", "...", "ours is used until you write yours"),
    ("1", "None", "`return` is missing"),
    ("1", "(x_0, eps)", "not a tuple"),
    ("1", "abar[399].sqrt() * x_0 + (1 - abar[399]).sqrt() * eps", "at t = 99"),
    ("1", "float(abar[t]) ** 0.5 * x_0 + float(1 - abar[t]) ** 0.5 * eps", "t = [399, 99, 999]"),
    ("1", "abar[t].sqrt() * x_t + (1 - abar[t]).sqrt() * eps", "global variable, `x_t`"),
    ("2", "(x_t - (1 - abar[t].sqrt()) * eps) / abar[t].sqrt()", "the factor of `eps`"),
    ("2", "((x_t - (1 - abar[t]).sqrt() * eps) / abar[t].sqrt()).clamp(-1, 1)", "is clipped"),
    ("2", "(x_t - 1 - abar[t].sqrt() * eps) / abar[t].sqrt()", "brackets"),
    ("2", "x_t.sub_((1 - abar[t]).sqrt() * eps) / abar[t].sqrt()", "changes its arguments"),
    ("3", GRADIENT.format(X, "t", ".sum()"), "must be a tensor"),
    ("3", GRADIENT.format(X, T, ".mean()"), "averaged"),
    ("4", "eps + s * (1 - abar[t]).sqrt() * grad", "sign of `grad`"),
    ("4", "eps + s * (1 - abar[t]) * grad", "sign and the factor of `grad`"),
    ("4", "eps - 7 * (1 - abar[t]).sqrt() * grad", "at s = 3.0"),
    ("6", "(x_0 > 0).float().mean(dim=(1, 2, 3))", "no gradient"),
    ("6", "x_0.mean() + x_0.mean(dim=(1, 2, 3))", "depends on the others"),
    ("7", "abar[u].sqrt() * (1 - abar[t]) / abar[t].sqrt() * grad", "only the image changes"),
    ("8", "eps_y + s * (eps_y - eps)", "the factor of `eps`: yours is -7"),
    ("8", "eps + (eps_y - eps)", "`s` is not used"),
]  # fmt: skip


@pytest.mark.parametrize("exercise, line, keywords", ANSWERS)
def test_checks_name_what_is_wrong_twice(exercise, line, keywords, capsys):
    names = {"torch": torch, "abar": ABAR.view(-1, 1, 1, 1).clone(), "x_t": torch.zeros(1)}
    names["classifier"] = load_models()[1]
    exec(f"def answer({SIGNATURES[exercise]}):\n    return {line}", names)
    for _ in range(2):
        used = check(LESSON_2, f"exercise {exercise}", names["answer"])
        assert keywords in capsys.readouterr().out
        assert (used is names["answer"]) == (keywords in ("correct.", "it runs"))


@pytest.mark.parametrize("name, filled", [(name, k) for name in LESSONS for k in (False, True)])
def test_a_lesson_runs_empty_and_with_its_solutions(name, filled, monkeypatch):
    """Where solutions are filled in, they are correct. It is saved with the outputs of one run."""
    cells = nbformat.read(LESSONS[name], as_version=4).cells
    counts = [cell.execution_count for cell in cells if cell.cell_type == "code"]
    assert counts == [*range(1, len(counts) + 1)]
    monkeypatch.syspath_prepend(ROOT)
    monkeypatch.chdir(ROOT / "course")
    monkeypatch.setattr(inference, "sample", partial(inference.sample, steps=2))
    code = []
    for cell in cells:
        if cell.cell_type == "code":
            code.append(cell.source.replace('sampler="ddim", steps=20', 'sampler="ddim"'))
        elif filled and "Solution</summary>" in cell.source:
            [python] = re.findall(r"```python\n(.*?)```", cell.source, re.S)
            for solution in python.split("\n\n"):
                lines = solution.strip().replace("\n", "\n    ")
                code[-1] = code[-1].replace("    return ...", f"    {lines}", 1)
    printed = "".join(run_cells(code, FEWER))
    exercises = LESSON_1 if name.startswith("1") else LESSON_2
    empty = printed.count("ours is used until you write yours")
    assert "not yet" not in printed  # when filled, only the guide of the student's own is empty
    assert empty == (("exercise 6" in exercises) if filled else len(exercises))
