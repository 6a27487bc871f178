"""The four samplers, at every step, against their formulas in examples/samplers.py."""

from functools import partial
from itertools import product

import pytest
import torch
from diffusers import DDPMScheduler

from diffusion import SCHEDULE, sampling_times
from examples.samplers import written_out
from inference import SAMPLERS, make_scheduler, reverse

ORDER_AND_ETA = {
    "ddpm": (1, 1),
    "ddim": (1, 0),
    "sde-dpmsolver++": (2, 1),
    "dpmsolver++": (2, 0),
}
STEPS = (1, 2, 3, 10, 20, 333, [999, 998, 700, 650, 100, 3], [950, 20])
CONFIGS = {  # of the trained scheduler; they must not change how the noise is used
    "learned variance": {"variance_type": "learned_range"},
    "leading": {"timestep_spacing": "leading", "steps_offset": 1},
    "sigmoid": {"beta_schedule": "sigmoid"},  # only DDPMScheduler has it
    "v": {"prediction_type": "v_prediction"},
    "thresholding": {"thresholding": True},
    "no clipping": {"clip_sample": False},
    "400 timesteps": {"num_train_timesteps": 400},
}


def runs(sampler, trained, steps, shape):
    """The steps of a diffusers scheduler and of its written-out form: same noise, in float64.

    The predicted noise is exact for pixels from N(0, 0.1), plus a nonlinear term.
    """
    order, eta = ORDER_AND_ETA[sampler]
    table = trained.alphas_cumprod.double()
    dtype = torch.float64 if sampler == "ddpm" else torch.float32  # in which diffusers draws noise

    def predict(x_t, t, y):
        variance = 0.1 * table[t] + 1 - table[t]
        return (1 - table[t]).sqrt() * x_t / variance + 0.01 * (3 * x_t).sin()

    def noise(shape, rngs):
        return torch.cat([torch.randn(1, *shape[1:], generator=r, dtype=dtype) for r in rngs])

    times = sampling_times(len(table), steps) if isinstance(steps, int) else steps
    for loop in (reverse, partial(written_out, order=order, eta=eta, noise=noise)):
        scheduler = make_scheduler(sampler, trained, times)
        scheduler.alphas_cumprod = table
        if sampler != "ddpm":
            abars = table[times]
            scheduler.sigmas = torch.cat([((1 - abars) / abars).sqrt(), torch.zeros(1)])
        rngs = [torch.Generator().manual_seed(seed) for seed in (0, 1)]
        yield times, list(loop(predict, scheduler, noise((2, *shape), rngs).double(), None, rngs))


def check(sampler, trained, steps, shape=(1, 4, 4)):
    (times, theirs), (_, ours) = runs(sampler, trained, steps, shape)
    assert [t for t, _, _ in theirs] == [t for t, _, _ in ours] == times
    for (_, *left), (_, *right) in zip(theirs, ours, strict=True):
        torch.testing.assert_close(left, right, atol=1e-5, rtol=0)


@pytest.mark.parametrize("sampler, steps", product(SAMPLERS, STEPS), ids=str)
def test_every_step_of_diffusers_matches_the_formulas(sampler, steps):
    """333 steps, and lists of timesteps, are not evenly spaced."""
    check(sampler, DDPMScheduler(**SCHEDULE), steps)


@pytest.mark.parametrize("sampler, config", product(SAMPLERS, CONFIGS))
def test_third_party_configs_do_not_change_the_steps(sampler, config):
    """Nor do settings of another scheduler that `from_config` keeps in the config."""
    trained = DDPMScheduler(**SCHEDULE | CONFIGS[config])
    other = {"algorithm_type": "sde-dpmsolver++", "solver_order": 3, "use_karras_sigmas": True}
    trained = DDPMScheduler.from_config({**trained.config, **other})
    check(sampler, trained, 7, shape=(4, 4, 4))
    made = make_scheduler(sampler, trained, [100])
    assert torch.equal(made.alphas_cumprod, trained.alphas_cumprod)


@pytest.mark.parametrize("T, steps", [(1000, n) for n in (1, 7, 20, 50, 600, 1000)] + [(400, 50)])
def test_the_timesteps_match_diffusers_trailing_spacing(T, steps):
    scheduler = DDPMScheduler(**SCHEDULE | {"num_train_timesteps": T})
    scheduler.set_timesteps(steps)
    assert sampling_times(T, steps) == scheduler.timesteps.tolist()
