"""The three steps, the judge and the measuring on a folder of images of three classes."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

import evaluate
import inference
import train_classifier
import train_ddpm
from evaluation import judge as judge_module
from evaluation import measures
from mnist import MNIST_INFO
from support import pictures
from support.tables import read_rows

SHAPES = {"name": "shapes", "classes": ["bar", "dot", "ring"], "invert": False}


@pytest.fixture
def trained(shapes, tmp_path):
    """A folder of checkpoints of twenty steps each."""
    for script in (train_classifier, train_ddpm, judge_module):
        flags = ["--dataset", shapes, "--models", tmp_path / "m", "--steps", 20, "--batch-size", 32]
        script.main([*map(str, flags)])
    return tmp_path / "m"


def test_the_steps_on_a_folder_of_images(trained, shapes, fails, monkeypatch, tmp_path):
    for name in ("classifier", "ddpm_unet", "judge"):
        checkpoint = torch.load(trained / f"{name}.pth", weights_only=True)
        assert checkpoint["dataset"] == SHAPES
    unet, classifier = inference.load_models(trained)
    assert unet.dataset == classifier.dataset == SHAPES and classifier.linear.out_features == 3

    # names and numbers draw the same; the labels of the picture are names
    shown = []
    save = pictures.save_labelled_grid
    monkeypatch.setattr(pictures, "save_labelled_grid", lambda *a: (shown.append(a[3]), save(*a)))
    flags = ["--models", str(trained), "--steps", "2", "--num-samples", "2"]
    for words in (["ring", "bar"], ["2", "0"]):
        out = ["--output", str(tmp_path / "o.png"), "--npz", str(tmp_path / f"{words[0]}.npz")]
        inference.main(["--classes", *words, *flags, *out, "--compare"])
    named, numbered = (np.load(tmp_path / f"{word}.npz") for word in ("ring", "2"))
    assert np.array_equal(named["arr_0"], numbered["arr_0"])
    assert named["arr_1"].tolist() == [2, 2, 0, 0] and shown == [["ring", "bar"]] * 2
    assert "bar, dot, ring" in fails(inference.main, *flags, "--digits", "3")

    # measured against the same data, and no other
    flags = ["--models", str(trained), "--dataset"]
    evaluate.main([*flags, str(shapes), "--n", "30"])
    rows = read_rows(trained / "final_30.csv")
    assert [row["n"] for row in rows[2:]] == ["30"] * 3
    assert all(8 <= int(row["n"]) < 30 for row in rows[:2])  # all that there are
    assert all(len(row["accuracy_per_digit"].split()) == 3 for row in rows)
    made_from = json.loads(Image.open(trained / "copies.png").info["provenance"])
    assert "judge.pth" in made_from["weights"]
    assert "not a multiple of 3" in fails(evaluate.main, *flags, shapes, "--n", 20)
    with monkeypatch.context() as patch:
        patch.setattr(measures, "NUM_LEAST", 40)
        assert "test images are too few" in fails(evaluate.main, *flags, shapes, "--quick")
    assert "is of the data set shapes" in fails(evaluate.main, "--models", trained, "--quick")
    assert "--invert" in fails(evaluate.main, *flags, shapes, "--invert", "--quick")

    # another data set does not replace it
    before = (trained / "ddpm_unet.pth").read_bytes()
    assert "of the data set shapes" in fails(train_ddpm.main, *flags, "mnist", "--steps", 1)
    assert (trained / "ddpm_unet.pth").read_bytes() == before

    # a guide of other data is refused
    checkpoint = torch.load(trained / "classifier.pth", weights_only=True)
    torch.save({**checkpoint, "dataset": MNIST_INFO}, trained / "classifier.pth")
    error = fails(inference.main, "--models", trained, "--output", tmp_path / "o.png")
    assert "are of two data sets" in error
