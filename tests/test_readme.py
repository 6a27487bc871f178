"""The READMEs keep their budgets, their links lead somewhere, and what they show runs."""

import re
import shlex

import pytest
import torch
from conftest import ROOT
from PIL import Image

import evaluate
import inference
from examples import export_to_diffusers

README, REPORT = ROOT / "README.md", ROOT / "results" / "README.md"
PAGES = [README, REPORT, ROOT / "CONTRIBUTING.md", ROOT / "tests" / "README.md"]


@pytest.mark.parametrize("path, words", [(README, 1_400), (REPORT, 3_500)])
def test_the_word_budgets(path, words):
    """A word has a letter or a digit: the lines of tables do not count."""
    assert len(re.findall(r"\S*\w\S*", path.read_text())) <= words


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_and_pictures_are_there(path):
    text = path.read_text()
    targets = re.findall(r'\]\(([^)#\s]+)\)|src="([^"]+)"', text)
    local = [a or b for a, b in targets if "://" not in (a or b)]
    for target in local:
        assert (path.parent / target).exists(), target


def test_the_python_of_the_readme_runs(tmp_path, monkeypatch, judge):
    """One after another, in a folder of its own: ambigrams read both ways, and diffusers guides."""
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.S)
    assert len(blocks) == 3
    monkeypatch.chdir(tmp_path)
    export_to_diffusers.main(["digits"])
    names = {}
    for block in blocks:
        exec(block, names)
    assert Image.open(tmp_path / "pi.png").size == (3 * 30 + 2, 32)
    images = names["images"]
    assert images.shape == (10, 1, 28, 28)
    assert (judge(images).argmax(dim=1) == 6).float().mean() >= 0.8
    assert (judge(torch.flip(images, (2, 3))).argmax(dim=1) == 9).float().mean() >= 0.8
    assert (judge(names["x_t"]).argmax(dim=1) == torch.arange(10)).float().mean() >= 0.8


COMMANDS = sorted(
    {
        command
        for path in PAGES
        for command in re.findall(r"`python ((?:inference|evaluate)\.py[^`]*)`", path.read_text())
    }
)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_flags_of_a_command_are_known(command):
    script, *argv = shlex.split(command)
    {"inference.py": inference, "evaluate.py": evaluate}[script].parse_args(argv)


def test_there_are_commands_to_check():
    assert len(COMMANDS) >= 8
