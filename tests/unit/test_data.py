"""MNIST, data sets of its form, and folders of images; the whole way on a folder of images."""

import shutil
from argparse import Namespace

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import datasets

import evaluate
import inference
import mnist
import train_classifier
import train_ddpm
from classifier import Classifier
from evaluation import judge, measures, rivals
from evaluation.report import read_rows
from mnist import DATA, SPLITS, Dataset, class_numbers
from support.errors import UserError


def test_the_splits_are_torchvisions_images():
    """No image is in two of them: the training images and those of validation are a whole."""
    dataset = Dataset()
    (train, y_train), (validation, y_validation), (test, _) = dataset.splits.values()
    whole = datasets.MNIST(DATA, train=True)
    assert len(train) == 55_000
    assert torch.equal(torch.cat([train, validation])[:, 0], whole.data)
    assert torch.equal(torch.cat([y_train, y_validation]), whole.targets)
    assert torch.equal(test[:, 0], datasets.MNIST(DATA, train=False).data)
    images, _ = dataset.load("validation")
    assert torch.equal(images, validation / 127.5 - 1)
    info = {"kind": "mnist", "name": "mnist", "classes": list("0123456789"), "shape": [1, 28, 28]}
    assert dataset.info == info


def test_a_folder_is_split_without_overlap_and_keeps_its_colours(shapes):
    dataset = Dataset(shapes)
    info = {"kind": "folder", "name": "shapes", "classes": ["bar", "dot", "ring"]}
    assert dataset.info == {**info, "shape": [3, 32, 32], "sha256": dataset.info["sha256"]}
    splits = [dataset.load(split) for split in SPLITS]
    assert [len(images) for images, _ in splits] == [240, 30, 30]
    images, y = (torch.cat(part) for part in zip(*splits))
    assert len(images.unique(dim=0)) == 300
    assert torch.equal(images.mean(dim=(2, 3)).argmax(dim=1), y)  # bars are red, dots green
    assert all(len(y.unique()) == 3 for _, y in splits)  # shuffled before it is split
    assert torch.equal(Dataset(shapes).load("test")[0], splits[2][0])  # always the same


def test_a_folder_of_the_same_name_with_other_images_is_another_data_set(shapes):
    before = Dataset(shapes).info
    assert Dataset(shapes).info == before
    for number in range(3):  # one of them is for training
        Image.new("RGB", (32, 32)).save(shapes / "bar" / f"{number}.png")
    with pytest.raises(UserError, match="shapes .*, sha256 .*, not on the folder shapes"):
        mnist.check_same_dataset(before, Dataset(shapes).info, "x.pth")


def test_images_without_colours_have_one_channel_and_a_flag_scales_all(shapes):
    for path in shapes.glob("*/*.png"):
        Image.open(path).convert("L").convert("RGB").resize((30, 40)).save(path)
    with pytest.raises(UserError, match="images are 40x30: they should be square"):
        Dataset(shapes)
    assert Dataset(shapes, size=28).info["shape"] == [1, 28, 28]
    with pytest.raises(UserError, match="--size is for folders of images, not mnist"):
        Dataset(size=32)


def test_a_hidden_folder_is_no_class_and_a_bad_file_is_named(shapes):
    (shapes / ".ipynb_checkpoints").mkdir()
    assert Dataset(shapes).info["classes"] == ["bar", "dot", "ring"]
    path = shapes / "bar" / "3.png"
    deep = Image.fromarray(np.full((32, 32), 9_000, np.uint16))
    clear = Image.new("RGB", (32, 32))
    for spoil, said in (
        (lambda: deep.save(path), "has more than 8 bits a pixel"),
        (lambda: Image.new("RGB", (28, 28)).save(path), "has another size than the others"),
        (lambda: clear.convert("P").save(path, transparency=0), "is transparent"),
        (lambda: path.write_bytes(path.read_bytes()[:50]), "is damaged"),
    ):
        spoil()
        with pytest.raises(UserError, match=f"^--dataset {shapes}: {path} {said}"):
            Dataset(shapes)


def test_a_folder_of_folders_and_a_class_without_images_are_refused(shapes, tmp_path):
    """As train/bar, and as __MACOSX; networks are not written into their data."""
    (tmp_path / "all").mkdir()
    shutil.copytree(shapes, tmp_path / "all" / "train")
    with pytest.raises(UserError, match=f"not in the folder of its class: name {tmp_path}/all/tr"):
        Dataset(tmp_path / "all")
    (shapes / "__MACOSX").mkdir()
    Image.new("L", (32, 32)).save(shapes / "__MACOSX" / "._0.png")
    with pytest.raises(UserError, match="'__MACOSX' has fewer than 10 images"):
        Dataset(shapes)
    args = Namespace(dataset=str(shapes), size=None, models=shapes / "models", device="cpu")
    with pytest.raises(UserError, match="is in the data set: name a folder outside of it"):
        mnist.training_data(args, Classifier, args.models / "classifier.pth")


def test_labels_that_are_damaged_are_refused(monkeypatch):
    splits, classes = mnist.read_torchvision(datasets.MNIST)
    splits["test"][1][3] = 77
    monkeypatch.setattr(mnist, "read_torchvision", lambda source: (splits, classes))
    with pytest.raises(UserError, match="labels of test are damaged"):
        Dataset()


def test_classes_go_by_name_and_by_number():
    assert class_numbers(["dot", "0", "dot"], ["bar", "dot"]) == [1, 0, 1]
    assert class_numbers(["9", "1"], ["1", "7", "9"]) == [2, 0]  # numbers are names here
    with pytest.raises(UserError, match="'0' is not one of 1, 7, 9, or all"):
        class_numbers(["0"], ["1", "7", "9"])


def test_the_whole_way_on_a_folder_of_colour_images(shapes, tmp_path, monkeypatch):
    """All networks, pictures and files, a table, and anybody's samples: 3 x 32 x 32."""
    monkeypatch.setattr(measures, "NUM_HALVES", 2)
    models, gif, npz, csv = (tmp_path / name for name in ("models", "o.gif", "o.npz", "o.csv"))

    def run(script, *flags):
        script.main([str(word) for word in ("--models", models, *flags)])

    data = ["--dataset", shapes, "--batch-size", 16]
    for script in (train_ddpm, train_classifier, rivals):
        run(script, *data, "--steps", 4)
    run(judge, *data, "--steps", 40)
    ddpm, classifier = inference.load_models(models)
    assert ddpm.unet.dataset == classifier.dataset == Dataset(shapes).info
    assert classifier.linear.out_features == 3

    drawing = ["--steps", 2, "--npz", npz, "--gif", gif, "--num-samples", 40]
    drawing += ["--guidance-scale", 0, 1]
    run(inference, *drawing, "--classes", "ring", "bar", "dot")
    images, labels = np.load(npz).values()
    assert images.shape == (120, 32, 32, 3) and labels[::40].tolist() == [2, 0, 1]
    grid = np.asarray(Image.open(models / "guided_output.png"))  # a trial writes to its own folder
    assert grid.ndim == 3 and Image.open(gif).n_frames == 2

    table = ["--judge", models, "--n", 100, "--steps", 2, "--csv", csv]
    methods = ["--method", "guided", "classifier_free"]
    run(evaluate, "--dataset", shapes, *methods, "--samples", npz, *table)
    assert [row["n"] for row in read_rows(csv)] == ["9", "99", "99", "120"]
