"""Every error that a user can cause ends in one line and exit status 2, and damages nothing."""

import os
import resource
import shutil
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
import torchvision
from conftest import ROOT, Evil

import data
import inference
import train_classifier
from support import files, training
from support.cli import UserError
from support.files import MODELS

BAD_FLAGS = {
    "from 1 to": "--steps 0",
    "got inf": "--guidance-scale 1 inf",
    "got nan": "--guidance-scale nan",
    "got 9": f"--steps {'9' * 401}",
    "separated by spaces": "--digits 3,4",
    "'all' by itself": "--digits all 3",
    "must end in .png": "--output README.md",
}


@pytest.mark.parametrize("said", BAD_FLAGS)
def test_a_bad_flag(fails, said):
    assert said in fails(inference.main, *BAD_FLAGS[said].split())


@pytest.mark.parametrize("flag, name", [("--output", "o.png"), ("--npz", "o.npz")])
def test_an_output_that_cannot_be_written(fails, tmp_path, monkeypatch, flag, name):
    """In a folder that is a file, or as a file that is a folder."""
    (tmp_path / "file").write_text("before")
    (tmp_path / name).mkdir()
    for place in (tmp_path / "file" / name, tmp_path / name):
        flags = "--steps", 1, "--output", tmp_path / "other.png", flag, place
        with monkeypatch.context() as patch:
            patch.setattr(inference, "load_models", None)  # noticed before the sampling
            assert "cannot write" in fails(inference.main, *flags)
    monkeypatch.setattr(training, "trange", None)  # noticed before the training
    for models in (tmp_path / "file", tmp_path / "file" / "trial"):
        assert "cannot write" in fails(train_classifier.main, "--models", models)
    denied = PermissionError(13, "Permission denied")  # root may write anywhere
    monkeypatch.setattr(files.tempfile, "TemporaryFile", Mock(side_effect=denied))
    assert "cannot write" in fails(train_classifier.main, "--models", tmp_path)


FAULTS = {  # see also test_inference.py
    "missing": lambda path: None,
    "truncated": lambda path: path.write_bytes((MODELS / path.name).read_bytes()[:100_000]),
    "code": lambda path: torch.save({"network": Evil()}, path),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_bad_checkpoint(fails, tmp_path, monkeypatch, fault):
    """The message says how to get another one. No code in the file is run."""
    monkeypatch.chdir(tmp_path)
    FAULTS[fault](tmp_path / "ddpm_unet.pth")
    (tmp_path / "o.png").write_bytes(b"before")
    flags = "--models", tmp_path, "--output", tmp_path / "o.png"
    assert "git checkout" not in fails(inference.main, *flags)
    monkeypatch.setattr(files, "MODELS", tmp_path)
    assert "`git checkout -- models`" in fails(inference.main, *flags)
    assert Path("o.png").read_bytes() == b"before" and not Path("made").exists()


def test_mnist_that_is_corrupted_or_cannot_be_downloaded(fails, tmp_path, monkeypatch):
    no_network = Mock(side_effect=RuntimeError("no network here"))
    monkeypatch.setattr(torchvision.datasets.mnist, "download_and_extract_archive", no_network)
    monkeypatch.setattr(data, "DATA", tmp_path)
    flags = ["--models", tmp_path / "models", "--steps", 1]
    error = fails(train_classifier.main, *flags)
    assert "no network here" in error and "`git checkout -- data`" in error
    shutil.copytree(ROOT / "data", tmp_path, dirs_exist_ok=True)
    os.truncate(tmp_path / "MNIST/raw/train-images-idx3-ubyte", 1_000_000)
    assert "cannot read mnist" in fails(train_classifier.main, *flags)


def test_a_full_disk_leaves_existing_files_intact(fails, tmp_path):
    """No file can grow beyond 1,000 bytes here, so the write fails halfway."""
    path, limit = tmp_path / "o.png", resource.getrlimit(resource.RLIMIT_FSIZE)
    path.write_bytes(b"before")
    flags = "--steps", 1, "--npz", tmp_path / "o.npz", "--num-samples", 1, "--output", path
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, limit[1]))
    try:
        error = fails(inference.main, *flags)
        with pytest.raises(UserError):  # the second one is too large, so the first one is kept
            files.write_files({path: b"after", tmp_path / "o.npz": bytes(2_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert "File too large" in error
    assert path.read_bytes() == b"before" and list(tmp_path.iterdir()) == [path]


def test_programming_errors_keep_their_traceback(monkeypatch):
    monkeypatch.setattr(inference, "load_models", None)
    with pytest.raises(TypeError):
        inference.main([])
