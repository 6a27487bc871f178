"""Anybody's samples are read as what they are, from every kind of file."""

import numpy as np
import pytest
import torch
from PIL import Image

from evaluation.samples import read_samples
from evaluation.scores import extent, spread
from support.errors import UserError
from support.pictures import save_npz

N = 120
GREY = np.random.default_rng(0).integers(0, 256, (N, 28, 28), dtype=np.uint8)
GREY[0, 0, :2] = 0, 255
Y = np.arange(N) % 10
SHARE = GREY / 255  # [0, 1]
SYMMETRIC = (2 * SHARE - 1).astype(np.float32)  # [-1, 1]


def pngs(path, mode="L", classes=False, suffix=".png"):
    for k, (image, label) in enumerate(zip(GREY, Y)):
        folder = path / str(label) if classes else path
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).convert(mode).save(folder / f"{k:03d}{suffix}", format="png")


def npz(path, *args, **arrays):
    np.savez(path, *args, **arrays)


FORMS = {  # name of the file -> how it is written, whether it has labels, what is taken
    "ours.npz": (
        lambda p: save_npz(p, torch.tensor(SYMMETRIC)[:, None], torch.tensor(Y)),
        1,
        "uint8",
    ),
    "adm.npz": (lambda p: npz(p, GREY[..., None], Y), 1, "uint8"),
    "unlabelled.npz": (lambda p: npz(p, GREY), 0, "uint8"),
    "names.npz": (lambda p: npz(p, Images=SYMMETRIC, LABELS=Y, t=Y), 1, "floats in [-1, 1]"),
    "other.npz": (lambda p: npz(p, drawn=SHARE, y=Y.astype(np.float32)), 1, "floats in [0, 1]"),
    "more.npz": (lambda p: npz(p, x=GREY, y=Y[:, None], seed=np.array(3)), 1, "uint8"),
    "alone.npz": (lambda p: npz(p, whatever=GREY), 0, "uint8"),
    "compressed.npz": (lambda p: np.savez_compressed(p, x=GREY, y=Y), 1, "uint8"),
    "plain.npy": (lambda p: np.save(p, GREY), 0, "uint8"),
    "channel.npy": (lambda p: np.save(p, SHARE[:, None]), 0, "floats in [0, 1]"),
    "big_endian.npy": (lambda p: np.save(p, SYMMETRIC.astype(">f8")), 0, "floats in [-1, 1]"),
    "fortran.npy": (lambda p: np.save(p, np.asfortranarray(GREY)), 0, "uint8"),
    "tensor.pt": (lambda p: torch.save(torch.tensor(SYMMETRIC), p), 0, "floats in [-1, 1]"),
    "gradient.pt": (lambda p: torch.save(torch.tensor(SHARE, requires_grad=True), p), 0, "[0, 1]"),
    "half.pt": (lambda p: torch.save(torch.tensor(SHARE).half(), p), 0, "floats in [0, 1]"),
    "pair.pt": (lambda p: torch.save((torch.tensor(GREY), torch.tensor(Y)), p), 1, "uint8"),
    "list.pth": (lambda p: torch.save([torch.tensor(GREY)], p), 0, "uint8"),
    "dict.pt": (
        lambda p: torch.save({"samples": torch.tensor(GREY), "y": torch.tensor(Y), "seed": 0}, p),
        1,
        "uint8",
    ),
    "folder": (pngs, 0, "uint8"),
    "FOLDER": (lambda p: pngs(p, suffix=".PNG"), 0, "uint8"),
    "colour": (lambda p: pngs(p, mode="RGB"), 0, "uint8"),
    "alpha": (lambda p: pngs(p, mode="LA"), 0, "uint8"),
    "palette": (lambda p: pngs(p, mode="P"), 0, "uint8"),
    "classes": (lambda p: pngs(p, classes=True), 1, "uint8"),
}


@pytest.mark.parametrize("name", FORMS)
def test_every_form_of_the_same_images_is_read_as_the_same(tmp_path, name):
    write, labelled, taken = FORMS[name]
    write(tmp_path / name)
    samples = read_samples(tmp_path / name, 10)
    order = np.argsort(Y, kind="stable") if name == "classes" else np.arange(N)
    assert samples.images.dtype == torch.uint8 and samples.images.shape == (N, 1, 28, 28)
    assert np.array_equal(samples.images[:, 0], GREY[order])
    assert (samples.labels is not None) == labelled and samples.uncropped is None
    if labelled:
        assert samples.labels.dtype == torch.int64 and np.array_equal(samples.labels, Y[order])
    words = "with labels" if labelled else "no labels"
    assert f"{N} images, " in samples.taken and taken in samples.taken and words in samples.taken


@pytest.mark.parametrize("low, high, taken", [
    (0, 1, "[0, 1]"), (-1, 1, "[-1, 1]"), (-1, 0.2, "[-1, 1]"), (0.2, 0.9, "[0, 1]"),
    (-0.0005, 1.0005, "[0, 1]"), (-1.0005, 1.0005, "[-1, 1]"), (0, 0, "[0, 1]"),
])  # fmt: skip
def test_the_range_of_floats_is_recognised(tmp_path, low, high, taken):
    images = np.full((N, 28, 28), low, dtype=np.float32)
    images[:, 10:20] = high
    np.save(tmp_path / "x.npy", images)
    samples = read_samples(tmp_path / "x.npy", 10)
    assert f"floats in {taken}" in samples.taken
    bottom = float(taken[1 : taken.index(",")])
    grey = [round(255 * min(max((value - bottom) / (1 - bottom), 0), 1)) for value in (low, high)]
    assert samples.images[0, 0, 0, 0] == grey[0] and samples.images[0, 0, 15, 0] == grey[1]


@pytest.mark.parametrize("low, high", [
    (0, 255), (-0.42, 2.82), (-0.1, 1), (-1.01, 1), (0, 1.01), (-2, -1), (0, np.nan),
    (0, np.inf), (-np.inf, 0), (0, 1 / 255), (0.5, 1e30),
])  # fmt: skip
def test_other_ranges_are_refused(tmp_path, low, high):
    images = np.full((N, 28, 28), low, dtype=np.float32)
    images[3, 10, 10] = high
    np.save(tmp_path / "x.npy", images)
    with pytest.raises(UserError, match="value"):
        read_samples(tmp_path / "x.npy", 10)


@pytest.mark.parametrize("size", [30, 32, 64])
@pytest.mark.parametrize("background", [0, 255])
def test_padding_is_cropped(tmp_path, size, background):
    margin = (size - 28) // 2
    padding = ((0, 0), (margin, margin), (margin, margin))
    padded = np.pad(GREY, padding, constant_values=background)
    padded[:, 0, 0] = abs(background - 50)  # a network does not draw a border of one grey
    np.save(tmp_path / "x.npy", padded)
    samples = read_samples(tmp_path / "x.npy", 10)
    assert np.array_equal(samples.images[:, 0], GREY)
    assert np.array_equal(samples.uncropped[:, 0], padded)


def test_any_number_of_classes(tmp_path):
    np.savez(tmp_path / "x.npz", GREY, np.full(N, 46))
    assert read_samples(tmp_path / "x.npz", 47).labels.tolist() == [46] * N
    with pytest.raises(UserError, match="from 0 to 45, not 46"):
        read_samples(tmp_path / "x.npz", 46)


def test_the_extent_of_what_is_drawn():
    drawn = torch.zeros(3, 1, 28, 28, dtype=torch.bool)
    drawn[0, 0, 4:24, 10:13] = True  # 20 high
    drawn[1, 0, 4:6, 5] = drawn[1, 0, 5, 5:15] = True  # 10 wide
    assert extent(drawn) == 15  # and the blank one is left out


def test_the_samples_that_are_shown_are_spread_over_the_digits():
    labels = torch.tensor(Y)[torch.randperm(N)]
    assert labels[spread(labels)].tolist() == list(range(10))
    assert labels[spread(labels)].unique().numel() == 10 and len(spread(torch.full((N,), 3))) == 10
