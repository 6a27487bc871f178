"""The examples draw what they say, with few images and steps, into a temporary folder."""

import csv
import json
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler
from conftest import ROOT, small_mnist
from PIL import Image

import inference
from evaluation import measures, table
from examples import ambigram, inpainting, my_guide, shared, stock_diffusers, when
from examples.shared import read, save_rows
from data import Dataset
from diffusion import load_ddpm
from inference import gradient, growing_scale, guided, load_models, sample, trajectory


DPM = "diffusers.schedulers.scheduling_dpmsolver_multistep.randn_tensor"


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run an example for n images in few steps: the rows of each picture."""
    monkeypatch.setattr(shared, "ROOT", tmp_path)
    monkeypatch.setattr(measures, "NUM_HALVES", 2)

    def main(example, n, steps=4):
        drawn = {}

        def save(name, rows, *others, **settings):
            drawn[name] = rows.values()
            save_rows(name, rows, *others, **settings)

        def faster(*args, **settings):
            return sample(*args, **settings | {"steps": steps})

        for name, value in {"N": n, "sample": faster, "save_rows": save}.items():
            monkeypatch.setattr(example, name, value, raising=False)
        example.main([])
        return drawn

    return main


def test_each_example_draws_what_it_says(run, tmp_path):
    upright, turned = run(ambigram, 1, steps=20)["ambigram"]
    assert torch.equal(turned, upright.rot90(2, (2, 3))) and len(turned) == len(ambigram.SHOWN)
    assert (read(upright) < read(turned)).all()  # all of them succeed
    digit, known, *completed = run(inpainting, 4, steps=20)["inpainting"]
    for images in completed:  # the known half is kept, up to a little blur, and the rest is drawn
        error = (images - digit).abs().mean(dim=(0, 1, 3))  # of each row of pixels
        assert error[:14].mean() < 0.1 and images[:, :, 14:].max() > 0.5
    made_from = Image.open(tmp_path / "results" / "inpainting.png").info["provenance"]
    assert json.loads(made_from)["settings"] == {"guidance_scale": 1}


def test_the_guide_to_copy_makes_digits_lean(run, monkeypatch, capsys):
    monkeypatch.setattr(table, "Dataset", small_mnist)
    drawn = run(my_guide, 100, steps=20)["my_guide"]
    straight, leaning = (my_guide.slant(images).mean() for images in drawn)
    assert straight < 0.3 and 0.4 < leaning < 0.55
    assert "leaning: accuracy" in capsys.readouterr().out


def test_the_ddpm_can_be_exported_to_diffusers_and_guided_there(run, tmp_path, monkeypatch):
    monkeypatch.setattr(stock_diffusers, "FOLDER", tmp_path / "digits")
    unguided, thin, thick = run(stock_diffusers, 8, steps=20)["stock"]
    assert "# An unconditional DDPM" in (tmp_path / "digits" / "README.md").read_text()
    ddpm, _ = load_models()
    ours = sample(ddpm, None, range(8), sampler="sde-dpmsolver++", steps=20)
    assert torch.equal(unguided, ours)
    for images, target in ((thin, 0.07), (thick, 0.2)):
        assert (stock_diffusers.mean_intensity(images) - target).abs().mean() < 0.03
    path = tmp_path / "back.pth"
    stock_diffusers.save_as_checkpoint(path, tmp_path / "digits", Dataset().info)
    again = sample(load_ddpm(path), None, range(8), sampler="sde-dpmsolver++", steps=20)
    assert torch.equal(again, ours)
    betas = {"trained_betas": [0.01] * 50, "num_train_timesteps": 50, "clip_sample": False}
    DDPMPipeline(ddpm.unet, DDPMScheduler(**betas)).save_pretrained(tmp_path / "other")
    stock_diffusers.save_as_checkpoint(path, tmp_path / "other", Dataset().info)
    scheduler = load_ddpm(path).scheduler
    assert {key: scheduler.config[key] for key in betas} == betas


def test_a_push_window_guides_in_its_steps_only(monkeypatch):
    """Each image has its own window, digit, and noise."""
    ddpm, classifier = load_models()
    cases = [(0, 0, 20, 3), (1, 0, 0, 3), (2, 3, 9, 5)]  # noise, first step, end, digit
    y = torch.tensor([(digit, first, end) for _, first, end, digit in cases])
    guesses, _ = when.pushed_paths(ddpm, classifier, [case[0] for case in cases], y)
    for image, (number, first, end, digit) in zip(guesses[:, -1], cases):
        window = {"low": 999 - 50 * (end - 1), "high": 1000 - 50 * first}
        scale = growing_scale(ddpm, **window) if end else 0
        eps_hat = guided(ddpm, gradient(classifier.log_p), scale)
        noise = when.page_noise(number, 20).unsqueeze(1).unbind()
        monkeypatch.setattr(inference, "gaussian_noise", Mock(return_value=noise[0]))
        fresh = Mock(side_effect=[*noise[1:], 0 * noise[0]])
        monkeypatch.setattr(DPM, fresh)  # diffusers' own steps, with the noise of the page
        *_, (_, _, x) = trajectory(ddpm, [digit], [0], eps_hat, "sde-dpmsolver++", 20)
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


def test_the_fork_and_the_map_can_be_drawn(tmp_path, monkeypatch):
    monkeypatch.setattr(when, "WINDOWS", [(0, 0), (0, 20), (3, 5)])
    monkeypatch.setattr(when, "most_surprise", lambda *networks: 0.2)
    when.main(["--noise", "3", "--digit", "7", "--steps", "4", "5", "--output", str(tmp_path)])
    for name in ("fork", "when"):
        settings = json.loads(Image.open(tmp_path / f"{name}.png").info["provenance"])["settings"]
        assert settings == {"noise": 3, "digit": 7, "steps": [4, 5]}
