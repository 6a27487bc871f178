"""The demo runs with empty and with filled exercises, and its checks name what is wrong."""

import contextlib
import io
import re
from itertools import pairwise

import matplotlib
import matplotlib.pyplot as plt
import nbformat
import pytest
import torch
from conftest import ROOT

from classifier import Classifier
from support.checks import ABAR, Exercise, check

DEMO = nbformat.read(ROOT / "quick_demo_CGD.ipynb", as_version=4)
CODE = [cell.source for cell in DEMO.cells if cell.cell_type == "code"]
TEXT = [cell.source for cell in DEMO.cells if cell.cell_type == "markdown"]
FOLDED = re.compile(r"<details>.*?</details>", re.DOTALL)
SOLUTIONS = [line for text in TEXT for line in re.findall(r"Solution</summary>\n\n`(.*)`", text)]
WISHES = re.findall(r"^- .*: `(.*)`$", TEXT[-1], re.MULTILINE)
MIRROR = "-(x_0 - x_0.flip(3)).square().mean(dim=(1, 2, 3))"
FEWER = {  # steps and images
    'load_mnist("train")': "(real[:500], labels[:500])",
    "* 10, predict)": "* 10, predict, steps=2)",
    "range(151)": "range(2)",
    "times = sampling_times(1000, steps=20)": "times = [799, 399, 49]",
    "699, 649, 599, 549, 499, 399, 299, 49]": "49]",
    "300, 200]\nrows": "300]\nrows",
}


def run(changes):
    """Run the demo with changed code: what it prints."""
    matplotlib.use("agg")
    names = {}
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        for cell in CODE:
            for old, new in (changes | FEWER).items():
                cell = cell.replace(old, new)
            exec(cell, names)
            plt.close("all")
    assert all(any(old in cell for cell in CODE) for old in changes | FEWER)
    return printed.getvalue()


def test_it_runs_with_empty_exercises():
    assert run({}).count("It is still empty.") == 4


def test_it_runs_with_filled_exercises_and_what_a_reader_may_try():
    empty = [cell for cell in CODE if "return ..." in cell]
    filled = {cell: cell.replace("...", line) for cell, line in zip(empty, SOLUTIONS, strict=True)}
    tries = {"y, size = digits": "y, size = digits[:1]", "[3, 1, 4, 1, 5,": "[0, 0,"}
    printed = run(filled | tries | {MIRROR: WISHES[-1]})
    assert printed.count(": correct.") == 4
    assert "it can guide" in printed and "of 7 are right" in printed


def test_it_is_short_and_saved_with_the_outputs_of_one_run():
    counts = [cell.execution_count for cell in DEMO.cells if cell.cell_type == "code"]
    assert counts == [*range(1, len(CODE) + 1)] and len(DEMO.cells) <= 28
    assert sum(len(FOLDED.sub("", text).split()) for text in TEXT) <= 950
    for question, cell in pairwise(DEMO.cells):
        assert "?**" not in question.source or "image/png" not in str(cell.get("outputs"))


# --- the checks ---

SIGNATURES = ["x_0, eps, t", "x_t, eps, t", "x_0, eps, t, u", "eps, grad, s, t", "x_0, y"]
RIGHT = {
    1: ["abar[t] ** 0.5 * x_0 + eps * (1 - abar[t]) ** 0.5"],
    2: ["x_t / abar[t].sqrt() - (1 / abar[t] - 1).sqrt() * eps"],
    3: ["torch.lerp(x_0 * 0, x_0, abar[u].sqrt()) + noise(u) * eps"],
    4: ["-noise(t) * (-eps / noise(t) + s * grad)"],
    5: [MIRROR, *WISHES, "-x_0.flatten(1).std(dim=1)"],
}
WRONG = [  # exercise, answer, keywords of the message
    (1, "...", "empty"),
    (1, "None", "`return` is missing"),
    (1, "x_0, eps", "a tuple (Tensor, Tensor)"),
    (1, "abar[t] * x_0 + (1 - abar[t]) * eps", "yours is (1 - abar[t])"),
    (1, "abar[t - 1].sqrt() * x_0 + (1 - abar[t - 1]).sqrt() * eps", "abar[t - 1]"),
    (1, "abar.sqrt() * x_0 + (1 - abar).sqrt() * eps", "RuntimeError"),
    (1, "float(abar[t]) ** 0.5 * x_0 + float(1 - abar[t]) ** 0.5 * eps", "t = [399, 49, 999]"),
    (1, "abar[t].sqrt_() * x_0 + (1 - abar[t]).sqrt() * eps", "changes `abar`"),
    (2, "(x_t - noise(t) * eps) / abar[t]", "`x_t` is wrong: yours is 1 / abar[t]."),
    (2, "x_t - noise(t) * eps / abar[t].sqrt()", "`x_t` is wrong: yours is 1."),
    (2, "(x_t - (1 - abar[t].sqrt()) * eps) / abar[t].sqrt()", "(1 - abar[t].sqrt()) / abar"),
    (2, "((x_t - noise(t) * eps) / abar[t].sqrt()).clamp(-1, 1)", "clipping"),
    (2, "(x_t - 1 - abar[t].sqrt() * eps) / abar[t].sqrt()", "brackets"),
    (2, "x_t.sub_(noise(t) * eps) / abar[t].sqrt()", "changes its arguments"),
    (3, "abar[t - 50].sqrt() * x_0 + (1 - abar[t - 50]).sqrt() * eps", "abar[t - 50]"),
    (3, "abar[u].sqrt() * x_0 + noise(u) * torch.randn_like(eps)", "random"),
    (3, "abar[u].sqrt() * x_0 + noise(u) * z", "from outside"),
    (4, "eps + s * noise(t) * grad", "sign of `grad`"),
    (4, "eps - 7 * noise(t) * grad", "-7 * (1 - abar[t]).sqrt()"),
    (4, "s * noise(t) * grad", "`eps` is missing"),
    (5, "x_0.mean()", "shape"),
    (5, "(x_0 > 0).float().mean(dim=(1, 2, 3))", "no gradient"),
    (5, "torch.tensor(x_0.numpy().mean((1, 2, 3)))", "no gradient"),
    (5, "x_0.mean() + x_0.mean(dim=(1, 2, 3))", "depends on the others"),
]


def verdict(exercise, line, names):
    """Check an answer twice: the message, and whether the answer is used."""
    exec(f"def answer({SIGNATURES[exercise - 1]}):\n    return {line}", names)
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        used = [check(f"exercise {exercise}", names["answer"]) for _ in range(2)]
    message = printed.getvalue()
    message = message[: len(message) // 2]
    assert message * 2 == printed.getvalue() and used[0] is used[1]
    return message, used[0] is names["answer"]


@pytest.fixture
def names():
    """What the functions may use."""
    names = {"torch": torch, "z": torch.ones(1), "included": Classifier()}
    exec("def noise(t):\n    return (1 - abar[t]).sqrt()", names)
    exec("def add_noise(x_0, eps, t):\n    return abar[t].sqrt() * x_0 + noise(t) * eps", names)
    names["abar"] = ABAR.view(-1, 1, 1, 1).clone()
    return names


def test_checks_accept_what_is_right(names):
    for exercise, lines in RIGHT.items():
        for line in [*lines, *SOLUTIONS[exercise - 1 : exercise]]:
            message, used = verdict(exercise, line, names)
            assert used and "not yet" not in message


@pytest.mark.parametrize("exercise, line, keywords", WRONG)
def test_checks_name_what_is_wrong(exercise, line, keywords, names):
    message, used = verdict(exercise, line, names)
    assert keywords in message and "not yet" in message and not used


def test_checks_notice_a_changed_table_and_a_missing_function(names, capsys):
    names["abar"].sqrt_()
    assert "`abar` has changed" in verdict(2, "x_t", names)[0]
    assert check("exercise 2", None) is not None
    assert "None, not a function" in capsys.readouterr().out


def test_an_exercise_of_your_own(capsys):
    half = Exercise(lambda x: x / 2, [{"x": torch.ones(3)}], mistakes={"twice": lambda x: 2 * x})
    check("half", lambda x: 2 * x, half)
    check("half", lambda x: x, half)
    assert re.search(r"mistake: twice.*yours is 2 times", capsys.readouterr().out, re.DOTALL)
