"""What ships: weights that make digits, files that these weights made, and pages that are true."""

import importlib
import json
import re
import shlex

import numpy as np
import pytest
import torch
from conftest import ROOT
from PIL import Image

import inference
from evaluation.judge import accuracy_of
from evaluation.rows import read_rows
from inference import sample
from mnist import load_mnist
from support.files import sha256

README, REPORT = ROOT / "README.md", ROOT / "results" / "README.md"
PAGES = [README, REPORT, ROOT / "CONTRIBUTING.md", ROOT / "tests" / "README.md"]
TABLES = sorted((ROOT / "results").glob("*.csv"))


def test_guided_samples_are_the_digits_asked_for_and_vary_like_real_ones(unet, classifier, judge):
    y = torch.arange(10).repeat_interleave(10)
    guided = sample(unet, classifier.log_p, y)
    unguided = sample(unet, None, y, guidance_scale=0)
    assert accuracy_of(judge, guided, y) >= 0.95
    assert accuracy_of(judge, unguided, y) <= 0.25
    images, labels = load_mnist("validation")
    variances = []
    for x, digits in ((guided, y), (images, labels)):
        variances.append(sum(x[digits == k].flatten(1).var(dim=0).mean() for k in range(10)))
    assert 0.7 < variances[0] / variances[1] < 1.1


def test_the_first_command_makes_the_picture_that_ships(tmp_path):
    """Byte for byte on the machine and versions that made it; elsewhere within one grey level."""
    inference.main(["--output", str(tmp_path / "o.png")])
    paths = tmp_path / "o.png", ROOT / "guided_output.png"
    made, shipped = (np.asarray(Image.open(path)).astype(int) for path in paths)
    assert made.shape == shipped.shape and np.abs(made - shipped).max() <= 1


def test_each_picture_is_of_the_shipped_weights():
    hashes = {path.name: sha256(path) for path in (ROOT / "models").glob("*.pth")}
    pictures = [*ROOT.glob("*.png"), *ROOT.glob("results/*.png"), *ROOT.glob("results/*.gif")]
    for path in pictures:
        info = Image.open(path).info
        made_from = json.loads(info["comment" if path.suffix == ".gif" else "provenance"])
        for name, digest in made_from["weights"].items():
            known = hashes.get(name) or sha256(ROOT / "results" / name)
            assert digest == known, f"{path}: {name}"


# --- the numbers of the pages are those of the tables ---

FORMATS = {  # a column of a page, from those of a CSV file
    "w": "{guidance_scale}",
    "g": "{scale_growth}",
    "calls": "{steps}",
    "accuracy [95 %]": "{accuracy:.3f} [{accuracy_low:.3f}, {accuracy_high:.3f}]",
    "Fréchet": "{frechet:.3f}±{frechet_half:.3f}",
    "precision": "{precision:.3f}±{precision_half:.3f}",
    "recall": "{recall:.3f}±{recall_half:.3f}",
    "boldness": "{boldness:.4f}±{boldness_half:.4f}",
    "spread": "{boldness_spread:.4f}",
    "Fréchet change": "{frechet_change:+.3f}±{frechet_change_half:.3f}",
    "recall change": "{recall_change:+.3f}±{recall_change_half:.3f}",
    "training seed": "{training_seed}",
    "training steps": "{training_steps}",
    "weighted loss": "{weighted_loss:.4f}",
    "cross-entropy": "{cross_entropy:.3f}",
    "minutes": "{training_minutes}",
    "seconds": "{seconds_an_image}",
    "training": "{training_minutes:g} min",
}
RESULTS = ("accuracy [95 %]", "Fréchet", "precision", "recall")


class Cell(str):
    """A cell of a CSV file: a number where a format asks for one."""

    def __format__(self, spec):
        return format(float(self), spec) if spec else str(self)


def cells(path):
    """The rows of a CSV file as dicts of cells; an interval also gets half its width."""
    for row in read_rows(path):
        for name in [name for name in row if f"{name}_high" in row and row[name] != "-"]:
            row[f"{name}_half"] = float(row[f"{name}_high"]) - float(row[name])
        yield {name: Cell(text) for name, text in row.items()}


def shown(row, column):
    """What a page shows of a row in a column; "-" where nothing was measured."""
    if column not in FORMATS:
        return row.get(column, "-")
    try:
        return FORMATS[column].format_map(row)
    except (KeyError, ValueError):
        return "-"


def report_tables():
    """The tables of the report: the CSV file linked above, the header, and the rows of cells."""
    tables, path, before = [], None, ""
    for line in REPORT.read_text().splitlines():
        for link in re.findall(r"\]\((\S+\.csv)\)", line):
            path = REPORT.parent / link
        texts = [text.strip() for text in line.strip("|").split("|")]
        if line.startswith("|") and not before.startswith("|"):
            tables.append((path, texts, []))
        elif line.startswith("|") and not line.startswith("|---"):
            tables[-1][2].append(texts)
        before = line
    # those of calibration and of rivals join several rows, or two files, in one
    return [
        table for table in tables if table[0] and table[0].name not in ("guide.csv", "rivals.csv")
    ]


def test_each_row_of_the_report_is_a_row_of_its_csv():
    for path, header, rows in report_tables():
        held = [[shown(row, column) for column in header] for row in cells(path)]
        for row in rows:
            assert row in held, f"{path}: {row}"


def test_each_result_in_the_readme_is_a_row_of_a_csv():
    """Each row that ends in accuracy [interval], Fréchet distance, precision and recall."""
    number = r"\d\.\d+"
    pattern = rf"{number} \[{number}, {number}\](?: \| {number}±{number}){{3}} \|"
    rows = [row for path in TABLES for row in cells(path)]
    held = {" | ".join(shown(row, name) for name in RESULTS) + " |" for row in rows}
    found = re.findall(pattern, README.read_text())
    assert len(found) >= 4 and set(found) <= held


# --- what the pages name is there ---


def test_links_and_pictures_are_there():
    for path in PAGES:
        targets = re.findall(r'\]\(([^)#\s]+)\)|src="([^"]+)"', path.read_text())
        for target in [link or picture for link, picture in targets]:
            assert "://" in target or (path.parent / target).exists(), f"{path}: {target}"


def test_each_command_of_the_pages_exists(capsys):
    """Each `python ...` of README and CONTRIBUTING: its file or module, and its flags."""
    text = README.read_text() + (ROOT / "CONTRIBUTING.md").read_text()
    commands = re.findall(r"`(python [^`]+)`", text)
    commands += re.findall(r"^ {4}(?:\.venv/bin/)?(python [^#\n]+)", text, re.M)
    assert len(commands) > 20
    for command in commands:
        words = shlex.split(command)[1:]
        name = words[1] if words[0] == "-m" else words[0].removesuffix(".py").replace("/", ".")
        if name == "pytest" or name.startswith("tests."):
            continue
        main = importlib.import_module(name).main
        flags = {word for word in words if word.startswith("--")}
        if flags:
            with pytest.raises(SystemExit):
                main(["--help"])
            assert flags <= set(re.findall(r"--[\w-]+", capsys.readouterr().out)), command


def test_the_python_of_the_readme_runs(tmp_path, monkeypatch, judge):
    """One block after the other: three digits, and ambigrams that read both ways."""
    monkeypatch.chdir(tmp_path)
    names = {}
    for block in re.findall(r"```python\n(.*?)```", README.read_text(), re.S):
        exec(block, names)
    images = names["images"]
    assert (tmp_path / "pi.png").exists() and images.shape == (10, 1, 28, 28)
    assert accuracy_of(judge, images, torch.full((10,), 6)) >= 0.8
    assert accuracy_of(judge, images.flip(2, 3), torch.full((10,), 9)) >= 0.8
