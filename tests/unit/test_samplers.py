"""Every sampler, against a Gaussian case whose exact answer is known.

Each pixel of x_0 is N(0, SIGMA^2), and y is x_0 with noise N(0, TAU^2). So x_0 given y is Gaussian,
and eps and log p(y | x_t) are known at every t. Both change with t: a sampler that takes a wrong
step, or calls the networks at a wrong t, draws another spread.
"""

from types import SimpleNamespace

import pytest
import torch

from diffusion import ALPHAS_CUMPROD, SAMPLERS, abar
from inference import sample

SIGMA, TAU, Y = 0.2, 0.25, 0.3
POSTERIOR_VARIANCE = 1 / (1 / SIGMA**2 + 1 / TAU**2)
POSTERIOR_MEAN = POSTERIOR_VARIANCE * Y / TAU**2  # .117; the standard deviation is .156


class ExactUnet:
    device = torch.device("cpu")

    def __call__(self, x_t, t):
        v = abar(t) * SIGMA**2 + 1 - abar(t)  # the variance of x_t
        return SimpleNamespace(sample=(1 - abar(t)).sqrt() * x_t / v)


def log_p(x_t, t, y):
    """log N(y; E[x_0 | x_t], TAU^2 + Var[x_0 | x_t]), summed over the pixels."""
    v = abar(t) * SIGMA**2 + 1 - abar(t)
    mean, variance = abar(t).sqrt() * SIGMA**2 / v * x_t, SIGMA**2 * (1 - abar(t)) / v
    return -((Y - mean).square() / (2 * (TAU**2 + variance))).sum(dim=(1, 2, 3))


def draw(sampler, steps, scale=1.0):
    """x_T and x_0 of 16 images."""
    seen, y = [], torch.zeros(16, dtype=torch.long)
    settings = {"guidance_scale": scale, "scale_growth": 0, "sampler": sampler, "steps": steps}
    x_0 = sample(ExactUnet(), log_p, y, watch=lambda t, x_t, eps: seen.append(x_t), **settings)
    return seen[0], x_0


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_draws_the_posterior_and_unguided_the_data(sampler):
    """600 does not divide 1000: steps of 1000 // 600 instead would leave a spread of .38."""
    for scale, mean, variance in ((1, POSTERIOR_MEAN, POSTERIOR_VARIANCE), (0, 0, SIGMA**2)):
        _, x_0 = draw(sampler, 600, scale)
        assert x_0.mean().item() == pytest.approx(mean, abs=0.004)
        assert x_0.std().item() == pytest.approx(variance**0.5, abs=0.008)


def test_ddim_is_of_first_order_and_dpmsolver_of_second():
    """Half the step size: half the distance from the exact flow, or a quarter."""
    a = ALPHAS_CUMPROD[999]
    spread = (a * POSTERIOR_VARIANCE + 1 - a).sqrt()  # of x_T
    errors = {}
    for sampler in ("ddim", "dpmsolver++"):
        for steps in (80, 160):
            x_T, x_0 = draw(sampler, steps)
            place = (x_T - a.sqrt() * POSTERIOR_MEAN) / spread
            flow = POSTERIOR_MEAN + POSTERIOR_VARIANCE**0.5 * place
            errors[sampler, steps] = (x_0 - flow).abs().mean().item()
    assert 0.45 < errors["ddim", 160] / errors["ddim", 80] < 0.6
    assert 0.15 < errors["dpmsolver++", 160] / errors["dpmsolver++", 80] < 0.3
    assert errors["dpmsolver++", 80] < 0.5 * errors["ddim", 80] < 0.01
