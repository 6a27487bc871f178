"""Every error that a user can cause ends in one line and exit status 2, and damages nothing."""

import shutil
import signal
import subprocess
import sys
from unittest.mock import Mock

import pytest
import torch
import torchvision
from conftest import ROOT, Evil

import data
import inference
import train_classifier
import train_ddpm
from diffusion import SCHEDULE
from support import files

BAD_FLAGS = {
    "steps must be 1 to 1000": ["--steps", "1001"],
    "must be finite, from 0 to inf, got inf": ["--guidance-scale", "1", "inf"],
    "unknown class '3,4'": ["--digits", "3,4"],
    "invalid choice: 'tpu'": ["--device", "tpu"],
    "must end in .png": ["--output", "README.md"],
}


@pytest.mark.parametrize("said", BAD_FLAGS)
def test_a_bad_flag(fails, said):
    assert said in fails(inference.main, *BAD_FLAGS[said])


def test_an_output_that_cannot_be_written(fails, tmp_path):
    file = tmp_path / "file"
    file.write_text("before")
    (tmp_path / "o.png").mkdir()
    for output in (file / "o.png", tmp_path / "o.png"):
        error = fails(inference.main, "--num-samples", 1, "--steps", 1, "--output", output)
        assert f"cannot write {output}" in error
    assert file.read_text() == "before" and not any((tmp_path / "o.png").iterdir())
    assert not list(tmp_path.glob(".*"))


# --- checkpoints ---


def edit(path, **changes):
    torch.save({**torch.load(path), **changes}, path)


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


FAULTS = {  # what is done to the file, and what is said
    "missing": (lambda path: path.unlink(), "is missing"),
    "truncated": (truncate, "is corrupted"),
    "code": (lambda path: torch.save({"network": Evil()}, path), "is corrupted"),
    "another network": (
        lambda path: shutil.copy(path.with_name("ddpm_unet.pth"), path),
        "holds a UNet2DModel; expected a Classifier",
    ),
    "other settings": (lambda path: edit(path, config={"depth": 3}), "different version"),
    "without a schedule": (lambda path: edit(path, schedule=None), "without a noise schedule"),
    "another schedule": (
        lambda path: edit(path, schedule=SCHEDULE | {"beta_schedule": "squaredcos_cap_v2"}),
        "different noise schedules",
    ),
    "another dataset": (lambda path: edit(path, dataset={"classes": ["a"]}), "different datasets"),
}


@pytest.fixture
def models(tmp_path):
    """A copy of the shipped weights."""
    return shutil.copytree(ROOT / "models", tmp_path / "models")


@pytest.mark.parametrize("fault", FAULTS)
def test_a_bad_checkpoint(fails, models, monkeypatch, fault):
    """The message says which file, what is wrong, and how to replace a lost file.

    No code in the file is run.
    """
    spoil, said = FAULTS[fault]
    path, output = models / "classifier.pth", models / "o.png"
    monkeypatch.chdir(models)
    spoil(path)
    output.write_bytes(b"before")
    flags = ["--models", models, "--output", output, "--digits", "0"]
    error = fails(inference.main, *flags)
    assert said in error
    if fault in ("missing", "truncated", "code"):
        assert f"train it with `python train_classifier.py --models {models}`" in error
        monkeypatch.setattr(files, "MODELS", models)  # shipped weights are restored instead
        assert "`git checkout -- models`" in fails(inference.main, *flags)
    assert output.read_bytes() == b"before" and not (models / "made").exists()


# --- data ---


def test_a_folder_that_is_not_a_dataset(fails, tmp_path, shapes):
    folder = tmp_path / "data"
    flags = ["--models", tmp_path / "models", "--steps", 1, "--dataset", folder]
    assert f"cannot read the folder {folder}" in fails(train_ddpm.main, *flags)
    shutil.copytree(shapes / "bar", folder / "bar")
    truncate(folder / "bar" / "3.png")
    assert f"{folder / 'bar' / '3.png'}" in fails(train_ddpm.main, *flags)


def test_mnist_that_is_corrupted_or_cannot_be_downloaded(fails, tmp_path, monkeypatch):
    no_network = Mock(side_effect=RuntimeError("no network here"))
    monkeypatch.setattr(torchvision.datasets.mnist, "download_and_extract_archive", no_network)
    monkeypatch.setattr(data, "DATA", tmp_path)
    flags = ["--models", tmp_path / "models", "--steps", 1]
    error = fails(train_classifier.main, *flags)
    assert "no network here" in error and "`git checkout -- data`" in error
    shutil.copytree(ROOT / "data", tmp_path, dirs_exist_ok=True)
    truncate(tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte")
    assert "cannot read mnist: " in fails(train_classifier.main, *flags)


# --- a full disk, Ctrl-C, and programming errors ---


def test_a_full_disk_leaves_existing_files_intact(models):
    """No file can grow beyond 20 blocks here, so the write fails halfway."""
    before = (models / "classifier.pth").read_bytes()
    script = f"{sys.executable} train_classifier.py --steps 1 --models {models}"
    done = subprocess.run(f"ulimit -f 20; {script}", shell=True, capture_output=True, text=True)
    assert done.returncode == 2
    assert f"cannot write {models / 'classifier.pth'}: File too large" in done.stderr
    assert (models / "classifier.pth").read_bytes() == before and not list(models.glob(".*"))


def test_programming_errors_keep_their_traceback(monkeypatch, tmp_path):
    monkeypatch.setattr(inference, "sample", Mock(side_effect=RuntimeError("a bug")))
    with pytest.raises(RuntimeError, match="a bug"):
        inference.main(["--output", str(tmp_path / "o.png")])


def test_ctrl_c_is_one_line_and_status_130(tmp_path):
    """Processes that test in parallel ignore Ctrl-C, which their children must not inherit."""
    process = subprocess.Popen(
        [sys.executable, "train_ddpm.py", "--models", tmp_path],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    with process:
        assert "images" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, error = process.communicate()
    assert process.returncode == 130 and error.strip() == "train_ddpm.py: interrupted"
    assert not list(tmp_path.iterdir())
