"""The examples draw what they say, with few images and few steps, into a folder of their own."""

import pytest
import torch
from diffusers import DDPMPipeline, UNet2DModel

import inference
from diffusion import abar
from examples import ambigram, inpainting, not_a_digit, shared, stock_diffusers, two_digits
from examples.shared import read


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run an example for n images in few steps: name -> its rows of images."""
    (tmp_path / "results").mkdir()
    monkeypatch.setattr(shared, "ROOT", tmp_path)

    def main(example, n, steps=4):
        drawn = {}

        def save_rows(name, rows, *columns):
            drawn[name] = rows
            shared.save_rows(name, rows, *columns)
            assert (tmp_path / "results" / f"{name}.png").exists()

        def sample(*args, **settings):
            return inference.sample(*args, **settings | {"steps": steps})

        monkeypatch.setattr(example, "N", n)
        monkeypatch.setattr(example, "sample", sample)
        monkeypatch.setattr(example, "save_rows", save_rows)
        example.main([])
        return drawn

    return main


def test_each_example_draws_what_it_says(run):
    six, turned = run(ambigram, 1)["ambigram"].values()
    assert torch.equal(turned, six.rot90(2, (2, 3)))
    assert (read(turned) == 9).all()
    rows = [read(images) for images in run(two_digits, 8)["two_digits"].values()]
    assert (rows[0] == 3).sum() >= 6 and (rows[4] == 8).sum() >= 6 and len(rows) == 5
    unguided, guided = run(not_a_digit, 30)["not_a_1"].values()
    assert (read(unguided) == 1).any() and (read(guided) == 1).sum() <= 1
    digit, seen, *completed = run(inpainting, 4, steps=20)["inpainting"].values()
    for images in completed:  # what is seen is kept, up to a little blur, and the rest is drawn
        error = (images - digit).abs().mean(dim=(0, 1, 3))  # of each line
        assert error[:14].mean() < 0.1 and images[:, :, 14:].max() > 0.5


def test_stock_diffusers_draws_as_we_do(unet, classifier, tmp_path, monkeypatch):
    """The exported U-Net gives v; from the same noise its guided samples are those of `sample`."""
    stock_diffusers.export(unet, tmp_path)
    pipe = DDPMPipeline.from_pretrained(tmp_path)
    x_t, t = torch.randn(3, 1, 28, 28), torch.tensor([0, 400, 999])
    with torch.no_grad():
        v, eps = pipe.unet(x_t, t).sample, unet(x_t, t).sample
    assert type(pipe.unet) is UNet2DModel
    by_v = (1 - abar(t)).sqrt() * x_t + abar(t).sqrt() * v
    torch.testing.assert_close(by_v, eps, atol=1e-5, rtol=0)

    def noise(rngs):
        return torch.randn(len(rngs), 1, 28, 28, generator=torch.manual_seed(0))

    y = torch.arange(20) % 10
    images = stock_diffusers.guide(pipe, classifier, y)
    monkeypatch.setattr(inference, "initial_noise", noise)
    ours = inference.sample(unet, classifier.log_p, y, sampler="dpmsolver++")
    torch.testing.assert_close(images.clamp(-1, 1), ours, atol=1e-3, rtol=0)
