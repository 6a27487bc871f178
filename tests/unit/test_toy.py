"""Two classes of images, +M and -M with noise: the guide's effect has a known sign and size."""

from types import SimpleNamespace

import pytest
import torch

from diffusion import IMAGE_SHAPE, abar
from inference import guided_noise, sample

M, SIGMA = 0.03, 0.1  # per pixel; over 784 pixels the classes are far apart
SIGNS = torch.tensor([-1.0, 1.0])


def log_odds(x_t, t):
    """log p(1 | x_t) - log p(0 | x_t): (B,)."""
    v = abar(t) * SIGMA**2 + 1 - abar(t)
    return (2 * abar(t).sqrt() * M * x_t / v).sum(dim=(1, 2, 3))


def log_p(x_t, t, y):
    return torch.nn.functional.logsigmoid(SIGNS[y] * log_odds(x_t, t))


class Unet:
    """The exact eps of the mixture."""

    device = torch.device("cpu")

    def __call__(self, x_t, t):
        t = t.expand(len(x_t))
        v = abar(t) * SIGMA**2 + 1 - abar(t)
        mean = abar(t).sqrt() * M * torch.tanh(log_odds(x_t, t) / 2).view(-1, 1, 1, 1)
        return SimpleNamespace(sample=(1 - abar(t)).sqrt() * (x_t - mean) / v)


@pytest.mark.parametrize("t", [20, 300, 700, 999])
@pytest.mark.parametrize("scale", [1, 3])
def test_the_guide_moves_eps_by_a_known_amount(t, scale):
    """-s sqrt(1 - abar_t) * sign * 2 sqrt(abar_t) M / v * (1 - p): toward the class."""
    x_t, t, y = torch.randn(6, *IMAGE_SHAPE), torch.tensor(t), torch.tensor([0, 1] * 3)
    v = abar(t) * SIGMA**2 + 1 - abar(t)
    p = log_p(x_t, t.expand(6), y).exp().view(-1, 1, 1, 1)
    grad = SIGNS[y].view(-1, 1, 1, 1) * 2 * abar(t).sqrt() * M / v * (1 - p)
    change = guided_noise(Unet(), log_p, x_t, t, y, scale, clip=False) - Unet()(x_t, t).sample
    expected = (-scale * (1 - abar(t)).sqrt() * grad).expand_as(change)
    torch.testing.assert_close(change, expected, atol=1e-5, rtol=1e-3)


def classes(**settings):
    """The share of class 1 among samples asked to be 1, and to be 0."""
    y = torch.tensor([1] * 40 + [0] * 40)
    settings = {"sampler": "ddim", "steps": 20, "scale_growth": 0.0, **settings}
    images = sample(Unet(), log_p, y, **settings)
    return [(part.mean(dim=(1, 2, 3)) > 0).float().mean().item() for part in images.split(40)]


def test_guidance_draws_the_class_that_was_asked_for():
    ones, zeros = classes(guidance_scale=0)
    assert 0.2 < ones < 0.8 and 0.2 < zeros < 0.8
    ones, zeros = classes(guidance_scale=1.0)
    assert ones > 0.9 and zeros < 0.1
    ones, zeros = classes(guidance_scale=3.0)
    assert ones == 1 and zeros == 0


def test_the_growth_of_the_scale_reaches_the_samples():
    y, settings = torch.tensor([1, 0]), {"guidance_scale": 2.0, "sampler": "ddim", "steps": 10}
    growths = ({"scale_growth": 0.0}, {"scale_growth": 24.0}, {})
    constant, grown, default = (sample(Unet(), log_p, y, **settings, **g) for g in growths)
    assert torch.equal(grown, default)
    assert (constant - grown).abs().max() > 1e-4  # both are deterministic
