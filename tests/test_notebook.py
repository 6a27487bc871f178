"""The notebook runs top to bottom, defines nothing, and samples what inference.py samples."""

import ast

import nbformat
import numpy as np
import pytest
import torch
from conftest import ROOT
from nbclient import NotebookClient

import inference

PATH = ROOT / "quick_demo_CGD.ipynb"


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """The notebook run from a copy, with one more cell that hands its guided samples over."""
    notebook = nbformat.read(PATH, as_version=4)
    handed_over = tmp_path_factory.mktemp("notebook") / "guided.npy"
    notebook.cells.append(
        nbformat.v4.new_code_cell(f"import numpy\nnumpy.save({str(handed_over)!r}, guided.numpy())")
    )
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(ROOT)}}).execute()
    return notebook, np.load(handed_over)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_it_runs_and_shows_pictures(executed):
    outputs = [output for cell in code_cells(executed[0]) for output in cell.outputs]
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 6


def test_its_samples_are_those_of_inference(executed, unet, classifier):
    expected = inference.sample(unet, classifier.log_p, torch.full((8,), 3))  # the defaults
    assert np.abs(executed[1].clip(-1, 1) - expected.numpy()).max() < 1e-5


def test_it_defines_nothing_and_its_cells_are_short():
    for cell in code_cells(nbformat.read(PATH, as_version=4)):
        nodes = list(ast.walk(ast.parse(cell.source)))
        assert not any(
            isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.Lambda)) for node in nodes
        )
        assert len(cell.source.splitlines()) <= 10


def test_it_is_saved_with_its_outputs():
    cells = code_cells(nbformat.read(PATH, as_version=4))
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert not any(output.output_type == "error" for cell in cells for output in cell.outputs)
    assert (
        inference.SAMPLER == "sde-dpmsolver++" and inference.STEPS == 20
    )  # what the notebook's loop spells out
