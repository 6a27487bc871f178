import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from classifier import Classifier
from diffusion import UNet, load_checkpoint


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch):
    """Scripts are run from the top of the repository, as the README says."""
    monkeypatch.chdir(ROOT)
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def unet():
    return load_checkpoint(ROOT / "models" / "ddpm_unet.pth", UNet, "train_ddpm.py")[0]


@pytest.fixture(scope="session")
def classifier():
    return load_checkpoint(ROOT / "models" / "classifier.pth", Classifier, "train_classifier.py")[0]


@pytest.fixture
def fails(capsys):
    """Run a script's main(argv); it must end in one clear line on stderr and exit status 2. Returns the line."""

    def run(main, *argv):
        with pytest.raises(SystemExit) as stop:
            main([str(word) for word in argv])
        assert stop.value.code == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and ": error: " in error, error
        assert "Traceback" not in error
        return error

    return run
