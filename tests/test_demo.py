"""The demo runs, also as a reader may change it."""

from itertools import pairwise

import nbformat
from conftest import ROOT, run_cells

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


def test_it_runs_and_can_be_changed():
    assert all(any(old in cell for cell in CODE) for old in CHANGES)
    assert "of 7 are right" in "".join(run_cells(CODE, CHANGES))


def test_it_is_short_and_saved_with_the_outputs_of_one_run():
    counts = [cell.execution_count for cell in DEMO.cells if cell.cell_type == "code"]
    assert counts == [*range(1, len(CODE) + 1)] and len(DEMO.cells) <= 18
    for question, cell in pairwise(DEMO.cells):
        assert "?**" not in question.source or "image/png" in str(cell.outputs)
