"""What ships: weights that make digits, and files that these weights made."""

import json
from collections import Counter

import numpy as np
import pytest
import torch
from conftest import ROOT
from PIL import Image

import evaluate
import inference
from classifier import Classifier
from diffusion import UNet, load_checkpoint, sha256
from evaluate import Judge, accuracy_of, read_rows
from inference import draw_samples, make_labels
from mnist import load_mnist
from train_classifier import validate


@pytest.fixture(scope="module")
def judge():
    return load_checkpoint(ROOT / "models" / "judge.pth", Judge, "evaluate.py --train-judge")[0]


def test_the_checkpoints_rebuild_their_networks():
    for name, network in (("ddpm_unet", UNet), ("classifier", Classifier), ("judge", Judge)):
        loaded, checkpoint = load_checkpoint(ROOT / "models" / f"{name}.pth", network, "?")
        assert not loaded.training and not any(parameter.requires_grad for parameter in loaded.parameters())
        assert checkpoint["seed"] == 0 and checkpoint["training"]["seconds"] > 0


@pytest.mark.parametrize("sampler", inference.SAMPLERS)
def test_guided_samples_are_the_asked_digit_and_unguided_are_not(unet, classifier, judge, sampler):
    """100 balanced labels at 20 steps."""
    labels, numbers = make_labels(range(10), 10)
    guided = draw_samples(unet, classifier, labels, numbers, sampler=sampler, steps=20)
    unguided = draw_samples(unet, None, labels, numbers, 0, sampler=sampler, steps=20)
    assert accuracy_of(judge, guided, labels) >= 0.9
    assert accuracy_of(judge, unguided, labels) <= 0.25


def test_guided_samples_are_diverse(unet, classifier):
    """100 samples of the default settings: within a digit they vary like real digits, and no two are nearly the same."""
    labels, numbers = make_labels(range(10), 10)
    samples = draw_samples(unet, classifier, labels, numbers).flatten(1)
    images, real_labels = load_mnist("train")
    ratios = []
    for y in range(10):
        real = images[real_labels == y].flatten(1)
        ratios.append(samples[labels == y].var(dim=0).mean() / real.var(dim=0).mean())
        assert torch.pdist(samples[labels == y]).min() > torch.pdist(real[:2_000]).min()
    assert sum(ratios) / 10 >= 0.7


def test_the_guide_knows_noisy_digits(classifier):
    """The floors that train_classifier.py must reach, on the validation set."""
    bands = validate(classifier, *load_mnist("validation"), "cpu")
    assert bands["0-999"]["accuracy"] >= 0.55
    assert bands["0-99"]["accuracy"] >= 0.985


def test_the_judge_is_good_and_of_another_build(judge):
    assert accuracy_of(judge, *load_mnist("test")) >= 0.995
    guide_layers = {type(module) for module in Classifier().modules()} - {torch.nn.Conv2d, torch.nn.Linear}
    assert not guide_layers & {type(module) for module in evaluate.Judge().modules()} - {torch.nn.Sequential}


def shipped_hashes():
    return {path.name: sha256(path) for path in (ROOT / "models").glob("*.pth")}


PICTURES = [
    *(ROOT / "results").glob("*.png"),
    *(ROOT / "results").glob("*.gif"),
    ROOT / "guided_output.png",
    ROOT / "sample_ddpm_output.png",
]


@pytest.mark.parametrize("path", PICTURES, ids=lambda path: path.name)
def test_each_picture_is_of_the_shipped_weights(path):
    info = Image.open(path).info
    made_from = json.loads(info["comment" if path.suffix == ".gif" else "provenance"])
    assert made_from["weights"] and made_from["weights"].items() <= shipped_hashes().items()


OTHER_WEIGHTS = ("recipe.csv", "classifier_recipe.csv", "seeds.csv")  # tables of trials
TABLES = [path for path in (ROOT / "results").glob("*.csv") if path.name not in OTHER_WEIGHTS]


@pytest.mark.parametrize("path", TABLES, ids=lambda path: path.name)
def test_each_table_is_of_the_shipped_weights(path):
    for row in read_rows(path):
        for name in ("ddpm_unet", "classifier", "judge"):
            assert row[name] == shipped_hashes()[f"{name}.pth"], row


def test_the_first_command_makes_the_picture_that_ships(tmp_path):
    """Byte for byte on the machine and versions that made it; elsewhere within one grey level."""
    inference.main(["--output", str(tmp_path / "o.png")])
    made, shipped = (np.asarray(Image.open(path)).astype(int) for path in (tmp_path / "o.png", ROOT / "guided_output.png"))
    assert made.shape == shipped.shape and np.abs(made - shipped).max() <= 1


def readme_row(row):
    """A row of a CSV as README.md shows it."""
    interval = f"{float(row['accuracy']):.3f} [{float(row['accuracy_low']):.3f}, {float(row['accuracy_high']):.3f}]"
    return f"{interval} | {float(row['frechet']):.3f} | {float(row['precision']):.3f} | {float(row['recall']):.3f} |"


def test_the_readme_shows_what_the_tables_hold():
    """Each row as often as they hold it: the default's stands in several."""
    readme = (ROOT / "README.md").read_text()
    tables = [path for path in (ROOT / "results").glob("*.csv") if path.name not in ("guide.csv", "recipe.csv")]
    rows = [readme_row(row) for path in tables for row in read_rows(path)]
    for row, times in Counter(rows).items():
        assert readme.count(row) == times, row


def test_the_readme_shows_what_was_found_of_the_guide():
    readme = (ROOT / "README.md").read_text()
    rows = read_rows(ROOT / "results" / "guide.csv")
    for band in dict.fromkeys(row["t"] for row in rows):
        changes = [f"{100 * float(row['change']):+.1f} %" for row in rows if row["t"] == band]
        assert f"| {' | '.join(changes)} |".replace("-", "−") in readme, band


def test_the_readme_shows_what_was_tried_for_the_recipe():
    readme = (ROOT / "README.md").read_text()
    rows = read_rows(ROOT / "results" / "recipe.csv")
    assert "the recipe" in [row["recipe"] for row in rows]
    for row in rows:
        losses = f"{float(row['validation_loss']):.4f} | {float(row['weighted_loss']):.4f}"
        frechet, accuracy = float(row["frechet_unguided"]), float(row["accuracy"])
        guided = f"{float(row['frechet']):.2f} | {float(row['precision']):.3f} | {float(row['recall']):.3f}"
        what = f"{row['recipe']} | {row['images_a_second']} | {row['steps']} | {losses} | {frechet:.2f} | {accuracy:.3f}"
        assert f"| {what} | {guided} |" in readme, row


def test_the_readme_shows_what_was_tried_for_the_classifier():
    readme = (ROOT / "README.md").read_text()
    rows = read_rows(ROOT / "results" / "classifier_recipe.csv")
    assert "the recipe" in [row["recipe"] for row in rows]
    for row in rows:
        losses = f"{float(row['cross_entropy']):.3f} | {float(row['calibration_error']):.3f}"
        what = f"{row['recipe']} | {row['images_a_second']} | {row['steps']} | {losses}"
        assert f"| {what} | {readme_row(row)}" in readme, row


def test_the_readme_shows_what_another_seed_changes():
    readme = (ROOT / "README.md").read_text()
    rows = read_rows(ROOT / "results" / "seeds.csv")
    assert all(rows[0][name] == shipped_hashes()[f"{name}.pth"] for name in ("ddpm_unet", "classifier", "judge"))
    assert len({row["training_seed"] for row in rows}) == len(rows) >= 3
    for row in rows:
        training = f"{row['training_seed']} | {row['trained_in']} | {float(row['validation_loss']):.4f}"
        assert f"| {training} | {float(row['frechet_unguided']):.3f} | {readme_row(row)}" in readme, row


def test_the_readme_shows_what_the_benchmark_measured():
    readme = (ROOT / "README.md").read_text()
    for row in read_rows(ROOT / "benchmarks" / "benchmark.csv"):
        assert row["ddpm_unet"] == shipped_hashes()["ddpm_unet.pth"] and row["classifier"] == shipped_hashes()["classifier.pth"]
        reference = f"{row['reference']} {row['unit']}" if row["reference"] else ""
        assert f"| {row['what']} | {row['ours']} {row['unit']} | {reference} | {row['ratio']} |" in readme, row
