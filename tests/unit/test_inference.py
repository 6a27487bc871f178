"""inference.py as a user runs it: its flags, and the files it writes."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageChops, ImageSequence

import inference
from data import from_uint8
from inference import gradient, growing_scale, guided, load_models, sample, trajectory
from support import pictures
from support.streams import image_seeds


@pytest.fixture
def run(tmp_path):
    """Run inference.py with four sampling steps; return the images and labels of its NPZ file."""

    def main(*flags):
        outputs = ["--output", tmp_path / "o.png", "--npz", tmp_path / "o.npz"]
        inference.main([str(word) for word in ["--steps", 4, *outputs, *flags]])
        arrays = np.load(tmp_path / "o.npz")
        images, labels = arrays["arr_0"], arrays["arr_1"]
        assert images.dtype == np.uint8 and images.shape[1:] == (28, 28, 1)
        assert labels.dtype == np.int64
        return images[..., 0].astype(int), labels.tolist()

    return main


def test_the_flags_reach_sample(run, capsys):
    """By default, the scale grows. A warning takes one line."""
    flags = ["--sampler", "ddim", "--digits", 4, 2, "--num-samples", 2, "--seed", 9]
    images, labels = run(*flags, "--steps", 7)
    seeds = image_seeds(9, [4, 4, 2, 2])
    ddpm, classifier = load_models()
    predict = guided(ddpm, gradient(classifier.log_p), growing_scale(ddpm))
    expected = sample(ddpm, labels, seeds, predict, sampler="ddim", steps=7)
    assert labels == [4, 4, 2, 2] and np.array_equal(images, pictures.to_uint8(expected)[:, 0])
    capsys.readouterr()
    run("--guidance-scale", 1e5)
    error = capsys.readouterr().err
    assert error.startswith("warning: ") and error.count("\n") == 1


def test_one_row_per_digit(run, tmp_path):
    """A digit that is given twice gets different images."""
    images, labels = run("--digits", 2, 0, 2, "--num-samples", 3, "--seed", 6)
    assert labels == [2, 2, 2, 0, 0, 0, 2, 2, 2]
    assert len(np.unique(images, axis=0)) == 9
    grid = np.asarray(Image.open(tmp_path / "o.png"))[::4, ::4]
    assert grid.shape == (3 * 30 + 2, 3 * 30 + 2)
    shown = pictures.ink_on_paper(from_uint8(torch.from_numpy(images[5:6, None])))
    assert np.abs(grid[32:60, 62:90].astype(int) - shown[0, 0].numpy()).max() <= 1


def test_single_images_of_several_digits_are_one_row(run, tmp_path):
    run("--digits", "all", "--num-samples", 1)
    assert Image.open(tmp_path / "o.png").size == (4 * (10 * 30 + 2), 4 * (30 + 2))


def test_several_scales_make_one_row_each_from_the_same_noise(run, tmp_path, monkeypatch):
    """The NPZ file and the animation contain the samples of the last scale, away from y here."""
    saved = []
    monkeypatch.setattr(pictures, "MAX_FRAMES", 2)
    monkeypatch.setattr(pictures, "save_labeled_grid", lambda *args: saved.extend(args))
    flags = ["--digits", 7, 4, "--num-samples", 2, "--growing-scale", 15, -2]
    flags += ["--guidance-scale", 0, 0, 1.000001]
    images, labels = run(*flags, "--sampler", "ddim", "--gif", tmp_path / "o.gif")
    _, rows, columns = saved
    shown = ["s = 0", "s = 0", "s = 1.000001", "1 + 15 SNR", "1 + -2 SNR"]
    assert [label for label, _ in rows] == shown and columns == ["7", "7", "4", "4"]

    y, seeds = torch.tensor([7, 7, 4, 4]), image_seeds(0, labels)
    ddpm, classifier = load_models()
    grad = gradient(classifier.log_p)
    predict = guided(ddpm, grad, growing_scale(ddpm, -2))
    settings = {"sampler": "ddim", "steps": 4}
    unguided, away = [sample(ddpm, y, seeds, each, **settings) for each in (None, predict)]
    assert np.array_equal(images, pictures.to_uint8(away)[:, 0])
    for k, expected in ((0, unguided), (1, unguided), (4, away)):
        assert torch.equal(rows[k][1], pictures.ink_on_paper(expected))

    # the samples, then every other step of the same trajectory, then the samples again
    film = Image.open(tmp_path / "o.gif")
    first, *frames = [frame.convert("RGB") for frame in ImageSequence.Iterator(film)]
    assert ImageChops.difference(first, frames[-1]).getbbox() is None
    steps = trajectory(ddpm, y, seeds, predict, **settings)
    shown = [(x_t, x_0, grad(x_t, t, y)) for t, x_t, x_0 in steps]
    shown = [shown[0], shown[2], (away, away, shown[3][2])]
    for frame, (x_t, x_0, push) in zip(frames, shown, strict=True):
        for number, side in enumerate((x_t, x_0, pictures.gradient_in_colors(push))):
            grid = pictures.grid_image(side, 2, pixel=3)
            top = number * (30 + grid.height) + 30
            part = frame.crop((0, top, grid.width, top + grid.height))
            error = np.asarray(part, dtype=int) - np.asarray(grid.convert("RGB"), dtype=int)
            assert np.abs(error).mean() < 8  # few colors


def test_a_gradient_that_adds_ink_is_orange_and_one_that_removes_it_is_blue():
    """Each image is scaled by its own largest value."""
    grads = torch.tensor([[3.0, -3.0, 0.0], [0.1, -0.1, 0.0]]).view(2, 1, 1, 3)
    for colors in pictures.gradient_in_colors(grads)[:, :, 0]:
        orange, blue, paper = (tuple(color) for color in colors.T.tolist())
        assert (orange, blue, paper) == ((200, 80, 10), (0, 100, 173), (250, 250, 250))


def test_labels_are_next_to_their_images(tmp_path, monkeypatch):
    """Two rows of five images of different grays; the columns continue below after three."""
    drawn = []
    monkeypatch.setattr(
        pictures, "save_figure", lambda path, figure, *_, **__: drawn.append(figure)
    )
    monkeypatch.setattr(pictures, "MAX_COLUMNS", 3)
    grays = torch.linspace(-1, 1, 10).view(2, 5, 1, 1, 1).expand(2, 5, 1, 8, 8)
    rows, labels = {"light": grays[0], "dark": grays[1]}, ["a", "b", "$", "c", "d"]
    pictures.save_labeled_grid(tmp_path / "o.png", list(rows.items()), labels)
    seen = []
    for axes in drawn[0].axes:
        image = axes.images[0].get_array()
        for y, row in zip(axes.get_yticks(), axes.get_yticklabels()):
            for x, column in zip(axes.get_xticks(), axes.get_xticklabels()):
                gray = rows[row.get_text()][labels.index(column.get_text())]
                assert image[round(y), round(x)] == pictures.ink_on_paper(gray[None])[0, 0, 0, 0]
                seen.append(column.get_text())
    assert seen == ["a", "b", "$"] * 2 + ["c", "d"] * 2


def test_the_same_command_produces_the_same_bytes(run, tmp_path):
    made = []
    for _ in range(2):
        run("--gif", tmp_path / "o.gif")
        made.append([(tmp_path / name).read_bytes() for name in ("o.png", "o.npz", "o.gif")])
    assert made[0] == made[1]


def test_a_gray_level_survives_the_conversion_to_floats_and_back():
    levels = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(pictures.to_uint8(pictures.from_uint8(levels)), levels)
    assert pictures.from_uint8(levels[[0, 255]]).tolist() == [-1, 1]


def test_show_draws_ink_dark_and_added_ink_orange():
    row = torch.tensor([-1.0, 0.0, 1.0]).view(1, 1, 1, 3)
    figure = pictures.show({"image": row, "change": row}, signed=["change"])
    image, change = (axes.images[0].make_image(None, unsampled=True)[0] for axes in figure.axes)
    assert image[0, :, 0].tolist() == [255, 127, 0]  # -1 is light
    blue, white, orange = change[0, :, :3].astype(int).tolist()
    assert blue == [0, 100, 173] and min(white) > 250 and orange == [200, 80, 10]


def test_images_are_clipped_and_shown_as_ink_or_if_from_a_folder_as_they_are():
    gray = torch.tensor([-3.0, 3.0]).view(1, 1, 1, 2)
    for kind, shown in (("mnist", [pictures.PAPER, pictures.INK_GRAY]), ("folder", [0, 255])):
        assert pictures.as_displayed(gray, {"kind": kind}).flatten().tolist() == shown
