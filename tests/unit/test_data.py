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
from data import DATA, SPLITS, Dataset, load_image
from evaluation import __main__ as evaluate
from evaluation import classifier_free, judge, metrics
from evaluation.tables import read_rows
from support import UserError, pictures


def test_the_splits_match_torchvision():
    """No image is in two splits."""
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
    before = Dataset(shapes).info
    assert before["classes"] == ["bar", "dot", "ring"] and before["shape"] == [3, 32, 32]
    for name in ("0.png", "1.png", "10.png"):  # the first rings become the last dots
        (shapes / "ring" / name).rename(shapes / "dot" / f"z{name}")
    assert Dataset(shapes).info["name"] != before["name"]  # same images, other labels
    before = Dataset(shapes).info
    renamed = shapes.rename(shapes.with_name("renamed"))
    assert Dataset(renamed).info == before
    for number in range(3):  # at least one of them is for training
        Image.new("RGB", (32, 32)).save(renamed / "bar" / f"{number}.png")
    assert Dataset(renamed).info != before


def test_grayscale_images_have_one_channel_and_can_be_resized(shapes):
    for path in shapes.glob("*/*.png"):
        Image.open(path).convert("L").convert("RGB").resize((30, 40)).save(path)
    with pytest.raises(UserError, match="40x30; they must be square"):
        Dataset(shapes)
    with pytest.raises(UserError, match="multiple of 4"):
        Dataset(shapes, size=30)
    assert Dataset(shapes, size=28).info["shape"] == [1, 28, 28]


def test_one_color_image_is_enough_and_photos_are_turned_upright(tmp_path):
    """The first images are gray. One JPEG has EXIF orientation 6: to be turned by 90 degrees.

    100 images are enough, too.
    """
    for name, count in (("a", 50), ("b", 49)):
        (tmp_path / name).mkdir()
        for number in range(count):
            Image.new("RGB", (8, 8), (number,) * 3).save(tmp_path / name / f"{number:02}.png")
    turned = Image.new("RGB", (8, 8))
    turned.paste((255, 0, 0), (0, 0, 8, 4))  # the upper half is red, the right half if upright
    exif = Image.Exif()
    exif[0x0112] = 6
    turned.save(tmp_path / "b" / "99.jpg", exif=exif, quality=95)
    images = torch.cat([images for images, _ in Dataset(tmp_path).splits.values()]).float()
    assert images.shape == (100, 3, 8, 8)
    red = images[(images[:, 0] - images[:, 1]).amax(dim=(1, 2)) > 100]
    assert len(red) == 1 and red[0, 0, :, 4:].min() > 200 and red[0, 0, :, :3].max() < 60


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_pixels_are_white(tmp_path, mode):
    image = Image.new("RGBA", (2, 1), (0, 0, 0, 0))
    image.putpixel((1, 0), (0, 0, 0, 255))
    image.convert(mode).save(tmp_path / "i.png")
    assert np.asarray(load_image(tmp_path / "i.png"))[0].tolist() == [[255] * 3, [0] * 3]


def test_errors_name_the_unusable_image(shapes, tmp_path):
    """Unusable images: 16 bits, another size, corrupted. Folders: no classes, too few images."""
    (shapes / ".ipynb_checkpoints").mkdir()
    assert Dataset(shapes).info["classes"] == ["bar", "dot", "ring"]
    path = shapes / "bar" / "3.png"
    for spoil, said in (
        (lambda: Image.fromarray(np.full((32, 32), 9_000, np.uint16)).save(path), "8 bits"),
        (lambda: Image.new("RGB", (28, 28)).save(path), "differs in size"),
        (lambda: path.write_bytes(path.read_bytes()[:50]), "cannot read"),
    ):
        spoil()
        with pytest.raises(UserError, match=said) as error:
            Dataset(shapes)
        assert str(path) in str(error.value)
    (tmp_path / "empty").mkdir()
    shutil.copytree(shapes / "dot", tmp_path / "few" / "dot")
    (tmp_path / "few" / "dot" / "9.png").unlink()  # 99 images are left
    for folder in ("no such name", *(tmp_path / name for name in ("empty", "few"))):
        with pytest.raises(UserError, match=str(folder)):
            Dataset(folder)


def test_end_to_end_on_a_folder_of_color_images(shapes, tmp_path, monkeypatch):
    """Train, sample, and evaluate with 3 x 32 x 32 images."""
    monkeypatch.setattr(metrics, "NUM_HALVES", 2)
    monkeypatch.setattr(train_ddpm, "SAMPLING_STEPS", 2)
    monkeypatch.setattr(train_ddpm, "NUM_SAMPLES", 4)
    labeled, grid = [], pictures.labeled_grid

    def remember(rows, labels):
        labeled.append(labels)
        return grid(rows, labels)

    monkeypatch.setattr(pictures, "labeled_grid", remember)
    models, gif, npz, csv = (tmp_path / name for name in ("models", "o.gif", "o.npz", "o.csv"))

    def run(script, *flags):
        script.main([str(word) for word in ("--models", models, *flags)])

    for script in (train_ddpm, train_classifier, classifier_free, judge):
        run(script, "--dataset", shapes, "--batch-size", 16, "--steps", 4)
    drawing = ["--steps", 2, "--npz", npz, "--gif", gif, "--num-samples", 3]
    run(inference, *drawing, "--guidance-scale", 0, 1, "--digits", "ring", "bar", "dot")
    images, labels, classes = (np.load(npz)[key] for key in ("arr_0", "arr_1", "classes"))
    assert classes.tolist() == ["bar", "dot", "ring"]
    assert images.shape == (9, 32, 32, 3) and labels.tolist() == [2, 2, 2, 0, 0, 0, 1, 1, 1]
    assert labeled[0] == ["ring"] * 3 + ["bar"] * 3 + ["dot"] * 3
    grid = np.asarray(Image.open(models / "guided_output.png"))
    assert grid.ndim == 3 and Image.open(gif).n_frames == 4

    shutil.move(shapes, tmp_path / "moved")
    table = ["--n", 100, "--steps", 1, "--csv", csv, "--dataset", tmp_path / "moved"]
    run(evaluate, "--method", "guided", "classifier_free", *table)
    rows = read_rows(csv)
    assert [row["n"] for row in rows] == ["9", "99", "99"]
    assert "frechet" in rows[1] and "recall" not in rows[1]  # too few real images
    assert "frechet_change" in rows[2]
