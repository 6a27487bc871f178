"""The exported folder draws in stock diffusers what the U-Net draws here."""

import os
import resource
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import ROOT
from diffusers import DDPMPipeline, UNet2DModel
from PIL import Image

from diffusion import SCHEDULE, UNet, abar, make_sampler, make_unet
from examples import export_to_diffusers
from inference import reverse_process, sample
from mnist import MNIST_INFO
from support.checkpoints import save_checkpoint
from support.pictures import to_uint8
from support.streams import image_generators

DIGITS = torch.tensor([3, 1, 4])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("export") / "digits"
    export_to_diffusers.main([str(folder)])
    return folder


@pytest.fixture(scope="module")
def pipeline(folder):
    pipeline = DDPMPipeline.from_pretrained(folder, use_safetensors=True)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def test_the_stock_unet_predicts_the_same_noise(unet, pipeline):
    """diffusers' v is sqrt(abar) eps - sqrt(1 - abar) x_0; hence eps of x_t and v."""
    x_t, t = torch.randn(6, 1, 28, 28), torch.tensor([0, 1, 20, 395, 700, 999])
    with torch.no_grad():
        eps, v = unet(x_t, t).sample, pipeline.unet(x_t, t).sample
    assert type(pipeline.unet) is UNet2DModel
    torch.testing.assert_close(abar(t).sqrt() * v + (1 - abar(t)).sqrt() * x_t, eps,
                               atol=1e-5, rtol=0)  # fmt: skip


def test_the_settings_of_the_scheduler_are_ours(pipeline):
    config, ours = pipeline.scheduler.config, make_sampler("ddpm", 20, clip=True).config
    changed = {name for name in ours if name[0] != "_" and config[name] != ours[name]}
    assert changed == {"prediction_type", "timestep_spacing"}
    for num_steps in (1, 5, 10, 20, 50, 100, 200, 500, 1000):
        pipeline.scheduler.set_timesteps(num_steps)
        assert pipeline.scheduler.timesteps.equal(make_sampler("ddpm", num_steps).timesteps)


@pytest.mark.parametrize("num_steps", [5, 20])
def test_the_stock_pipeline_draws_the_same_images(unet, pipeline, num_steps):
    """From the same noise, in x_T and at every step."""
    ours = sample(unet, None, DIGITS, guidance_scale=0, sampler="ddpm", steps=num_steps)
    settings = {"num_inference_steps": num_steps, "output_type": "pt"}
    stock = pipeline(3, list(image_generators(0, DIGITS)), **settings).images
    torch.testing.assert_close(stock * 2 - 1, ours, atol=1e-4, rtol=0)


def test_nothing_of_this_repository_is_needed(unet, folder, tmp_path):
    """A process in another folder, isolated from PYTHONPATH, loads and draws."""
    code = (
        "import sys, torch\nfrom diffusers import DDPMPipeline\n"
        "pipeline = DDPMPipeline.from_pretrained(sys.argv[1])\n"
        "pipeline(1, torch.Generator().manual_seed(0), 5).images[0].save('digit.png')\n"
        "print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-I", "-c", code, str(folder)], cwd=tmp_path,
                          env={**os.environ, "HF_HUB_OFFLINE": "1"},
                          capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0, done.stderr
    ours = {path.stem for path in ROOT.glob("*.py")} | {"support", "evaluation", "examples"}
    assert not ours & set(done.stdout.split())
    rng = torch.Generator().manual_seed(0)
    x_T, sampler = torch.randn(1, 1, 28, 28, generator=rng), make_sampler("ddpm", 5, clip=True)
    x_0 = reverse_process(lambda x_t, t: unet(x_t, t).sample, sampler, x_T, rng)
    exact = to_uint8(x_0)[0, 0].numpy().astype(int)
    assert np.abs(np.asarray(Image.open(tmp_path / "digit.png")).astype(int) - exact).max() <= 1


@pytest.fixture
def places(tmp_path):
    """A file, a folder with a file in it, and an empty folder."""
    (tmp_path / "file").write_bytes(b"before")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_bytes(b"before")
    (tmp_path / "empty").mkdir()
    return tmp_path


def listing(folder):
    return {path: path.is_file() and path.read_bytes() for path in folder.rglob("*")}


@pytest.mark.parametrize(
    "argv, named",
    [
        ([], "DIR"),
        (["file"], "it exists"),
        (["full"], "it exists"),
        (["empty"], "it exists"),
        (["."], "it exists"),
        (["missing/new"], "does not exist; create it"),
        (["file/new"], "file"),
        (["x" * 300], "cannot write"),
        (["new", "--models", "missing"], "make it with `python train_ddpm.py"),
        (["new", "--models", "full"], "make it with `python train_ddpm.py"),
        (["new", "--seed", "1"], "--seed"),
    ],
)
def test_a_bad_export_leaves_nothing(fails, places, monkeypatch, argv, named):
    monkeypatch.chdir(places)
    before = listing(places)
    assert named in fails(export_to_diffusers.main, *argv)
    assert listing(places) == before


def test_a_folder_that_cannot_be_written(fails, places, monkeypatch):
    """As on a read-only disk: the rename fails."""

    def refuse(source, target):
        raise PermissionError(13, "Permission denied")

    before = listing(places)
    monkeypatch.setattr(os, "replace", refuse)
    assert "Permission denied" in fails(export_to_diffusers.main, places / "new")
    assert listing(places) == before


def test_a_full_disk_leaves_nothing(fails, places):
    before, limits = listing(places), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4_000, limits[1]))
    try:
        error = fails(export_to_diffusers.main, places / "new")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "cannot write" in error and listing(places) == before


def test_a_network_of_another_width_is_exported(tmp_path):
    config = {**make_unet().config, "block_out_channels": (8, 16, 16)}
    wider = UNet(**{name: value for name, value in config.items() if not name.startswith("_")})
    save_checkpoint(tmp_path / "ddpm_unet.pth", wider, SCHEDULE, MNIST_INFO, 0, {})
    export_to_diffusers.main([str(tmp_path / "new"), "--models", str(tmp_path)])
    stock, t = UNet2DModel.from_pretrained(tmp_path / "new" / "unet"), torch.tensor([500])
    x_t = torch.randn(1, 1, 28, 28)
    eps = abar(t).sqrt() * stock(x_t, t).sample + (1 - abar(t)).sqrt() * x_t
    torch.testing.assert_close(eps, wider.eval()(x_t, t).sample, atol=1e-5, rtol=0)
