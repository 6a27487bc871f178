"""The lessons run, empty and filled, and their checks name what is wrong."""

import re
from functools import partial

import nbformat
import pytest
from conftest import ROOT, run_cells

import inference
from course.exercises import LESSON_2
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
        ("torch.cat(world)", "torch.cat([world[0], world[1]])", "at t = 49"),
        ("share = ", "two[0][:] = 0; share = ", "changes `two`"),
        ("    return path", "    return iter(path)", "a list_iterator"),
        ("path.append((t, x_t, x_0))", "path.append((t, x_t.numpy(), x_0))", "a ndarray"),
        ("x_t = x_u_at(x_0, eps_hat", "x_t = x_u_at(x_0, eps", "no guidance"),
        ("grad, s, t)\n        x_0", "grad, 1.0, t)\n        x_0", "not multiplied by s"),
    ],
    "2_guidance": [
        (".clamp(-1, 1)\n    return eps_from", "\n    return eps_from", "nothing is clipped"),
        ("log_p.sum()", "log_p.mean()", "averaged"),
        ("eps - s * (1 - abar[t]).sqrt()", "eps - s * (1 - abar[t])", "yours is -s * (1 - abar"),
        ("eps_hat, abar[t])\n", "eps_hat, abar[t]).clamp(-1, 1)\n", "after the guidance"),
        ('"A": "root", "B"', '"B": "root", "A"', "2 of 4"),
        ("abar[u]).sqrt() * change_of_eps", "abar[u]).sqrt() * 0", "only the image changes"),
        ("eps_u + s * (eps_c - eps_u)", "eps_c + s * (eps_c - eps_u)", "yours is -s"),
    ],
}


def code_cells(notebook):
    return [cell.source for cell in notebook.cells if cell.cell_type == "code"]


@pytest.fixture
def run(monkeypatch):
    """Run cells in the folder of a lesson, with fewer samples and steps: what each prints."""
    monkeypatch.syspath_prepend(ROOT)
    monkeypatch.setattr(inference, "sample", partial(inference.sample, steps=2))
    monkeypatch.setattr(LESSON_2.exercises["exercise 4"], "times", (999, 699, 399, 199, END))

    def run(cells, folder):
        monkeypatch.chdir(folder)
        return run_cells(cells, FEWER)

    return run


@each_lesson
def test_it_runs_and_its_checks_name_mistakes(path, run):
    cells, again = code_cells(read(path)), []
    for right, wrong, _ in WRONG[path.stem]:
        task = next(k for k, cell in enumerate(cells) if right in cell)
        check = re.findall(r"^.*lesson\.check.*$", "\n".join(cells[task : task + 2]), re.MULTILINE)
        again += [cells[task].replace(right, wrong), *["\n".join(check)] * 2, cells[task]]
    printed = run([*cells, *again], path.parent)
    assert "not yet" not in "".join(printed[: len(cells)])
    for k, (_, wrong, keyword) in enumerate(WRONG[path.stem]):
        once, twice = printed[len(cells) + 4 * k + 1 :][:2]
        assert keyword in once and once == twice, wrong


@each_lesson
def test_it_runs_with_every_blank_empty(path, run):
    printed = run(code_cells(student_copy(read(path))), path.parent / "blanks")
    assert ": correct" not in "".join(printed)


@each_lesson
def test_it_is_saved_with_the_outputs_of_one_run_and_its_copy_is_up_to_date(path):
    lesson = read(path)
    counts = [cell.execution_count for cell in lesson.cells if cell.cell_type == "code"]
    assert counts == [*range(1, len(counts) + 1)]
    assert read(path.parent / "blanks" / path.name) == student_copy(lesson)
    assert "Solution" not in str(student_copy(lesson, solutions=False))
