"""`measure` and python -m evaluation, with few real images; the experiments and their tables."""

import inspect
import warnings
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import Evil
from diffusers import DDPMScheduler
from torch import nn

import inference
from classifier import Classifier
from diffusion import DDPM, SCHEDULE, implied_noise, load_ddpm, noised_for_validation
from evaluation import __main__ as evaluate
from evaluation import measures, pages, tables
from evaluation.classifier_free import SCALE, classifier_free
from evaluation.judge import judge_images, load_judge
from evaluation.measures import COMPARED, balanced_parts
from evaluation.table import measure
from inference import gradient, guided, load_models, sample
from support.cli import UserError
from support.files import MODELS, ROOT, read_rows, sha256, write_rows
from support.pictures import to_uint8
from support.streams import image_seeds


@pytest.fixture(scope="module", autouse=True)
def faster(few_images):
    """Use few real images, and estimate intervals from two halves."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measures, "NUM_HALVES", 2)
        yield


@pytest.fixture(scope="module")
def networks():
    return load_models()


# --- measure ---


def test_rows_are_functions_or_samples_and_record_their_provenance(networks, tmp_path):
    """A guide whose y is (N, 2) is passed as a function."""
    ddpm, classifier = networks
    conditional = load_ddpm(MODELS / "classifier_free.pth")

    def log_p(x_t, t, y):
        return classifier.log_p(x_t, t, y[:, 0]) + 0 * y[:, 1] * x_t.sum(dim=(1, 2, 3))

    def pairs(y, seeds):
        eps_hat = guided(ddpm, gradient(log_p), 5)
        return sample(ddpm, torch.stack([y, y], dim=1), seeds, eps_hat, sampler="ddim", steps=3)

    eps_hat = guided(ddpm, gradient(classifier.log_p), 5)
    images, labels = torch.zeros(100, 1, 28, 28, dtype=torch.uint8), torch.zeros(100).long()
    rows = {
        "5, DDIM": partial(sample, ddpm, eps_hat=eps_hat, sampler="ddim", steps=3),
        "pairs": pairs,
        "free": partial(sample, conditional, eps_hat=classifier_free(conditional, 2), steps=2),
        "a file": (images, labels),
        "unlabeled": (images, None),
    }
    path = tmp_path / "x.csv"
    brightest = {"brightest": lambda images, y: images.max().item()}
    found = measure(
        rows, 105, seed=3, path=path, extra=lambda *row: {k: f(*row) for k, f in brightest.items()}
    )
    real, ddim, paired, free, file, unlabeled = found.values()
    assert [row["n"] for row in found.values()] == [100] * 6
    assert "sampler" not in real and (ddim["sampler"], ddim["steps"]) == ("ddim", 3)
    assert (free["sampler"], free["steps"], ddim["seed"]) == ("ddpm", 2, 3)
    assert (ddim["network_calls"], paired["network_calls"], free["network_calls"]) == (6, 6, 4)
    assert ddim["networks"] == " ".join(
        f"{name} {sha256(MODELS / name)}" for name in ("classifier.pth", "ddpm_unet.pth")
    )
    assert ddim["sha256 of judge"] == sha256(MODELS / "judge.pth")
    assert paired["sha256 of images"] == ddim["sha256 of images"]
    assert (paired["changes_from"], paired["frechet_change"]) == ("5, DDIM", 0)
    assert "changes_from" not in ddim and "changes_from" not in file
    assert file["accuracy"] in (0, 1) and not any("accuracy" in key for key in unlabeled)
    assert file["brightest"] == -1 and 0.5 < ddim["brightest"] <= 1 and "brightest" not in real
    assert [row["images"] for row in read_rows(path)] == list(found)

    y = torch.arange(10).repeat_interleave(10)
    images = to_uint8(rows["5, DDIM"](y, image_seeds(3, y.tolist())))
    right = judge_images(load_judge(), images)[1] == y
    assert ddim["accuracy"] == pytest.approx(right.float().mean().item())


def test_every_network_is_counted_whatever_its_class(networks):
    """A network of our own inside another one is counted once; transforms are not counted."""

    class Net(nn.Module):
        config = SimpleNamespace(in_channels=1, sample_size=28)
        dtype, device = torch.float32, torch.device("cpu")

        def __init__(self):
            super().__init__()
            self.inside, self.resize = Classifier(8), nn.Upsample(28)

        def forward(self, x_t, t):
            return SimpleNamespace(sample=self.resize(x_t) + 0 * self.inside(x_t, t).mean())

    ddpm = DDPM(Net(), DDPMScheduler(**SCHEDULE))

    def log_p(x_t, t, y):
        return ddpm.unet.inside.log_p(nn.Upsample(28)(x_t), t, y)

    eps_hat = guided(ddpm, gradient(log_p), 0.1)
    rows = {"mine": partial(sample, ddpm, eps_hat=eps_hat, steps=3)}
    assert measure(rows, n=100)["mine"]["network_calls"] == 6


def failing(y, seeds):
    raise RuntimeError("a bug")


def test_a_failing_row_is_recorded_and_the_others_continue(tmp_path):
    few = (torch.zeros(5, 1, 28, 28), torch.arange(5))
    rows = {"bad": failing, "few": few, "noise": noise}
    found = measure(rows, 100, path=tmp_path / "x.csv")
    assert found["bad"] == {"error": "RuntimeError: a bug"}
    assert "5 images" in found["few"]["error"] and "accuracy" in found["noise"]
    assert read_rows(tmp_path / "x.csv")[1]["error"] == "RuntimeError: a bug"
    with pytest.raises(UserError, match="at least 100"):
        measure(rows, n=99)


def test_rows_that_are_in_the_file_are_skipped(tmp_path):
    """Unless they, or the row that they are compared with, would differ."""
    path, drawn = tmp_path / "x.csv", []

    def row(gray):
        def images(y, seeds):
            drawn.append((gray, len(y)))
            return noise(y, seeds) * gray

        return images

    def measured(**settings):
        del drawn[:]
        rows = {"a": row(1), "b": row(0.9), "c": row(0.5)} | settings.pop("rows", {})
        table = measure(rows, **{"n": 100, "path": path} | settings)
        return table, [gray for gray, n in drawn if n > 10]

    once, grays = measured()
    assert grays == [1, 0.9, 0.5]
    again, grays = measured(rows={"c": row(0.6), "d": row(0.7)})
    assert grays == [1, 0.6, 0.7]  # the first row, for comparison; b is skipped
    for key in ("frechet", "frechet_change", "only_this_right", "network_calls"):
        assert again["b"][key] == pytest.approx(once["b"][key], rel=1e-4, abs=1e-4)
    change = again["c"]["frechet"] - once["a"]["frechet"]
    assert again["c"]["frechet_change"] == pytest.approx(change)
    names = ["real images", "a", "b", "c", "d"]
    assert [row["images"] for row in read_rows(path)] == names
    assert measured(rows={"a": row(0.95)})[1] == [0.95, 0.9, 0.5]  # b changes relative to a
    judge = load_judge()
    judge.sha256 = "another"
    for settings in ({"seed": 2}, {"n": 200}, {"split": "test"}, {"judge": judge}):
        measured()
        assert len(measured(**settings)[1]) == 3


def test_a_row_that_differs_in_one_class_is_measured_again(tmp_path):
    for gray in (1, 0.5):

        def other(y, seeds, gray=gray):
            return noise(y, seeds) * torch.where(y == 9, gray, 1).view(-1, 1, 1, 1)

        rows = {"a": noise, "b": other}
        found = measure(rows, 100, path=tmp_path / "x.csv")
    assert found["b"]["sha256 of images"] == measure(rows, 100)["b"]["sha256 of images"]


def test_a_row_whose_extra_columns_fail_is_not_compared_with():
    def extra(images, y):
        if images.std() < 0.4:
            raise RuntimeError("too dark")
        return {}

    rows = {"dark": lambda y, s: 0.1 * noise(y, s), "a": noise, "b": noise}
    found = measure(rows, 100, extra=extra)
    assert found["dark"] == {"error": "RuntimeError: too dark"}
    assert "changes_from" not in found["a"] and found["b"]["changes_from"] == "a"


def noise(y, seeds):
    rng = torch.Generator().manual_seed(seeds[0])
    return 2 * torch.rand(len(y), 1, 28, 28, generator=rng) - 1


@pytest.mark.parametrize("split", ["validation", "test"])
def test_the_reference_is_half_of_the_split(few_images, split):
    """The other half is a row; with the test images, so are the validation images."""
    images, labels = few_images.splits[split]
    here, there = (half.flatten() for half in balanced_parts(labels, 2, 10))
    rows = {"reference": (images[here], labels[here]), "other": (images[there], labels[there])}
    half, *others, reference, other = measure(rows, split=split).values()
    assert reference["frechet"] == pytest.approx(0, abs=1e-3) and reference["precision"] == 1
    assert half["sha256 of images"] == other["sha256 of images"] and half["precision"] < 1
    assert len(others) == (split == "test") and all(row["accuracy"] > 0.9 for row in others)


def test_changes_are_relative_to_the_first_sampled_row():
    rows = {"noise": noise, "half": lambda y, s: 0.5 * noise(y, s)}
    rows["gray"] = lambda y, s: 0 * noise(y, s)
    _, first, *others = measure(rows, 100).values()
    for row in others:
        assert row["changes_from"] == "noise"
        for name in COMPARED:
            assert row[f"{name}_change"] == pytest.approx(row[name] - first[name])
        gained = row["only_this_right"] - row["only_first_right"]
        assert gained == round(100 * (row["accuracy"] - first["accuracy"]))


def test_a_warning_is_shown_in_every_row():
    def warns(y, seeds):
        warnings.warn("too strong", stacklevel=1)
        return noise(y, seeds)

    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("default")  # shows a warning once per line of code
        measure({"first": warns, "second": warns}, 100)
    assert sum("too strong" in str(warning.message) for warning in seen) == 2


def test_rows_are_written_as_they_are_measured(tmp_path):
    def interrupted(y, seeds):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure({"noise": noise, "interrupted": interrupted}, 100, path=tmp_path / "x.csv")
    assert [row["images"] for row in read_rows(tmp_path / "x.csv")][1:] == ["noise"]


def test_the_judge_must_be_trained_on_the_dataset(few_images):
    judge = load_judge()
    judge.dataset = {**judge.dataset, "name": "shapes"}
    with pytest.raises(UserError, match="different dataset"):
        measure({"noise": noise}, judge=judge)


# --- the command and the tables ---


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
    assert free["network_calls"] == "4" and unguided["network_calls"] == "2"
    scales = ["--guidance-scale", "0", "1", "3", "--n", "100", "--csv", str(path)]
    evaluate.main([*flags, *scales, "--method", "guided", "classifier_free"])
    calls = {row["images"]: row.get("network_calls") for row in read_rows(path)}
    assert calls["guided, s = 0"] == "2" and calls["guided, s = 3"] == "4"
    assert calls["classifier_free, s = 0"] == calls["classifier_free, s = 1"] == "2"
    digests = {row["images"]: row["sha256 of images"] for row in read_rows(path)}
    # the file repeats the first row, and s = 0 is unguided
    assert len(set(digests.values())) == len(digests) - 2
    assert digests["guided, s = 0"] == digests["unguided"]
    assert {"guided, s = 1", "guided, s = 3"} < set(digests)


def test_an_unreadable_file_of_samples_is_an_error(fails, tmp_path, monkeypatch):
    """No code in it is run."""
    gray = np.full((100, 28, 28, 1), 7, np.uint8)
    for arrays in ({"arr_0": gray / 255}, {"arr_0": gray[:, :14]}, {"images": gray}):
        np.savez(tmp_path / "x.npz", **arrays)
        assert "x.npz" in fails(evaluate.main, "--samples", tmp_path / "x.npz")
    np.savez(tmp_path / "x.npz", arr_0=gray, arr_1=np.array([Evil()] * 100))
    assert "x.npz" in fails(evaluate.main, "--samples", tmp_path / "x.npz")
    assert not Path("made").exists()


def test_every_table_of_the_report_can_be_made(monkeypatch, few_images, tmp_path):
    """Only `quality` is measured on the test set, and nothing is chosen with a reported seed.

    The rows that the pages show are among those that are measured.
    """
    seeds, names, made, other_classifiers = {}, {}, [], tables.OTHER_CLASSIFIERS

    def measured(rows, n=2_000, split="validation", seed=1, path=None):
        assert len(rows) > 1 or path.name == "short_run.csv"
        assert (split, seed) != ("validation", 0)
        assert all(callable(row) for row in rows.values())
        made.extend(rows.values())
        seeds[path.name] = split, seed
        names[path.name] = {"real images", "real validation images", *rows}
        score = {"accuracy": 0.9, "accuracy_low": 0.8, "accuracy_high": 1, "frechet": 2}
        write_rows(path, [{"images": name} | score for name in ("real images", *rows)])

    monkeypatch.setattr(tables, "load_mnist", few_images.load)
    monkeypatch.setattr(tables.held_out, "__defaults__", (20,))
    monkeypatch.setattr(tables, "measure", measured)
    monkeypatch.setattr(tables, "RUNS", dict.fromkeys((0, 1, 2), MODELS))
    monkeypatch.setattr(tables, "OTHER_CLASSIFIERS", {"another": MODELS})
    monkeypatch.setattr(tables, "SHORT_RUN", MODELS)
    for name, make in tables.TABLES.items():
        make(tmp_path / f"{name}.csv")
    names["interventions.csv"] |= other_classifiers.keys()
    names["held_out.csv"] = names["interventions.csv"]
    assert [name for name, (split, _) in seeds.items() if split == "test"] == ["quality.csv"]
    assert seeds.pop("tuning.csv") not in seeds.values()
    images = made[-1](torch.tensor([3]), [0])  # of the last table
    assert images.shape == (1, 1, 28, 28)
    for page in pages.PAGES:
        for found in pages.TABLE.finditer(page.read_text()):
            shown = {line.split("|")[1].strip() for line in found["rows"].splitlines()}
            assert shown <= names[found["file"]]


def test_settings_are_chosen_by_the_rule():
    """The lowest Fréchet distance, but accuracy first; the defaults are the choice for run 0."""

    def rows(*scores):
        table = [{"images": "real images", "accuracy": "0.995", "frechet": "0.1"}]
        for name, (accuracy, high, frechet) in zip("abc", scores):
            row = {"accuracy": accuracy, "accuracy_high": high, "frechet": frechet}
            table.append({"images": f"guided, {name}, run 1"} | row)
        return [*table, table[-1] | {"images": "guided, d, run 2", "frechet": "0.0"}]

    fine = rows(("0.99", "0.996", "0.3"), ("0.99", "0.995", "0.2"), ("0.98", "0.99", "0.15"))
    worse = rows(("0.97", "0.98", "0.2"), ("0.98", "0.99", "0.3"), ("0.96", "0.97", "0.1"))
    assert tables.chosen(fine, "guided", 1) == "b" and tables.chosen(worse, "guided", 1) == "b"
    measured = read_rows(ROOT / "results" / "tuning.csv")
    defaults = inspect.signature(inference.growing_scale).parameters
    pair = "{w.default} (1 + {g.default} SNR)".format(**defaults)
    assert tables.chosen(measured, "guided", 0) == pair
    assert tables.chosen(measured, "classifier-free", 0) == f"s = {SCALE}"


def test_a_gradient_is_compared_with_the_true_one(monkeypatch, few_images, tmp_path):
    """Of a gradient of half the right size plus noise, the component is one half.

    It does not depend on a part of the implied gradient that is the same for all labels. A gradient
    that is the U-Net's own error removes all of it.
    """
    unguided, (x_0, y) = load_models()[0], few_images.load("validation")
    x_0, y, abar = x_0[:50], y[:50], unguided.abar

    def parts(x_t, t):  # of the U-Net's error: what the label explains, and the rest
        eps = implied_noise(x_t, x_0, abar[t])
        error = (unguided(x_t, t) - eps) / (1 - abar[t]).sqrt()
        left = torch.arange(28) < 14
        return error * left, error * ~left

    def ours(x_t, t, labels):
        right, _ = parts(x_t, t)
        return 0.5 * right + torch.randn_like(right) * right.square().mean().sqrt()

    def implied(x_t, t, labels):
        right, rest = parts(x_t, t)
        return right * (labels == y).view(-1, 1, 1, 1) + 3 * rest

    fakes = {
        "ours": ours,
        "implied": implied,
        "exact": implied,
        "everything": lambda x_t, t, labels: sum(parts(x_t, t)),
    }
    torch.manual_seed(0)
    accuracies = {"accuracy": 0.5, "accuracy_low": 0.4, "accuracy_high": 0.6}
    write_rows(tmp_path / "interventions.csv", [{"images": name} | accuracies for name in fakes])
    monkeypatch.setattr(tables, "load_mnist", few_images.load)
    monkeypatch.setattr(tables, "in_batches", lambda function, *args: function(*args))
    monkeypatch.setattr(tables, "gradients", lambda networks: fakes)
    tables.held_out(tmp_path / "held_out.csv", n=50)
    row, _, _, everything = read_rows(tmp_path / "held_out.csv")
    for t in (699, 499, 399):
        x_t, _, _ = noised_for_validation(unguided.scheduler, x_0, torch.full((50,), t))
        right, rest = (part.square().sum().item() for part in parts(x_t, t))
        assert float(everything[f"removed_{t}"]) == pytest.approx(1, abs=1e-4)
        assert float(row[f"removed_{t}"]) == pytest.approx(-right / (right + rest) / 4, abs=0.05)
        ratio = (right + rest) ** 0.5 / (1.25 * right) ** 0.5
        assert float(everything[f"norm_{t}"]) == pytest.approx(ratio, abs=0.04)
        for column in ("component", "by_exact") if t > 399 else ("component",):
            value, low, high = (float(row[f"{column}_{t}{end}"]) for end in ("", "_low", "_high"))
            assert value == pytest.approx(0.5, abs=0.04) and low < value < high


def test_a_page_names_its_rows_and_gets_the_other_cells_from_the_csv_file(tmp_path, monkeypatch):
    monkeypatch.setattr(pages, "ROOT", tmp_path)
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "x.csv").write_text("a,b,c\n1,2,3\n4,5,6\n7,8,9\n")
    page = (
        "Before.\n<!-- table x.csv: a c -->\n| A | C |\n| - | - |\n| 7 | |\n| 1 | 0 |\n\nAfter.\n"
    )
    expected = page.replace("| 7 | |", "| 7 | 9 |").replace("| 1 | 0 |", "| 1 | 3 |")
    assert pages.with_tables(page) == expected
