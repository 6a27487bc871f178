"""inference.py as a user runs it: its flags, and the files that it writes."""

import json
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence

import inference
from guidance import growing_scale, sample
from support import pictures
from support.files import sha256
from support.streams import image_seeds


@pytest.fixture
def draw(tmp_path):
    """Run inference.py in four steps: the images (N, 28, 28) and the labels of its NPZ."""

    def run(*flags):
        outputs = ["--output", tmp_path / "o.png", "--npz", tmp_path / "o.npz"]
        inference.main([str(word) for word in ["--steps", 4, *outputs, *flags]])
        images, labels = np.load(tmp_path / "o.npz").values()
        assert images.dtype == np.uint8 and images.shape[1:] == (28, 28, 1)
        assert labels.dtype == np.int64
        return images[..., 0].astype(int), labels.tolist()

    return run


def test_the_flags_reach_sample(draw, monkeypatch):
    fake = Mock(return_value=torch.zeros(4, 1, 28, 28))
    monkeypatch.setattr(inference, "sample", fake)
    settings = {"guidance_scale": 3, "scale_growth": 5, "sampler": "ddim", "steps": 7}
    settings |= {"batch_size": 4, "window": "250-750"}
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]
    draw("--digit", 4, 2, "--num-samples", 2, "--seed", 9, *flags)
    _, _, y, seeds = fake.call_args.args
    assert y.tolist() == [4, 4, 2, 2] and seeds == image_seeds(9, [4, 4, 2, 2])
    scale, wanted = fake.call_args.kwargs.pop("scale"), growing_scale(3, 5, (250, 750))
    assert [scale(t) for t in (999, 749, 250, 0)] == [wanted(t) for t in (999, 749, 250, 0)]
    others = {name: settings[name] for name in ("sampler", "steps", "batch_size")}
    assert fake.call_args.kwargs == {**others, "watch": None}


def test_a_row_for_each_digit_asked_for(draw, tmp_path):
    """Asked for twice, its images are others."""
    images, labels = draw("--digits", 2, 0, 2, "--num-samples", 3)
    assert labels == [2, 2, 2, 0, 0, 0, 2, 2, 2]
    assert len(np.unique(images, axis=0)) == 9
    grid = np.asarray(Image.open(tmp_path / "o.png"))[::4, ::4]
    assert grid.shape == (3 * 30 + 2, 3 * 30 + 2)
    assert np.array_equal(grid[32:60, 62:90], images[5])


def test_one_row_of_one_image_of_each_digit(draw, tmp_path):
    _, labels = draw("--digits", "all", "--num-samples", 1)
    assert labels == [*range(10)]
    assert Image.open(tmp_path / "o.png").size == (4 * (10 * 30 + 2), 4 * (30 + 2))


def test_several_scales_make_a_row_each_and_the_last_one_is_kept(draw, tmp_path, monkeypatch):
    """The same noise in each row, unguided first; the NPZ and the film are of the last one."""
    saved = []
    monkeypatch.setattr(pictures, "save_labelled_grid", lambda *args: saved.extend(args))
    flags = ["--digits", 4, 7, "--num-samples", 2, "--guidance-scale", 0, 2]
    images, labels = draw(*flags, "--gif", tmp_path / "o.gif")
    assert saved[2:4] == [["unguided", "w = 2"], ["4", "7"]]

    y, steps = torch.tensor([4, 4, 7, 7]), []
    seeds = image_seeds(0, labels)
    unet, classifier = inference.load_models()
    settings = {"steps": 4, "watch": lambda t, *sides: steps.append(sides)}
    unguided = sample(unet, None, None, seeds, steps=4)
    guided = sample(unet, classifier.log_p, y, seeds, scale=growing_scale(2), **settings)
    assert np.array_equal(images, pictures.to_uint8(guided)[:, 0])
    assert torch.equal(saved[1], torch.cat([unguided, guided]))

    # a frame for each step, x_t beside the predicted x_0, and the images at the end; eight grays
    film = Image.open(tmp_path / "o.gif")
    assert "classifier.pth" in json.loads(film.info["comment"])["sha256"]
    frames = [np.asarray(frame.convert("L")) for frame in ImageSequence.Iterator(film)]
    for frame, sides in zip(frames, [*steps, (guided, guided)], strict=True):
        left, right = (np.asarray(pictures.grid_image(side, 2)) // 32 * 36 for side in sides)
        assert np.array_equal(frame[:, :248], left) and np.array_equal(frame[:, -248:], right)
        assert frame.shape == (248, 248 + 10 + 248)


def test_the_same_command_makes_the_same_bytes(draw, tmp_path):
    made = []
    for _ in range(2):
        draw("--gif", tmp_path / "o.gif")
        made.append([sha256(tmp_path / name) for name in ("o.png", "o.npz", "o.gif")])
    assert made[0] == made[1]
