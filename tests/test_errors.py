"""Every error that a user can cause ends in one line and exit status 2, and damages nothing."""

import os
import shutil
import signal
import subprocess
import sys
from unittest.mock import Mock

import pytest
import torch
import torchvision
from conftest import ROOT, Evil

import inference
import mnist
import train_classifier
import train_ddpm
from support import files

BAD_FLAGS = {  # what is said -> the flags
    "steps is 1001: 1 .. 1000, or times": ["--steps", "1001"],
    "inf is not from 0 to 1000000000": ["--guidance-scale", "1", "inf"],
    "750-250 is not LOW-HIGH, 0 <= LOW < HIGH": ["--window", "750-250"],
    "no step is in it, the times are [999, 499]": ["--window", "0-10", "--steps", "2"],
    "separate by spaces": ["--digits", "3,4"],
    "argument --device: torch finds no device 'tpu'; use --device cpu": ["--device", "tpu"],
}


@pytest.mark.parametrize("said", BAD_FLAGS)
def test_a_bad_flag(fails, said):
    assert said in fails(inference.main, *BAD_FLAGS[said])


def test_an_output_that_cannot_be_written(fails, tmp_path):
    """It is a folder, or its folder is a file; this is seen before anything is read or drawn."""
    flags = ["--models", tmp_path / "none"]
    file, folder = tmp_path / "file", tmp_path / "o.npz"
    file.write_text("before")
    folder.mkdir()
    error = fails(inference.main, *flags, "--output", file / "o.png")
    assert f"cannot write {file / 'o.png'}" in error and file.read_text() == "before"
    error = fails(inference.main, *flags, "--npz", folder)
    assert f"cannot write {folder}: it is a folder; name a file" in error
    link = tmp_path / "link.png"
    link.symlink_to(tmp_path / "weights.pth")
    assert "does not end in .png, or links to what" in fails(inference.main, "--output", link)
    link.unlink()
    assert "'README.md' does not end in .png" in fails(inference.main, "--output", "README.md")
    os.mkfifo(tmp_path / "o.gif")
    assert "is a device, not a file" in fails(inference.main, "--gif", tmp_path / "o.gif")
    (tmp_path / "o.gif").unlink()
    assert set(tmp_path.iterdir()) == {file, folder}  # and no new folder


# --- checkpoints ---


def edit(path, **changes):
    torch.save({**torch.load(path), **changes}, path)


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


FAULTS = {  # -> what is done to the file, and what is said
    "missing": (lambda path: path.unlink(), "is missing"),
    "truncated": (truncate, "is damaged"),
    "code": (lambda path: torch.save({"network": Evil()}, path), "damaged"),
    "another network": (
        lambda path: shutil.copy(path.with_name("judge.pth"), path),
        "no Classifier",
    ),
    "other settings": (lambda path: edit(path, config={"depth": 3}), "holds no Classifier"),
    "another entry": (lambda path: edit(path, dataset={"x": 1}), "holds no Classifier"),
}


@pytest.fixture
def models(tmp_path):
    """A copy of the shipped weights, to be spoiled."""
    return shutil.copytree(ROOT / "models", tmp_path / "models")


@pytest.mark.parametrize("fault", FAULTS)
def test_a_bad_checkpoint(fails, models, monkeypatch, fault):
    """The message says which file, what is wrong, and how to get another one. No code is run."""
    spoil, said = FAULTS[fault]
    path, output = models / "classifier.pth", models / "o.png"
    monkeypatch.chdir(models)
    spoil(path)
    output.write_bytes(b"before")
    flags = ["--models", models, "--output", output]
    error = fails(inference.main, *flags)
    assert str(path) in error and said in error
    assert f"`python train_classifier.py --models {models}`" in error
    monkeypatch.setattr(files, "MODELS", models)  # weights that ship are not trained, but restored
    error = fails(inference.main, *flags)
    assert "restore it with `git checkout -- models`" in error and "python" not in error
    assert output.read_bytes() == b"before" and not (models / "made").exists()


def test_networks_of_two_schedules(fails, models):
    """Of both trainings: the betas are named."""
    edit(models / "classifier.pth", schedule={"beta_schedule": "squaredcos_cap_v2"})
    said = "the guide was trained with 1000 squaredcos_cap_v2 betas, but the U-Net with 1000 linear"
    assert said in fails(inference.main, "--models", models)


def test_a_file_that_is_no_checkpoint_of_ours_blocks_no_training(tmp_path):
    """But nothing is done to it."""
    (tmp_path / "foreign.pth").write_bytes(b"anything")
    flags = ["--models", str(tmp_path), "--steps", "1", "--batch-size", "2"]
    train_classifier.main(flags)
    assert (tmp_path / "foreign.pth").read_bytes() == b"anything"


def test_networks_of_two_data_sets(fails, models):
    path = models / "classifier.pth"
    info = {"kind": "folder", "name": "shapes", "classes": ["bar", "ring"], "shape": [1, 28, 28]}
    edit(path, dataset=info)
    error = fails(inference.main, "--models", models)
    assert (
        f"{path} was trained on the folder shapes (1x28x28; classes bar, ring), not on mnist"
        in error
    )


def test_another_data_set_never_replaces_weights(fails, models, shapes):
    before = {path: path.read_bytes() for path in models.iterdir()}
    error = fails(train_classifier.main, "--dataset", shapes, "--models", models, "--steps", 1)
    assert "not on the folder shapes (3x32x32, sha256" in error
    assert {path: path.read_bytes() for path in models.iterdir()} == before


# --- data ---


def test_a_folder_that_is_no_data_set(fails, tmp_path, shapes):
    """It is missing, it has no classes, it has too few images, or one of them is damaged."""
    folder = tmp_path / "data"

    def error():
        flags = ["--models", tmp_path / "models", "--steps", 1, "--dataset", folder]
        return fails(train_ddpm.main, *flags)

    known = "it is none of mnist, fashion-mnist, kmnist, or a folder with a subfolder of images"
    assert f"--dataset {folder}: {known}" in error()
    folder.mkdir()
    assert f"--dataset {folder}" in error()
    shutil.copytree(shapes / "bar", folder / "bar")
    (folder / "bar" / "0.png").unlink()
    assert "it has 99 images, 100 are the least" in error()
    truncate(folder / "bar" / "3.png")
    assert f"--dataset {folder}" in error()


def test_mnist_that_is_damaged_or_cannot_be_downloaded(fails, tmp_path, monkeypatch):
    no_network = Mock(side_effect=RuntimeError("no network here"))
    monkeypatch.setattr(torchvision.datasets.mnist, "download_and_extract_archive", no_network)
    monkeypatch.setattr(mnist, "DATA", tmp_path)
    flags = ["--models", tmp_path / "models", "--steps", 1]
    error = fails(train_classifier.main, *flags)
    assert "--dataset mnist: " in error and "no network here" in error
    assert "`git checkout -- data`" in error
    shutil.copytree(ROOT / "data", tmp_path, dirs_exist_ok=True)
    truncate(tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte")
    assert "--dataset mnist: " in fails(train_classifier.main, *flags)


# --- a full disk, Ctrl-C, and errors of ours ---


def test_a_full_disk_leaves_what_was_there(models):
    """No file can grow beyond 20 blocks here: the write fails half-way, as on a full disk."""
    before = (models / "classifier.pth").read_bytes()
    script = f"{sys.executable} train_classifier.py --steps 1 --models {models}"
    done = subprocess.run(f"ulimit -f 20; {script}", shell=True, capture_output=True, text=True)
    assert done.returncode == 2
    assert f"cannot write {models / 'classifier.pth'}: File too large" in done.stderr
    assert (models / "classifier.pth").read_bytes() == before and not list(models.glob(".*"))


def test_errors_of_ours_keep_their_traceback(monkeypatch, tmp_path):
    monkeypatch.setattr(inference, "sample", Mock(side_effect=RuntimeError("a bug")))
    with pytest.raises(RuntimeError, match="a bug"):
        inference.main(["--output", str(tmp_path / "o.png")])


def test_ctrl_c_is_one_line_and_status_130(tmp_path):
    """Processes that test in parallel ignore Ctrl-C, which their children must not inherit."""
    process = subprocess.Popen(
        [sys.executable, "inference.py", "--steps", "1000", "--output", tmp_path / "o.png"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    with process:
        assert "device: " in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, error = process.communicate()
    assert process.returncode == 130 and error.strip() == "inference.py: stopped"
    assert not list(tmp_path.iterdir())
