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
from PIL import Image

import inference
import train_classifier
import train_ddpm
from support import files

BAD_FLAGS = [
    (inference, ["--steps", "1001"], "'1001' is not a whole number from 1 to 1000"),
    (inference, ["--guidance-scale", "1", "inf"], "'inf' is not a number of 0 or more"),
    (inference, ["--seed", str(2**32)], "from 0 to 4294967295"),
    (inference, ["--no-such-flag"], "--no-such-flag"),
    (inference, ["--window", "750-250"], "'750-250' is not LOW-HIGH"),
    (inference, ["--digits", "3,4"], "separate by spaces"),
    (inference, ["--output", "x.jpg"], "does not end in .png"),
]


@pytest.mark.parametrize("script, argv, said", BAD_FLAGS)
def test_a_bad_flag(fails, script, argv, said):
    assert said in fails(script.main, *argv)


def test_a_device_that_is_not_there(fails, monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for script in (train_classifier, train_ddpm):
        error = fails(script.main, "--device", "cuda", "--models", tmp_path)
        assert "argument --device: torch finds no device 'cuda'; use --device cpu" in error


def test_an_output_that_cannot_be_written(fails, tmp_path):
    """It is a folder, or its folder is a file; this is seen before anything is read or drawn."""
    (tmp_path / "file").write_text("before")
    flags = ["--models", "nowhere", "--output", tmp_path / "file" / "o.png"]
    assert f"cannot write {tmp_path / 'file' / 'o.png'}" in fails(inference.main, *flags)
    (tmp_path / "o.npz").mkdir()
    flags = ["--models", "nowhere", "--output", tmp_path / "o.png", "--npz", tmp_path / "o.npz"]
    error = fails(inference.main, *flags)
    assert f"cannot write {tmp_path / 'o.npz'}: it is a folder; name a file" in error
    assert (tmp_path / "file").read_text() == "before"
    assert "is missing" in fails(inference.main, "--models", tmp_path / "none")
    assert {path.name for path in tmp_path.iterdir()} == {"file", "o.npz"}  # and no new folder


# --- checkpoints ---


def edit(path, **changes):
    torch.save({**torch.load(path), **changes}, path)


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


FAULTS = {  # -> what is done to the file, and what is said
    "missing": (lambda path: path.unlink(), "is missing"),
    "truncated": (truncate, "is damaged"),
    "text": (lambda path: path.write_text("these are no weights\n"), "is damaged"),
    "code": (lambda path: torch.save({"network": Evil(path.with_name("made"))}, path), "damaged"),
    "a list": (lambda path: torch.save([1, 2], path), "no checkpoint of this project"),
    "another network": (lambda path: shutil.copy(path.with_name("judge.pth"), path), "holds no"),
    "another schedule": (lambda path: edit(path, schedule={"beta_end": 1}), "noise schedule"),
    "other settings": (lambda path: edit(path, config={"depth": 3}), "does not fit"),
    "other shapes": (lambda path: edit(path, state_dict={"conv_in.weight": torch.ones(1)}), "fit"),
}


@pytest.fixture
def models(tmp_path):
    """A copy of the shipped weights, to be spoiled."""
    return shutil.copytree(ROOT / "models", tmp_path / "models")


@pytest.mark.parametrize("fault", FAULTS)
def test_a_bad_checkpoint(fails, models, tmp_path, monkeypatch, fault):
    """The message says which file, what is wrong, and how to get another one."""
    spoil, said = FAULTS[fault]
    output = tmp_path / "o.png"
    output.write_bytes(b"before")
    flags = ["--models", models, "--output", output]
    for name, script in (("classifier", "train_classifier.py"), ("ddpm_unet", "train_ddpm.py")):
        path = models / f"{name}.pth"
        spoil(path)
        error = fails(inference.main, *flags)
        assert str(path) in error and said in error
        assert f"`python {script} --models {models}`" in error
        with monkeypatch.context() as patch:  # weights that ship are not trained, but restored
            patch.setattr(files, "MODELS", models)
            error = fails(inference.main, *flags)
        assert "restore it with `git checkout -- models`" in error and "python" not in error
        shutil.copy(ROOT / "models" / path.name, path)
    assert output.read_bytes() == b"before" and not (models / "made").exists()


def test_networks_of_two_data_sets(fails, models):
    info = {"kind": "folder", "name": "shapes", "classes": ["bar", "ring"], "shape": [1, 28, 28]}
    edit(models / "classifier.pth", dataset=info)
    error = fails(inference.main, "--models", models)
    path = models / "classifier.pth"
    assert f"{path} was trained on the folder shapes (2 classes, 1x28x28), not on mnist" in error


@pytest.mark.parametrize("script", [train_classifier, train_ddpm])
def test_another_data_set_never_replaces_weights(fails, models, tmp_path, script):
    """Also a folder that is named and divided like MNIST."""
    for k in range(200):
        path = tmp_path / "mnist" / str(k % 10) / f"{k}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (28, 28), k).save(path)
    before = {path: path.read_bytes() for path in models.iterdir()}
    flags = ["--dataset", tmp_path / "mnist", "--models", models, "--steps", 1]
    error = fails(script.main, *flags)
    folder = "the folder mnist (10 classes, 1x28x28)"
    assert f"was trained on mnist (10 classes, 1x28x28), not on {folder}" in error
    assert {path: path.read_bytes() for path in before} == before
    assert not list(models.glob("*state*"))


# --- data ---


def test_a_folder_that_is_no_data_set(fails, tmp_path, shapes):
    folder = tmp_path / "data"
    flags = ["--models", tmp_path / "models", "--steps", 1, "--dataset", folder]
    known = "it is none of mnist, fashion-mnist, kmnist, or a folder of one folder of images per"
    assert f"--dataset {folder}: {known}" in fails(train_ddpm.main, *flags)
    folder.mkdir()
    assert f"--dataset {folder}" in fails(train_ddpm.main, *flags)
    (folder / "empty").mkdir()
    assert f"--dataset {folder}" in fails(train_ddpm.main, *flags)
    for k in range(99):
        shutil.copy(shapes / "bar" / f"{k}.png", folder / "empty")
    assert "it has 99 images, 100 are the least" in fails(train_ddpm.main, *flags)
    truncate(folder / "empty" / "3.png")
    assert f"--dataset {folder}" in fails(train_ddpm.main, *flags)


def test_mnist_that_is_damaged_or_cannot_be_downloaded(fails, tmp_path, monkeypatch):
    no_network = Mock(side_effect=RuntimeError("no network here"))
    monkeypatch.setattr(torchvision.datasets.mnist, "download_and_extract_archive", no_network)
    flags = ["--models", tmp_path / "models", "--steps", 1, "--data", tmp_path]
    error = fails(train_classifier.main, *flags)
    assert f"cannot read mnist in {tmp_path}" in error and "no network here" in error
    assert "`git checkout -- data`" in error
    shutil.copytree(ROOT / "data", tmp_path, dirs_exist_ok=True)
    for name in ("train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"):
        truncate(tmp_path / "MNIST" / "raw" / name)
        assert f"cannot read mnist in {tmp_path}" in fails(train_classifier.main, *flags)
        shutil.copy(ROOT / "data" / "MNIST" / "raw" / name, tmp_path / "MNIST" / "raw")


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
    flags = ["--steps", "1000", "--output", str(tmp_path / "o.png")]
    command = [sys.executable, "-u", str(ROOT / "inference.py"), *flags]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    streams["preexec_fn"] = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)
    process = subprocess.Popen(command, **streams)
    try:
        assert "device: " in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130 and error.strip() == "inference.py: stopped"
    assert not list(tmp_path.iterdir())
