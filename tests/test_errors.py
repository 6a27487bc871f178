"""Every error that a user can cause ends in one line and exit status 2, and damages nothing."""

import os
import resource
import shutil
from unittest.mock import Mock

import pytest
import torch
import torchvision
from conftest import ROOT, Evil
from PIL import Image

import data
import inference
import train_classifier
from support import files
from support.files import atomic_write

BAD_FLAGS = {
    "1 to 1000": "--steps 1001",
    "at least 1": "--steps 0",
    "must be finite": "--guidance-scale 1 inf",
    "unknown class '3,4'": "--digits 3,4",
    "must end in .png": "--output README.md",
}


@pytest.mark.parametrize("said", BAD_FLAGS)
def test_a_bad_flag(fails, said):
    assert said in fails(inference.main, *BAD_FLAGS[said].split())


@pytest.mark.parametrize("flag, suffix", [("output", "png"), ("npz", "npz"), ("gif", "gif")])
def test_an_output_that_cannot_be_written_is_refused_first(
    fails, tmp_path, monkeypatch, flag, suffix
):
    """Before the networks are read, which are missing here."""

    def error(path):
        return fails(inference.main, "--models", tmp_path, f"--{flag}", path)

    (tmp_path / "file").write_text("before")
    (tmp_path / f"o.{suffix}").mkdir()
    assert f"o.{suffix} is a folder" in error(tmp_path / f"o.{suffix}")
    assert "cannot write" in error(tmp_path / "file" / f"o.{suffix}")
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write everywhere
    assert "permission denied" in error(tmp_path / f"p.{suffix}")


# --- checkpoints ---


def edit(path, **changes):
    torch.save({**torch.load(path), **changes}, path)


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


FAULTS = {  # what is done to the file, and what is said; see also test_inference.py
    "missing": (lambda path: path.unlink(), "is missing"),
    "truncated": (truncate, "is corrupted"),
    "code": (lambda path: torch.save({"network": Evil()}, path), "is corrupted"),
    "other settings": (lambda path: edit(path, config={"depth": 3}), "different version"),
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
    if fault != "other settings":
        assert f"`python train_classifier.py --models {models}`" in error
        monkeypatch.setattr(files, "MODELS", models)  # shipped weights are restored instead
        assert "`git checkout -- models`" in fails(inference.main, *flags)
    assert output.read_bytes() == b"before" and not (models / "made").exists()


# --- data ---


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


# --- a full disk, and programming errors ---


def test_a_full_disk_leaves_existing_files_intact(fails, tmp_path):
    """No file can grow beyond 1,000 bytes here, so the write fails halfway."""
    path, limit = tmp_path / "o.png", resource.getrlimit(resource.RLIMIT_FSIZE)
    path.write_bytes(b"before")
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, limit[1]))
    try:
        error = fails(inference.main, "--steps", 1, "--output", path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert f"cannot write {path}: File too large" in error
    assert path.read_bytes() == b"before" and list(tmp_path.iterdir()) == [path]


def test_programming_errors_keep_their_traceback(tmp_path):
    with pytest.raises(AttributeError):
        inference.main([], unet_class=None)
    with pytest.raises(OSError, match="mode F"), atomic_write(tmp_path / "o.png") as file:
        Image.new("F", (8, 8)).save(file, "png")
    assert not list(tmp_path.iterdir())
