"""Samples from the shipped weights: scale 0 is diffusers' own sampler, and a sample is its own."""

import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler

from diffusion import SAMPLERS, SCHEDULE
from inference import sample
from support.pictures import to_uint8
from support.streams import image_generators

TWO_EACH = torch.arange(10).repeat_interleave(2)


def raising_log_p(x_t, t, y):
    raise AssertionError("the guide ran at scale 0")


@pytest.mark.parametrize("num_steps", [20, 50])
def test_scale_0_is_the_ddpm_pipeline(unet, num_steps):
    """Exactly diffusers' own unguided sampler, from the same generators; and no guide runs."""
    # for these N, diffusers' "trailing" list of timesteps is ours
    settings = {"variance_type": "fixed_small", "timestep_spacing": "trailing"}
    pipeline = DDPMPipeline(unet, DDPMScheduler(**SCHEDULE, **settings))
    pipeline.set_progress_bar_config(disable=True)
    y = torch.tensor([1, 1, 7, 7])
    call = {"num_inference_steps": num_steps, "output_type": "pt"}
    theirs = pipeline(4, list(image_generators(0, y)), **call).images
    settings = {"guidance_scale": 0, "sampler": "ddpm", "steps": num_steps}
    for log_p in (None, raising_log_p):
        ours = sample(unet, log_p, y, **settings)
        assert torch.equal(ours / 2 + 0.5, theirs)


def test_guidance_changes_the_samples(unet, classifier):
    plain, guided = (
        sample(unet, classifier.log_p, torch.tensor([1, 1]), guidance_scale=scale, steps=5)
        for scale in (0, 10)
    )
    assert (plain - guided).abs().max() > 0.1


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_sample_does_not_change_with_its_neighbours(unet, classifier, sampler):
    def draw(y, batch_size=20):
        settings = {"sampler": sampler, "steps": 20, "batch_size": batch_size}
        return to_uint8(sample(unet, classifier.log_p, y, **settings)).int()

    grid, small = draw(TWO_EACH), draw(TWO_EACH, batch_size=3)
    alone = draw(torch.tensor([3, 3]))
    assert (grid - small).abs().max() <= 1
    assert (grid[6:8] - alone).abs().max() <= 1
    mixed = draw(torch.arange(10).repeat(2))  # 0 .. 9, then 0 .. 9 again
    order = torch.arange(20).view(10, 2).T.flatten()
    assert torch.equal(mixed, grid[order])  # at one batch size, bit for bit
