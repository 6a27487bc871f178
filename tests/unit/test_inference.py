"""inference.py as a user runs it: its flags, and the files that it writes."""

import json

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence

import inference
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


def cut(path, columns):
    """The images (N, 28, 28) of a grid, whose pixels are four by four on the screen."""
    grid = np.asarray(Image.open(path).convert("L")).astype(int)
    small = grid[::4, ::4]
    assert np.array_equal(grid, np.kron(small, np.ones((4, 4), int)))
    rows = (small.shape[0] - 2) // 30
    assert small.shape == (2 + 30 * rows, 2 + 30 * columns)
    places = [(2 + 30 * row, 2 + 30 * column) for row in range(rows) for column in range(columns)]
    return np.stack([small[y : y + 28, x : x + 28] for y, x in places])


def test_the_flags_reach_sample(draw, monkeypatch):
    asked = {}

    def record(unet, log_p, y, seeds, **settings):
        asked.update(settings, y=y.tolist(), seeds=seeds)
        return torch.zeros(len(y), 1, 28, 28)

    monkeypatch.setattr(inference, "sample", record)
    flags = {"guidance-scale": 3, "scale-growth": 5, "sampler": "ddim", "steps": 7, "seed": 9}
    flags |= {"batch-size": 4, "num-samples": 2, "window": "250-750"}
    draw("--digit", 4, 2, *(f"--{name}={value}" for name, value in flags.items()))
    wanted = {"guidance_scale": 3, "scale_growth": 5, "sampler": "ddim", "steps": 7}
    wanted |= {"batch_size": 4, "window": (250, 750), "watch": None}
    wanted |= {"y": [4, 4, 2, 2], "seeds": image_seeds(9, [4, 4, 2, 2])}
    assert asked == wanted


def test_a_row_for_each_digit_or_one_row_of_one_image_each(draw, tmp_path):
    """The film has the same layout and size on both sides."""
    images, labels = draw("--digits", 2, 0, 2, "--num-samples", 3)
    assert labels == [2, 2, 2, 0, 0, 0, 2, 2, 2]
    assert np.array_equal(cut(tmp_path / "o.png", 3), images)
    assert not np.array_equal(images[0], images[6])  # asked for twice, it is another image
    images, labels = draw("--digits", "all", "--num-samples", 1, "--gif", tmp_path / "o.gif")
    assert labels == list(range(10))
    assert np.array_equal(cut(tmp_path / "o.png", 10), images)
    (width, height), film = (Image.open(tmp_path / name).size for name in ("o.png", "o.gif"))
    assert film == (2 * width + 10, height)


def test_several_scales_make_a_row_each_and_the_last_one_is_kept(
    draw, tmp_path, unet, classifier, monkeypatch
):
    """The same noise in each row, unguided first; the NPZ and the film are of the last one."""
    saved = []
    monkeypatch.setattr(pictures, "save_labelled_grid", lambda *args: saved.extend(args))
    flags = ["--digits", 4, 7, "--num-samples", 2, "--guidance-scale", 2, "--compare"]
    images, _ = draw(*flags, "--gif", tmp_path / "o.gif")
    assert saved[2:4] == [["unguided", "w = 2"], ["4", "7"]]

    y, steps = torch.tensor([4, 4, 7, 7]), []
    seeds = image_seeds(0, y.tolist())

    def watch(t, x_t, x_0):
        steps.append((x_t, x_0))

    settings = {"guidance_scale": 2, "steps": 4, "watch": watch}
    unguided = inference.sample(unet, None, None, seeds, steps=4)
    guided = inference.sample(unet, classifier.log_p, y, seeds, **settings)
    assert np.array_equal(images, pictures.to_uint8(guided)[:, 0])
    assert torch.equal(saved[1], torch.cat([unguided, guided]))

    # a frame for each step, x_t beside the predicted x_0, and the images at the end; eight grays
    film = Image.open(tmp_path / "o.gif")
    assert "classifier.pth" in json.loads(film.info["comment"])["sha256"]
    frames = [np.asarray(frame.convert("L")) for frame in ImageSequence.Iterator(film)]
    assert len(frames) == 4 + 1
    for frame, sides in zip(frames, [*steps, (guided, guided)]):
        left, right = (np.asarray(pictures.grid_image(side, 2)) // 32 * 36 for side in sides)
        assert np.array_equal(frame[:, :248], left) and np.array_equal(frame[:, -248:], right)
        assert frame.shape == (248, 248 + 10 + 248)


def test_the_same_command_makes_the_same_bytes(draw, tmp_path):
    made = []
    for _ in range(2):
        draw("--gif", tmp_path / "o.gif")
        made.append([sha256(tmp_path / name) for name in ("o.png", "o.npz", "o.gif")])
    assert made[0] == made[1]
