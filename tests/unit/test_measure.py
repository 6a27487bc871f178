"""`measure` and python -m evaluation, with few real images."""

import shutil
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Evil

import inference
from evaluation import __main__ as evaluate
from evaluation import metrics
from evaluation.judge import judge_images, load_judge
from evaluation.measure import measure, read_rows
from evaluation.metrics import balanced_parts
from inference import gradient, guided, load_models, sample
from support.files import MODELS, sha256
from support.pictures import to_uint8
from support.streams import image_seeds


@pytest.fixture(scope="module", autouse=True)
def faster(few_images):
    """Use few real images, and estimate intervals from two halves."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metrics, "NUM_HALVES", 2)
        yield


def noise(y, seeds, gray=1):
    rng = torch.Generator().manual_seed(seeds[0])
    return gray * (2 * torch.rand(len(y), 1, 28, 28, generator=rng) - 1)


# --- measure ---


def test_rows_are_functions_or_samples(tmp_path):
    """With few images, precision and recall are left out. Changes are from the first function."""
    ddpm, classifier = load_models()
    predict = guided(ddpm, gradient(classifier.log_p), 5)
    guided_row = partial(sample, ddpm, predict=predict, sampler="ddim", steps=3)
    images, labels = torch.zeros(30, 1, 28, 28, dtype=torch.uint8), torch.zeros(30).long()
    rows = {
        "a file": (images, labels),
        "unlabeled": (images, None),
        "guided": guided_row,
        "half as strong": lambda y, seeds: 0.5 * guided_row(y, seeds),
        "noise": noise,
    }
    path, columns = tmp_path / "x.csv", {"sampler": "ddim"}
    with pytest.warns(UserWarning, match="no precision"):
        found = measure(rows, 35, seed=3, path=path, columns=columns)
    assert [row["images"] for row in read_rows(path)] == list(found) == ["real images", *rows]
    for row in found.values():
        assert (row["n"], row["seed"], row["sampler"]) == (30, 3, "ddim")
        assert row["sha256 of judge"] == sha256(MODELS / "judge.pth")
        assert "frechet" in row
    _, file, unlabeled, first, *others = found.values()
    assert "precision" in unlabeled and not any("precision" in key for key in file | first)
    assert file["accuracy"] in (0, 1)
    assert not any(name in key for key in unlabeled for name in ("accuracy", "class_frechet"))
    assert not any("change" in key for row in (file, unlabeled, first) for key in row)
    for row in others:
        for name in ("accuracy", "frechet", "mean_intensity"):
            assert row[f"{name}_change"] == pytest.approx(row[name] - first[name])

    y = torch.arange(10).repeat_interleave(3)
    images = to_uint8(guided_row(y, image_seeds(3, y.tolist())))
    right = judge_images(load_judge()[0], images)[1] == y
    assert 0.5 < first["accuracy"] == pytest.approx(right.float().mean().item())


@pytest.mark.parametrize("split", ["validation", "test"])
def test_the_reference_is_half_of_the_split(few_images, split):
    """The other half is a row; with the test images, so are the validation images."""
    images, labels = few_images.splits[split]
    here, there = (half.flatten() for half in balanced_parts(labels, 2, 10))
    rows = {"reference": (images[here], labels[here]), "other": (images[there], labels[there])}
    half, *others, reference, other = measure(rows, split=split).values()
    assert reference["frechet"] == pytest.approx(0, abs=1e-3) and reference["precision"] == 1
    assert half == other and half["precision"] < 1
    assert len(others) == (split == "test") and all(row["accuracy"] > 0.9 for row in others)


def test_a_warning_is_shown_in_every_row():
    def warns(y, seeds):
        warnings.warn("too strong", stacklevel=1)
        return noise(y, seeds)

    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("default")  # shows a warning once per line of code
        measure({"first": warns, "second": warns}, 100)
    assert sum("too strong" in str(warning.message) for warning in seen) == 2


def test_the_file_is_that_of_the_last_call(tmp_path):
    """A row fails, Ctrl-C comes in the third row, and then there is a second call."""
    path, other = tmp_path / "x.csv", tmp_path / "other.csv"
    other.write_text("mine")

    def failing(y, seeds):
        raise RuntimeError("a bug")

    def interrupting(y, seeds):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure({"a": noise, "b": failing, "c": interrupting, "d": noise}, 100, path=path)
    assert [row["images"] for row in read_rows(path)] == ["real images", "a", "b"]
    found = measure({"b": failing, "d": noise, "e": noise}, 100, path=path, columns={"k": 1})
    assert found["b"]["error"] == "RuntimeError: a bug" and "accuracy" not in found["b"]
    assert not any("change" in key for row in found.values() for key in row)
    stored = read_rows(path)
    assert [row["images"] for row in stored] == ["real images", "b", "d", "e"]
    assert all(row["k"] == "1" for row in stored) and "bug" in stored[1]["error"]
    assert other.read_text() == "mine" and len(list(tmp_path.iterdir())) == 2


# --- python -m evaluation ---


def test_every_flag_of_the_command_reaches_the_measurement(tmp_path, few_images):
    """The guided row is that of inference.py. All scales are rows, growing ones last."""
    npz, path, trial = tmp_path / "x.npz", tmp_path / "x.csv", tmp_path / "trial"
    flags = ["--seed", "3", "--steps", "2", "--sampler", "ddim"]
    drawing = ["--digits", "all", "--num-samples", "10", "--output", str(tmp_path / "o.png")]
    inference.main([*flags, *drawing, "--npz", str(npz)])

    def table(*flags):
        evaluate.main([*flags, "--n", "100", "--csv", str(path)])
        return {row["images"]: row for row in read_rows(path)}

    scales = ["--guidance-scale", "0", "1", "--growing-scale", "15"]
    names = [
        f"{m}, {s}" for m in ("guided", "classifier-free") for s in ("s = 0", "s = 1", "1 + 15 SNR")
    ]
    rows = table(*flags, "--method", *evaluate.METHODS, "--samples", str(npz), *scales)
    assert list(rows) == ["real images", *names[:3], "unguided", *names[3:], str(npz)]
    for a, b in (("guided, 1 + 15 SNR", str(npz)), ("guided, s = 0", "unguided")):
        assert all(rows[a][key] == rows[b][key] for key in ("accuracy", "frechet", "recall"))
    row = rows["guided, 1 + 15 SNR"]
    assert (row["sampler"], row["steps"], row["seed"], row["split"]) == (
        "ddim",
        "2",
        "3",
        "validation",
    )
    assert row["sha256 of classifier.pth"] == sha256(MODELS / "classifier.pth")

    shutil.copytree(MODELS, trial)
    content = torch.load(trial / "classifier.pth")
    content["state_dict"]["linear.weight"] *= -1
    torch.save(content, trial / "classifier.pth")
    once = table(*flags)
    for other in ("--seed 4", "--steps 3", "--sampler ddpm", "--split test", f"--models {trial}"):
        changed = table(*flags, *other.split())
        assert changed["guided, 1 + 15 SNR"]["frechet"] != once["guided, 1 + 15 SNR"]["frechet"]
        same = changed["real images"]["frechet"] == once["real images"]["frechet"]
        assert same == (other != "--split test")
    assert list(table(*flags, "--method", "classifier_free"))[1:] == ["classifier-free, s = 1.5"]


def test_settings_are_not_chosen_on_what_is_reported():
    args = evaluate.parse_args([])
    assert args.seed != 0 and args.split == "validation"


def test_networks_and_judge_must_be_for_the_dataset(fails, tmp_path):
    for name in ("classifier.pth", "ddpm_unet.pth"):
        content = torch.load(MODELS / name)
        info = content["dataset"] | {"kind": "fashion-mnist", "name": "fashion-mnist"}
        torch.save(content | {"dataset": info}, tmp_path / name)
    flags = ["--models", tmp_path, "--n", 100, "--steps", 1]
    assert "--dataset is mnist" in fails(evaluate.main, *flags)
    assert "the judge is for mnist" in fails(evaluate.main, *flags, "--dataset", "fashion-mnist")


def test_an_unusable_file_is_an_error(fails, tmp_path):
    """No code in it is run."""
    npz, path = tmp_path / "x.npz", tmp_path / "x.csv"
    gray = np.full((100, 28, 28, 1), 7, np.uint8)
    for array in (gray / 255, gray[:, :14], gray[..., 0]):
        np.savez(npz, arr_0=array)
        assert "(N, 28, 28, 1)" in fails(evaluate.main, "--method", "--samples", npz)
    for arrays in ({"images": gray}, {"arr_0": gray, "arr_1": np.array([Evil()] * 100)}):
        np.savez(npz, **arrays)
        assert "x.npz" in fails(evaluate.main, "--method", "--samples", npz)
    assert not Path("made").exists()
    np.savez(npz, arr_0=gray)
    for content in (b"a,b\n1,2\n", b"\xff\xfe\x00"):
        path.write_bytes(content)
        error = fails(evaluate.main, "--method", "--samples", npz, "--csv", path)
        assert "x.csv" in error and path.read_bytes() == content
