"""The lessons run, empty and filled, and their checks name what is wrong."""

import contextlib
import io
import re
from functools import partial

import matplotlib
import matplotlib.pyplot as plt
import nbformat
import pytest
from conftest import ROOT
from PIL import Image

import inference
from course.exercises import LESSON_2
from course.lesson import read_photo
from course.make_blanks import LESSONS, student_copy
from diffusion import END

read = partial(nbformat.read, as_version=4)
each_lesson = pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
FEWER = {  # samples and steps
    '("train")': '("validation")',
    "1_000_000)": "100_000)",
    "y = torch.arange(10)": "y = torch.arange(2)",
    "*sampling_times(1000, 20), END": "999, 699, 399, 199, END",
    "[::2], 3": "[::2], 1",
    "levels = 8, [899, 799, 699, 599, 499, 399, 299, 199]": "levels = 8, [899, 199]",
    "(499, 399, 299, 199)": "(499,)",
    "real[:300], noise(300, 2)": "real[:9], noise(9, 2)",
    "real_labels[:300]": "real_labels[:9]",
    "(300,)": "(9,)",
    "y.repeat(5)": "y",
    "times[:-1:3]": "(699, 399)",
    "(299, 449, 599, 749)": "(399,)",
    "(0, 85, 93, 97, 99, 100)": "(0, 100)",
}
WRONG = {  # lesson -> code of an exercise, a mistake in it, and a keyword of the message
    "1_two_arrows": [
        ("softmax(dim=1)  # (B", "softmax(dim=0)  # (B", "over the points"),
        ("torch.cat(world)", "torch.cat([world[0], world[1]])", "two classes"),
        ("share = ", "two[0][:] = 0; share = ", "changes `two`"),
        ("width**2 * abar[t] + 1 - abar[t]\n", "0.15**2 * abar[t] + 1 - abar[t]\n", "always 0.15"),
        ("eps - s * (1 - abar", "eps + s * (1 - abar", "sign of `grad`"),
        ("return eps - s", "return (eps, grad); eps - s", "a tuple (Tensor, Tensor)"),
        ("(1 - abar[t]).sqrt() * eps) /", "(1 - abar[t]).sqrt_() * eps) *", "abar[t].sqrt()"),
        ("(1 - abar[u]).sqrt() * eps", "(1 - abar[t]).sqrt() * eps", "yours is (1 - abar[t])"),
        ("    return path", "    return iter(path)", "a list_iterator"),
        ("    return path", "    return path[1:]", "timesteps should be 999"),
        ("path.append((t, x_t, x_0))", "path.append((t, x_t.numpy(), x_0))", "a ndarray"),
        ("x_t = x_u_at(x_0, eps_hat", "x_t = x_u_at(x_0, eps", "without guidance"),
        (
            "t, y, world, width)\n        eps",
            "t, 1, world, width)\n        eps",
            "With other arguments",
        ),
        ("path = []", "path, x_t = [], x_t + 1", "not the argument"),
    ],
    "2_guidance": [
        (".clamp(-1, 1)\n    return eps_from", "\n    return eps_from", "nothing is clipped"),
        ("log_p.sum()", "log_p.mean()", "average"),
        ("classifier.log_p(x, ", "classifier.log_p(x.detach(), ", "does not require grad"),
        (
            "eps - s * (1 - abar[t]).sqrt()",
            "eps - s * (1 - abar[t])",
            "yours is -s * (1 - abar[t])",
        ),
        ("x_0_from_eps(x_t, eps_hat", "x_0_from_eps(x_t, mean_noise(x_t, t)", "`grad` is missing"),
        ("eps_hat, abar[t])\n", "eps_hat, abar[t]).clamp(-1, 1)\n", "after the guidance"),
        ('"A": "root", "B"', '"B": "root", "A"', "2 of 4"),
        ("(1 - abar[t]) / abar[t].sqrt() * grad\n    ", "0\n    ", "only the noise changes"),
        ("x_0 + s * (1 - abar[t]) /", "x_0 - s * (1 - abar[t]) /", "sign of `grad`"),
        ("eps_u + s * (eps_c - eps_u)", "eps_c + s * (eps_c - eps_u)", "yours is -s"),
    ],
}


def code_cells(notebook):
    return [cell.source for cell in notebook.cells if cell.cell_type == "code"]


@pytest.fixture
def run(monkeypatch):
    """Run cells in the folder of a notebook, with fewer samples and steps: what each prints."""
    matplotlib.use("agg")
    monkeypatch.syspath_prepend(ROOT)
    monkeypatch.setattr(inference, "sample", partial(inference.sample, steps=2))
    monkeypatch.setattr(LESSON_2.exercises["exercise 4"], "times", (999, 699, 399, 199, END))

    def run(cells, path):
        monkeypatch.chdir(path.parent)
        names, printed = {"__name__": "__main__"}, []
        for cell in cells:
            for many, few in FEWER.items():
                cell = cell.replace(many, few)
            with contextlib.redirect_stdout(io.StringIO()) as out:
                exec(cell, names)
            plt.close("all")
            printed.append(out.getvalue())
        return printed

    return run


@each_lesson
def test_it_runs_and_its_checks_name_mistakes(path, run):
    cells, again = code_cells(read(path)), []
    for right, wrong, _ in WRONG[path.stem]:
        task = next(k for k, cell in enumerate(cells) if right in cell)
        check = re.findall(r"^.*lesson\.check.*$", "\n".join(cells[task : task + 2]), re.MULTILINE)
        again += [cells[task].replace(right, wrong), *["\n".join(check)] * 2, cells[task]]
    printed = run([*cells, *again], path)
    assert "not yet" not in "".join(printed[: len(cells)])
    for k, (_, wrong, keyword) in enumerate(WRONG[path.stem]):
        once, twice = printed[len(cells) + 4 * k + 1 :][:2]
        assert keyword in once and once == twice, wrong


@each_lesson
def test_it_runs_with_every_blank_empty(path, run):
    printed = run(code_cells(student_copy(read(path))), ROOT / "course" / "blanks" / path.name)
    assert ": correct" not in "".join(printed)


@each_lesson
def test_it_is_saved_with_the_outputs_of_one_run_and_its_copy_is_up_to_date(path):
    lesson = read(path)
    counts = [cell.execution_count for cell in lesson.cells if cell.cell_type == "code"]
    assert counts == [*range(1, len(counts) + 1)]
    assert read(ROOT / "course" / "blanks" / path.name) == student_copy(lesson)
    assert "Solution" not in str(student_copy(lesson, solutions=False))


@pytest.mark.parametrize("answer", [["root", "Plus ", "MEAN", "clip"], {"B": "plus"}, "root", 3])
def test_matches(answer, capsys):
    words = ["root", "plus", "mean", "clip"]
    LESSON_2.check_match("exercise 5", answer, words)
    assert LESSON_2.correct["exercise 5"] == isinstance(answer, list)


def test_a_photo_becomes_ink(tmp_path):
    photo = Image.new("L", (280, 280), 220)  # light, with a dark square
    photo.paste(30, (90, 90, 190, 190))
    photo.save(tmp_path / "photo.png")
    ink = read_photo(tmp_path / "photo.png")
    assert ink[0, 0, 14, 14] == 1 and ink[0, 0, 2, 2] == -1
