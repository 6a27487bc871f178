"""The four samplers, at every step, against schedulers of diffusers, in float64."""

import pytest
import torch
from diffusers import DDPMScheduler, DPMSolverMultistepScheduler

import diffusion
import guidance
from diffusion import ALPHAS_CUMPROD, END, SAMPLERS, SCHEDULE, abar, predicted_x_0
from diffusion import sampling_timesteps

MULTISTEP = {  # -> its algorithm and order in diffusers
    "ddim": ("dpmsolver++", 1),  # of first order, it is DDIM for any list of timesteps
    "dpmsolver++": ("dpmsolver++", 2),
    "sde-dpmsolver++": ("sde-dpmsolver++", 2),
}


def make_theirs(sampler, steps, alphas_cumprod):
    """A scheduler of diffusers, all that matters set explicitly, whose tables are in float64."""
    if sampler == "ddpm":
        scheduler = DDPMScheduler(**SCHEDULE, variance_type="fixed_small", clip_sample=False)
    else:
        algorithm, order = MULTISTEP[sampler]
        settings = {"algorithm_type": algorithm, "solver_order": order, "solver_type": "midpoint"}
        settings |= {"final_sigmas_type": "zero", "lower_order_final": True}
        scheduler = DPMSolverMultistepScheduler(**SCHEDULE, **settings)
    scheduler.set_timesteps(timesteps=sampling_timesteps(steps))
    scheduler.alphas_cumprod = alphas_cumprod[:-1]
    abars = alphas_cumprod[scheduler.timesteps]
    scheduler.sigmas = torch.cat([((1 - abars) / abars).sqrt(), torch.zeros(1)])
    return scheduler


@pytest.mark.parametrize("steps", [1, 2, 3, 10, 20, 600])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_step_is_that_of_diffusers(sampler, steps, monkeypatch):
    """Both get the same noise. 1000 timesteps are no multiple of 600 steps."""
    exact = ALPHAS_CUMPROD.double()
    monkeypatch.setattr(diffusion, "ALPHAS_CUMPROD", exact)
    noise = list(torch.randn(steps + 1, 2, 1, 4, 4, dtype=torch.float64))
    ours, theirs = iter(noise), iter(noise)
    monkeypatch.setattr(guidance, "gaussian_noise", lambda shape, rngs: next(ours))
    scheduler = make_theirs(sampler, steps, exact)
    module = type(scheduler).__module__
    monkeypatch.setattr(f"{module}.randn_tensor", lambda *args, **settings: next(theirs))

    def eps_of(x_t, t):
        """That of pixels N(0, 0.1), and something that is not linear."""
        variance = 0.1 * abar(t) + 1 - abar(t)
        return (1 - abar(t)).sqrt() * x_t / variance + 0.01 * (3 * x_t).sin()

    seen = []

    def watch(t, x_t, x_0):
        seen.append((x_t, x_0))

    times = [*sampling_timesteps(steps), END]
    images = guidance.reverse_process(eps_of, next(ours), None, sampler, times, watch)
    x_t = next(theirs)
    for t, (our_x_t, our_x_0) in zip(scheduler.timesteps, seen, strict=True):
        torch.testing.assert_close(our_x_t, x_t, atol=4e-6, rtol=0)
        torch.testing.assert_close(our_x_0, predicted_x_0(our_x_t, t, eps_of(our_x_t, t)))
        x_t = scheduler.step(eps_of(x_t, t), t, x_t).prev_sample
    torch.testing.assert_close(images, x_t, atol=4e-6, rtol=0)
