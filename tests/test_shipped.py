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
from evaluation.rivals import rival_path
from evaluation.variants import GUIDE_OF, RIVAL_OF
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


TABLES = [*(ROOT / "results").glob("*.csv")]


@pytest.mark.parametrize("path", TABLES, ids=lambda path: path.name)
def test_each_table_is_of_the_shipped_weights(path):
    """But for networks that a row is about: those of another folder, and trials.

    In the columns `ddpm_unet` and `classifier` are the networks of the row, which some replace.
    """
    files = {"ddpm_unet": "ddpm_unet.pth", "classifier": "classifier.pth", "judge": "judge.pth"}
    for row in read_rows(path):
        variant, own = row.get("variant"), dict(files)
        if variant in GUIDE_OF:
            own["classifier"] = guide_path(GUIDE_OF[variant]).name
        if variant in RIVAL_OF:
            own["ddpm_unet"] = rival_path(RIVAL_OF[variant]).name
        if row.get("folder", "models") not in ("models", "-"):
            own = {"judge": "judge.pth"}
        own = {column: file for column, file in own.items() if column in row}
        assert own and all(row[column] == shipped_hashes()[file] for column, file in own.items())


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
    "w": "{guidance_scale}", "g": "{scale_growth}", "calls": "{steps}",
    "accuracy [95 %]": "{accuracy:.3f} [{accuracy_low:.3f}, {accuracy_high:.3f}]",
    "Fréchet": "{frechet:.3f}±{frechet_half:.3f}",
    "precision": "{precision:.3f}±{precision_half:.3f}",
    "recall": "{recall:.3f}±{recall_half:.3f}",
    "boldness": "{boldness:.4f}±{boldness_half:.4f}", "spread": "{boldness_spread:.4f}",
    "p": "{mcnemar_p:.2f}", "Fréchet change": "{frechet_change:+.3f}±{frechet_change_half:.3f}",
    "recall change": "{recall_change:+.3f}±{recall_change_half:.3f}",
    "training seed": "{training_seed}", "training steps": "{training_steps}",
    "L_simple": "{validation_loss:.4f}", "weighted loss": "{weighted_loss:.4f}",
    "unguided Fréchet": "{frechet_unguided:.3f}±{frechet_unguided_half:.3f}",
    "cross-entropy": "{cross_entropy:.3f}", "calibration error": "{calibration_error:.3f}",
    "minutes": "{training_minutes}", "seconds": "{seconds_an_image}",
    "training": "{training_minutes:g} min",
}  # fmt: skip
RESULTS = ("accuracy [95 %]", "Fréchet", "precision", "recall")


class Cell(str):
    """A cell of a CSV file: a number where a format asks for one."""

    def __format__(self, spec):
        return format(float(self), spec) if spec else str(self)


def rows_of(path):
    """The rows of a CSV file as the report shows them: dicts of cells.

    An interval that is symmetric gets half its width. The rivals get their costs.
    """
    rows = list(guide_rows(read_rows(path))) if path.name == "guide.csv" else read_rows(path)
    if path.name == "rivals.csv":
        costs = {row["method"]: row for row in read_rows(path.with_name("costs.csv"))}
        rows = [row | costs.pop(row["method"], {}) for row in rows] + [*costs.values()]
        for row in rows[:2]:  # real images
            row["method"] = row["variant"]
    for row in rows:
        for name in [name for name in row if f"{name}_high" in row and row[name] != "-"]:
            row[f"{name}_half"] = float(row[f"{name}_high"]) - float(row[name])
    return [{name: Cell(text) for name, text in row.items()} for row in rows]


def guide_rows(rows):
    """A row per band of t: the change at each scale, and the lowest point of its parabola."""
    for t in dict.fromkeys(row["t"] for row in rows):
        change = {r["guidance_scale"]: float(r["change"]) for r in rows if r["t"] == t}
        curvature = (change["5"] - 5 * change["1"]) / 20  # change(s) = slope s + curvature s^2
        lowest = -(change["1"] - curvature) / (2 * curvature)
        shown = {f"scale {s}": f"{100 * value:+.1f}" for s, value in change.items()}
        [by_label] = {row["change_by_label"] for row in rows if row["t"] == t}
        shown["given the digit"] = f"{100 * float(by_label):+.1f}"
        yield {"t": t, **shown, "lowest at": f"{lowest:.2f}" if abs(change["1"]) >= 0.001 else "-"}


def cell(row, column):
    """What the report shows of a row in a column; "-" where nothing was measured."""
    if column not in FORMATS:
        return row.get(column, "-")
    try:
        return FORMATS[column].format_map(row)
    except (KeyError, ValueError):  # not a column of the row, or "-" there
        return "-"


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
    assert {(REPORT.parent / link).resolve() for link in linked} == set(TABLES)


PAGES = (ROOT / "README.md", REPORT)
INTERVAL = re.compile(r"([+-]?\d\.\d{3}) \[([+-]?\d\.\d{3}), ([+-]?\d\.\d{3})\](?! of \d)")


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_each_interval_in_running_text_was_measured(page):
    """A change from the default has its sign."""
    judge = read_checkpoint(ROOT / "models" / "judge.pth", "?")["training"]["test_accuracy"]
    held = {tuple(f"{x:.3f}" for x in (judge, *wilson_interval(round(10_000 * judge), 10_000)))}
    for path in TABLES:
        for row in rows_of(path):
            for name in [name for name in row if f"{name}_half" in row]:
                sign = "+" if name.endswith("_change") else ""
                ends = (row[name], row[f"{name}_low"], row[f"{name}_high"])
                held.add(tuple(format(end, f"{sign}.3f") for end in ends))
    text = re.sub(r"^\|.*$", "", page.read_text(), flags=re.M)  # tables have a test of their own
    text = re.sub(r"## What else can guide\?.*?\n## ", "", text, flags=re.S)  # so have examples
    assert set(INTERVAL.findall(text)) <= held


def test_the_rows_of_results_in_the_readme_are_rows_of_a_csv():
    """Each row that ends in accuracy [interval], Fréchet distance, precision and recall."""
    number = r"\d\.\d+"
    pattern = rf"{number} \[{number}, {number}\](?: \| {number}±{number}){{3}} \|"
    held = {" | ".join(cell(row, name) for name in RESULTS) + " |"
            for path in TABLES for row in rows_of(path)}  # fmt: skip
    found = re.findall(pattern, (ROOT / "README.md").read_text())
    assert len(found) >= 4 and set(found) <= held
