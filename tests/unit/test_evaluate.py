"""evaluate.py through its main, with few real images; and the other scripts that measure."""

import shutil
from itertools import product
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from conftest import ROOT, Evil
from PIL import Image

import evaluate
import inference
from classifier import Classifier, load_classifier
from diffusion import SCHEDULE, add_noise
from evaluation import measures, rows, train_on_samples
from evaluation.exact_guide import ExactGuide
from evaluation.measures import COMPARED
from evaluation.report import read_rows
from evaluation.rows import SETTINGS
from evaluation.variants import VARIANTS
from guidance import growing_scale
from support.files import save_checkpoint, sha256
from support.pictures import save_npz
from support.streams import image_seeds

TINY = ["--n", "100", "--steps", "2", "--split", "validation"]
WEIGHTS = {path.stem: path for path in ROOT.glob("models/*.pth")}


@pytest.fixture(scope="module", autouse=True)
def faster(few_images):
    """The judge reads the real images once, and intervals are those of two halves."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measures, "NUM_HALVES", 2)
        yield


@pytest.fixture
def asked(monkeypatch):
    """The calls of `sample`: a list, to which each row adds. It draws noise."""

    def noise(unet, log_p, y, seeds, **settings):
        return torch.rand(len(y), 1, 28, 28) * 2 - 1

    monkeypatch.setattr(rows, "sample", Mock(side_effect=noise))
    return rows.sample.call_args_list


@pytest.fixture
def refused(fails):
    """evaluate.py with these flags fails in one line."""
    return lambda *flags: fails(evaluate.main, *TINY, *flags)


def run(path, *flags):
    """The rows of the table that evaluate.py writes."""
    evaluate.main([*TINY, "--csv", str(path), *map(str, flags)])
    return read_rows(path)


def column(table, name):
    return [row[name] for row in table]


# --- rows by settings ---


def test_a_row_for_each_combination_in_the_order_of_the_flags(asked, tmp_path):
    """Its settings reach `sample`. Of 105 images there are equally many of each digit: 100."""
    flags = ["--variant", "without_root", "--sampler", "ddpm", "--steps", 5, 3, "--seed", 3]
    flags += ["--guidance-scale", 2, 0.5, "--scale-growth", 7, "--n", 105, "--split", "test"]
    real, validation, *table = run(tmp_path / "x.csv", *flags, "--window", "0-500")
    assert real["images"] == "other half of the test set" and real["n"] == "100"
    assert validation["images"] == "validation images" and validation["against"] == "test"
    assert real["variant"] == "-" and column(table, "images") == ["samples"] * 4
    shared = {"sampler": "ddpm", "variant": VARIANTS["without_root"]}
    for row, call, (scale, steps) in zip(table, asked, product((2, 0.5), (5, 3)), strict=True):
        settings = " ".join(row[name] for name in (*SETTINGS[1:], "n", "seed"))
        assert settings == f"without_root classifier {scale} 7 0-500 ddpm {steps} 100 3"
        at, wanted = call.kwargs.pop("scale"), growing_scale(scale, 7, (0, 500))
        assert [at(t) for t in (500, 499, 0)] == [wanted(t) for t in (500, 499, 0)]
        assert call.kwargs == {**shared, "steps": steps}
        _, _, y, seeds = call.args
        assert seeds == image_seeds(3, y.tolist()) and torch.bincount(y).tolist() == [10] * 10


def test_a_row_names_the_files_that_made_it(asked, refused, tmp_path, few_images):
    """Of several folders and guides; and these are the networks that `sample` is given."""
    other = shutil.copytree(ROOT / "models", tmp_path / "other")
    untrained, own = other / "classifier.pth", tmp_path / "own.py"
    save_checkpoint(untrained, Classifier(), SCHEDULE, few_images.info, {"seed": 0})
    own.write_text("def log_p(x_t, t, y):\n    return 0")
    guides = ["classifier", f"{own}:log_p", untrained]
    table = run(tmp_path / "x.csv", "--models", "models", other, "--guide", *guides)[1:]
    made_by = [WEIGHTS["classifier"], own, untrained, untrained, own, untrained]
    assert column(table, "models") == ["models"] * 3 + [str(other)] * 3
    assert column(table, "sha256 of guide") == [sha256(path) for path in made_by]
    assert column(table, "sha256 of U-Net") == [sha256(WEIGHTS["ddpm_unet"])] * 6
    assert column(table, "sha256 of judge") == [sha256(WEIGHTS["judge"])] * 6

    inputs = torch.randn(2, 1, 28, 28), torch.tensor([5, 300]), torch.tensor([3, 4])
    by_shipped, by_own, by_untrained, by_other = (call.args[1](*inputs) for call in asked[:4])
    assert torch.equal(by_shipped, load_classifier(WEIGHTS["classifier"]).log_p(*inputs))
    assert torch.equal(by_untrained, load_classifier(untrained).log_p(*inputs))
    assert torch.equal(by_other, by_untrained) and by_own == 0

    [_, row] = run(tmp_path / "own.csv", "--variant", f"{own}:log_p", "--guide", "exact")
    assert row["sha256 of variant"] == sha256(own) and "sha256 of guide" not in row
    assert asked[-1].kwargs["variant"](None, None, None) == 0
    own.write_text("def five(t):\n    return 5\ndef keep(x_t, x_0, t, u, z):\n    return x_0")
    again = shutil.copy(own, tmp_path / "again.py")  # a file is run once
    flags = ["--guidance-scale", f"{again}:five", "--sampler", f"{again}:keep"]
    [_, row] = run(tmp_path / "mine.csv", *flags)
    assert row["sha256 of scale"] == row["sha256 of sampler"] == sha256(again)
    assert (row["guidance_scale"], row["scale_growth"], row["window"]) == (flags[1], "-", "-")
    keep, order = asked[-1].kwargs["sampler"]
    assert asked[-1].kwargs["scale"](0) == 5 and (keep(0, 7, 0, 0, 0), order) == (7, 1)
    [_, row] = run(tmp_path / "free.csv", "--variant", "classifier_free")
    assert row["sha256 of U-Net"] == sha256(WEIGHTS["rival_classifier_free"])
    assert asked[-1].args[0].config.num_class_embeds == 11
    assert (row["guide"], row["scale_growth"]) == ("-", "0")

    assert "has no function 'other'" in refused("--guide", f"{own}:other")
    assert "there is no such file" in refused("--guide", "none.py:log_p")
    for flag in ("--variant", "--sampler"):
        assert "write FILE.py:NAME, or a name of --help" in refused(flag, "none")
    assert "write classifier, exact, FILE.pth or" in refused("--guide", "own.py")


def test_a_guide_of_another_data_set_is_refused(refused, tmp_path, few_images):
    guide, info = tmp_path / "shapes.pth", {**few_images.info, "name": "shapes"}
    save_checkpoint(guide, Classifier(), SCHEDULE, info, {"seed": 0})
    assert f"{guide} was trained on shapes (10 classes" in refused("--guide", guide)


# --- the table ---

SCALES = ["--guidance-scale", "1", "0", "5"]


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    """The table of three scales, without an interruption."""
    path = tmp_path_factory.mktemp("three") / "x.csv"
    run(path, *SCALES)
    return path


def test_changes_are_from_the_first_row_that_is_drawn(three):
    floor, first, *others = read_rows(three)
    assert float(floor["precision"]) < 1  # it would be 1 for the images of the reference
    assert first["frechet_change"] == first["mcnemar_p"] == "-"
    for row in others:
        for name in COMPARED:
            change = float(row[name]) - float(first[name])
            assert float(row[f"{name}_change"]) == pytest.approx(change, abs=2e-4)
        gained = int(row["only_this_right"]) - int(row["only_first_right"])
        assert gained == round(100 * (float(row["accuracy"]) - float(first["accuracy"])))


def test_a_table_is_not_overwritten_nor_mixed_with_other_rows(refused, three):
    """With --resume neither: not by another seed, other weights or versions, or fewer rows."""
    text, other_weights, other_torch = three.read_text(), *map(three.with_name, ("y.csv", "z.csv"))
    other_torch.write_text(text.replace(torch.__version__, "1.0"))
    assert f"{three} exists: continue it with --resume" in refused("--csv", three)
    other_weights.write_text(text.replace(sha256(WEIGHTS["classifier"]), 64 * "0"))
    cases = [(three, [*SCALES, "--seed", 3]), (three, []), (other_weights, SCALES)]
    for path, flags in [*cases, (other_torch, SCALES)]:
        error = refused("--csv", path, "--resume", *flags)
        assert f"{path} has rows of other settings, weights or versions; name another file" in error
    assert three.read_text() == text


def test_a_table_that_is_interrupted_goes_on(three, tmp_path, monkeypatch, capsys):
    """By Ctrl-C in the third of four rows. At the end nothing differs but the seconds."""
    path = tmp_path / "x.csv"
    with monkeypatch.context() as patch, pytest.raises(SystemExit) as end:
        patch.setattr(evaluate, "described", Mock(side_effect=["", "", KeyboardInterrupt]))
        run(path, *SCALES)
    assert end.value.code == 130 and column(read_rows(path), "guidance_scale") == ["-", "1"]
    run(path, *SCALES, "--resume")
    assert f"--resume: 2 of 4 rows are taken from {path}" in capsys.readouterr().out
    resumed, once = ([{**row, "seconds": ""} for row in read_rows(x)] for x in (path, three))
    assert resumed == once


# --- anybody's samples ---


def test_samples_of_files_score_as_the_row_that_draws_them(tmp_path):
    """Without labels there is no accuracy; with wrong ones, nearly nothing is right."""
    npz, npy, folder, wrong = (tmp_path / name for name in ("x.npz", "x.npy", "png", "wrong.npz"))
    flags = ["--digits", "all", "--num-samples", "10", "--seed", "3", "--steps", "2"]
    inference.main([*flags, "--npz", str(npz), "--output", str(tmp_path / "o.png")])
    images, labels = np.load(npz).values()
    np.save(npy, images)
    folder.mkdir()
    for k, image in enumerate(images[..., 0]):
        Image.fromarray(image).save(folder / f"{k:03}.png")
    np.savez(wrong, images, (labels + 1) % 10)
    files = [npz, npy, folder, wrong]
    flags = ["--seed", 3, "--models", "models", "--samples", *files]
    _, drawn, *table = run(tmp_path / "x.csv", *flags)
    by_npz, by_npy, by_folder, by_wrong = table
    assert column(table, "images") == [str(path) for path in files]
    assert column(table, "sha256 of images") == [by_npz["sha256 of images"]] * 4
    assert column(table, "frechet") == [drawn["frechet"]] * 4
    assert by_npz["accuracy"] == drawn["accuracy"]
    assert by_npy["accuracy"] == by_folder["accuracy"] == by_npy["accuracy_low"] == "-"
    assert float(by_npz["accuracy"]) > 0.8 and float(by_wrong["accuracy"]) < 0.2


def test_a_wrong_file_of_samples(refused, tmp_path, monkeypatch):
    """One line says what is read. No code in the file is run, and no table begins."""
    monkeypatch.chdir(tmp_path)
    read = "what is read is 100 or more uint8 images (N, 28, 28, 1): arr_0 of an .npz"
    gray, labels = np.zeros((100, 28, 28), np.uint8), np.arange(100) % 10
    for arrays in (
        {"arr_0": gray / 255},
        {"arr_0": gray[:99]},
        {"images": gray},
        {"arr_0": gray, "arr_1": np.array([Evil()] * 100)},
        {"arr_0": gray, "arr_1": labels + 1},
    ):
        np.savez("x.npz", **arrays)
        assert read in refused("--samples", "x.npz", "--csv", "x.csv")
    assert not Path("made").exists() and not Path("x.csv").exists()


# --- the other scripts ---


def test_training_on_samples_tells_good_from_wrong(tmp_path, monkeypatch, fails, few_images):
    """Real images as samples are as good as real images; with wrong labels, useless.

    What is asked for twice is measured once.
    """
    for name, value in {"SEEDS": (0,), "STEPS": 60, "WARMUP_STEPS": 5, "BATCH_SIZE": 32}.items():
        monkeypatch.setattr(train_on_samples, name, value)
    files = ("right.npz", "wrong.npz", "x.csv", "y.csv")
    right, wrong, table, other = (str(tmp_path / name) for name in files)
    images, labels = few_images.load("train")
    save_npz(right, images, labels)
    save_npz(wrong, images, (labels + 1) % 10)
    flags = ["--split", "validation", "--samples", right, wrong, right, "--csv", table]
    train_on_samples.main(flags)
    of_real, of_right, of_wrong = (float(row["accuracy"]) for row in read_rows(table))
    assert min(of_real, of_right) > 0.6 and of_wrong < 0.2
    assert "exists: name another file" in fails(train_on_samples.main, *flags)
    np.savez(right, np.zeros((100, 28, 28), np.uint8))
    assert "has no labels" in fails(train_on_samples.main, "--samples", right, "--csv", other)
    assert not Path(other).exists()  # nothing was trained


def test_the_exact_guide_knows_a_training_image(few_images):
    """Under little noise it is sure of its label; the probabilities of all digits add up to 1."""
    images, labels = few_images.load("train")
    x_t = add_noise(images[:1], torch.randn(1, 1, 28, 28), torch.tensor(300)).expand(10, 1, 28, 28)
    p = ExactGuide(images, labels).log_p(x_t, torch.full((10,), 300), torch.arange(10)).exp()
    assert p.sum().item() == pytest.approx(1, abs=1e-3) and p[labels[0]] > 0.99
