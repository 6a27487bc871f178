"""What ships: weights that make digits, and files that these weights made."""

import json
import re

import numpy as np
import pytest
import torch
from conftest import ROOT
from PIL import Image

import inference
import train_classifier
from classifier import Classifier
from diffusion import SAMPLERS, UNet
from evaluation.guides import GUIDES, guide_path, load_guide
from evaluation.judge import Judge, accuracy_of
from evaluation.measures import wilson_interval
from evaluation.variants import GUIDE_OF
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
        loaded = load_checkpoint(path, network, **inference.AGREED, made_by="?")
        assert not loaded.training
        assert not any(parameter.requires_grad for parameter in loaded.parameters())
        checkpoint = read_checkpoint(path, "?")
        assert checkpoint["seed"] == 0 and checkpoint["training"]["seconds"] > 0


@pytest.mark.parametrize("name", GUIDES)
def test_the_guides_of_the_controls_are_small_and_of_the_unedited_command(name):
    path = guide_path(name, ROOT / "models")
    checkpoint, defaults = read_checkpoint(path, "?"), train_classifier
    settings = {"steps": defaults.STEPS, "batch_size": defaults.BATCH_SIZE}
    settings |= {"lr": defaults.LEARNING_RATE, "seed": 0}
    assert checkpoint["training"].items() >= settings.items() and path.stat().st_size < 300_000
    bands = validate(load_guide(name), *load_mnist("validation"), "cpu")
    assert bands["0-99"]["accuracy"] >= {"clean": 0.985, "raw_t": 0.85}[name]


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
    """In the column `classifier` is the guide of the row, which some controls replace."""
    for row in read_rows(path):
        name = GUIDE_OF.get(row.get("variant"))
        guide = f"guide_{name}.pth" if name else "classifier.pth"
        files = {"ddpm_unet": "ddpm_unet.pth", "classifier": guide, "judge": "judge.pth"}
        assert all(row[column] == shipped_hashes()[file] for column, file in files.items()), row


def test_the_first_command_makes_the_picture_that_ships(tmp_path):
    """Byte for byte on the machine and versions that made it; elsewhere within one grey level."""
    inference.main(["--output", str(tmp_path / "o.png")])
    made, shipped = (
        np.asarray(Image.open(path)).astype(int)
        for path in (tmp_path / "o.png", ROOT / "guided_output.png")
    )
    assert made.shape == shipped.shape and np.abs(made - shipped).max() <= 1


REPORT = ROOT / "results" / "README.md"
FORMATS = {  # a column of the report, from those of a CSV file
    "scale": "{guidance_scale}", "early scale": "{early_scale}", "calls": "{steps}",
    "accuracy [95 %]": "{accuracy:.3f} [{accuracy_low:.3f}, {accuracy_high:.3f}]",
    "Fréchet": "{frechet:.3f}", "precision": "{precision:.3f}", "recall": "{recall:.3f}",
    "training seed": "{training_seed}", "unguided Fréchet": "{frechet_unguided:.3f}",
    "L_simple": "{validation_loss:.4f}", "weighted loss": "{weighted_loss:.4f}",
    "cross-entropy": "{cross_entropy:.3f}", "calibration error": "{calibration_error:.3f}",
    "ours": "{ours} {unit}", "reference": "{reference} {unit}",
}  # fmt: skip
RESULTS = ("accuracy [95 %]", "Fréchet", "precision", "recall")


class Cell(str):
    """A cell of a CSV file: a number where a format asks for one."""

    def __format__(self, spec):
        return format(float(self), spec) if spec else str(self)


def rows_of(path):
    """The rows of a CSV file as the report shows them: dicts of cells."""
    rows = list(guide_rows(read_rows(path))) if path.name == "guide.csv" else read_rows(path)
    for row in rows:
        if row.get("variant") == "real images":
            row["guidance_scale"] = row["sampler"] = "real images"
    return [{name: Cell(text) for name, text in row.items()} for row in rows]


def guide_rows(rows):
    """A row per band of t: the change at each scale, and the lowest point of its parabola."""
    for t in dict.fromkeys(row["t"] for row in rows):
        change = {r["guidance_scale"]: float(r["change"]) for r in rows if r["t"] == t}
        curvature = (change["5"] - 5 * change["1"]) / 20  # change(s) = slope s + curvature s^2
        lowest = -(change["1"] - curvature) / (2 * curvature)
        shown = {f"scale {s}": f"{100 * value:+.1f}" for s, value in change.items()}
        yield {"t": t, **shown, "lowest at": f"{lowest:.2f}" if abs(change["1"]) >= 0.001 else "-"}


def cell(row, column):
    """What the report shows of a row in a column; "-" where nothing was measured."""
    if row.get(column) == "":
        return "-"
    return FORMATS[column].format_map(row) if column in FORMATS else row[column]


def report_tables():
    """The tables of the report: the CSV file linked above, the header, and the rows of cells."""
    tables, path, before = [], None, ""
    for line in REPORT.read_text().splitlines():
        for link in re.findall(r"\]\((\S+\.csv)\)", line):
            path = (REPORT.parent / link).resolve()
        cells = [text.strip() for text in line.strip("|").split("|")]
        if line.startswith("|") and not before.startswith("|"):
            tables.append((path, cells, []))
        elif line.startswith("|") and not line.startswith("|---"):
            tables[-1][2].append(cells)
        before = line
    return tables


@pytest.mark.parametrize(
    "path, header, shown", report_tables(), ids=lambda x: getattr(x, "name", "")
)
def test_each_row_of_the_report_is_a_row_of_its_csv(path, header, shown):
    held = [[cell(row, column) for column in header] for row in rows_of(path)]
    assert shown
    for row in shown:
        assert held.count(row) == shown.count(row) == 1, row


def test_the_report_links_every_csv():
    linked = re.findall(r"\]\((\S+\.csv)\)", REPORT.read_text())
    files = [*(ROOT / "results").glob("*.csv"), ROOT / "benchmarks" / "benchmark.csv"]
    assert {(REPORT.parent / link).resolve() for link in linked} == set(files)


def test_each_interval_in_the_prose_of_the_report_was_measured():
    judge = read_checkpoint(ROOT / "models" / "judge.pth", "?")["training"]["test_accuracy"]
    held = [(judge, *wilson_interval(round(10_000 * judge), 10_000))]
    names = ("accuracy", "accuracy_low", "accuracy_high")
    held += [[float(row[name]) for name in names] for path in TABLES for row in measured(path)]
    found = re.findall(r"(0\.\d{4}) \[(0\.\d{4}), (0\.\d{4})\]", REPORT.read_text())
    assert found and set(found) <= {tuple(f"{value:.4f}" for value in row) for row in held}


def test_the_rows_of_results_in_the_readme_are_rows_of_a_csv():
    """Each row that ends in accuracy [interval], Fréchet distance, precision and recall."""
    number = r"\d\.\d+"
    pattern = rf"{number} \[{number}, {number}\](?: \| {number}){{3}} \|"
    held = {" | ".join(cell(row, name) for name in RESULTS) + " |"
            for path in (ROOT / "results").glob("*.csv") for row in measured(path)}  # fmt: skip
    found = re.findall(pattern, (ROOT / "README.md").read_text())
    assert found and set(found) <= held


def measured(path):
    """The rows of a CSV file that have an accuracy with its interval."""
    return [row for row in rows_of(path) if "accuracy_low" in row]


def test_the_benchmark_and_the_first_seed_are_of_the_shipped_weights():
    hashes = shipped_hashes()
    seeds = read_rows(ROOT / "results" / "seeds.csv")
    assert len({row["training_seed"] for row in seeds}) == len(seeds) >= 3
    for row in [seeds[0], *read_rows(ROOT / "benchmarks" / "benchmark.csv")]:
        assert all(row[name] == hashes[f"{name}.pth"] for name in ("ddpm_unet", "classifier"))
    assert seeds[0]["judge"] == hashes["judge.pth"]
