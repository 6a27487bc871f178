"""What ships: weights that make digits, and files that these weights made."""

import json
from collections import Counter

import numpy as np
import pytest
import torch
from conftest import ROOT
from PIL import Image

import inference
from classifier import Classifier
from diffusion import SAMPLERS, SCHEDULE, UNet
from evaluation.judge import Judge, accuracy_of
from inference import sample
from mnist import load_mnist
from support.checkpoints import load_checkpoint, read_checkpoint
from support.files import sha256
from support.tables import read_rows
from train_classifier import validate

TEN_EACH = torch.arange(10).repeat_interleave(10)


def test_the_checkpoints_rebuild_their_networks():
    for name, network in (("ddpm_unet", UNet), ("classifier", Classifier), ("judge", Judge)):
        path = ROOT / "models" / f"{name}.pth"
        loaded = load_checkpoint(path, network, schedule=SCHEDULE, made_by="?")
        assert not loaded.training
        assert not any(parameter.requires_grad for parameter in loaded.parameters())
        checkpoint = read_checkpoint(path, "?")
        assert checkpoint["seed"] == 0 and checkpoint["training"]["seconds"] > 0


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_guided_samples_are_the_asked_digit_and_unguided_are_not(unet, classifier, judge, sampler):
    """100 balanced labels at 20 steps."""
    guided = sample(unet, classifier.log_p, TEN_EACH, sampler=sampler, steps=20)
    unguided = sample(unet, None, TEN_EACH, guidance_scale=0, sampler=sampler, steps=20)
    assert accuracy_of(judge, guided, TEN_EACH) >= 0.9
    assert accuracy_of(judge, unguided, TEN_EACH) <= 0.25


def test_guided_samples_are_diverse(unet, classifier):
    """At the defaults, the samples of a digit vary like real ones, and no two are nearly equal."""
    samples = sample(unet, classifier.log_p, TEN_EACH).flatten(1)
    images, real_labels = load_mnist("train")
    ratios = []
    for y in range(10):
        real = images[real_labels == y].flatten(1)
        ratios.append(samples[y == TEN_EACH].var(dim=0).mean() / real.var(dim=0).mean())
        assert torch.pdist(samples[y == TEN_EACH]).min() > torch.pdist(real[:2_000]).min()
    assert sum(ratios) / 10 >= 0.7


def test_the_guide_knows_noisy_digits(classifier):
    """The floors that train_classifier.py must reach, on the validation set."""
    bands = validate(classifier, *load_mnist("validation"), "cpu")
    assert bands["0-999"]["accuracy"] >= 0.55
    assert bands["0-99"]["accuracy"] >= 0.985


def test_the_judge_is_good_and_of_another_build(judge):
    assert accuracy_of(judge, *load_mnist("test")) >= 0.995
    guide_layers = {type(module) for module in Classifier().modules()} - {
        torch.nn.Conv2d,
        torch.nn.Linear,
    }
    assert not guide_layers & {type(module) for module in Judge().modules()} - {torch.nn.Sequential}


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
    made, shipped = (
        np.asarray(Image.open(path)).astype(int)
        for path in (tmp_path / "o.png", ROOT / "guided_output.png")
    )
    assert made.shape == shipped.shape and np.abs(made - shipped).max() <= 1


def shown(row, *formats):
    """Columns of a CSV as README.md shows them: "name.3" is `name` with three decimals."""
    names = (text.rpartition(".") for text in formats)
    return " | ".join(f"{float(row[name]):.{digits}f}" for name, _, digits in names)


def readme_row(row):
    """A row of a CSV as README.md shows it."""
    low, high = shown(row, "accuracy_low.3"), shown(row, "accuracy_high.3")
    measures = shown(row, "frechet.3", "precision.3", "recall.3")
    return f"{shown(row, 'accuracy.3')} [{low}, {high}] | {measures} |"


def test_the_readme_shows_what_the_tables_hold():
    """Each row as often as they hold it: the default's stands in several."""
    readme = (ROOT / "README.md").read_text()
    tables = [
        path
        for path in (ROOT / "results").glob("*.csv")
        if path.name not in ("guide.csv", "recipe.csv")
    ]
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
        losses = ("validation_loss.4", "weighted_loss.4", "frechet_unguided.2")
        measures = shown(row, *losses, "accuracy.3", "frechet.2", "precision.3", "recall.3")
        what = f"{row['recipe']} | {row['images_a_second']} | {row['steps']}"
        assert f"| {what} | {measures} |" in readme, row


def test_the_readme_shows_what_was_tried_for_the_classifier():
    readme = (ROOT / "README.md").read_text()
    rows = read_rows(ROOT / "results" / "classifier_recipe.csv")
    assert "the recipe" in [row["recipe"] for row in rows]
    for row in rows:
        losses = shown(row, "cross_entropy.3", "calibration_error.3")
        what = f"{row['recipe']} | {row['images_a_second']} | {row['steps']} | {losses}"
        assert f"| {what} | {readme_row(row)}" in readme, row


def test_the_readme_shows_what_another_seed_changes():
    readme = (ROOT / "README.md").read_text()
    rows = read_rows(ROOT / "results" / "seeds.csv")
    assert all(
        rows[0][name] == shipped_hashes()[f"{name}.pth"]
        for name in ("ddpm_unet", "classifier", "judge")
    )
    assert len({row["training_seed"] for row in rows}) == len(rows) >= 3
    for row in rows:
        training = (
            f"{row['training_seed']} | {row['trained_in']} | {float(row['validation_loss']):.4f}"
        )
        assert (
            f"| {training} | {float(row['frechet_unguided']):.3f} | {readme_row(row)}" in readme
        ), row


def test_the_readme_shows_what_the_benchmark_measured():
    readme = (ROOT / "README.md").read_text()
    for row in read_rows(ROOT / "benchmarks" / "benchmark.csv"):
        assert (
            row["ddpm_unet"] == shipped_hashes()["ddpm_unet.pth"]
            and row["classifier"] == shipped_hashes()["classifier.pth"]
        )
        reference = f"{row['reference']} {row['unit']}" if row["reference"] else ""
        assert (
            f"| {row['what']} | {row['ours']} {row['unit']} | {reference} | {row['ratio']} |"
            in readme
        ), row
