"""MNIST, a folder of images, and an end-to-end run from a folder to a table."""

import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import datasets

import inference
import train_classifier
import train_ddpm
from data import DATA, SPLITS, Dataset
from evaluation import __main__ as evaluate
from evaluation import classifier_free, judge, metrics
from evaluation.tables import read_rows
from support.cli import UserError


def test_the_splits_match_torchvision():
    dataset = Dataset()
    (train, y_train), (validation, y_validation), (test, _) = dataset.splits.values()
    whole = datasets.MNIST(DATA, train=True)
    assert len(train) == 55_000
    assert torch.equal(torch.cat([train, validation])[:, 0], whole.data)
    assert torch.equal(torch.cat([y_train, y_validation]), whole.targets)
    assert torch.equal(test[:, 0], datasets.MNIST(DATA, train=False).data)
    assert torch.equal(dataset.load("validation")[0], validation / 127.5 - 1)
    with pytest.raises(UserError, match="--size"):
        Dataset("mnist", size=32)


def test_a_folder_is_split_without_overlap_and_keeps_its_colors(shapes):
    dataset = Dataset(shapes)
    splits = [dataset.load(split) for split in SPLITS]
    assert [len(images) for images, _ in splits] == [240, 30, 30]
    images, y = (torch.cat(part) for part in zip(*splits))
    assert len(images.unique(dim=0)) == 300
    assert torch.equal(images.mean(dim=(2, 3)).argmax(dim=1), y)  # bars are red, dots green
    assert all(len(y.unique()) == 3 for _, y in splits)  # shuffled before the split
    assert torch.equal(Dataset(shapes).load("test")[0], splits[2][0])  # always the same


def test_a_folder_is_identified_by_its_images_not_by_its_name(shapes):
    shutil.copytree(shapes, shapes.with_name("copy"))
    names = [Dataset(folder).info["name"] for folder in (shapes, shapes.with_name("copy"))]
    for name in ("0.png", "1.png", "10.png"):  # the first rings become the last dots
        (shapes / "ring" / name).rename(shapes / "dot" / f"z{name}")
    names.append(Dataset(shapes).info["name"])  # same images, other labels
    for number in range(3):  # at least one of them is for training
        Image.new("RGB", (32, 32)).save(shapes / "bar" / f"{number}.png")
    names.append(Dataset(shapes).info["name"])
    assert names[0] == names[1] and len(set(names)) == 3


def test_one_color_image_is_enough_for_three_channels(shapes):
    *paths, last = sorted(shapes.glob("*/*.png"))
    for path in paths:
        Image.open(path).convert("L").save(path)
    assert Dataset(shapes).info["shape"] == [3, 32, 32]
    for path in (*paths, last):
        Image.open(path).convert("L").convert("RGB").resize((30, 40)).save(path)
    with pytest.raises(UserError, match="40x30; images must be square"):
        Dataset(shapes)
    with pytest.raises(UserError, match="multiple of 4"):
        Dataset(shapes, size=30)
    assert Dataset(shapes, size=28).info["shape"] == [1, 28, 28]


def test_errors_name_the_unusable_image(shapes, tmp_path):
    """Unusable images: another size, corrupted. Folders: no classes, too few images."""
    path = shapes / "bar" / "3.png"
    for spoil in (
        lambda: Image.new("RGB", (28, 28)).save(path),
        lambda: path.write_bytes(path.read_bytes()[:50]),
    ):
        spoil()
        with pytest.raises(UserError, match=str(path)):
            Dataset(shapes)
    (tmp_path / "empty").mkdir()
    shutil.copytree(shapes / "dot", tmp_path / "few" / "dot")
    (tmp_path / "few" / "dot" / "9.png").unlink()  # 99 images are left
    for name in ("missing", "empty", "few"):
        with pytest.raises(UserError, match=str(tmp_path / name)):
            Dataset(tmp_path / name)


def test_end_to_end_on_a_folder_of_color_images(shapes, tmp_path, monkeypatch):
    monkeypatch.setattr(metrics, "NUM_HALVES", 2)
    for path in [*shapes.glob("*/*.png")]:  # enough to measure
        for k in range(2):
            shutil.copy(path, path.with_stem(f"{path.stem}_{k}"))
    monkeypatch.setattr(train_ddpm, "SAMPLING_STEPS", 2)
    monkeypatch.setattr(train_ddpm, "NUM_SAMPLES", 4)
    models, npz, csv = (tmp_path / name for name in ("models", "o.npz", "o.csv"))

    def run(script, *flags):
        script.main([str(word) for word in ("--models", models, *flags)])

    for script in (train_ddpm, train_classifier, classifier_free, judge):
        run(script, "--dataset", shapes, "--batch-size", 16, "--steps", 4)
    run(inference, "--steps", 2, "--npz", npz, "--digits", "ring")
    assert np.load(npz)["arr_0"].shape == (8, 32, 32, 3)
    assert Image.open(models / "guided_output.png").mode == "RGB"
    shutil.move(shapes, tmp_path / "moved")
    table = ["--n", 100, "--steps", 1, "--csv", csv, "--dataset", tmp_path / "moved"]
    run(evaluate, "--method", "guided", "classifier_free", *table)
    rows = read_rows(csv)
    assert [row["n"] for row in rows] == ["33", "99", "99"] and "frechet_change" in rows[2]
