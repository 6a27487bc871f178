"""inference.py as a user runs it: the networks it loads, its flags, and the files it writes."""

import warnings
from functools import partial
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from conftest import ROOT
from diffusers import UNet2DModel

import inference
from classifier import Classifier
from data import class_numbers
from diffusion import SCHEDULE, make_unet
from inference import gradient, growing_scale, guided, load_models, sample
from support import pictures
from support.cli import UserError
from support.files import config_of, save_checkpoint
from support.seeds import image_seeds


class MyUNet(UNet2DModel):
    pass


class MyClassifier(Classifier):
    def log_p(self, x_t, t, y):
        return 10 * super().log_p(x_t, t, y)  # untrained, its gradient is small


MINE = {"unet_class": MyUNet, "classifier_class": MyClassifier}
INFO = {"kind": "folder", "name": "1f", "classes": ["bar", "dot", "ring"], "shape": [1, 8, 8]}
NOISE = SCHEDULE | {"num_train_timesteps": 400}


@pytest.fixture
def models(tmp_path):
    """A folder with untrained networks of other classes, for images of 8x8 pixels."""
    unet, classifier = MyUNet(**config_of(make_unet(8, 1, 8))), MyClassifier(8, 8, 3, (1, 8, 8))
    save_checkpoint(tmp_path / "ddpm_unet.pth", unet, NOISE, INFO, {})
    save_checkpoint(tmp_path / "classifier.pth", classifier, NOISE, INFO, {})
    return tmp_path


def run(models, *flags):
    """Run inference.py; return the images and labels of its NPZ file."""
    flags = ["--models", models, "--npz", models / "o.npz", *flags]
    load = partial(load_models, **MINE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inference, "load_models", load)
        inference.main([str(word) for word in flags])
    arrays = np.load(models / "o.npz")
    images, labels = arrays["arr_0"], arrays["arr_1"]
    assert images.dtype == np.uint8 and images.shape[1:] == (8, 8, 1)
    assert labels.dtype == np.int64 and arrays["classes"].tolist() == INFO["classes"]
    return images, labels.tolist()


def pixels(images):
    return pictures.to_uint8(images).permute(0, 2, 3, 1).numpy()


@pytest.fixture
def drawing(monkeypatch):
    for name in ("grid_image", "draw_rows"):
        monkeypatch.setattr(pictures, name, Mock(wraps=getattr(pictures, name)))
    return pictures


def sampled(models, labels, seed, scale, **settings):
    """What inference.py must have sampled; scale: ddpm -> a scale, or None if unguided."""
    ddpm, classifier = load_models(models, **MINE)
    predict = scale and guided(ddpm, gradient(classifier.log_p), scale(ddpm))
    y, seeds = torch.tensor(labels), image_seeds(seed, labels)
    return pixels(sample(ddpm, y, seeds, predict, **settings))


def test_the_networks_are_loaded_onto_the_device():
    ddpm, classifier = load_models(device="meta")
    assert ddpm.device.type == "meta" and ddpm.abar.is_meta and classifier.linear.weight.is_meta
    frozen = [*ddpm.unet.parameters(), *classifier.parameters()]
    assert not any(weight.requires_grad for weight in frozen)


@pytest.mark.parametrize("flags, device", [([], "cuda"), (["--device", "cpu"], "cpu")])
def test_a_gpu_is_used_if_there_is_one(monkeypatch, flags, device):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(inference, "load_models", load := Mock(side_effect=ZeroDivisionError))
    with pytest.raises(ZeroDivisionError):
        inference.main(flags)
    assert device in load.call_args.args


CHANGES = {  # to the checkpoint of the classifier
    "different noise schedules": {"schedule": SCHEDULE},  # 1,000 timesteps, not 400
    "different datasets": {"dataset": INFO | {"name": "2f"}},
    "different version of MyClassifier": {"state_dict": Classifier(16, 8, 3).state_dict()},
    "saved by a different version": {"config": {"depth": 3}},
    "holds a Classifier; expected a MyClassifier": {"network": "Classifier"},
}


@pytest.mark.parametrize("said", CHANGES)
def test_networks_that_do_not_fit_together_end_in_one_line(fails, models, said):
    path = models / "classifier.pth"
    torch.save(torch.load(path) | CHANGES[said], path)
    assert said in fails(lambda argv: run(models, *argv))


def test_the_default_is_eight_images_of_class_1_with_a_growing_scale(models):
    with warnings.catch_warnings(action="error"):
        images, labels = run(models)
    assert labels == [1] * 8 and (models / "guided_output.png").exists()
    assert np.array_equal(images, sampled(models, labels, 0, growing_scale))


def test_all_flags(models):
    flags = ["--sampler", "dpmsolver++", "--steps", 7, "--seed", 9, "--num-samples", 2]
    images, labels = run(
        models, *flags, "--growth", 0, "--guidance-scale", 9, "--digits", "ring", 0
    )
    assert labels == [2, 2, 0, 0]
    expected = sampled(models, labels, 9, lambda _: 9, sampler="dpmsolver++", steps=7)
    assert np.array_equal(images, expected)


def test_an_image_stays_the_same_when_other_classes_are_added(models):
    flags = ["--guidance-scale", 5, "--steps", 5, "--num-samples", 2, "--digits"]
    images, labels = run(models, *flags, 0, 1, 0)
    alone, _ = run(models, *flags, 1)
    assert labels == [0, 0, 1, 1, 0, 0] and len(np.unique(images, axis=0)) == 6
    assert np.abs(images[2:4].astype(int) - alone).max() <= 1


def test_classes_by_name_number_or_all():
    letters, mixed = ["b", "a", "c"], ["7", "0", "x"]  # here, a number is read as a name
    assert class_numbers(["all"], letters) == [0, 1, 2] == class_numbers(["7", "0", "x"], mixed)
    assert class_numbers(["a", "2", "a"], letters) == [1, 2, 1]
    for words, classes in ((["3"], mixed), (["3"], letters), (["a", "all"], letters)):
        with pytest.raises(UserError, match="unknown class"):
            class_numbers(words, classes)


@pytest.mark.parametrize("samples, columns", [(1, 3), (2, 2)])
def test_one_row_per_class_or_one_row_of_single_images(models, drawing, samples, columns):
    images, _ = run(models, "--digits", "all", "--num-samples", samples, "--steps", 3)
    shown, width = drawing.grid_image.call_args.args
    assert width == columns and np.array_equal(pixels(shown), images)


def test_several_scales_make_one_row_each_from_the_same_noise(models, drawing):
    """The NPZ file has all rows."""
    scales = ["--growth", 2, "--guidance-scale", 9, 0, -0.5]
    settings = ["--digits", 2, 0, "--num-samples", 2, "--steps", 3, "--sampler", "ddim"]
    images, labels = run(models, *scales, *settings)
    _, rows, columns = drawing.draw_rows.call_args_list[0].args
    assert columns == ["ring", "ring", "bar", "bar"]
    scales = {f"s = {s}": lambda ddpm, s=s: growing_scale(ddpm, s, 2) for s in (9, 0, -0.5)}
    assert list(rows) == list(scales) and labels == [2, 2, 0, 0] * 3
    for k, (label, shown) in enumerate(rows.items()):
        expected = sampled(models, labels[:4], 0, scales[label], sampler="ddim", steps=3)
        assert np.array_equal(pixels(shown), expected)
        assert np.array_equal(images[4 * k : 4 * k + 4], expected)


@pytest.mark.parametrize("flags", [[], ["--models", "models"]])
def test_the_included_networks_draw_into_the_repository(monkeypatch, drawing, flags):
    monkeypatch.setattr(inference, "write_files", save := Mock())
    inference.main([*flags, "--steps", "1"])
    assert list(save.call_args.args[0]) == [ROOT / "guided_output.png"]


def test_the_same_command_produces_the_same_bytes(models):
    made, outputs = [], ["--output", models / "o.png"]
    for _ in range(2):
        run(models, "--steps", 4, "--guidance-scale", 1, 2, *outputs)
        made.append([(models / name).read_bytes() for name in ("o.png", "o.npz")])
    assert made[0] == made[1]
