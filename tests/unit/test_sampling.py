"""Sampling: every step against its formulas, `sample`, `trajectory`, and your own loop."""

import warnings
from functools import partial

import pytest
import torch
from conftest import fake_ddpm
from diffusers import DDPMScheduler
from torch.testing import assert_close

from diffusion import SCHEDULE, sampling_times
from examples.samplers import written_out
from inference import SAMPLERS, make_scheduler, reverse, sample, trajectory
from support.cli import UserError

ORDER_AND_ETA = {"ddpm": (1, 1), "ddim": (1, 0), "sde-dpmsolver++": (2, 1), "dpmsolver++": (2, 0)}
STEPS = (1, 2, 3, 10, 333, [999, 998, 700, 650, 100, 3])
THIRD_PARTY = {  # nothing but the noise schedule may change the steps
    "beta_schedule": "sigmoid",
    "num_train_timesteps": 400,
    "variance_type": "learned_range",
    "algorithm_type": "sde-dpmsolver++",  # `from_config` keeps settings of other schedulers
    "use_karras_sigmas": True,
}
CASES = [(steps, {}) for steps in STEPS]
CASES += [(7, THIRD_PARTY | {"prediction_type": kind}) for kind in ("v_prediction", "sample")]


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("steps, config", CASES, ids=str)
def test_every_step_of_diffusers_matches_the_formulas(sampler, steps, config):
    """In float64; the predicted noise is nearly that of N(0, 0.1)."""
    trained = DDPMScheduler.from_config(SCHEDULE | config)
    table, (order, eta) = trained.alphas_cumprod.double(), ORDER_AND_ETA[sampler]
    dtype = torch.float64 if sampler == "ddpm" else torch.float32  # in which diffusers draws noise

    def predict(x_t, t, y):
        variance = 0.1 * table[t] + 1 - table[t]
        return (1 - table[t]).sqrt() * x_t / variance + 0.01 * (3 * x_t).sin()

    def noise(shape, rngs):
        return torch.cat([torch.randn(1, *shape[1:], generator=r, dtype=dtype) for r in rngs])

    times, runs = sampling_times(len(table), steps) if isinstance(steps, int) else steps, []
    for loop in (reverse, partial(written_out, order=order, eta=eta, noise=noise)):
        scheduler = make_scheduler(sampler, trained, times)
        assert torch.equal(scheduler.alphas_cumprod, trained.alphas_cumprod)
        scheduler.alphas_cumprod = table
        if sampler != "ddpm":
            sigmas = ((1 - table[times]) / table[times]).sqrt()
            scheduler.sigmas = torch.cat([sigmas, torch.zeros(1)])
        rngs = [torch.Generator().manual_seed(seed) for seed in (0, 1)]
        runs.append(list(loop(predict, scheduler, noise((2, 4, 4, 4), rngs).double(), None, rngs)))
    assert [t for t, _, _ in runs[0]] == [t for t, _, _ in runs[1]] == times
    assert_close(runs[0], runs[1], atol=1e-5, rtol=0)


@pytest.mark.parametrize("T, steps", [(1000, n) for n in (1, 7, 50, 600, 1000)] + [(400, 50)])
def test_the_timesteps_match_diffusers_trailing_spacing(T, steps):
    scheduler = DDPMScheduler(**SCHEDULE | {"num_train_timesteps": T})
    scheduler.set_timesteps(steps)
    assert sampling_times(T, steps) == scheduler.timesteps.tolist()


def push(x_t, t, y):
    return 0.9 * x_t + 0.1 * (y[:, 0] - y[:, 1]).view(-1, 1, 1, 1)


@pytest.mark.parametrize("loop", [reverse, written_out])
def test_an_image_depends_only_on_its_own_seed_and_condition(loop):
    """Not on the batch size or the other images. The two loops draw the same noise."""
    ddpm = fake_ddpm(None, num_train_timesteps=4)
    y, seeds = torch.rand(5, 2), [7, 9, 8, 7, 0]
    together = sample(ddpm, y, seeds, push, steps=4)
    some = partial(sample, ddpm, predict=push, steps=4, loop=loop)
    assert_close(some(y, seeds, batch_size=2), together, atol=1e-5, rtol=0)
    assert_close(some(y[[4, 2]], [0, 8]), together[[4, 2]], atol=1e-5, rtol=0)
    pixels = torch.cat([together[:3], some(y[:1], [6])]).flatten(1)
    assert torch.cdist(pixels, pixels).fill_diagonal_(9).min() > 1  # other seeds, other images


def test_the_loop_can_be_your_own():
    """Its last x_0 is the sample; `sample` clips it."""
    ddpm = fake_ddpm(None, (3, 4, 8))

    def twice(predict, scheduler, x_t, y, rngs):
        assert len(rngs) == 1 and y.tolist() == [8] and not torch.is_grad_enabled()
        for t in scheduler.timesteps.tolist():
            yield t, x_t, predict(x_t, t, y) + predict(x_t, t, y)

    def predict(x_t, t, y):
        return torch.full_like(x_t, t / 100)

    seeds, settings = [2**32 - 1], {"steps": 2, "loop": twice}
    steps = list(trajectory(ddpm, [8], seeds, predict, **settings))
    noise = torch.randn(1, 3, 4, 8, generator=torch.Generator().manual_seed(seeds[0]))
    assert [t for t, _, _ in steps] == [999, 499] and torch.equal(steps[0][1], noise)
    assert_close(steps[-1][2], torch.full_like(noise, 9.98))
    assert torch.equal(sample(ddpm, [8], seeds, predict, **settings), torch.ones_like(noise))


@pytest.mark.parametrize("n, steps", [(2, 2), (4, 2), (3, 1001)])
def test_conditions_without_seeds_and_too_many_steps_are_refused(n, steps):
    with pytest.raises(UserError, match="3 seeds|1 to 1000"):
        sample(fake_ddpm(lambda x_t, t: x_t), range(n), range(3), steps=steps, batch_size=2)


@pytest.mark.parametrize(
    "x_t, x_0, said",
    [(0, torch.nan, "not finite"), (0, -99, "strong"), (99, 0, "strong"), (-99, 0, "strong")],
)
def test_pixels_that_are_not_finite_or_far_outside_are_reported(x_t, x_0, said):
    """In the last image, and at any step: clipped samples of noise look like noise."""

    def loop(predict, scheduler, noise, y, rngs):
        for t, *pair in (999, x_t, 0), (499, 0, x_0):
            images = noise.repeat(2, 1, 1, 1, 1)
            if len(noise) == 1:  # in the second batch
                images[:, 0, 0, 0, 0] = torch.tensor(pair)
            yield t, *images

    errors = UserError, UserWarning
    with warnings.catch_warnings(action="error"), pytest.raises(errors, match=said):
        sample(fake_ddpm(None), None, range(3), steps=2, loop=loop, batch_size=2)
