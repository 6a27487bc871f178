"""What ships: weights that make digits, files made by these weights, and pages that are true."""

import importlib
import re
import shlex
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from conftest import ROOT
from PIL import Image

import inference
from evaluation import metrics, report
from evaluation.judge import judge_images, load_judge
from examples import animate
from inference import sample
from support import pictures

README, GUIDE = ROOT / "README.md", ROOT / "examples/README.md"
PAGES = [README, GUIDE, ROOT / ".github/CONTRIBUTING.md"]
PAGES += [ROOT / "results/README.md"]


def test_the_first_command_makes_the_shipped_picture(tmp_path):
    """Exactly, on the machine and versions that made it; elsewhere within one gray level."""
    inference.main(["--output", str(tmp_path / "o.png")])
    paths = tmp_path / "o.png", ROOT / "guided_output.png"
    made, shipped = (np.asarray(Image.open(path)).astype(int) for path in paths)
    assert made.shape == shipped.shape and np.abs(made - shipped).max() <= 1


def tiles(name, columns):
    """The digits in a picture, as `Judged`."""
    gray = torch.from_numpy(np.asarray(Image.open(ROOT / name))[8::4, 8::4].astype(np.float32))
    ink = (pictures.PAPER - gray) / (pictures.PAPER - pictures.INK) * 2 - 1
    cut = ink.unfold(0, 28, 30).unfold(1, 28, 30).reshape(-1, 1, 28, 28)
    assert len(cut) % columns == 0
    return judge_images(load_judge(), pictures.to_uint8(cut))


def test_the_guided_picture_shows_eight_1s():
    assert tiles("guided_output.png", 8).prediction.tolist() == [1] * 8


@pytest.mark.xfail(strict=True, reason="six are doubtful")
def test_at_most_five_of_the_forty_unguided_digits_are_doubtful():
    assert (tiles("sample_ddpm_output.png", 10).confidence < metrics.DOUBTFUL).sum() <= 5


def test_the_tables_of_the_pages_are_those_of_the_csv_files():
    for page in report.PAGES:  # else: python -m evaluation.report tables
        assert report.with_tables(page.read_text()) == page.read_text()


def test_links_and_pictures_exist():
    for path in PAGES:
        targets = re.findall(r'\]\(([^)#\s]+)\)|src="([^"]+)"', path.read_text())
        for target in [link or picture for link, picture in targets]:
            assert "://" in target or (path.parent / target).exists(), f"{path}: {target}"


def test_each_command_of_the_pages_exists(capsys):
    """Its file or module, and its flags."""
    text = "".join(page.read_text() for page in PAGES)
    commands = re.findall(r"`(python [^`]+)`", text)
    commands += re.findall(r"^ {4}(?:\.venv/bin/)?(python [^#\n]+)", text, re.M)
    assert len(commands) > 10
    for command in commands:
        words = shlex.split(command)[1:]
        name = words[1] if words[0] == "-m" else words[0].removesuffix(".py").replace("/", ".")
        if name == "pytest" or f"# {name}.py" in text:
            continue
        package = (ROOT / name / "__main__.py").exists()
        main = importlib.import_module(f"{name}.__main__" if package else name).main
        if flags := {word for word in words if word.startswith("--")}:
            with pytest.raises(SystemExit):
                main(["--help"])
            assert flags <= set(re.findall(r"--[\w-]+", capsys.readouterr().out)), command


def python_of(path):
    return re.findall(r"```python\n(.*?)```", path.read_text(), re.S)


def test_the_code_that_the_readme_quotes_is_that_of_inference():
    code = [line.strip() for line in (ROOT / "inference.py").read_text().splitlines()]
    quoted = "".join(re.findall(r"```py\n(.*?)```", README.read_text(), re.S))
    assert quoted and all(line.strip() in code for line in quoted.splitlines())


@pytest.mark.usefixtures("few_images")
def test_the_python_of_the_guide_runs(monkeypatch, capsys, tmp_path):
    """Its guides, scales, noise, and loops are measured, and our pipeline is exported."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(metrics, "NUM_HALVES", 2)
    names = {}
    for block in python_of(GUIDE):
        block = re.sub(r'(steps=|"steps": )\d+', r"\g<1>2", re.sub(r"n=\d+", "n=100", block))
        if "train_ddpm" not in block:
            exec(compile(block, "README.md", "exec"), names)
    shown = capsys.readouterr().out
    assert all(f"{row}: accuracy" in shown for row in ("left", "without the root", "CFG++"))
    ddpm, theirs, x_t = names["ddpm"], names["theirs"], torch.randn(1, 1, 28, 28)
    torch.testing.assert_close(names["Autoguided"](ddpm, ddpm, 2)(x_t, 500), ddpm(x_t, 500))
    torch.testing.assert_close(theirs(x_t, 500), ddpm(x_t, 500))
    unguided = sample(theirs, None, range(8), **names["fast"])
    assert names["images"].mean() > unguided.mean()


@pytest.mark.usefixtures("few_images")
def test_the_networks_of_the_guide_can_be_trained_and_guided(monkeypatch, tmp_path):
    [code] = [block for block in python_of(GUIDE) if "# mine.py" in block]
    monkeypatch.chdir(tmp_path)
    code = code.replace("steps=2_000", "steps=2, batch_size=8")
    exec(compile(code, "mine.py", "exec"), {"__name__": "__main__"})
    networks = [torch.load(f"mine/{n}.pth")["network"] for n in ("classifier", "ddpm_unet")]
    assert networks == ["MLP", "ConvNet"] and Path("mine/digits.png").exists()


def test_the_animation_begins_and_ends_with_the_digits_0_to_9(tmp_path, monkeypatch):
    monkeypatch.setattr(animate, "draw_rows", drawn := Mock(wraps=animate.draw_rows))
    monkeypatch.setattr(animate, "NUM_FRAMES", 2)
    animate.main(tmp_path / "guided.gif")
    assert Image.open(tmp_path / "guided.gif").n_frames == 4  # the last one is also the first one
    rows = [*drawn.call_args.args[1].values()]
    samples = judge_images(load_judge(), pictures.to_uint8(rows[0]))
    assert samples.prediction.tolist() == [*range(10)]
