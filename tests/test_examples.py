"""The examples draw what they say, with few images and few steps, into a folder of their own."""

import json

import pytest
import torch
from PIL import Image

import inference
from examples import ambigram, inpainting, my_guide, not_a_digit, shared, stock_diffusers, wishes
from examples.shared import read, save_rows
from inference import load_models, sample


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run an example for n images in few steps: the rows of each picture."""
    monkeypatch.setattr(shared, "ROOT", tmp_path)

    def main(example, n, steps=4):
        drawn = {}

        def save(name, rows, *columns, **settings):
            drawn[name] = rows.values()
            save_rows(name, rows, *columns, **settings)

        def faster(*args, **settings):
            return sample(*args, **settings | {"steps": steps})

        for name, value in {"N": n, "sample": faster, "save_rows": save}.items():
            monkeypatch.setattr(example, name, value, raising=False)
        example.main([])
        return drawn

    return main


def test_each_example_draws_what_it_says(run, tmp_path):
    upright, turned = run(ambigram, 1, steps=20)["ambigram"]
    assert torch.equal(turned, upright.rot90(2, (2, 3))) and len(turned) == ambigram.SHOWN
    assert (read(upright) < read(turned)).all()  # all work
    drawn = run(wishes, 0, steps=20)
    for _, asked in drawn.values():
        assert (read(asked) == torch.arange(10)).sum() >= 9
    chance, _ = drawn["wishes"]
    assert torch.equal(chance, chance[:1].expand_as(chance))  # one noise
    unguided, guided = run(not_a_digit, 30)["not_a_1"]
    assert (read(unguided) == 1).any() and (read(guided) == 1).sum() <= 1
    digit, seen, *completed = run(inpainting, 4, steps=20)["inpainting"]
    for images in completed:  # what is seen is kept, up to a little blur, and the rest is drawn
        error = (images - digit).abs().mean(dim=(0, 1, 3))  # of each line
        assert error[:14].mean() < 0.1 and images[:, :, 14:].max() > 0.5
    made_from = Image.open(tmp_path / "results" / "inpainting.png").info["provenance"]
    assert json.loads(made_from)["settings"] == {"guidance_scale": 1}


def test_the_guide_to_copy_makes_digits_lean(run):
    drawn = run(my_guide, 0, steps=20)["my_guide"]
    straight, leaning = (my_guide.slant(images).mean() for images in drawn)
    assert straight < 0.3 and 0.4 < leaning < 0.55


def test_the_ddpm_goes_to_diffusers_and_back(run, tmp_path, monkeypatch):
    """It draws there as here, and a guide for ink steers what comes back."""
    monkeypatch.setattr(stock_diffusers, "FOLDER", tmp_path / "digits")
    unguided, thin, bold = run(stock_diffusers, 8, steps=20)["stock"]
    assert "# An unconditional DDPM" in (tmp_path / "digits" / "README.md").read_text()
    method = inference.Unguided(load_models()[0])
    assert torch.equal(unguided, sample(method, None, range(8), "sde-dpmsolver++", 20))
    for images, wanted in ((thin, 0.07), (bold, 0.2)):
        assert (stock_diffusers.ink(images) - wanted).abs().mean() < 0.03
