"""The notebook runs, keeps its budgets, and samples what inference.py samples.

In the lecturer's copy each blank stops at its check, and nothing else differs.
"""

import copy
import re

import matplotlib
import nbformat
import numpy as np
import pytest
import torch
from conftest import ROOT
from nbclient import NotebookClient

import inference
from examples.make_exercise import SOLUTION, make_exercise
from examples.make_exercise import main as make_exercise_main

NOTEBOOK = nbformat.read(ROOT / "quick_demo_CGD.ipynb", as_version=4)
FOLDED = re.compile(r"<details>.*?</details>", re.DOTALL)


def code_cells(notebook=NOTEBOOK):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


@pytest.fixture(scope="module")
def checked():
    """The cells with a check, and the names before each; the trainings take two steps."""
    matplotlib.use("agg")
    names, before = {}, {}
    for cell in code_cells():
        if "predict_noised" in cell.source:  # slow, and nothing depends on it
            continue
        if "check(" in cell.source:
            before[cell.source] = dict(names)
        exec(
            cell.source.replace("(len(images), losses", "(len(images), losses, num_steps=2"), names
        )
        matplotlib.pyplot.close("all")
        if 'check("guided loop"' in cell.source:
            return before


def run_check(checked, name, change):
    """Execute the changed cell that checks `name`."""
    source = next(source for source in checked if f'check("{name}' in source)
    assert change(source) != source
    exec(change(source), dict(checked[source]))


def blank(source):
    cell = nbformat.v4.new_code_cell(source)
    return make_exercise(nbformat.v4.new_notebook(cells=[cell])).cells[0].source


def test_it_runs_and_samples_what_inference_samples(tmp_path, unet, classifier):
    notebook, path = copy.deepcopy(NOTEBOOK), tmp_path / "guided.npy"
    last = next(cell for cell in code_cells(notebook) if "the default, by" in cell.source)
    last.source += f"\nimport numpy\nnumpy.save({str(path)!r}, guided.numpy())"
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(ROOT)}}).execute()
    expected = inference.sample(unet, classifier.log_p, torch.arange(10))  # the defaults
    assert np.abs(np.load(path) - expected.numpy()).max() < 1e-5


def test_its_cells_are_short_and_its_prose_too():
    assert 18 <= len(code_cells()) <= 24
    for cell in code_cells():
        lines = cell.source.splitlines()
        assert len(lines) <= 10 and max(map(len, lines)) <= 100, cell.source
    prose = [FOLDED.sub("", c.source) for c in NOTEBOOK.cells if c.cell_type == "markdown"]
    assert sum(len(text.split()) for text in prose) <= 1500


def test_it_is_saved_with_the_outputs_of_one_run():
    assert [cell.execution_count for cell in code_cells()] == [*range(1, len(code_cells()) + 1)]
    for cell in code_cells():
        kinds = [output.output_type for output in cell.outputs]
        assert kinds and "error" not in kinds, cell.source


@pytest.mark.parametrize(
    "name, root",
    [
        ("guided samples at scale 1", "(1 - ALPHAS_CUMPROD[t]).sqrt() * "),
        ("guided noise", "(1 - abar(t)).sqrt() * "),
    ],
)
def test_a_check_fails_without_the_root(checked, name, root):
    with pytest.raises(AssertionError, match=f"{name}: wrong by"):
        run_check(checked, name, lambda source: source.replace(root, ""))


def test_each_blank_has_its_check(checked):
    assert {source for source in checked if SOLUTION.search(source)} == {
        cell.source for cell in code_cells() if "# BLANK" in cell.source
    }


@pytest.mark.parametrize("name", ["reverse loop", "gradient", "guided noise", "guided loop"])
def test_a_blank_stops_at_its_check(checked, name):
    with pytest.raises(AssertionError, match=f"{name}: still blank"):
        run_check(checked, name, blank)


def test_the_copy_does_not_replace_the_notebook(fails, tmp_path, monkeypatch):
    notebook, made = tmp_path / "original.ipynb", tmp_path / "copy.ipynb"
    nbformat.write(NOTEBOOK, notebook)
    before = notebook.read_bytes()
    monkeypatch.setattr("examples.make_exercise.NOTEBOOK", notebook)
    assert "has the solutions" in fails(make_exercise_main, notebook)
    assert "does not exist" in fails(make_exercise_main, tmp_path / "none" / "copy.ipynb")
    make_exercise_main([str(made)])
    assert notebook.read_bytes() == before
    assert nbformat.read(made, as_version=4) == make_exercise(copy.deepcopy(NOTEBOOK))


def test_the_copy_is_the_notebook_but_for_its_blanks():
    exercise = make_exercise(copy.deepcopy(NOTEBOOK))
    for made, cell in zip(code_cells(exercise), code_cells()):
        assert made.outputs == [] and made.execution_count is None
        for line, original in zip(made.source.splitlines(), cell.source.splitlines(), strict=True):
            assert (line == original) != ("# BLANK" in original)
            assert line == original or re.search(r"\w = None  # your code", line)
