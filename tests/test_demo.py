"""The demo runs with empty and with filled exercises, and its checks name what is wrong."""

import re
from itertools import pairwise

import nbformat
import pytest
import torch
from conftest import ROOT, run_cells

from classifier import Classifier
from support.checks import ABAR, check

DEMO = nbformat.read(ROOT / "quick_demo_CGD.ipynb", as_version=4)
CODE = [cell.source for cell in DEMO.cells if cell.cell_type == "code"]
TEXT = [cell.source for cell in DEMO.cells if cell.cell_type == "markdown"]
FOLDED = re.compile(r"<details>.*?</details>", re.DOTALL)
SOLUTIONS = [line for text in TEXT for line in re.findall(r"Solution</summary>\n\n`(.*)`", text)]
WISHES = re.findall(r"^- .*: `(.*)`$", TEXT[-1], re.MULTILINE)
MIRROR = "-(x_0 - x_0.flip(3)).square().mean(dim=(1, 2, 3))"
FEWER = {  # steps and images
    'mnist.load("train")': "(real[:500], labels[:500])",
    "* 10, predict)": "* 10, predict, steps=2)",
    "range(151)": "range(2)",
    "times = sampling_times(1000, steps=20)": "times = [799, 399, 49]",
    "699, 649, 599, 549, 499, 399, 299, 49]": "49]",
    "300, 200]\nrows": "300]\nrows",
}


def run(changes):
    """Run the demo with changed code: what it prints."""
    changes = changes | FEWER
    assert all(any(old in cell for cell in CODE) for old in changes)
    return "".join(run_cells(CODE, changes))


def test_it_runs_with_empty_exercises():
    assert run({}).count("It is still empty") == 4


def test_it_runs_with_filled_exercises_and_what_a_reader_may_try():
    empty = [cell for cell in CODE if "return ..." in cell]
    filled = {cell: cell.replace("...", line) for cell, line in zip(empty, SOLUTIONS, strict=True)}
    tries = {"y, size = digits": "y, size = digits[:1]", "[3, 1, 4, 1, 5,": "[0, 0,"}
    printed = run(filled | tries | {MIRROR: WISHES[-1]})
    assert printed.count(": correct.") == 5 and "of 7 are right" in printed


def test_it_is_short_and_saved_with_the_outputs_of_one_run():
    counts = [cell.execution_count for cell in DEMO.cells if cell.cell_type == "code"]
    assert counts == [*range(1, len(CODE) + 1)] and len(DEMO.cells) <= 28
    assert sum(len(FOLDED.sub("", text).split()) for text in TEXT) <= 950
    for question, cell in pairwise(DEMO.cells):
        assert "?**" not in question.source or "image/png" not in str(cell.get("outputs"))


# --- the checks ---

SIGNATURES = ["x_0, eps, t", "x_t, eps, t", "x_0, eps, t, u", "eps, grad, s, t", "x_0, y"]
ANSWERS = [  # exercise, answer, keywords of the message
    (1, "abar[t] ** 0.5 * x_0 + eps * (1 - abar[t]) ** 0.5", "correct."),
    (2, "x_t / abar[t].sqrt() - (1 / abar[t] - 1).sqrt() * eps", "correct."),
    *[(5, line, "correct.") for line in (MIRROR, *WISHES)],
    (1, "...", "empty"),
    (1, "(x_0, eps)", "not a tuple"),
    (1, "abar[399].sqrt() * x_0 + (1 - abar[399]).sqrt() * eps", "at t = 99"),
    (1, "float(abar[t]) ** 0.5 * x_0 + float(1 - abar[t]) ** 0.5 * eps", "t = [399, 99, 999]"),
    (1, "abar[t].sqrt_() * x_0 + (1 - abar[t]).sqrt() * eps", "changes `abar`"),
    (2, "(x_t - (1 - abar[t].sqrt()) * eps) / abar[t].sqrt()", "(1 - abar[t].sqrt()) / abar"),
    (2, "((x_t - (1 - abar[t]).sqrt() * eps) / abar[t].sqrt()).clamp(-1, 1)", "is clipped"),
    (2, "(x_t - 1 - abar[t].sqrt() * eps) / abar[t].sqrt()", "brackets"),
    (2, "x_t.sub_((1 - abar[t]).sqrt() * eps) / abar[t].sqrt()", "changes its arguments"),
    (3, "abar[t].sqrt() * x_0 + (1 - abar[u]).sqrt() * eps", "`x_0` is wrong: yours is abar[t]"),
    (3, "abar[u].sqrt() * x_0 + (1 - abar[u]).sqrt() * torch.randn_like(eps)", "not a sum"),
    (4, "eps + s * (1 - abar[t]).sqrt() * grad", "sign of `grad`"),
    (4, "eps - 7 * (1 - abar[t]).sqrt() * grad", "at s = 3.0"),
    (5, "(x_0 > 0).float().mean(dim=(1, 2, 3))", "no gradient"),
    (5, "x_0.mean() + x_0.mean(dim=(1, 2, 3))", "depends on the others"),
]


def define(exercise, line, **others):
    """The answer to an exercise that returns the value of a line."""
    abar = ABAR.view(-1, 1, 1, 1).clone()
    names = {"torch": torch, "abar": abar, "included": Classifier()} | others
    exec(f"def answer({SIGNATURES[exercise - 1]}):\n    return {line}", names)
    return names["answer"]


@pytest.mark.parametrize("exercise, line, keywords", ANSWERS)
def test_checks_name_what_is_wrong_twice(exercise, line, keywords, capsys):
    answer = define(exercise, line)
    for _ in range(2):
        used = check(f"exercise {exercise}", answer)
        assert keywords in capsys.readouterr().out
        assert (used is answer) == (keywords == "correct.")


def test_checks_find_a_changed_table_a_missing_function_and_our_solution(capsys):
    ours = check("exercise 2", None)
    check("exercise 2", define(2, "ours(x_t, eps, t)", ours=ours))
    check("exercise 2", define(2, "x_t", abar=ABAR.sqrt()))
    words = "not a function.*our solution, or calls it.*`abar` has changed"
    assert re.search(words, capsys.readouterr().out, re.DOTALL)
