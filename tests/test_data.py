"""MNIST, data sets of its form, and folders of images; the whole way on a folder of images."""

import shutil
import urllib.request
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from conftest import ROOT
from torchvision import datasets

import inference
import train_classifier
import train_ddpm
from mnist import DATA, SPLITS, Dataset, class_numbers
from support import pictures
from support.cli import UserError


def test_the_splits_are_torchvisions_images():
    """No image is in two of them: the training images and those of validation are a whole."""
    dataset = Dataset()
    (images, y), (x_validation, y_validation), test = map(dataset.load, SPLITS)
    assert len(images) == 55_000 and len(x_validation) == 5_000 and len(test[0]) == 10_000
    whole = datasets.MNIST(DATA, train=True)
    assert torch.equal(torch.cat([y, y_validation]), whole.targets)
    assert torch.equal(pictures.to_uint8(torch.cat([images, x_validation]))[:, 0], whole.data)
    assert torch.equal(pictures.to_uint8(test[0])[:, 0], datasets.MNIST(DATA, train=False).data)
    assert images.shape[1:] == (1, 28, 28) and images.dtype == torch.float32
    assert images.min() == -1 and images.max() == 1 and y.dtype == torch.int64
    assert dataset.info == {"name": "mnist", "classes": list("0123456789")}


def test_the_packed_files_are_enough_without_a_network(tmp_path, monkeypatch):
    monkeypatch.setattr(urllib.request, "urlopen", Mock(side_effect=OSError("no network here")))
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for path in (ROOT / "data" / "MNIST" / "raw").glob("*.gz"):
        shutil.copy(path, raw)
    for unpacked, shipped in zip(Dataset(data_dir=tmp_path).load("test"), Dataset().load("test")):
        assert torch.equal(unpacked, shipped)


# --- a folder of images ---


def test_a_folder_is_split_without_overlap(shapes):
    dataset = Dataset(shapes)
    assert dataset.info == {"name": "shapes", "classes": ["bar", "dot", "ring"]}
    splits = [dataset.load(split) for split in SPLITS]
    assert [len(images) for images, _ in splits] == [240, 30, 30]
    images = torch.cat([images for images, _ in splits])
    assert images.shape == (300, 1, 28, 28) and len(images.unique(dim=0)) == 300
    assert torch.bincount(torch.cat([y for _, y in splits])).tolist() == [100, 100, 100]
    assert all(len(y.unique()) == 3 for _, y in splits)  # shuffled before it is split
    for split, (images, y) in zip(SPLITS, splits):
        again = Dataset(shapes).load(split)
        assert torch.equal(again[0], images) and torch.equal(again[1], y)


def test_classes_go_by_name_and_by_number():
    assert class_numbers(["all"], ["bar", "dot"]) == [0, 1]
    assert class_numbers(["dot", "0", "dot"], ["bar", "dot"]) == [1, 0, 1]
    assert class_numbers(["1", "2"], ["1", "7", "9"]) == [0, 2]  # a name goes before a number
    for word in ("2", "-1", "ring", ""):
        with pytest.raises(UserError, match="is not one of bar, dot, a number from 0 to 1, or all"):
            class_numbers([word], ["bar", "dot"])


def test_the_whole_way_on_a_folder_of_images(shapes, tmp_path):
    models, png, npz = (tmp_path / name for name in ("models", "o.png", "o.npz"))
    flags = ["--dataset", shapes, "--models", models, "--steps", 4, "--batch-size", 8]
    flags = [str(word) for word in flags]
    train_ddpm.main(flags)
    train_classifier.main(flags)
    unet, classifier = inference.load_models(models)
    assert unet.dataset == classifier.dataset == Dataset(shapes).info
    assert classifier.linear.out_features == 3

    flags = ["--models", str(models), "--steps", "2", "--output", str(png), "--npz", str(npz)]
    inference.main([*flags, "--compare", "--num-samples", "2", "--classes", "ring", "bar"])
    assert np.load(npz)["arr_1"].tolist() == [2, 2, 0, 0] and png.exists()
