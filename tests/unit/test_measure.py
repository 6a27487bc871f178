"""`measure` and python -m evaluation, with few real images."""

import shutil
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Evil
from torch import nn

import inference
from diffusion import load_ddpm
from evaluation import __main__ as evaluate
from evaluation import metrics
from evaluation.classifier_free import classifier_free
from evaluation.judge import judge_images, load_judge
from evaluation.measure import measure
from evaluation.metrics import METRICS, balanced_parts
from inference import gradient, guided, load_models, reverse, sample
from support import UserError
from support.files import MODELS, read_rows, sha256
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


# --- rows and columns ---


def test_rows_are_functions_or_samples_and_record_their_provenance(tmp_path):
    """A guide whose y is (N, 2) is passed as a function.

    With few images, precision and recall are left out.
    """
    ddpm, classifier = load_models()
    conditional = load_ddpm(MODELS / "classifier_free.pth")

    def log_p(x_t, t, y):
        return classifier.log_p(nn.Upsample(28)(x_t), t, y[:, 0]) + 0 * y[:, 1]

    def pairs(y, seeds):
        predict = guided(ddpm, gradient(log_p), 5)
        return sample(ddpm, torch.stack([y, y], dim=1), seeds, predict, sampler="ddim", steps=3)

    predict = guided(ddpm, gradient(classifier.log_p), 5)
    images, labels = torch.zeros(30, 1, 28, 28, dtype=torch.uint8), torch.zeros(30).long()
    rows = {
        "5, DDIM": partial(sample, ddpm, predict=predict, sampler="ddim", steps=3),
        "pairs": pairs,
        "free": partial(sample, conditional, predict=classifier_free(conditional, 2), steps=2),
        "a file": (images, labels),
        "unlabeled": (images, None),
        "loop": partial(sample, ddpm, loop=reverse, steps=2),
    }
    path = tmp_path / "x.csv"

    def extra(images, y):
        return {"brightest": images.max().item()}

    with pytest.warns(UserWarning, match="no precision"):
        found = measure(rows, 35, seed=3, path=path, extra=extra)
    real, ddim, paired, free, file, unlabeled, loop = found.values()
    assert [row["n"] for row in found.values()] == [30] * 7
    assert "frechet" in ddim and not any("precision" in key for key in ddim | paired)
    assert "sampler" not in real and (ddim["sampler"], ddim["steps"]) == ("ddim", 3)
    assert (free["sampler"], free["steps"], ddim["seed"]) == ("ddpm", 2, 3)
    assert (loop["loop"], loop["steps"]) == ("reverse", 2) and "sampler" not in loop
    assert ddim["sha256 of judge"] == sha256(MODELS / "judge.pth")
    assert paired["sha256 of images"] == ddim["sha256 of images"]
    assert (paired["changes_from"], paired["frechet_change"]) == ("5, DDIM", 0)
    assert "changes_from" not in ddim and "changes_from" not in file
    assert file["accuracy"] in (0, 1) and not any("accuracy" in key for key in unlabeled)
    assert file["brightest"] == -1 and 0.5 < ddim["brightest"] <= 1 == real["brightest"]
    assert [row["images"] for row in read_rows(path)] == list(found)

    y = torch.arange(10).repeat_interleave(3)
    images = to_uint8(rows["5, DDIM"](y, image_seeds(3, y.tolist())))
    right = judge_images(load_judge()[0], images)[1] == y
    assert ddim["accuracy"] == pytest.approx(right.float().mean().item())


@pytest.mark.parametrize("split", ["validation", "test"])
def test_the_reference_is_half_of_the_split(few_images, split):
    """The other half is a row; with the test images, so are the validation images.

    The nearest images are among the training images.
    """
    images, labels = few_images.splits[split]
    here, there = (half.flatten() for half in balanced_parts(labels, 2, 10))
    rows = {"reference": (images[here], labels[here]), "other": (images[there], labels[there])}
    rows |= {"train": tuple(few_images.splits["train"])}
    half, *others, reference, other, train = measure(rows, split=split).values()
    assert reference["frechet"] == pytest.approx(0, abs=1e-3) and reference["precision"] == 1
    assert half["sha256 of images"] == other["sha256 of images"] and half["precision"] < 1
    assert len(others) == (split == "test") and all(row["accuracy"] > 0.9 for row in others)
    assert train["nearest_median"] == 0 and half["nearest"] > 1


def test_changes_are_relative_to_the_first_sampled_row():
    rows = {"noise": noise, "half": partial(noise, gray=0.5), "gray": partial(noise, gray=0)}
    _, first, *others = measure(rows, 100).values()
    for row in others:
        assert row["changes_from"] == "noise"
        for name in METRICS:
            assert row[f"{name}_change"] == pytest.approx(row[name] - first[name])


def test_a_warning_is_shown_in_every_row():
    def warns(y, seeds):
        warnings.warn("too strong", stacklevel=1)
        return noise(y, seeds)

    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("default")  # shows a warning once per line of code
        measure({"first": warns, "second": warns}, 100)
    assert sum("too strong" in str(warning.message) for warning in seen) == 2


# --- no measurement is lost or repeated ---


def test_a_failing_row_keeps_its_measurement_and_the_others_continue(tmp_path):
    def failing(y, seeds):
        raise RuntimeError("a bug")

    def extra(images, y):
        if images.std() < 0.4:
            raise RuntimeError("too dark")
        return {}

    path = tmp_path / "x.csv"
    once = measure({"a": noise}, 100, path=path)
    rows = {"bad": failing, "dark": partial(noise, gray=0.1), "a": failing, "b": noise, "c": noise}
    found = measure(rows, 100, path=path, extra=extra)
    assert found["bad"] == found["a"] == {"error": "RuntimeError: a bug"}
    assert found["dark"] == {"error": "RuntimeError: too dark"}
    assert "changes_from" not in found["b"] and found["c"]["changes_from"] == "b"
    table = {row["images"]: row for row in read_rows(path)}
    assert table["a"]["sha256 of images"] == once["a"]["sha256 of images"]
    assert "bug" in table["bad"]["error"] and "accuracy" in table["c"]


def test_a_sweep_in_one_file_can_be_interrupted(tmp_path):
    """Scales, samplers, and seeds: nothing is lost, and nothing is repeated needlessly."""
    path, drawn = tmp_path / "x.csv", []

    def row(y, seeds, scale, sampler):
        if len(y) > 10:
            drawn.append((scale, sampler))
            if len(drawn) in (3, 6):
                raise KeyboardInterrupt
        return noise(y, seeds, scale) if sampler == "a" else -noise(y, seeds, scale).square()

    def sweep(path):
        table = {}
        for seed in (1, 2):
            rows = {
                f"{scale}, {sampler}, seed {seed}": partial(row, scale=scale, sampler=sampler)
                for scale in (1, 0.5)
                for sampler in ("a", "b")
            }
            table |= measure(rows, 100, seed=seed, path=path)
        return table

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            sweep(path)
    once = sweep(path)
    assert len(drawn) == 12  # 8 rows, two interrupted, and the first one twice for the changes
    again = sweep(path)
    assert len(drawn) == 12 and list(once) == list(again) == [r["images"] for r in read_rows(path)]
    columns = once["0.5, b, seed 2"]
    assert (columns["scale"], columns["sampler"], columns["seed"]) == (0.5, "b", 2)
    for name, columns in sweep(tmp_path / "y.csv").items():
        for key in columns.keys() - {"seconds"}:
            value = columns[key]
            expected = value if isinstance(value, str) else pytest.approx(value, 1e-4, 1e-4)
            assert once[name][key] == expected and again[name][key] == expected


def test_a_row_whose_images_differ_is_measured_again(tmp_path):
    """Also if only one class differs, or the row that it is compared with."""
    path = tmp_path / "x.csv"

    def other(y, seeds, gray):
        return noise(y, seeds) * torch.where(y == 9, gray, 1).view(-1, 1, 1, 1)

    for a, b in ((1, 1), (1, 0.5), (0.9, 0.5)):
        rows = {"a": lambda y, s, a=a: noise(y, s, a), "b": lambda y, s, b=b: other(y, s, b)}
        table = measure(rows, 100, path=path)
        assert table["b"]["sha256 of images"] == measure(rows, 100)["b"]["sha256 of images"]
        change = table["b"]["frechet"] - table["a"]["frechet"]
        assert table["b"]["frechet_change"] == pytest.approx(change, abs=1e-2)


def test_a_row_is_not_replaced_by_one_with_other_settings(tmp_path):
    path, rows = tmp_path / "x.csv", {"a": partial(noise, gray=1)}
    measure(rows, 100, path=path)
    before, judge = path.read_bytes(), load_judge()
    judge[1]["sha256"] = "another"
    others = partial(noise, gray=0.5), (noise(range(110), [0]), None)
    changes = {"seed": 2}, {"n": 200}, {"split": "test"}, {"judge": judge}
    for change in (*changes, *({"rows": {"a": row}} for row in others)):
        with pytest.raises(UserError, match="x.csv"):
            measure(**{"rows": rows, "n": 100, "path": path} | change)
        assert path.read_bytes() == before
    measure({"b": noise}, 100, seed=2, path=path)
    assert [row["images"] for row in read_rows(path)] == ["real images", "a", "b"]


# --- python -m evaluation ---


def test_the_command_measures_the_shipped_methods_and_files(tmp_path):
    npz, path = tmp_path / "x.npz", tmp_path / "x.csv"
    flags = ["--seed", "3", "--steps", "2", "--sampler", "ddim"]
    drawing = ["--digits", "all", "--num-samples", "10", "--output", str(tmp_path / "o.png")]
    inference.main([*flags, *drawing, "--npz", str(npz)])
    methods = ["--method", *evaluate.METHODS, "--samples", str(npz)]
    evaluate.main([*flags, *methods, "--n", "100", "--csv", str(path)])
    _, guided_row, unguided, free, file = read_rows(path)
    assert guided_row["sha256 of images"] == file["sha256 of images"]
    assert guided_row["accuracy"] == file["accuracy"] and float(unguided["accuracy"]) < 0.4
    assert (guided_row["sampler"], guided_row["steps"]) == ("ddim", "2")
    scales = ["--method", "guided", "classifier_free", "--guidance-scale", "0", "1"]
    evaluate.main([*flags, *scales, "--n", "100", "--csv", str(path)])
    rows = read_rows(path)
    assert len(rows) == 9 and [row["scale"] for row in rows[5:]] == ["0", "1", "0", "1"]
    assert rows[5]["sha256 of images"] == unguided["sha256 of images"]
    assert (guided_row["scale"], free["scale"]) == ("1 + 15 SNR", "1.5")


def test_two_measurements_never_share_a_name(few_images, tmp_path):
    """The names say which settings are not the default."""
    trial, names = shutil.copytree(MODELS, tmp_path / "trial"), []
    others = [], ["--sampler", "ddim"], ["--steps", "20"], ["--seed", "2"], ["--models", str(trial)]
    for other in others:
        for scales in ([], ["--guidance-scale", "1", "1.0000001"]):
            flags = ["--method", "guided", "classifier_free", *scales, *other]
            names += evaluate.make_rows(evaluate.parse_args(flags), few_images)
    assert len(set(names)) == len(names) == 6 * len(others)


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
