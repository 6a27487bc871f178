"""The examples draw what they say, with few images and few steps, into a folder of their own."""

import json

import pytest
import torch
from diffusers import DDPMPipeline
from PIL import Image

import guidance
from examples import ambigram, inpainting, not_a_digit, shared, stock_diffusers, two_digits
from examples.shared import read, save_rows
from inference import load_models


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run an example for n images in few steps: the rows of each picture."""
    monkeypatch.setattr(shared, "ROOT", tmp_path)

    def main(example, n, steps=4):
        drawn = {}

        def save(name, rows, *columns, **settings):
            drawn[name] = rows.values()
            save_rows(name, rows, *columns, **settings)

        def sample(*args, **settings):
            return guidance.sample(*args, **settings | {"steps": steps})

        for name, value in {"N": n, "sample": sample, "save_rows": save}.items():
            monkeypatch.setattr(example, name, value)
        example.main([])
        return drawn

    return main


def test_each_example_draws_what_it_says(run, tmp_path):
    six, turned = run(ambigram, 1, steps=20)["ambigram"]
    assert torch.equal(turned, six.rot90(2, (2, 3)))
    assert (read(turned) == 9).all()
    rows = [read(images) for images in run(two_digits, 8)["two_digits"]]
    assert (rows[0] == 3).sum() >= 6 and (rows[4] == 8).sum() >= 6 and len(rows) == 5
    unguided, guided = run(not_a_digit, 30)["not_a_1"]
    assert (read(unguided) == 1).any() and (read(guided) == 1).sum() <= 1
    digit, seen, *completed = run(inpainting, 4, steps=20)["inpainting"]
    for images in completed:  # what is seen is kept, up to a little blur, and the rest is drawn
        error = (images - digit).abs().mean(dim=(0, 1, 3))  # of each line
        assert error[:14].mean() < 0.1 and images[:, :, 14:].max() > 0.5
    for name, growth in {"two_digits": 4, "inpainting": 0}.items():  # not the default
        made_from = Image.open(tmp_path / "results" / f"{name}.png").info["provenance"]
        assert json.loads(made_from)["settings"] == {"scale_growth": growth}


def test_stock_diffusers_draws_as_we_do(tmp_path, monkeypatch):
    """From the same noise, the guided samples of the exported U-Net are those of `sample`."""
    unet, classifier = load_models()
    stock_diffusers.export(unet, tmp_path)
    pipeline = DDPMPipeline.from_pretrained(tmp_path)
    assert "# An unconditional DDPM" in (tmp_path / "README.md").read_text()

    def noise(shape, rngs):
        return torch.randn(len(rngs), *shape, generator=torch.manual_seed(0))

    y = torch.arange(20) % 10
    images = stock_diffusers.guide(pipeline, classifier, y)
    monkeypatch.setattr(guidance, "gaussian_noise", noise)
    ours = guidance.sample(unet, classifier.log_p, y, range(20), sampler="dpmsolver++")
    torch.testing.assert_close(images.clamp(-1, 1), ours, atol=1e-3, rtol=0)
