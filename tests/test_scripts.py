"""The three scripts as a user runs them: tiny runs, and the files that they write."""

import json
import signal
import subprocess
import sys
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from conftest import ROOT
from PIL import Image, ImageSequence

import inference
import mnist
import train_classifier
import train_ddpm
from diffusion import predicted_x_0
from support import pictures, training
from support.files import sha256

SCRIPTS = {"classifier": train_classifier, "ddpm_unet": train_ddpm}


def shipped():
    """The SHA-256 of each file that a script could damage."""
    patterns = ("*.png", "models/*", "results/*", "previews/*")
    return {path: sha256(path) for pattern in patterns for path in ROOT.glob(pattern)}


def train(name, folder, *flags):
    """Train a network for six steps, and validate it on few images."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mnist, "NUM_VALIDATION", 200)
        flags = ["--steps", "6", "--batch-size", "8", *flags]
        SCRIPTS[name].main(["--models", str(folder), *flags])
    return torch.load(folder / f"{name}.pth", weights_only=True)


def pixels(path):
    return np.asarray(Image.open(path).convert("L")).astype(int)


def cut(path, columns):
    """The images (N, 28, 28) of a grid, whose pixels are four by four on the screen."""
    grid = pixels(path)
    small = grid[::4, ::4]
    assert np.array_equal(grid, np.kron(small, np.ones((4, 4), int)))
    rows = (small.shape[0] - 2) // 30
    assert small.shape == (2 + 30 * rows, 2 + 30 * columns)
    places = [(2 + 30 * row, 2 + 30 * column) for row in range(rows) for column in range(columns)]
    return np.stack([small[y : y + 28, x : x + 28] for y, x in places])


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A folder in which both networks were trained; nothing that ships is touched."""
    folder, before = tmp_path_factory.mktemp("trial"), shipped()
    for name in SCRIPTS:
        train(name, folder)
    assert shipped() == before
    return folder


@pytest.fixture
def draw(tmp_path):
    """Run inference.py in four steps: the images (N, 28, 28) and the labels of its NPZ."""

    def run(*flags):
        outputs = ["--output", tmp_path / "o.png", "--npz", tmp_path / "o.npz"]
        inference.main([str(word) for word in ["--steps", 4, *outputs, *flags]])
        content = np.load(tmp_path / "o.npz")
        assert content["arr_0"].dtype == np.uint8 and content["arr_0"].shape[1:] == (28, 28, 1)
        assert content["arr_1"].dtype == np.int64
        return content["arr_0"][..., 0].astype(int), content["arr_1"].tolist()

    return run


# --- training ---


def test_the_trainings_write_their_files_and_nothing_else(tiny):
    pictures = {"classifier_accuracy.png", "ddpm_loss.png", "sample_ddpm_output.png"}
    networks = {"classifier.pth", "ddpm_unet.pth"}
    assert {path.name for path in tiny.iterdir()} == pictures | networks | {"previews"}
    assert len(cut(tiny / "previews" / "step_000006.png", 4)) == 40


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_training_that_is_stopped_goes_on_bit_for_bit(tiny, tmp_path, name, monkeypatch, capsys):
    """In the last step, when the state of the fourth is saved; at the end nothing differs."""
    monkeypatch.setattr(training, "SAVE_EVERY", 4)
    with monkeypatch.context() as patch, pytest.raises(SystemExit) as end:
        patch.setattr(SCRIPTS[name], "validate", Mock(side_effect=KeyboardInterrupt))
        train(name, tmp_path)
    error = capsys.readouterr().err
    state = tmp_path / f"{name}.state.pth"
    assert end.value.code == 130 and f"{state} is kept: the same command with --resume" in error
    assert not (tmp_path / f"{name}.pth").exists() and state.exists()

    resumed, once = train(name, tmp_path, "--resume"), torch.load(tiny / f"{name}.pth")
    for key, value in once.pop("state_dict").items():
        assert torch.equal(resumed["state_dict"][key], value), key
    assert resumed["training"].pop("seconds") > 0 and once["training"].pop("seconds") > 0
    assert resumed["training"] == once["training"]  # also the mean loss, and the validation
    assert not list(tmp_path.glob("*state*")) and not list(tmp_path.glob(".*"))
    assert capsys.readouterr().err == ""  # no progress bar where stderr is no terminal


# --- pictures ---


def test_the_grid_has_a_row_for_each_digit(draw, tmp_path):
    images, labels = draw("--digits", 2, 0, 2, "--num-samples", 3)
    assert labels == [2, 2, 2, 0, 0, 0, 2, 2, 2]
    assert np.array_equal(cut(tmp_path / "o.png", 3), images)
    assert not np.array_equal(images[0], images[6])  # asked for twice, it is another image


def test_one_image_of_each_digit_stands_in_one_row(draw, tmp_path):
    every, labels = draw("--digits", "all", "--num-samples", 1)
    assert labels == list(range(10))
    assert np.array_equal(cut(tmp_path / "o.png", 10), every)


def test_several_scales_make_a_row_each_and_the_last_one_is_kept(
    draw, tmp_path, unet, classifier, monkeypatch
):
    """The same noise in each row; the NPZ and the film are of the last one."""
    saved = []
    monkeypatch.setattr(pictures, "save_labelled_grid", lambda *args: saved.extend(args))
    flags = ["--digits", 4, 7, "--num-samples", 2, "--guidance-scale", 0, 2]
    images, _ = draw(*flags, "--gif", tmp_path / "o.gif")
    assert saved[2:4] == [["unguided", "w = 2"], ["4", "7"]]

    y, steps = torch.tensor([4, 4, 7, 7]), []

    def watch(t, x_t, eps_hat):
        steps.append((x_t, predicted_x_0(x_t, t, eps_hat)))

    unguided = inference.sample(unet, None, y, guidance_scale=0, steps=4)
    guided = inference.sample(unet, classifier.log_p, y, guidance_scale=2, steps=4, watch=watch)
    assert np.array_equal(images, pictures.to_uint8(guided)[:, 0])
    assert torch.equal(saved[1], torch.cat([unguided, guided]))

    # a frame for each step, x_t beside the predicted x_0, and the images at the end; eight grays
    film = Image.open(tmp_path / "o.gif")
    assert "classifier.pth" in json.loads(film.info["comment"])["weights"]
    frames = [np.asarray(frame.convert("L")) for frame in ImageSequence.Iterator(film)]
    assert len(frames) == 4 + 1
    for frame, sides in zip(frames, [*steps, (guided, guided)]):
        left, right = (np.asarray(pictures.grid_image(side, 2)) // 32 * 36 for side in sides)
        assert np.array_equal(frame[:, :62], left) and np.array_equal(frame[:, -62:], right)
        assert frame.shape == (62, 62 + 10 + 62)


def test_the_same_command_makes_the_same_bytes(draw, tmp_path):
    made = []
    for _ in range(2):
        draw("--gif", tmp_path / "o.gif")
        made.append([sha256(tmp_path / name) for name in ("o.png", "o.npz", "o.gif")])
    assert made[0] == made[1]


# --- as real processes ---


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
