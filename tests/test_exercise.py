"""The exercise: each blank of the student's copy has its own check, which notices mistakes."""

import copy
import re

import matplotlib
import nbformat
import pytest
from conftest import ROOT

from examples.make_exercise import BLANK, blank, make_exercise

NOTEBOOK = nbformat.read(ROOT / "quick_demo_CGD.ipynb", as_version=4)
BLANKS = [match for cell in NOTEBOOK.cells for match in BLANK.finditer(cell.source)]
# words of cells that are slow, and that no check needs
SLOW = ("interact(", "predict_noised", ", asked", "few", "table.items", "table.values", "top_half")
SLOW += ("10_000", "on_same", "percent", "windows", "draw_setting", "not_y")


@pytest.fixture(scope="module")
def before():
    """The source of each cell that has a check -> the names before it runs; short trainings."""
    matplotlib.use("agg")
    names, before = {}, {}
    for cell in NOTEBOOK.cells:
        if cell.cell_type != "code":
            continue
        if "check(" in cell.source:
            before[cell.source] = dict(names)
        elif any(word in cell.source for word in SLOW):
            continue  # no check depends on it
        exec(re.sub(r"\[: 1[05]0 \*", "[: 2 *", cell.source), names)
        matplotlib.pyplot.close("all")
    return before


def run_with(before, lines, replacement):
    """Run the cell that has these lines, with others in their place."""
    [source] = [source for source in before if lines in source]
    exec(source.replace(lines, replacement), dict(before[source]))


MISTAKES = [  # a part of a line, a wrong one, and the check that notices
    ("(2 * p_1 - 1 - x) / variance", "(2 * p_1 - 1 - x) / width**2", "score on a line"),
    ("-(1 - ALPHAS_CUMPROD[t]).sqrt() * score", "-score", "noise from the score"),
    ("F.mse_loss(network(x_t, t)", "F.mse_loss(network(x_0, t)", "loss of the U-Net"),
    ("optimizer.zero_grad()\n", "\n", "weight after two steps"),
    ("eps - s * (1 - abar(t)).sqrt() * grad", "eps - s * grad", "guided noise"),
    ("eps - s * (1 - abar(t)).sqrt() * grad", "eps + s * (1 - abar(t)).sqrt() * grad", "guided"),
    ("s * (1 - abar(t)).sqrt() * grad", "s * (1 - abar(t // 2)).sqrt() * grad", "guided noise"),
    ("log_p(x_t, t, y).sum(), x_t)", "log_p(x_t, t, y).mean(), x_t)", "gradient"),
    ("a_next.sqrt() * x_0 + (1 - a_next)", "a.sqrt() * x_0 + (1 - a)", "next x_t"),
    ("x_0 = predicted_image(x_t, eps, a)\n        x_t", "x_0 = x_t\n        x_t", "reverse loop"),
    ("abars[k], abars[k + 1], s)", "abars[k], abars[k], s)", "from pure noise"),
    ("(1 - a_next - beta).sqrt()", "(1 - a_next).sqrt()", "step with fresh noise"),
    ("low <= t < high else 0)", "low < t <= high else 0)", "guided between"),
    ("best = distance.argmin()", "best = distance.argmax()", "is best"),
    ("along.sum() / size.sum()", "(along / size).mean()", "best scale"),
    (".var(dim=0).sum()", ".var(dim=0).mean()", "spread"),
    ("spread_of(first, draw) for", "spread_of(first, draws[0]) for", "changes"),
    ("unet(x_t, t).sample, abar", "unet(x_t.detach(), t).sample, abar", "its gradient"),
    ("(x_0 - unseen[y])[:, :, :14]", "(x_0 - unseen[y])[:, :, 14:]", "inpainting"),
    ("next_x_t(predicted_image(x_t, eps_hat, a), eps_hat", "next_x_t(x_t, eps_hat", "guided step"),
    ("turned, t, y % 10", "turned, t, y // 10", "two guides"),
    ("eps + s * (eps_y - eps)", "eps_y + s * (eps_y - eps)", "classifier-free formula"),
]


@pytest.mark.parametrize("line, mistake, check", MISTAKES)
def test_a_mistake_is_noticed(before, line, mistake, check):
    with pytest.raises(AssertionError, match=f"{check}.*wrong by"):
        run_with(before, line, mistake)


@pytest.mark.parametrize("match", BLANKS, ids=lambda match: match[2])
def test_a_blank_stops_at_its_own_check(before, match):
    with pytest.raises(AssertionError, match="still blank"):
        run_with(before, match[0], blank(match))


# --- the student's copy ---


def test_the_copy_is_the_notebook_but_for_blanks_and_guesses():
    made = make_exercise(copy.deepcopy(NOTEBOOK))
    assert nbformat.read(ROOT / "exercise.ipynb", as_version=4) == made  # make it again
    assert len(made.cells) == len(NOTEBOOK.cells)
    text = "\n".join(cell.source for cell in made.cells)
    assert text.count(" = None  # your code: ") == len(BLANKS)
    assert text.count("guess = None  # your guess") >= 8
    assert not any(match[3] in text for match in BLANKS)
