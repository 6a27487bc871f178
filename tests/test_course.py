"""The quick demo and the lessons: they run, empty or not, and a wrong answer is named."""

import re
from functools import partial

import nbformat
import pytest
import torch
from conftest import ROOT
from nbclient import NotebookClient

from course.lesson import attempt, show, verdict
from course.make_blanks import NOTEBOOKS, student_copy

read = partial(nbformat.read, as_version=4)
each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)

NO_PICTURES = 'import matplotlib; matplotlib.use("agg")'  # faster
FEWER = {"arange(10).repeat(10)": "arange(10).repeat(3)", "1_100)": "1_030)", "3_200)": "3_050)"}
FEWER |= {"digits.repeat(30)": "digits.repeat(3)", "range(300)": "range(30)"}
FEWER |= {"unet, 300)": "unet, 20)", "unet, 400)": "unet, 20)", "steps=150": "steps=20"}
FEWER |= {'"sde-dpmsolver++", steps=10': '"sde-dpmsolver++", steps=3'}
FEWER |= {"exact = Exact(images, labels,": "exact = Exact(images[:3_000], labels[:3_000],"}
FAILED = re.compile("not yet|is still empty|raises [A-Z]|nothing to|not ready|should be")
# in the cell that tries an answer:
TRIES = re.compile(r"verdict\(|checked_path\(|attempt\(my_guide|compared\(")
WRONG = {  # of a notebook: what becomes of a line, and what is said of it
    "quick_demo_CGD": ("eps - s * (1", "eps + s * (1", "a plus for the minus"),
    "1_two_arrows": ("eps - s * root", "eps + s * root", "a plus for the minus"),
    "2_guidance": ("log_p.sum()", "log_p.mean()", "the mean of the ten numbers"),
    "3_train_your_own_pair": ("eps + s * (eps_y", "eps + (s + 1) * (eps_y", "this is s + 1"),
    "4_measure_it": ("min(2 * heads", "min(1 * heads", "one way only"),
    "5_why_one_is_not_enough": ("return -(width", "return (width", "is the sign the right one"),
}


def code_cells(notebook):
    """In their order; without sliders: ipykernel 7 sometimes loses a message beside them."""
    cells = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    return [cell for cell in cells if "play(draw" not in cell]


def run(cells, path):
    """Run code in the folder of a notebook, with fewer samples and steps: what each prints."""
    for many, few in FEWER.items():
        cells = [cell.replace(many, few) for cell in cells]
    cells = [nbformat.v4.new_code_cell(cell) for cell in (NO_PICTURES, *cells)]
    resources = {"metadata": {"path": str(path.parent)}}
    NotebookClient(
        nbformat.v4.new_notebook(cells=cells), timeout=600, resources=resources
    ).execute()
    return ["".join(o.get("text", "") for o in cell.outputs) for cell in cells[1:]]


@each_notebook
def test_it_runs_and_then_names_a_wrong_answer(path):
    cells, (right, wrong, name) = code_cells(read(path)), WRONG[path.stem]
    task = next(k for k, cell in enumerate(cells) if right in cell)
    check = next(k for k in range(task, len(cells)) if TRIES.search(cells[k]))
    printed = run(
        [*cells, cells[task].replace(right, wrong), cells[check].replace(right, wrong)], path
    )
    assert not FAILED.search("".join(printed[:-2]))
    assert name in printed[-1]


@each_notebook
def test_it_runs_with_every_blank_empty(path):
    copy = student_copy(read(path), path)
    printed = "".join(run(code_cells(copy), ROOT / "course" / "blanks" / path.name))
    assert "empty" in printed or "nothing to" in printed


@each_notebook
def test_the_copy_is_what_the_tool_makes(path):
    made = student_copy(read(path), path)
    assert (
        read(ROOT / "course" / "blanks" / path.name) == made
    )  # else: python -m course.make_blanks
    text = "\n".join(cell.source for cell in made.cells)
    assert "A solution</summary>" in text and "# blank:" not in text


@each_notebook
def test_it_is_saved_with_the_outputs_of_one_run(path):
    counts = [cell.execution_count for cell in read(path).cells if cell.cell_type == "code"]
    assert counts == [*range(1, len(counts) + 1)]


def test_opened_alone_it_says_what_is_missing(tmp_path):
    for path in NOTEBOOKS:
        first = next(cell for cell in read(path).cells if cell.cell_type == "code")
        with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as stop:
            patch.chdir(tmp_path)
            exec(first.source, {})
        assert "clone" in stop.value.code and "\n" not in stop.value.code


def test_what_is_said_of_an_answer(capsys):
    mistakes = {"the cosine": lambda: torch.ones(2).cos()}
    right, other = torch.ones(2).sin(), torch.zeros(2)
    for answer in (right, torch.ones(2).cos(), other, torch.zeros(3), None):
        verdict("it", answer, right, mistakes)
    said = capsys.readouterr().out
    wanted = ["right", "the cosine", "none of the mistakes", r"the shape is \(3,\)", "nothing"]
    assert re.search("(?s)" + ".*".join(wanted), said)

    def mine(x):
        return x + None

    assert attempt(mine, 1) is None and attempt(lambda: ...) is ...
    assert "return x + None" in capsys.readouterr().out
    show({"yours": None})
    assert "yours: nothing to draw yet" in capsys.readouterr().out
