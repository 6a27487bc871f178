"""A guide of the user's own: what guides, and what is refused in one line."""

import pytest
import torch

import evaluate
import inference
from evaluation.bench import Bench
from evaluation.tables import final_table
from evaluation.variants import brought
from inference import guided_noise, sample
from mnist import MNIST_INFO
from support.errors import UserError
from support.files import sha256

Y = torch.tensor([3, 1])


def toward_the_mean(x_t, t, y):
    """A guide whose gradient is known: y - x_t."""
    return -(x_t - y[:, None, None, None]).square().sum((1, 2, 3)) / 2


GOOD = "import torch\n\n\ndef log_p(x_t, t, y):\n    return -(x_t - 2).square().sum((1, 2, 3))\n"
WRONG = {
    "a number per class": (lambda x_t, t, y: x_t.flatten(1)[:, :10], r"\(2, 10\), not \(2,\)"),
    "one number for all": (lambda x_t, t, y: x_t.sum(), r"\(\), not \(2,\)"),
    "a column": (lambda x_t, t, y: x_t.sum((1, 2)), r"\(2, 28\)"),
    "no tensor": (lambda x_t, t, y: 1.0, "float"),
    "nothing": (lambda x_t, t, y: None, "NoneType"),
    "detached": (lambda x_t, t, y: x_t.detach().sum((1, 2, 3)), "not differentiable"),
    "another leaf": (lambda x_t, t, y: torch.ones(2, requires_grad=True) * 1, "not differentiable"),
    "not a number": (lambda x_t, t, y: x_t.sum((1, 2, 3)) * torch.nan, "not finite"),
    "minus infinity": (lambda x_t, t, y: (x_t.sum((1, 2, 3)) * 0).log(), "not finite"),
}


@pytest.mark.parametrize("fault", WRONG)
def test_a_wrong_guide_is_one_line(unet, fault):
    log_p, said = WRONG[fault]
    with pytest.raises(UserError, match=said):
        sample(unet, log_p, Y, steps=2)


def test_any_differentiable_function_guides(unet):
    """eps_hat has the known gradient; nothing of it is left on the tape."""
    x_t, t = torch.randn(2, 1, 28, 28), torch.tensor(500)
    eps_hat = guided_noise(unet, toward_the_mean, x_t, t, Y, 0.1, clip=False)
    root = (1 - inference.abar(t)).sqrt()
    expected = guided_noise(unet, None, x_t, t, Y, 0) - 0.1 * root * (Y[:, None, None, None] - x_t)
    torch.testing.assert_close(eps_hat, expected)
    assert not eps_hat.requires_grad


def test_a_guide_from_a_file_guides(unet, tmp_path):
    (tmp_path / "mine.py").write_text(GOOD)
    x_t, t = torch.randn(2, 1, 28, 28), torch.tensor(500)
    eps_hat = brought(f"{tmp_path}/mine.py:log_p")(unet, None, x_t, t, Y, 0.1)

    def log_p(x_t, t, y):
        return -(x_t - 2).square().sum((1, 2, 3))

    assert torch.equal(eps_hat, guided_noise(unet, log_p, x_t, t, Y, 0.1))


def test_a_guide_has_a_row_of_the_final_table():
    bench, rows = Bench.__new__(Bench), []
    bench.seed, bench.split, bench.classes = 0, "test", MNIST_INFO["classes"]
    bench.floors = {}
    bench.fill = lambda path, settings: rows.extend(settings)
    bench.draw = lambda settings: drawn.append((settings["variant"], settings["steps"]))
    drawn = []
    final_table(bench, 20, None, "mine.py:log_p", 0.5)
    assert drawn == [("mine.py:log_p", "2")]  # a wrong guide is found before the other rows
    assert [row["variant"] for row in rows] == ["ADM Algorithm 2"] * 3 + ["mine.py:log_p"]
    assert rows[-1] | {"variant": "ADM Algorithm 2", "guidance_scale": "1"} == rows[0]
    assert rows[-1]["guidance_scale"] == "0.5"


def test_an_error_inside_a_guide_is_one_line(unet, tmp_path):
    (tmp_path / "neighbour.py").write_text("SCALE = 2")
    text = "from neighbour import SCALE\n\n\ndef log_p(x_t, t):\n    return x_t"
    (tmp_path / "mine.py").write_text(text)
    with pytest.raises(UserError, match="mine.py:log_p: TypeError: log_p.. takes 2 positional"):
        brought(f"{tmp_path}/mine.py:log_p")(unet, None, torch.zeros(2, 1, 28, 28), Y[0], Y, 1.0)


FILES = {
    "no such file": ("nowhere.py:log_p", "there is no file"),
    "no colon": ("mine.py", "write FILE.py:NAME"),
    "no name": ("mine.py:", "has no function ''"),
    "another name": ("mine.py:guide", "has no function 'guide'"),
    "no function": ("mine.py:torch", "has no function 'torch'"),
    "bad syntax": ("bad.py:log_p", "SyntaxError"),
    "an error": ("error.py:log_p", "ZeroDivisionError"),
    "exits": ("exits.py:log_p", "SystemExit"),
    "a folder": ("folder:log_p", "there is no file"),
    "no Python": ("mine.txt:log_p", "SyntaxError"),
}


@pytest.mark.parametrize("kind", FILES)
def test_a_file_without_a_guide_is_one_line(fails, monkeypatch, tmp_path, kind):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    for name, text in {"mine": GOOD, "bad": "def", "error": "1 / 0", "exits": "exit(0)"}.items():
        (tmp_path / f"{name}.py").write_text(text)
    (tmp_path / "mine.txt").write_text("no Python")
    text, said = FILES[kind]
    assert said in fails(evaluate.main, "--quick", "--guide", text)


def test_the_row_of_a_guide_records_its_file(tmp_path):
    mine = tmp_path / "mine.py"
    mine.write_text(GOOD)
    bench = Bench.__new__(Bench)
    bench.unet, bench.classifier, bench.networks = None, None, {}
    bench.made_from = {"ddpm_unet": "that of the U-Net", "classifier": "that of ours"}
    of_mine = bench.made_from_of(f"{mine}:log_p")
    assert of_mine == bench.made_from | {"classifier": sha256(mine)}
    assert bench.made_from_of("ADM Algorithm 2") == bench.made_from


def test_the_scale_of_a_guide_needs_a_guide(fails):
    assert "only with --guide" in fails(evaluate.main, "--quick", "--guidance-scale", "5")


@pytest.mark.parametrize("flags", [["--sweep", "scales"], ["--samples", "x.npz"]])
def test_a_guide_has_no_row_elsewhere(fails, flags):
    assert "--guide" in fails(evaluate.main, *flags, "--guide", "mine.py:log_p")
