"""The four samplers, at every step, against schedulers of diffusers, in float64."""

from types import SimpleNamespace

import pytest
import torch
from diffusers import DDPMScheduler, DPMSolverMultistepScheduler

import diffusion
import inference
from diffusion import ALPHAS_CUMPROD, SAMPLERS, SCHEDULE, abar, sampling_timesteps
from inference import sample

SOLVER = {"solver_type": "midpoint", "final_sigmas_type": "zero", "lower_order_final": True}
THEIRS = {  # each of our samplers as a scheduler of diffusers, all that matters set explicitly
    "ddpm": (DDPMScheduler, {"variance_type": "fixed_small", "clip_sample": False}),
    "ddim": (
        DPMSolverMultistepScheduler,  # of first order, it is DDIM for any list of timesteps
        {"algorithm_type": "dpmsolver++", "solver_order": 1, **SOLVER},
    ),
    "dpmsolver++": (
        DPMSolverMultistepScheduler,
        {"algorithm_type": "dpmsolver++", "solver_order": 2, **SOLVER},
    ),
    "sde-dpmsolver++": (
        DPMSolverMultistepScheduler,
        {"algorithm_type": "sde-dpmsolver++", "solver_order": 2, **SOLVER},
    ),
}


def make_theirs(sampler, steps, alphas_cumprod):
    """A scheduler of diffusers whose tables are in float64."""
    kind, settings = THEIRS[sampler]
    scheduler = kind(**SCHEDULE, **settings)
    scheduler.set_timesteps(timesteps=sampling_timesteps(steps))
    scheduler.alphas_cumprod = alphas_cumprod
    abars = alphas_cumprod[scheduler.timesteps]
    scheduler.sigmas = torch.cat([((1 - abars) / abars).sqrt(), torch.zeros(1)])
    return scheduler


@pytest.mark.parametrize("steps", [1, 2, 3, 10, 20, 600])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_step_is_that_of_diffusers(sampler, steps, monkeypatch):
    """Also the first and the last; 600 does not divide 1000. Both get the same noise."""
    exact = ALPHAS_CUMPROD.double()
    monkeypatch.setattr(diffusion, "ALPHAS_CUMPROD", exact)
    noise = list(torch.randn(steps + 1, 2, 1, 4, 4, dtype=torch.float64))
    ours, theirs = iter(noise), iter(noise)
    monkeypatch.setattr(inference, "gaussian_noise", lambda shape, rngs: next(ours))
    scheduler = make_theirs(sampler, steps, exact)
    module = type(scheduler).__module__
    monkeypatch.setattr(f"{module}.randn_tensor", lambda *args, **settings: next(theirs))

    def eps(unet, log_p, x_t, t, y, s, u):
        """That of pixels N(0, 0.1), and something that is not linear."""
        variance = 0.1 * abar(t) + 1 - abar(t)
        return (1 - abar(t)).sqrt() * x_t / variance + 0.01 * (3 * x_t).sin()

    unet = SimpleNamespace(
        device=torch.device("cpu"), config=SimpleNamespace(in_channels=1, sample_size=4)
    )
    seen = []
    settings = {"sampler": sampler, "steps": steps, "predict_noise": eps}
    images = sample(
        unet, None, None, [0, 1], watch=lambda t, x_t, x_0: seen.append(x_t), **settings
    )
    x_t = next(theirs)
    for t, found in zip(scheduler.timesteps, seen, strict=True):
        torch.testing.assert_close(found, x_t, atol=4e-6, rtol=0)
        eps_hat = eps(None, None, x_t, t, None, 0, None)
        x_t = scheduler.step(eps_hat, t, x_t).prev_sample
    torch.testing.assert_close(images, x_t.clamp(-1, 1), atol=4e-6, rtol=0)
    assert images.std() > 0.1 or steps < 10
