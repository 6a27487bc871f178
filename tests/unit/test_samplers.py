"""The four samplers against diffusers' schedulers, at every step, in float64."""

import pytest
import torch
from conftest import ABAR
from diffusers import DDPMScheduler, DPMSolverMultistepScheduler

from diffusion import END, SCHEDULE, predicted_x_0, sampling_times
from inference import SAMPLERS

MULTISTEP = {  # their algorithm and order in diffusers
    "ddim": ("dpmsolver++", 1),  # first order is DDIM, for any list of timesteps
    "dpmsolver++": ("dpmsolver++", 2),
    "sde-dpmsolver++": ("sde-dpmsolver++", 2),
}


def make_theirs(sampler, times, abar):
    """A diffusers scheduler in float64, with everything that matters set explicitly."""
    if sampler == "ddpm":
        scheduler = DDPMScheduler(**SCHEDULE, variance_type="fixed_small", clip_sample=False)
    else:
        algorithm, order = MULTISTEP[sampler]
        settings = {"algorithm_type": algorithm, "solver_order": order, "solver_type": "midpoint"}
        settings |= {"final_sigmas_type": "zero", "lower_order_final": True}
        scheduler = DPMSolverMultistepScheduler(**SCHEDULE, **settings)
    scheduler.set_timesteps(timesteps=times)
    scheduler.alphas_cumprod = abar[:-1]
    abars = abar[scheduler.timesteps]
    scheduler.sigmas = torch.cat([((1 - abars) / abars).sqrt(), torch.zeros(1)])
    return scheduler


@pytest.mark.parametrize("steps", [1, 2, 3, 10, 20, 600])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_step_matches_diffusers(sampler, steps, monkeypatch):
    """With the same noise. 1000 is not a multiple of 600."""
    abar, times = ABAR.double(), sampling_times(1000, steps)
    noise = list(torch.randn(steps + 1, 2, 1, 4, 4, dtype=torch.float64))
    our_noise, theirs = iter(noise), iter(noise)
    scheduler = make_theirs(sampler, times, abar)
    module = type(scheduler).__module__
    monkeypatch.setattr(f"{module}.randn_tensor", lambda *args, **settings: next(theirs))

    def eps_of(x_t, t):
        """The exact noise prediction for pixels from N(0, 0.1), plus a nonlinear term."""
        variance = 0.1 * abar[t] + 1 - abar[t]
        return (1 - abar[t]).sqrt() * x_t / variance + 0.01 * (3 * x_t).sin()

    run = SAMPLERS[sampler](eps_of, abar, next(our_noise), [*times, END], lambda: next(our_noise))
    x_t = our_x_t = next(theirs)
    nexts = [*times[1:], END]
    for t, u, ours in zip(scheduler.timesteps.tolist(), nexts, run, strict=True):
        reached, our_x_u, our_x_0 = ours
        expected = predicted_x_0(our_x_t, eps_of(our_x_t, t), abar[t])
        torch.testing.assert_close(our_x_0, expected)
        x_t = scheduler.step(eps_of(x_t, t), t, x_t).prev_sample
        torch.testing.assert_close(our_x_u, x_t, atol=4e-6, rtol=0)
        our_x_t = our_x_u
        assert reached == u


@pytest.mark.parametrize("T, steps", [(1000, n) for n in (1, 7, 20, 50, 600, 1000)] + [(400, 50)])
def test_the_timesteps_match_diffusers_trailing_spacing(T, steps):
    scheduler = DDPMScheduler(**SCHEDULE | {"num_train_timesteps": T})
    scheduler.set_timesteps(steps)
    assert sampling_times(T, steps) == scheduler.timesteps.tolist()
