"""inference.py as a user runs it: its flags, and the files it writes."""

import json
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from PIL import Image, ImageChops, ImageSequence

import inference
from data import from_uint8
from inference import gradient, guided, sample, trajectory
from support import pictures
from support.files import sha256
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


FLAGS = {  # flags -> s at t = 999 and at 249, where the SNR is 1.1
    "": (1.5, 14.7),
    "--guidance-scale 5": (5, 5),
}


@pytest.mark.parametrize("flags", FLAGS)
def test_the_flags_reach_sample(run, monkeypatch, flags):
    fake = Mock(return_value=torch.zeros(4, 1, 28, 28))
    monkeypatch.setattr(inference, "sample", fake)
    settings = ["--sampler", "ddim", "--steps", 7, "--digits", 4, 2, "--num-samples", 2]
    run(*settings, "--seed", 9, *flags.split())
    ddpm, y, seeds, eps_hat = fake.call_args.args
    assert y.tolist() == [4, 4, 2, 2] and seeds == image_seeds(9, [4, 4, 2, 2])
    assert fake.call_args.kwargs == {"sampler": "ddim", "steps": 7}
    classifier, x_t = inference.load_models()[1], torch.randn(4, 1, 28, 28)
    for t, s in zip((999, 249), FLAGS[flags]):
        shift = s * (1 - ddpm.abar[t]).sqrt() * gradient(classifier.log_p)(x_t, t, y)
        torch.testing.assert_close(ddpm(x_t, t) - eps_hat(x_t, t, y), shift, rtol=0.02, atol=1e-5)


def test_one_row_per_digit(run, tmp_path):
    """A digit that is given twice gets different images; the picture has its provenance."""
    images, labels = run("--digits", 2, 0, 2, "--num-samples", 3, "--seed", 6)
    assert labels == [2, 2, 2, 0, 0, 0, 2, 2, 2]
    assert len(np.unique(images, axis=0)) == 9
    picture = Image.open(tmp_path / "o.png")
    made_from = json.loads(picture.info["provenance"])
    settings = {"sampler": "ddpm", "steps": 4, "seed": 6, "num_samples": 3}
    assert made_from["settings"] == {"scales": ["growing"], "digits": [2, 0, 2]} | settings
    digest = sha256("models/classifier.pth")
    assert made_from["sha256"]["classifier.pth"] == digest
    grid = np.asarray(picture)[::4, ::4]
    assert grid.shape == (3 * 30 + 2, 3 * 30 + 2)
    shown = pictures.ink_on_paper(from_uint8(torch.from_numpy(images[5:6, None])))
    assert np.abs(grid[32:60, 62:90].astype(int) - shown[0, 0].numpy()).max() <= 1


def test_single_images_of_several_digits_are_one_row(run, tmp_path):
    run("--digits", "all", "--num-samples", 1, "--gif", tmp_path / "o.gif")
    assert Image.open(tmp_path / "o.png").size == (4 * (10 * 30 + 2), 4 * (30 + 2))
    assert Image.open(tmp_path / "o.gif").size == (3 * (10 * 30 + 2), 3 * (30 + 3 * (30 + 2)))
    made_from = json.loads(Image.open(tmp_path / "o.gif").info["comment"])
    assert made_from["settings"]["digits"] == list(range(10))


def test_several_scales_make_one_row_each_from_the_same_noise(run, tmp_path, monkeypatch):
    """The NPZ file and the animation contain the samples of the last scale."""
    saved, networks = [], inference.load_models()
    networks[1].dataset = networks[1].dataset | {"classes": list("abcdefghij")}
    monkeypatch.setattr(pictures, "save_labeled_grid", lambda *args: saved.extend(args))
    monkeypatch.setattr(inference, "load_models", lambda *args: networks)
    flags = ["--digits", "h", 4, "--num-samples", 2, "--guidance-scale", 0, 2, "--sampler", "ddim"]
    images, labels = run(*flags, "--gif", tmp_path / "o.gif")
    rows = saved[1]
    assert list(rows) == ["s = 0", "s = 2"] and saved[2] == ["h", "e"]
    assert json.loads(saved[3])["settings"]["scales"] == list(rows)

    y, seeds = torch.tensor([7, 7, 4, 4]), image_seeds(0, labels)
    ddpm, classifier = networks
    grad = gradient(classifier.log_p)
    eps_hat = guided(ddpm, grad, 2)
    settings = {"sampler": "ddim", "steps": 4}
    both = [sample(ddpm, y, seeds, noise, **settings) for noise in (None, eps_hat)]
    assert np.array_equal(images, pictures.to_uint8(both[1])[:, 0])
    assert torch.equal(torch.cat([*rows.values()]), pictures.ink_on_paper(torch.cat(both)))

    # the samples, then one frame per step, of the same trajectory, then the samples again
    film = Image.open(tmp_path / "o.gif")
    first, *frames = [frame.convert("RGB") for frame in ImageSequence.Iterator(film)]
    assert ImageChops.difference(first, frames[-1]).getbbox() is None
    steps = list(trajectory(ddpm, y, seeds, eps_hat, **settings))
    shown = [(x_t, x_0, grad(x_t, t, y)) for t, x_t, x_0 in steps]
    shown.append((both[1], both[1], shown[-1][2]))
    for frame, (x_t, x_0, push) in zip(frames, shown, strict=True):
        for number, side in enumerate((x_t, x_0, pictures.gradient_in_colors(push))):
            grid = pictures.grid_image(side, 2, pixel=3)
            top = number * (30 + grid.height) + 30
            part = frame.crop((0, top, grid.width, top + grid.height))
            error = np.asarray(part, dtype=int) - np.asarray(grid.convert("RGB"), dtype=int)
            assert np.abs(error).mean() < 8  # few colors


def test_an_unguided_animation_shows_no_gradient(run, tmp_path):
    heights = []
    for scale in (0, 2):
        run("--digits", 4, "--guidance-scale", scale, "--gif", tmp_path / "o.gif")
        heights.append(Image.open(tmp_path / "o.gif").height)
    assert heights[0] == pytest.approx(2 / 3 * heights[1])


@pytest.mark.parametrize("num_steps", [50, 60])
def test_a_long_animation_has_few_frames_and_starts_and_ends_with_the_samples(tmp_path, num_steps):
    gray, dark = torch.zeros(1, 1, 28, 28), torch.ones(1, 1, 28, 28)
    steps = [(t, gray, gray, gray) for t in range(num_steps - 1)] + [(0, gray, dark, gray)]
    pictures.save_animation(tmp_path / "o.gif", iter(steps), num_steps, 1, "")
    film = Image.open(tmp_path / "o.gif")
    assert film.n_frames <= pictures.MAX_FRAMES + 2
    for number in (0, film.n_frames - 1):
        film.seek(number)
        assert film.convert("L").getpixel((60, 60)) == pictures.INK_GRAY


def test_gray_images_are_clipped_and_animations_keep_many_colors():
    shown = pictures.ink_on_paper(torch.tensor([-3.0, 3.0]).view(1, 1, 1, 2))
    assert shown.flatten().tolist() == [pictures.PAPER, pictures.INK_GRAY]
    colors = torch.linspace(-1, 1, 3 * 28 * 28).view(1, 3, 28, 28)
    frame = pictures.animation_frame("t = 0", colors, colors, None, 1)
    assert len(frame.convert("RGB").getcolors()) > 200


def test_a_gradient_that_adds_ink_is_orange_and_one_that_removes_it_is_blue():
    """Each image is scaled by its own largest value."""
    grads = torch.tensor([[3.0, -3.0, 0.0], [0.1, -0.1, 0.0]]).view(2, 1, 1, 3)
    for colors in pictures.gradient_in_colors(grads)[:, :, 0]:
        orange, blue, paper = (tuple(color) for color in colors.T.tolist())
        assert (orange, blue, paper) == ((200, 80, 10), (0, 100, 173), (250, 250, 250))


def test_labels_are_next_to_their_images(tmp_path, monkeypatch):
    """Two rows of three images of different grays."""
    drawn = []
    monkeypatch.setattr(
        pictures, "save_figure", lambda path, figure, *_, **__: drawn.append(figure)
    )
    grays = torch.linspace(-1, 1, 6).view(2, 3, 1, 1, 1).expand(2, 3, 1, 8, 8)
    rows = {"light": grays[0], "dark": grays[1]}
    pictures.save_labeled_grid(tmp_path / "o.png", rows, ["a", "b", "$"], "")
    [axes] = drawn[0].axes
    image = axes.images[0].get_array()
    for y, row in zip(axes.get_yticks(), axes.get_yticklabels()):
        for x, column in zip(axes.get_xticks(), axes.get_xticklabels()):
            gray = rows[row.get_text()][["a", "b", "$"].index(column.get_text())]
            assert image[round(y), round(x)] == pictures.ink_on_paper(gray[None])[0, 0, 0, 0]


def test_the_animation_pauses_at_the_samples(tmp_path):
    with open(tmp_path / "o.gif", "wb") as file:
        pictures.write_gif(file, [Image.new("L", (8, 8), k) for k in (1, 2, 3)], 160)
    film, times = Image.open(tmp_path / "o.gif"), []
    for number in range(film.n_frames):
        film.seek(number)
        times.append(film.info["duration"])
    assert times == [3_000, 160, 160, 160]


def test_the_same_command_produces_the_same_bytes(run, tmp_path):
    made = []
    for _ in range(2):
        run("--gif", tmp_path / "o.gif")
        made.append([(tmp_path / name).read_bytes() for name in ("o.png", "o.npz", "o.gif")])
    assert made[0] == made[1]


def test_uint8_images_are_not_converted_again():
    images = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    assert torch.equal(pictures.to_uint8(images), images)
    assert torch.equal(pictures.to_uint8(from_uint8(images)), images)


def test_digits_are_shown_as_ink_on_paper_and_images_of_a_folder_as_they_are():
    gray = torch.tensor([-1.0, 1.0]).view(1, 1, 1, 2)
    assert pictures.as_displayed(gray, {"kind": "folder"}).flatten().tolist() == [0, 255]
    light, dark = pictures.as_displayed(gray, {"kind": "mnist"}).flatten().tolist()
    assert light > 200 and dark < 50
