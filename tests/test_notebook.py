"""The notebook runs, and samples what inference.py samples."""

import copy
import re

import nbformat
import numpy as np
import torch
from conftest import ROOT
from nbclient import NotebookClient

import guidance
from support.streams import image_seeds

NOTEBOOK = nbformat.read(ROOT / "quick_demo_CGD.ipynb", as_version=4)
CODE = [cell for cell in NOTEBOOK.cells if cell.cell_type == "code"]


def test_it_runs_and_samples_what_inference_samples(tmp_path, unet, classifier):
    notebook, path = copy.deepcopy(NOTEBOOK), tmp_path / "guided.npy"
    # sliders go, since ipykernel 7 sometimes loses a message beside them, and waits for ever
    notebook.cells = [cell for cell in notebook.cells if "interact(" not in cell.source]
    for cell in notebook.cells:
        cell.source = re.sub(r"\[: 1[05]0 \*", "[: 30 *", cell.source)  # shorter trainings
        cell.source = re.sub(r"\bsteps=10\b", "steps=4", cell.source)  # and shorter loops
    cells = [cell for cell in notebook.cells if "the default, by your functions" in cell.source]
    cells[0].source += f"\nimport numpy\nnumpy.save({str(path)!r}, yours.numpy())"
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(ROOT)}}).execute()
    y = torch.arange(10)
    expected = guidance.sample(unet, classifier.log_p, y, image_seeds(0, y.tolist()))
    assert np.abs(np.load(path) - expected.numpy()).max() < 1e-5


def test_it_is_saved_with_the_outputs_of_one_run():
    assert [cell.execution_count for cell in CODE] == [*range(1, len(CODE) + 1)]
    for cell in CODE:
        kinds = [output.output_type for output in cell.outputs]
        assert kinds and "error" not in kinds, cell.source
