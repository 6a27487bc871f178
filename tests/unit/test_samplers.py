"""Every sampler, and ADM Algorithm 1, against a Gaussian case whose exact answer is known.

Each pixel of x_0 is N(0, SIGMA^2), and y is x_0 with noise N(0, TAU^2): all scores are linear, and
x_0 given y is Gaussian.
"""

from types import SimpleNamespace

import pytest
import torch

from diffusion import ALPHAS_CUMPROD, SAMPLERS, abar, initial_noise, make_sampler
from evaluation.variants import variants
from inference import guided_noise, reverse_process
from support.streams import image_generators

SIGMA, TAU, Y = 0.2, 0.25, 0.3
POSTERIOR_VARIANCE = 1 / (1 / SIGMA**2 + 1 / TAU**2)
POSTERIOR_MEAN = POSTERIOR_VARIANCE * Y / TAU**2  # .117; the standard deviation is .156
LABELS = torch.zeros(16, dtype=torch.long)


def moments(t):
    """x_0 given x_t is N(gain * x_t, variance)."""
    v = abar(t) * SIGMA**2 + 1 - abar(t)
    return abar(t).sqrt() * SIGMA**2 / v, SIGMA**2 * (1 - abar(t)) / v, v


def unet(x_t, t):
    gain, _, v = moments(t)
    return SimpleNamespace(sample=(1 - abar(t)).sqrt() * x_t / v)


def log_p(x_t, t, y):
    """log N(y; E[x_0 | x_t], TAU^2 + Var[x_0 | x_t]), summed over the pixels."""
    gain, variance, _ = moments(t)
    return -((Y - gain * x_t).square() / (2 * (TAU**2 + variance))).sum(dim=(1, 2, 3))


def draw(sampler, num_steps, form=guided_noise, scale=1.0):
    """x_T and x_0."""
    generators = list(image_generators(0, LABELS))
    x_T, scheduler = initial_noise(generators), make_sampler(sampler, num_steps)

    def predict_noise(x_t, t):
        return form(unet, log_p, x_t, t, LABELS, scale)

    return x_T, reverse_process(predict_noise, scheduler, x_T, generators)


def exact_flow(x_T):
    """x_0 of the deterministic samplers in the limit of many steps."""
    a = ALPHAS_CUMPROD[999]
    spread = (a * POSTERIOR_VARIANCE + 1 - a).sqrt()
    return POSTERIOR_MEAN + POSTERIOR_VARIANCE**0.5 * (x_T - a.sqrt() * POSTERIOR_MEAN) / spread


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_draws_the_posterior(sampler):
    _, x_0 = draw(sampler, 1000)
    assert x_0.mean().item() == pytest.approx(POSTERIOR_MEAN, abs=0.003)
    assert x_0.std().item() == pytest.approx(POSTERIOR_VARIANCE**0.5, abs=0.004)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_at_scale_0_every_sampler_draws_the_data(sampler):
    _, x_0 = draw(sampler, 1000, scale=0)
    assert x_0.mean().item() == pytest.approx(0, abs=0.003)
    assert x_0.std().item() == pytest.approx(SIGMA, abs=0.004)


def test_algorithm_1_draws_the_posterior_too():
    """At 1,000 steps; it lags by one timestep, which shows in the mean."""
    _, x_0 = draw("ddpm", 1000, variants(1000)["ADM Algorithm 1"])
    assert x_0.mean().item() == pytest.approx(POSTERIOR_MEAN, abs=0.006)
    assert x_0.std().item() == pytest.approx(POSTERIOR_VARIANCE**0.5, abs=0.004)


VARIANTS = {  # name -> mean of x_0 at 500 DDIM steps
    "no clipping": POSTERIOR_MEAN,  # nothing lies outside of [-1, 1]
    "clip after the tilt": POSTERIOR_MEAN,
    "without sqrt(1 - abar_t)": 0.29,  # nearly Y: far too strong
    "guide t < 500 only": 0.11,  # nearly all of the effect comes late
    "guide t >= 500 only": 0.005,
}


@pytest.mark.parametrize("name", VARIANTS)
def test_each_variant_moves_the_mean_as_its_name_says(name):
    _, x_0 = draw("ddim", 500, variants(500)[name])
    assert x_0.mean().item() == pytest.approx(VARIANTS[name], abs=0.004)


def test_the_deterministic_samplers_are_of_first_and_second_order():
    """Half the step size: half the distance from the exact flow for DDIM, a quarter for order 2."""
    errors = {}
    for sampler in ("ddim", "dpmsolver++"):
        for num_steps in (80, 160):
            x_T, x_0 = draw(sampler, num_steps)
            errors[sampler, num_steps] = (x_0 - exact_flow(x_T)).abs().mean().item()
    assert 0.45 < errors["ddim", 160] / errors["ddim", 80] < 0.6
    assert 0.15 < errors["dpmsolver++", 160] / errors["dpmsolver++", 80] < 0.3
    assert errors["dpmsolver++", 80] < 0.5 * errors["ddim", 80] < 0.01


def test_stochastic_samplers_add_noise_of_their_own():
    """The deterministic sampler keeps the noise of x_T; the others replace it."""
    kept = {}
    for sampler in SAMPLERS:
        x_T, x_0 = draw(sampler, 50)
        kept[sampler] = torch.corrcoef(torch.stack([x_T.flatten(), x_0.flatten()]))[0, 1].item()
    assert min(kept["ddim"], kept["dpmsolver++"]) > 0.99
    assert max(kept["ddpm"], kept["sde-dpmsolver++"]) < 0.1
