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
import train_classifier
from evaluation.report import PAGES as PAGES_WITH_TABLES
from evaluation.report import page_with_tables
from examples.shared import read
from inference import Guided, Unguided, growing_scale, sample
from mnist import load_mnist
from support.files import sha256
from support.pictures import save_figure
from support.streams import image_seeds

README = ROOT / "README.md"
PAGES = [README, ROOT / "CONTRIBUTING.md", ROOT / "results/README.md", ROOT / "tests/README.md"]


def test_guided_samples_are_the_digits_asked_for_and_vary_like_real_ones():
    ddpm, classifier = inference.load_models()
    y = torch.arange(10).repeat_interleave(5)
    seeds = image_seeds(0, y.tolist())
    guided = sample(Guided(ddpm, classifier.log_p, growing_scale(ddpm.scheduler)), y, seeds)
    unguided = sample(Unguided(ddpm), None, seeds)
    assert (read(guided) == y).sum() >= 48 and (read(unguided) == y).sum() <= 12
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
        if path.name == "fashion.png":
            continue  # of networks that are not included
        info = Image.open(path).info
        made_from = json.loads(info["comment" if path.suffix == ".gif" else "provenance"])
        for name, digest in made_from["sha256"].items():
            known = hashes.get(name) or sha256(ROOT / "results" / name)
            assert digest == known, f"{path}: {name}"


def test_the_curve_of_the_guide_is_as_this_code_draws_it(tmp_path):
    """With the same matplotlib, labels and all."""
    classifier, path = inference.load_models()[1], tmp_path / "o.png"
    images, labels = load_mnist("validation")
    figure = train_classifier.plot_accuracy(classifier, classifier.scheduler, images, labels)
    save_figure(path, figure, "")
    made, shipped = Image.open(path), Image.open(ROOT / "results" / "classifier_accuracy.png")
    if made.info["Software"] == shipped.info["Software"]:
        difference = np.asarray(made, dtype=int) - np.asarray(shipped, dtype=int)
        assert np.abs(difference).mean() < 0.05


def test_the_tables_of_the_pages_are_those_of_the_files():
    for page in PAGES_WITH_TABLES:
        assert page_with_tables(page.read_text()) == page.read_text()  # python -m evaluation.report


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


def test_the_python_of_the_readme_runs(tmp_path, monkeypatch):
    """Ambigrams that read both ways."""
    monkeypatch.chdir(tmp_path)
    names = {}
    for block in re.findall(r"```python\n(.*?)```", README.read_text(), re.S):
        exec(block, names)
    images = names["images"]
    assert Image.open("six_nine.png").size == (4 * (10 * 30 + 2), 4 * (30 + 2))
    assert images.shape == (10, 1, 28, 28)
    assert (read(images) == 6).sum() >= 8 and (read(images.flip(2, 3)) == 9).sum() >= 8
