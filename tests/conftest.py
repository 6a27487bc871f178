import contextlib
import io
import os
import shutil
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from diffusers.configuration_utils import FrozenDict
from PIL import Image

import data
from data import Dataset
from diffusion import DDPM, SCHEDULE

ROOT = Path(__file__).resolve().parent.parent

if "PYTEST_XDIST_WORKER" in os.environ:  # one thread per process
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"  # and in the processes they start


def pytest_configure(config):
    """Unpack MNIST once, before several processes read it."""
    if not hasattr(config, "workerinput"):
        Dataset()


class Evil:
    """A pickle that creates a folder "made" when it is loaded."""

    def __reduce__(self):
        return os.mkdir, ("made",)


# abar_t computed independently, in float64, from DDPM, section 4; 1 at END
BETAS = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
ABAR = torch.cat([(1 - BETAS).cumprod(dim=0), torch.ones(1)]).float()
IMAGE_SHAPE = (1, 28, 28)


def abar(t):
    """abar_t of our schedule for an int or timesteps (B,), as a factor of images."""
    return ABAR[t].view(-1, 1, 1, 1)


def fake_ddpm(output, shape=IMAGE_SHAPE, num_class_embeds=None, **schedule):
    """A DDPM whose U-Net is a function of x_t and t (B,), and of labels if it takes any."""
    config = {"in_channels": shape[0], "out_channels": shape[0], "sample_size": shape[1:]}

    def unet(*inputs, **labels):
        return SimpleNamespace(sample=output(*inputs, **labels))

    unet.config = FrozenDict(config, num_class_embeds=num_class_embeds)
    unet.eval, unet.dtype, unet.device = lambda: unet, torch.float32, torch.device("cpu")
    return DDPM(unet, DDPMScheduler(**SCHEDULE | schedule))


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch):
    """Run from the repository, as the README says."""
    monkeypatch.chdir(ROOT)
    torch.manual_seed(0)


def run_cells(cells, changes):
    """Run the code of a notebook, with some of its text replaced: what each cell prints."""
    matplotlib.use("agg")
    names, printed = {"__name__": "__main__"}, []
    for cell in cells:
        for old, new in changes.items():
            cell = cell.replace(old, new)
        with contextlib.redirect_stdout(io.StringIO()) as out:
            exec(cell, names)
        plt.close("all")
        printed.append(out.getvalue())
    return printed


@pytest.fixture(scope="module")
def few_images():
    """The first 500 images of each split of MNIST, which all scripts then read."""
    few = Dataset()
    few.splits = {name: [part[:500] for part in split] for name, split in few.splits.items()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data, "read_torchvision", lambda name: (few.splits, few.info["classes"]))
        yield few


@pytest.fixture
def shapes(tmp_path):
    """A folder with three classes of 100 noisy color images: red, green, and blue; 32x32."""
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
    """Run main(argv), which must end in status 2 and one line, after argparse's usage: the line."""

    def run(main, *argv):
        with pytest.raises(SystemExit) as stop:
            main([str(word) for word in argv])
        usage, _, error = capsys.readouterr().err.removesuffix("\n").rpartition(": error: ")
        assert stop.value.code == 2 and error and "\n" not in error
        assert usage.startswith("usage: ") or "\n" not in usage
        return error

    return run


@pytest.fixture(scope="module")
def browser():
    """Chromium; without it, the test is skipped."""
    playwright = pytest.importorskip("playwright.sync_api")
    paths = map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))
    path = next(filter(None, paths), None) or pytest.skip("no Chromium: apt install chromium")
    with playwright.sync_playwright() as running:
        yield running.chromium.launch(executable_path=path, args=["--no-sandbox"])


@pytest.fixture(scope="module")
def served():
    """The address at which the repository is served."""
    handler = partial(SimpleHTTPRequestHandler, directory=ROOT)
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
