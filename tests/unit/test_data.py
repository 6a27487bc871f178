"""Data sets of MNIST's form and folders of images, read from small made-up files."""

import gzip
import shutil

import numpy as np
import pytest
import torch
from conftest import ROOT
from PIL import Image

import mnist
from mnist import KIN, Dataset, class_numbers
from support.errors import UserError


def idx(array):
    """The bytes of a packed IDX file."""
    header = np.array([2048 + array.ndim, *array.shape], dtype=">i4").tobytes()
    return gzip.compress(header + array.astype(np.uint8).tobytes())


@pytest.fixture(params=["mnist", "fashion-mnist", "kmnist"])
def files(request, tmp_path):
    """The four files of a data set, of 6,000 and 30 random images: its name, and the arrays."""
    raw = tmp_path / KIN[request.param].__name__ / "raw"
    raw.mkdir(parents=True)
    rng, arrays = np.random.default_rng(0), {}
    for name, n in (("train", 6_000), ("t10k", 30)):
        arrays[name] = rng.integers(0, 256, (n, 28, 28)), rng.integers(0, 10, n)
        for kind, array in zip(("images-idx3", "labels-idx1"), arrays[name]):
            (raw / f"{name}-{kind}-ubyte.gz").write_bytes(idx(array))
    return request.param, raw, arrays


def test_files_of_the_form_are_read_with_a_warning(files, tmp_path, capsys):
    name, _, arrays = files
    dataset = Dataset(name, tmp_path)
    assert dataset.info["name"] == name and len(dataset.info["classes"]) == 10
    (x, y), (x_test, y_test) = arrays["train"], arrays["t10k"]
    for split, (pixels, labels) in {"train": (x[:1_000], y[:1_000]), "test": (x_test, y_test),
                                    "validation": (x[1_000:], y[1_000:])}.items():  # fmt: skip
        images, read = dataset.load(split)
        assert images.shape == (len(pixels), 1, 28, 28) and read.tolist() == labels.tolist()
        expected = torch.tensor(pixels)[:, None] / 127.5 - 1
        torch.testing.assert_close(images, expected.float())
        assert "is not the published file" in capsys.readouterr().err
        torch.testing.assert_close(Dataset(name, tmp_path, invert=True).load(split)[0], -images)


SPOILED = {
    "cut": lambda content: content[: len(content) // 2],
    "not packed": lambda content: gzip.decompress(content),
    "labels in place of images": lambda content: idx(np.zeros(30)),
    "another size": lambda content: idx(np.zeros((30, 32, 32))),
    "fewer than it says": lambda content: gzip.compress(gzip.decompress(content)[:-5]),
    "empty": lambda content: b"",
    "other labels": lambda content: idx(np.zeros((29, 28, 28))),
}


@pytest.mark.parametrize("spoil", SPOILED)
def test_damaged_files_are_refused(files, tmp_path, spoil):
    name, raw, _ = files
    path = raw / "t10k-images-idx3-ubyte.gz"
    path.write_bytes(SPOILED[spoil](path.read_bytes()))
    with pytest.raises(UserError, match="do not fit" if spoil == "other labels" else "is damaged"):
        Dataset(name, tmp_path).load("test")


def test_the_published_files_give_no_warning(capsys):
    assert len(Dataset().load("test")[0]) == 10_000
    assert capsys.readouterr().err == ""


def test_a_folder_is_split_without_overlap(shapes):
    dataset = Dataset(shapes)
    assert dataset.info == {"name": "shapes", "classes": ["bar", "dot", "ring"], "invert": False}
    splits = {split: dataset.load(split) for split in ("train", "validation", "test")}
    assert [len(images) for images, _ in splits.values()] == [240, 30, 30]
    images = torch.cat([images for images, _ in splits.values()])
    assert images.shape == (300, 1, 28, 28) and len(images.flatten(1).unique(dim=0)) == 300
    assert torch.bincount(torch.cat([y for _, y in splits.values()])).tolist() == [100, 100, 100]
    again = Dataset(shapes).load("validation")
    assert torch.equal(again[0], splits["validation"][0])


def test_a_folder_of_colour_photographs_is_grey_and_of_the_range(shapes):
    red = np.zeros((50, 70, 3), np.uint8)
    red[..., 0] = 255
    shutil.rmtree(shapes / "dot")
    (shapes / "dot").mkdir()
    for k in range(40):
        Image.fromarray(red).save(shapes / "dot" / f"{k}.jpg")
    images, y = Dataset(shapes).load("train")
    torch.testing.assert_close(images[y == 1], torch.full_like(images[y == 1], 76 / 127.5 - 1),
                               atol=0.02, rtol=0)  # fmt: skip
    inverted = Dataset(shapes, invert=True).load("train")[0]
    assert images.min() >= -1 and images.max() <= 1 and torch.equal(inverted, -images)


def test_classes_by_name_and_number():
    assert class_numbers(["all"], ["bar", "dot"]) == [0, 1]
    assert class_numbers(["dot", "0", "dot"], ["bar", "dot"]) == [1, 0, 1]
    assert class_numbers(["7"], ["1", "7", "9"]) == [1]  # a name goes before a number
    assert class_numbers(["2"], ["1", "7", "9"]) == [2]
    for words in (["2"], ["-1"], ["ring"], ["all", "0"], [""]):
        with pytest.raises(UserError, match="is not one of bar, dot"):
            class_numbers(words, ["bar", "dot"])


def test_the_shipped_data_are_mnist():
    assert Dataset().info == mnist.MNIST_INFO
    assert mnist.DATA == ROOT / "data"
