"""The examples draw what they say, with few images and steps, into a temporary folder."""

import csv
import re
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from conftest import ROOT, small_mnist
from PIL import Image

import inference
from examples import measure_scale, stock_diffusers, when
from inference import gradient, guided, load_models, sample, trajectory


DPM = "diffusers.schedulers.scheduling_dpmsolver_multistep.randn_tensor"


def test_the_measured_scale_grows_like_the_default_one(monkeypatch, capsys):
    monkeypatch.setattr(measure_scale, "Dataset", lambda *_: small_mnist())
    measure_scale.main([])
    shown = re.findall(r"^(.*): python .*--growing-scale (.*)$", capsys.readouterr().out, re.M)
    b = {name: float(number) for name, number in shown}
    assert 3 < b["S"] < 15 < b["r / c"] < 40


def test_the_ddpm_can_be_exported_to_diffusers_and_guided_there(monkeypatch, tmp_path):
    save = Mock()
    monkeypatch.setattr(stock_diffusers, "N", 8)
    monkeypatch.setattr(stock_diffusers, "save_labeled_grid", save)
    stock_diffusers.main(["--output", str(tmp_path)])
    drawn = dict(save.call_args.args[1])
    assert "# An unconditional DDPM" in (tmp_path / "digits" / "README.md").read_text()
    ddpm, _ = load_models()
    ours = sample(ddpm, None, range(8), sampler="sde-dpmsolver++", steps=20)
    assert torch.equal(drawn["unguided"], ours)
    for name, target in {"thin": 0.07, "thick": 0.2}.items():
        assert (stock_diffusers.mean_intensity(drawn[name]) - target).abs().mean() < 0.03


def test_a_push_window_guides_in_its_steps_only(monkeypatch):
    """Each image has its own window, digit, and noise."""
    ddpm, classifier = load_models()
    cases = [(0, 0, 20, 3), (1, 0, 0, 3), (2, 3, 9, 5)]  # noise, first step, end, digit
    y = torch.tensor([(digit, first, end) for _, first, end, digit in cases])
    guesses, _ = when.pushed_paths(ddpm, classifier, [case[0] for case in cases], y)
    for image, (number, first, end, digit) in zip(guesses[:, -1], cases):
        low, high, growing = 999 - 50 * (end - 1), 1000 - 50 * first, when.growing_scale(ddpm)

        def scale(t, low=low, high=high, growing=growing):
            return growing(t) if low <= t < high else 0

        predict = guided(ddpm, gradient(classifier.log_p), scale)
        noise = when.page_noise(number, 20).unsqueeze(1).unbind()
        monkeypatch.setattr(inference, "randn_tensor", Mock(return_value=noise[0]))
        fresh = Mock(side_effect=[*noise[1:], 0 * noise[0]])
        monkeypatch.setattr(DPM, fresh)  # diffusers' own steps, with the noise of the page
        *_, (_, _, x) = trajectory(ddpm, [digit], [0], predict, "sde-dpmsolver++", 20)
        torch.testing.assert_close(image, x[0].clamp(-1, 1), atol=1e-4, rtol=0)


def test_a_push_of_equal_size_moves_the_next_image_equally_far():
    ddpm, classifier = load_models()
    scale = when.equal_scale(ddpm, classifier, noise=7, digit=3, size=2)
    y = torch.tensor([(3, 0, 0), (3, 0, 1), (3, 10, 11), (3, 19, 20)])
    _, x_t, x_0 = zip(*when.steps_of(ddpm, classifier, [7] * 4, y, scale))
    for push, k in enumerate((0, 10, 19), start=1):
        x_u = [*x_t[1:], x_0[-1]][k]
        assert (x_u[push] - x_u[0]).norm().item() == pytest.approx(2, rel=1e-3)


def test_the_verdict_on_a_result_agrees_with_a_reader():
    """Who read 200 results without knowing the verdict: a digit, or nothing (readable.csv)."""
    tiles = np.asarray(Image.open(ROOT / "tests/readable.png")).reshape(10, 28, 20, 28)
    images = torch.tensor(tiles).permute(0, 2, 1, 3).reshape(200, 1, 28, 28) / 127.5 - 1
    ddpm, classifier = load_models()
    with torch.no_grad():
        log_p = classifier(images, torch.zeros(200, dtype=torch.long)).log_softmax(dim=1)
    surprises = when.surprise(ddpm, images)
    constants = (ROOT / "docs/constants.js").read_text()
    threshold = float(re.search(r"THRESHOLD = (.+);", constants)[1])
    agreed = 0
    with open(ROOT / "tests/readable.csv") as file:
        for k, row in enumerate(csv.DictReader(file)):
            digit, one = int(row["digit"]), slice(k, k + 1)
            [kind] = when.kinds(log_p[one], surprises[one], threshold, digit, None)
            expected = {"": "broken", row["digit"]: "target"}.get(row["read"], "other")
            agreed += kind == expected
    assert agreed >= 172


def test_the_fork_can_be_drawn(tmp_path):
    flags = ["--noise", "3", "--digit", "7", "--steps", "4", "5", "--size", "2.5"]
    when.main([*flags, "--output", str(tmp_path)])
    assert Image.open(tmp_path / "fork.png").width > 1_000
