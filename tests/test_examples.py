"""The examples draw what they say, with few images and steps, into a temporary folder."""

import csv
import json
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from conftest import ROOT
from PIL import Image

import inference
from evaluation import metrics
from examples import inpainting, stock_diffusers, when
from examples.shared import save_rows
from inference import gradient, growing_scale, guided, load_models, sample, trajectory


DPM = "diffusers.schedulers.scheduling_dpmsolver_multistep.randn_tensor"


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run an example for n images in few steps: the rows of each picture."""
    monkeypatch.setattr(metrics, "NUM_HALVES", 2)

    def main(example, n, steps=4):
        drawn = {}

        def save(path, rows, *others, **settings):
            drawn[path.name] = rows.values()
            save_rows(path, rows, *others, **settings)

        def faster(*args, **settings):
            return sample(*args, **settings | {"steps": steps})

        for name, value in {"N": n, "sample": faster, "save_rows": save}.items():
            monkeypatch.setattr(example, name, value, raising=False)
        example.main(["--output", str(tmp_path)])
        return drawn

    return main


def test_inpainting_keeps_the_known_half_and_draws_the_rest(run, tmp_path):
    digit, known, *completed = run(inpainting, 4, steps=20)["inpainting.png"]
    for images in completed:  # the known half is kept, up to a little blur, and the rest is drawn
        upper, lower = (images - digit).abs().mean(dim=(0, 1, 3)).view(2, 14).mean(dim=1)
        assert upper < 0.3 * lower and images[:, :, 14:].max() > 0.5
    made_from = Image.open(tmp_path / "inpainting.png").info["provenance"]
    assert json.loads(made_from)["settings"] == {"guidance_scale": 1}


def test_the_ddpm_can_be_exported_to_diffusers_and_guided_there(run, tmp_path):
    unguided, thin, thick = run(stock_diffusers, 8, steps=20)["stock.png"]
    assert "# An unconditional DDPM" in (tmp_path / "digits" / "README.md").read_text()
    ddpm, _ = load_models()
    ours = sample(ddpm, None, range(8), sampler="sde-dpmsolver++", steps=20)
    assert torch.equal(unguided, ours)
    for images, target in ((thin, 0.07), (thick, 0.2)):
        assert (stock_diffusers.mean_intensity(images) - target).abs().mean() < 0.03


def test_a_push_window_guides_in_its_steps_only(monkeypatch):
    """Each image has its own window, digit, and noise."""
    ddpm, classifier = load_models()
    cases = [(0, 0, 20, 3), (1, 0, 0, 3), (2, 3, 9, 5)]  # noise, first step, end, digit
    y = torch.tensor([(digit, first, end) for _, first, end, digit in cases])
    guesses, _ = when.pushed_paths(ddpm, classifier, [case[0] for case in cases], y)
    for image, (number, first, end, digit) in zip(guesses[:, -1], cases):
        window = {"low": 999 - 50 * (end - 1), "high": 1000 - 50 * first}
        scale = growing_scale(ddpm, **window) if end else 0
        predict = guided(ddpm, gradient(classifier.log_p), scale)
        noise = when.page_noise(number, 20).unsqueeze(1).unbind()
        monkeypatch.setattr(inference, "gaussian_noise", Mock(return_value=noise[0]))
        fresh = Mock(side_effect=[*noise[1:], 0 * noise[0]])
        monkeypatch.setattr(DPM, fresh)  # diffusers' own steps, with the noise of the page
        *_, (_, _, x) = trajectory(ddpm, [digit], [0], predict, "sde-dpmsolver++", 20)
        torch.testing.assert_close(image, x[0].clamp(-1, 1), atol=1e-4, rtol=0)


def test_the_verdict_on_a_result_agrees_with_a_reader():
    """Who read 200 results without knowing the verdict: a digit, or nothing (readable.csv)."""
    tiles = np.asarray(Image.open(ROOT / "tests/readable.png")).reshape(10, 28, 20, 28)
    images = torch.tensor(tiles).permute(0, 2, 1, 3).reshape(200, 1, 28, 28) / 127.5 - 1
    ddpm, classifier = load_models()
    with torch.no_grad():
        log_p = classifier(images, torch.zeros(200, dtype=torch.long)).log_softmax(dim=1)
    surprises = when.surprise(ddpm, images)
    threshold = json.loads((ROOT / "docs/map.json").read_text())["threshold"]
    agreed = 0
    with open(ROOT / "tests/readable.csv") as file:
        for k, row in enumerate(csv.DictReader(file)):
            digit, one = int(row["digit"]), slice(k, k + 1)
            [kind] = when.kinds(log_p[one], surprises[one], threshold, digit, None)
            expected = {"": "broken", row["digit"]: "target"}.get(row["read"], "other")
            agreed += kind == expected
    assert agreed >= 172


def test_the_fork_can_be_drawn(tmp_path, monkeypatch):
    monkeypatch.setattr(when, "WINDOWS", [(0, 0), (0, 20), (3, 5)])
    when.main(["--noise", "3", "--digit", "7", "--steps", "4", "5", "--output", str(tmp_path)])
    settings = json.loads(Image.open(tmp_path / "fork.png").info["provenance"])["settings"]
    assert settings == {"noise": 3, "digit": 7, "steps": [4, 5]}
