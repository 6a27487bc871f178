import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from diffusers.configuration_utils import FrozenDict
from PIL import Image
from xdist.scheduler import LoadFileScheduling

import mnist
from diffusion import SCHEDULE, abar_table
from mnist import Dataset

ROOT = Path(__file__).resolve().parent.parent

if "PYTEST_XDIST_WORKER" in os.environ:  # one of several processes: a thread each
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"  # and for the processes that they start


class ByFile(LoadFileScheduling):
    """All tests of a file run in one process, but each notebook wherever there is time."""

    def _split_scope(self, nodeid):
        return nodeid if "test_course.py" in nodeid else super()._split_scope(nodeid)


def pytest_xdist_make_scheduler(config, log):
    return ByFile(config, log)


def pytest_collection_modifyitems(items):
    """What takes long comes first, so that both processes end at the same time."""
    first = ("page", "course", "training", "evaluate")
    items.sort(key=lambda item: [f"test_{name}.py" not in item.nodeid for name in first])


def pytest_configure(config):
    """Unpack MNIST once, before several processes read it."""
    if not hasattr(config, "workerinput"):
        Dataset()


class Evil:
    """A pickle that makes a folder "made" when it is loaded."""

    def __reduce__(self):
        return os.mkdir, ("made",)


ABAR = abar_table(DDPMScheduler(**SCHEDULE))
IMAGE_SHAPE = (1, 28, 28)


def abar(t):
    """abar_t of our schedule: () for an int, (B, 1, 1, 1) for timesteps (B,)."""
    return ABAR[t] if isinstance(t, int) else ABAR[t].view(-1, 1, 1, 1)


def fake_ddpm(output, shape=IMAGE_SHAPE, num_class_embeds=None, **schedule):
    """A DDPM whose U-Net is a given function of x_t and t (B,), and of labels if it takes some."""
    config = {"in_channels": shape[0], "out_channels": shape[0], "sample_size": shape[1]}

    def unet(*inputs):
        return SimpleNamespace(sample=output(*inputs))

    unet.config = FrozenDict(config, num_class_embeds=num_class_embeds)
    scheduler = DDPMScheduler(**SCHEDULE | schedule)
    return SimpleNamespace(unet=unet, scheduler=scheduler, device=torch.device("cpu"))


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch):
    """Scripts are run from the top of the repository, as the README says."""
    monkeypatch.chdir(ROOT)
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def few_images():
    """All scripts read the first 500 images of each split of MNIST: this data set."""
    few = Dataset()
    few.splits = {name: [part[:500] for part in split] for name, split in few.splits.items()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mnist, "Dataset", lambda *args: few)
        yield few


@pytest.fixture
def shapes(tmp_path):
    """A folder of 100 noisy colour images of each of three classes: red, green or blue, 32x32."""
    rng = np.random.default_rng(0)
    for k, name in enumerate(("bar", "dot", "ring")):
        (tmp_path / "shapes" / name).mkdir(parents=True)
        for number in range(100):
            pixels = rng.integers(0, 50, (32, 32, 3), dtype=np.uint8)
            pixels[:, 10 * k : 10 * k + 10, k] += 200
            Image.fromarray(pixels).save(tmp_path / "shapes" / name / f"{number}.png")
    return tmp_path / "shapes"


@pytest.fixture
def fails(capsys):
    """Run main(argv); it must end in one line on stderr and status 2. Returns the line."""

    def run(main, *argv):
        with pytest.raises(SystemExit) as stop:
            main([str(word) for word in argv])
        assert stop.value.code == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and ": error: " in error, error
        return error

    return run
