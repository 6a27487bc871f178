"""`measure` and python -m evaluation, with few real images."""

import inspect
import shutil
from functools import partial
from pathlib import Path
from unittest.mock import Mock

import diffusers
import numpy as np
import pytest
import torch
from conftest import Evil

from diffusion import load_ddpm
from evaluation import __main__ as evaluate
from evaluation import metrics
from evaluation.classifier_free import SCALE, classifier_free
from evaluation.judge import judge_images, load_judge
from evaluation.measure import measure
from evaluation.tables import read_rows
from inference import gradient, growing_scale, guided, load_models, sample
from support.files import MODELS, sha256
from support.pictures import npz as npz_bytes
from support.pictures import to_uint8


@pytest.fixture(scope="module", autouse=True)
def faster(few_images):
    """Use few real images, and estimate intervals from two halves."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metrics, "NUM_HALVES", 2)
        yield


def noise(y, seeds, gray=1):
    rng = torch.Generator().manual_seed(seeds[0])
    return gray * (2 * torch.rand(len(y), 1, 28, 28, generator=rng) - 1)


def test_rows_are_functions_or_samples(few_images, tmp_path):
    """Changes are from the first function, in the metrics that both have."""
    images, labels = (part[:200] for part in few_images.splits["train"])
    rows = {
        "a file": (images, labels),
        "first": partial(noise, gray=0.1),
        "unlabeled": (images, None),
        "noise": noise,
        "no target": lambda y, seeds: (noise(y, seeds), None),
    }
    found = measure(rows, 105, seed=3, path=tmp_path / "x.csv", columns={"sampler": "ddim"})
    stored = read_rows(tmp_path / "x.csv")
    assert [row["images"] for row in stored] == list(found) == ["real images", *rows]
    settings = {"split": "validation", "seed": 3, "torch": torch.__version__}
    settings |= {
        "diffusers": diffusers.__version__,
        "sha256 of judge": sha256(MODELS / "judge.pth"),
    }
    sampled = ["first", "noise", "no target"]
    assert [name for name, row in found.items() if row.get("sampler") == "ddim"] == sampled
    for row, text in zip(found.values(), stored):
        assert row.items() >= settings.items()
        assert float(text["recall"]) == pytest.approx(row["recall"], rel=1e-5)
    real, file, first, unlabeled, second, no_target = found.values()
    assert [row["n"] for row in (real, file, first)] == [100, 200, 100]
    right = judge_images(load_judge(), images).prediction == labels
    assert file["accuracy"] == pytest.approx(right.double().mean().item())
    limits = metrics.wilson_interval(file["accuracy"], 200)
    assert (file["accuracy_low"], file["accuracy_high"]) == pytest.approx(limits)
    for row, same in ((unlabeled, file), (no_target, second)):
        assert row["recall"] == same["recall"]
        assert not any("accuracy" in key or "class" in key for key in row)
    assert not any("change" in key for row in (file, unlabeled, first) for key in row)
    for row in (second, no_target):
        for name in metrics.METRICS.keys() & row.keys():
            assert row[f"{name}_change"] == pytest.approx(row[name] - first[name])


def test_every_class_has_equally_many_images_with_their_own_seeds():
    """At least ten. Pixels are rounded as in a file."""
    calls, tables = [], []
    rows = {"x": lambda y, seeds: calls.append((y, seeds)) or noise(y, seeds)}
    for n, seed in ((100, 1), (119, 1), (119, 2)):
        tables.append(measure(rows, n, seed=seed)["x"])
    (_, few), (y, seeds), (_, others) = calls
    tables.append(measure({"x": (to_uint8(noise(y, seeds)), y)}, 119)["x"])
    assert y.tolist() == [k for k in range(10) for _ in range(11)] and len(set(seeds)) == 110
    assert set(few) < set(seeds) and not set(seeds) & set(others)
    assert tables[1]["mean_intensity"] == tables[3]["mean_intensity"]
    for bad in (noise, (to_uint8(noise(y, seeds))[:99], y[:99])):
        with pytest.raises(ValueError, match="at least 10 images of each class"):
            measure({"x": bad}, 99)


@pytest.mark.parametrize("split", ["validation", "test"])
def test_the_reference_is_half_of_the_split(few_images, split):
    """The other half is a row; with the test images, so are the validation images."""
    halves = dict(zip("ab", metrics.balanced_parts(*few_images.splits[split], 2, 10)))
    (halves["validation"],) = metrics.balanced_parts(*few_images.splits["validation"], 1, 10)
    real, *others, half, other, validation = measure(halves, split=split).values()
    assert half["frechet"] == pytest.approx(0, abs=1e-3) and half["precision"] == 1
    assert real == other and other["precision"] < 1
    assert others == ([validation] if split == "test" else [])


def test_a_row_that_raises_stops_the_measurement_and_keeps_the_rows_before_it(tmp_path):
    """The next call replaces the file."""
    path, failing = tmp_path / "x.csv", lambda y, seeds: 1 / 0
    with pytest.raises(ZeroDivisionError):
        measure({"a": noise, "b": failing, "c": noise}, 100, path=path)
    assert [row["images"] for row in read_rows(path)] == ["real images", "a"]
    measure({"c": noise}, 100, path=path)
    assert [row["images"] for row in read_rows(path)] == ["real images", "c"]


@pytest.fixture
def measured(monkeypatch):
    """Run python -m evaluation, but measure nothing: the arguments of `measure`, by name."""

    def run(*flags):
        monkeypatch.setattr(evaluate, "measure", spy := Mock())
        evaluate.main([str(flag) for flag in flags])
        return inspect.signature(measure).bind(*spy.call_args.args).arguments

    return run


def test_every_flag_reaches_the_measurement(measured, tmp_path):
    trial, csv = shutil.copytree(MODELS, tmp_path / "trial"), tmp_path / "x.csv"
    last = {"classifier.pth": "linear", "judge.pth": "linear", "classifier_free.pth": "conv_out"}
    for name, layer in last.items():
        content = torch.load(trial / name)
        content["state_dict"][f"{layer}.weight"] *= -1
        torch.save(content, trial / name)
    flags = f"--models {trial} --sampler ddim --steps 2 --guidance-scale 2 3 --growth 4"
    flags += f" --n 300 --split test --seed 4 --csv {csv}"
    found = measured(*flags.split(), "--method", "guided", "unguided", "classifier_free")
    assert [found[key] for key in ("n", "split", "seed", "path")] == [300, "test", 4, csv]
    networks = ("judge", "ddpm_unet.pth", "classifier.pth", "classifier_free.pth")
    hashes = {f"sha256 of {k}": sha256((trial / k).with_suffix(".pth")) for k in networks}
    assert found["judge"].checkpoint["sha256"] == hashes.pop("sha256 of judge")
    assert found["columns"] == {"sampler": "ddim", "steps": 2} | hashes

    ddpm, classifier = load_models(trial)
    labeled = load_ddpm(trial / "classifier_free.pth")
    grad, y = gradient(classifier.log_p), torch.tensor([3, 7])
    expected = {
        "guided, 2 (1 + 4 SNR)": (ddpm, guided(ddpm, grad, growing_scale(ddpm, 2, 4))),
        "guided, 3 (1 + 4 SNR)": (ddpm, guided(ddpm, grad, growing_scale(ddpm, 3, 4))),
        "unguided": (ddpm, None),
    }
    for s in (2, 3):
        predict = classifier_free(labeled, growing_scale(ddpm, s, 4))
        expected[f"classifier-free, {s} (1 + 4 SNR)"] = (labeled, predict)
    assert list(found["rows"]) == list(expected)
    for name, (network, predict) in expected.items():
        images = found["rows"][name](y, [0, 1])
        if name == "unguided":
            images, target = images
            assert target is None
        assert torch.equal(images, sample(network, y, [0, 1], predict, sampler="ddim", steps=2))


def test_the_defaults(measured, tmp_path):
    """Settings are not chosen on what is reported."""
    found = measured()
    assert found["seed"] != 0 and found["split"] == "validation" and found["path"] is None
    assert list(found["rows"]) == ["guided, 1 + 12 SNR"]
    networks = {f"sha256 of {k}" for k in ("ddpm_unet.pth", "classifier.pth")}
    assert found["columns"].keys() == {"sampler", "steps"} | networks
    shutil.copy(MODELS / "classifier_free.pth", tmp_path)  # but no judge
    found = measured("--method", "classifier_free", "--models", tmp_path)
    assert list(found["rows"]) == [f"classifier-free, s = {SCALE}"]
    growing = measured("--method", "classifier_free", "--growth", 2)
    assert list(growing["rows"]) == [f"classifier-free, {SCALE} (1 + 2 SNR)"]
    assert found["judge"].checkpoint["sha256"] == sha256(MODELS / "judge.pth")


def test_networks_and_judge_must_be_for_the_dataset(fails, tmp_path):
    """The advice trains a judge for this dataset, not another one for MNIST."""
    for path in MODELS.glob("*.pth"):
        content = torch.load(path)
        info = content["dataset"] | {"kind": "fashion-mnist", "name": "fashion-mnist"}
        torch.save(content | {"dataset": info}, tmp_path / path.name)
    flags = ["--models", tmp_path, "--n", 100, "--steps", 1]
    for method in ("guided", "unguided", "classifier_free"):
        assert "the network in" in fails(evaluate.main, "--method", method, *flags)
    (tmp_path / "judge.pth").unlink()
    error = fails(evaluate.main, *flags, "--dataset", "fashion-mnist")
    assert "evaluation.judge --dataset fashion-mnist --models" in error


def test_samples_from_a_file(measured, fails, tmp_path, few_images):
    """A file that cannot be used is a one-line error, and no code in it is run."""
    npz, other = tmp_path / "x.npz", tmp_path / "other.npz"
    images = few_images.splits["train"][0][:10]
    npz.write_bytes(npz_bytes(images, torch.arange(10), few_images.info["classes"]))
    np.savez(other, arr_0=images.permute(0, 2, 3, 1).numpy())
    rows = measured("--method", "--samples", npz, other)["rows"]
    (labeled, labels), (unlabeled, none) = rows[str(npz)], rows[str(other)]
    assert torch.equal(labeled, images) and torch.equal(unlabeled, images) and none is None
    assert labels.tolist() == [*range(10)]
    gray = np.full((100, 28, 28, 1), 7, np.uint8)
    bad = [(array,) for array in (gray / 255, gray[:, :14], np.array([Evil()]))]
    bad += [(gray, labels) for labels in (np.array([1]), np.full(100, 0.5))]
    bad += [(gray, np.full(100, label)) for label in (-1, 10)]
    for arrays in bad:
        np.savez(npz, *arrays)
        assert "x.npz" in fails(evaluate.main, "--method", "--samples", npz)
    npz.write_bytes(npz.read_bytes()[:500])
    assert "x.npz" in fails(evaluate.main, "--method", "--samples", npz)
    assert not Path("made").exists()
