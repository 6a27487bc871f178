"""The notebook runs, and samples what inference.py samples; in the copy each blank has its check.

Nothing else differs between the notebook and the copy.
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
from examples import make_exercise

NOTEBOOK = nbformat.read(ROOT / "quick_demo_CGD.ipynb", as_version=4)
CHECKED = ("reverse loop", "gradient", "guided noise", "guided loop")


def code_cells(notebook=NOTEBOOK):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def exercise():
    return make_exercise.make_exercise(copy.deepcopy(NOTEBOOK))


def test_it_runs_and_samples_what_inference_samples(tmp_path, unet, classifier):
    notebook, path = copy.deepcopy(NOTEBOOK), tmp_path / "guided.npy"
    last = next(cell for cell in code_cells(notebook) if "the default, by" in cell.source)
    last.source += f"\nimport numpy\nnumpy.save({str(path)!r}, guided.numpy())"
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(ROOT)}}).execute()
    expected = inference.sample(unet, classifier.log_p, torch.arange(10))  # the defaults
    assert np.abs(np.load(path) - expected.numpy()).max() < 1e-5


def test_it_is_saved_with_the_outputs_of_one_run():
    assert [cell.execution_count for cell in code_cells()] == [*range(1, len(code_cells()) + 1)]
    for cell in code_cells():
        kinds = [output.output_type for output in cell.outputs]
        assert kinds and "error" not in kinds, cell.source


# --- the checks ---


@pytest.fixture(scope="module")
def before():
    """Each cell that has a check -> the names before it runs. The trainings take two steps."""
    matplotlib.use("agg")
    names, before = {}, {}
    for cell in code_cells():
        if "predict_noised" in cell.source:  # slow, and nothing depends on it
            continue
        if "check(" in cell.source:
            before[cell.source] = dict(names)
        short = cell.source.replace("(len(images), losses", "(len(images), losses, num_steps=2")
        exec(short, names)
        matplotlib.pyplot.close("all")
        if f'check("{CHECKED[-1]}"' in cell.source:
            return before


def run_check(before, name, change):
    """Run the cell that checks `name`, changed."""
    source = next(source for source in before if f'check("{name}' in source)
    assert change(source) != source
    exec(change(source), dict(before[source]))


def test_a_check_fails_without_the_root(before):
    for name, root in (("guided samples at scale 1", "(1 - ALPHAS_CUMPROD[t]).sqrt() * "),
                       ("guided noise", "(1 - abar(t)).sqrt() * ")):  # fmt: skip
        with pytest.raises(AssertionError, match=f"{name}: wrong by"):
            run_check(before, name, lambda source, root=root: source.replace(root, ""))


@pytest.mark.parametrize("name", CHECKED)
def test_a_blank_stops_at_its_check(before, name):
    blank = {old.source: new.source for old, new in zip(code_cells(), code_cells(exercise()))}
    with pytest.raises(AssertionError, match=f"{name}: still blank"):
        run_check(before, name, blank.get)


# --- the lecturer's copy ---


def test_the_copy_is_the_notebook_but_for_its_blanks():
    num_blanks = 0
    for new, old in zip(exercise().cells, NOTEBOOK.cells, strict=True):
        assert not new.get("outputs")
        for line, original in zip(new.source.split("\n"), old.source.split("\n"), strict=True):
            blank = re.fullmatch(r"( *\w+) = None  # your code: .+", line)
            assert (line == original) != bool(blank)
            num_blanks += bool(blank)
    assert num_blanks == sum(cell.source.count("# BLANK") for cell in code_cells()) == 10
