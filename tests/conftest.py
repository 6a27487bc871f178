import os
from pathlib import Path

import pytest
import torch

from evaluation.judge import load_judge
from inference import load_models

ROOT = Path(__file__).resolve().parent.parent

if "PYTEST_XDIST_WORKER" in os.environ:  # one of several processes: a thread each
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch):
    """Scripts are run from the top of the repository, as the README says."""
    monkeypatch.chdir(ROOT)
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def unet():
    return load_models(ROOT / "models")[0]


@pytest.fixture(scope="session")
def classifier():
    return load_models(ROOT / "models")[1]


@pytest.fixture(scope="session")
def judge():
    return load_judge(ROOT / "models")


@pytest.fixture
def fails(capsys):
    """Run main(argv); it must end in one line on stderr and status 2. Returns the line."""

    def run(main, *argv):
        with pytest.raises(SystemExit) as stop:
            main([str(word) for word in argv])
        assert stop.value.code == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and ": error: " in error, error
        assert "Traceback" not in error
        return error

    return run
