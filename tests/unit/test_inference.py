"""inference.py as a user runs it: its flags, and the files that it writes."""

import json
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence

import inference
from inference import Guided, Unguided, draw, gradient, growing_scale, sample
from mnist import from_uint8
from support import pictures
from support.files import sha256
from support.streams import image_seeds


@pytest.fixture
def run(tmp_path):
    """Run inference.py in four steps: the images (N, 28, 28) and the labels of its NPZ."""

    def main(*flags):
        outputs = ["--output", tmp_path / "o.png", "--npz", tmp_path / "o.npz"]
        inference.main([str(word) for word in ["--steps", 4, *outputs, *flags]])
        images, labels = np.load(tmp_path / "o.npz").values()
        assert images.dtype == np.uint8 and images.shape[1:] == (28, 28, 1)
        assert labels.dtype == np.int64
        return images[..., 0].astype(int), labels.tolist()

    return main


def test_the_flags_reach_sample(run, monkeypatch):
    fake = Mock(return_value=torch.zeros(4, 1, 28, 28))
    monkeypatch.setattr(inference, "sample", fake)
    settings = {"sampler": "ddim", "steps": 7, "batch_size": 4, "window": "250-750"}
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]
    run("--digit", 4, 2, "--num-samples", 2, "--seed", 9, *flags)
    method, y, seeds, *others = fake.call_args.args
    assert y.tolist() == [4, 4, 2, 2] and seeds == image_seeds(9, [4, 4, 2, 2])
    assert others == ["ddim", 7, 4] and isinstance(method, Guided)
    assert (method.scale(750), method.scale(249)) == (0, 0) and method.scale(250) > 1


SCALES = {  # flags -> s at t = 999 and at 249, where the SNR is 1.1
    "": (1, 27),
    "--guidance-scale 5": (5, 5),  # ADM's constant scale, as scale=5 in Python
    "--growth 6": (1, 7.6),
    "--guidance-scale 2 --growth 24": (2, 54),
}


@pytest.mark.parametrize("flags", SCALES)
def test_a_scale_is_constant_unless_it_grows(run, monkeypatch, flags):
    fake = Mock(return_value=torch.zeros(8, 1, 28, 28))
    monkeypatch.setattr(inference, "sample", fake)
    run(*flags.split())
    scale = fake.call_args.args[0].scale
    assert (scale(999), scale(249)) == pytest.approx(SCALES[flags], rel=0.02)


def test_a_row_for_each_digit_asked_for(run, tmp_path):
    """Asked for twice, its images are others."""
    images, labels = run("--digits", 2, 0, 2, "--num-samples", 3)
    assert labels == [2, 2, 2, 0, 0, 0, 2, 2, 2]
    assert len(np.unique(images, axis=0)) == 9
    grid = np.asarray(Image.open(tmp_path / "o.png"))[::4, ::4]
    assert grid.shape == (3 * 30 + 2, 3 * 30 + 2)
    shown = pictures.on_paper(from_uint8(torch.from_numpy(images[5:6, None])))
    assert np.abs(grid[32:60, 62:90].astype(int) - shown[0, 0].numpy()).max() <= 1


def test_one_row_of_one_image_of_each_digit(run, tmp_path):
    _, labels = run("--digits", "all", "--num-samples", 1)
    assert labels == [*range(10)]
    assert Image.open(tmp_path / "o.png").size == (4 * (10 * 30 + 2), 4 * (30 + 2))


def test_several_scales_make_a_row_each_and_the_last_one_is_kept(run, tmp_path, monkeypatch):
    """The same noise in each row, unguided first; the NPZ and the film are of the last one."""
    saved = []
    monkeypatch.setattr(pictures, "save_labelled_grid", lambda *args: saved.extend(args))
    flags = ["--digits", 4, 7, "--num-samples", 2, "--guidance-scale", 0, 2]
    images, labels = run(*flags, "--growth", 24, "--gif", tmp_path / "o.gif")
    rows = saved[1]
    assert list(rows) == ["left to chance", "w = 2"] and saved[2] == ["4", "7"]

    y, seeds = torch.tensor([4, 4, 7, 7]), image_seeds(0, labels)
    ddpm, classifier = inference.load_models()
    method = Guided(ddpm, classifier.log_p, growing_scale(ddpm.scheduler, 2))
    unguided = sample(Unguided(ddpm), None, seeds, steps=4)
    guided = sample(method, y, seeds, steps=4)
    assert np.array_equal(images, pictures.to_uint8(guided)[:, 0])
    assert torch.equal(torch.cat([*rows.values()]), torch.cat([unguided, guided]))

    # a frame for each step: x_t, the predicted x_0 and the gradient, in few colours
    film = Image.open(tmp_path / "o.gif")
    assert "classifier.pth" in json.loads(film.info["comment"])["sha256"]
    frames = [frame.convert("RGB") for frame in ImageSequence.Iterator(film)]
    for frame, (t, *sides) in zip(frames, draw(method, y, seeds, steps=4), strict=True):
        grad = gradient(classifier.log_p, sides[0], t, y) if t >= 0 else torch.zeros(4, 1, 28, 28)
        for number, side in enumerate([*sides, pictures.push_on_paper(grad)]):
            grid = pictures.grid_image(side, 2, pixel=3)
            top = number * (30 + grid.height) + 30
            shown = frame.crop((0, top, grid.width, top + grid.height))
            error = np.asarray(shown, dtype=int) - np.asarray(grid.convert("RGB"), dtype=int)
            assert np.abs(error).max() <= 20
    assert torch.equal(sides[0].clamp(-1, 1), guided)


def test_the_labels_of_a_picture_stand_at_their_images(tmp_path, monkeypatch):
    """From above and from the left: two rows of three images, light and dark."""
    drawn = []
    monkeypatch.setattr(
        pictures, "save_figure", lambda path, figure, *_, **__: drawn.append(figure)
    )
    rows = {"light": torch.full((3, 1, 8, 8), -1.0), "dark": torch.full((3, 1, 8, 8), 1.0)}
    pictures.save_labelled_grid(tmp_path / "o.png", rows, ["a", "b", "c"], "")
    [axes] = drawn[0].axes
    image = axes.images[0].get_array()
    for place, label in zip(axes.get_yticks(), axes.get_yticklabels()):
        gray = {"light": pictures.PAPER, "dark": pictures.INK_GRAY}[label.get_text()]
        assert image[round(place), 6] == gray
    texts = [label.get_text() for label in axes.get_xticklabels()]
    assert texts == ["a", "b", "c"] and list(axes.get_xticks()) == sorted(axes.get_xticks())


def test_a_long_film_has_few_frames_and_ends_with_the_images(tmp_path):
    """The last step is shown, whatever its number."""
    gray, dark = torch.zeros(1, 1, 28, 28), torch.ones(1, 1, 28, 28)
    steps = [(t, gray, gray, gray) for t in range(59)] + [(-1, dark, gray, None)]
    pictures.save_film(tmp_path / "o.gif", iter(steps), 60, 1, "")
    film = Image.open(tmp_path / "o.gif")
    assert film.n_frames <= pictures.MAX_FRAMES
    film.seek(film.n_frames - 1)
    assert film.convert("L").getpixel((60, 60)) == pictures.INK_GRAY


def test_the_same_command_makes_the_same_bytes(run, tmp_path):
    made = []
    for _ in range(2):
        run("--gif", tmp_path / "o.gif")
        made.append([sha256(tmp_path / name) for name in ("o.png", "o.npz", "o.gif")])
    assert made[0] == made[1]
