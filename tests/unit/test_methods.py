"""The ablations, and ADM's Algorithm 1 compared with equation (14)."""

from itertools import pairwise

import pytest
import torch
from conftest import ABAR, IMAGE_SHAPE, abar, fake_ddpm
from diffusers import DDPMScheduler

from diffusion import END, SCHEDULE, clipped_noise, ddpm_step, predicted_x_0, sampling_times
from evaluation.gradient_norms import compare, fitted_growth
from evaluation.methods import AtPredictedX0, Exact, ExactDenoiser, Hybrid
from inference import Guided
from support.cli import UserError

Y = torch.arange(3)
DDPM = fake_ddpm(lambda x_t, t: 0.5 * x_t)  # some of the predicted x_0 is clipped, some is not


def log_p(x, t, y):
    """A smooth guide that depends on all of its arguments."""
    strength = (1 + t / 100) * (1 + y)  # (B,)
    return strength * (x.sin() + 0.3 * x.square()).sum(dim=(1, 2, 3))


def grad_by_hand(x, t):
    """The gradient of `log_p` at y = Y."""
    strength = (1 + t / 100) * (1 + Y)
    return strength.view(-1, 1, 1, 1) * (x.cos() + 0.6 * x)


def test_algorithm_1_of_adm_is_equation_14_at_a_smaller_scale(monkeypatch):
    """A diffusers step clips x_0, and s Sigma_t grad is added to its mean: ADM (10).

    This shifts the x_0 in the mean, DDPM (7), by s (1 - abar_u) / sqrt(abar_u) grad.
    """
    theirs = DDPMScheduler(**SCHEDULE, variance_type="fixed_small", clip_sample=True)
    times = sampling_times(1000, 20)
    theirs.set_timesteps(timesteps=times)
    z = torch.randn(3, *IMAGE_SHAPE)
    monkeypatch.setattr("diffusers.schedulers.scheduling_ddpm.randn_tensor", lambda *_, **__: z)
    for t, u in pairwise([*times, END]):
        x_t = torch.randn(3, *IMAGE_SHAPE)
        a, b = ABAR[t], ABAR[u]
        s = 0.5 * (a / b).sqrt() * (1 - b) / (1 - a)
        eps_hat = Guided(DDPM, log_p, s)(x_t, t, Y)
        ours = ddpm_step(x_t, predicted_x_0(x_t, eps_hat, a), a, b, lambda: z)
        step = theirs.step(0.5 * x_t, t, x_t).prev_sample
        shift = 0.5 * theirs._get_variance(t) * grad_by_hand(x_t, t)
        torch.testing.assert_close(ours, step + shift, atol=1e-4, rtol=1e-4)


def test_the_gradient_at_the_predicted_x_0_goes_through_the_unet():
    """x_0 is k x_t, so the gradient is k times that at x_0 and t = 0, or 0 where x_0 is clipped."""
    t = 400
    k = (1 - 0.5 * (1 - abar(t)).sqrt()) / abar(t).sqrt()
    x_0 = torch.randn(3, *IMAGE_SHAPE).clamp(-1.5, 1.5)
    x_t = x_0 / k
    grad = k * (x_0.abs() < 1) * grad_by_hand(x_0, 0)
    eps_hat = AtPredictedX0(DDPM, log_p, 2.0)(x_t, t, Y)
    expected = clipped_noise(x_t, 0.5 * x_t, abar(t)) - 2 * (1 - abar(t)).sqrt() * grad
    torch.testing.assert_close(eps_hat, expected, atol=1e-3, rtol=1e-3)


def test_a_hybrid_combines_the_direction_and_norm_of_two_guides_per_image():
    """Here, the other gradient points the other way and is five times as long, or 0."""
    x_t, t = torch.randn(3, *IMAGE_SHAPE), 600
    x_t[2] = 0.1  # its gradient has another norm

    def other(x, t, y):
        return torch.tensor([-5, 0, -5]) * log_p(x, t, y)

    eps, push = clipped_noise(x_t, 0.5 * x_t, abar(t)), (1 - abar(t)).sqrt() * grad_by_hand(x_t, t)
    factor = torch.tensor([5.0, 0.0, 5.0]).view(3, 1, 1, 1)
    for method, expected in (
        (Hybrid(DDPM, log_p, other, 2.0), eps - 2 * factor * push),
        (Hybrid(DDPM, other, log_p, 2.0), eps + 2 * (factor > 0) * push),
    ):
        torch.testing.assert_close(method(x_t, t, Y), expected, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("t", [100, 500, 900])
def test_the_exact_networks_follow_bayes_rule_over_the_training_images(t):
    """In float64, with the densities of DDPM (4) written out."""
    images, labels = torch.randn(30, *IMAGE_SHAPE), torch.arange(30) % 3
    y, x_t, times = torch.tensor([0, 1, 2, 2]), torch.randn(4, *IMAGE_SHAPE), torch.full((4,), t)
    a = abar(t).double()
    error = x_t[:, None].double() - a.sqrt() * images.double()
    p = (-error.square().sum(dim=(2, 3, 4)) / (2 * (1 - a))).softmax(dim=1)  # of each x_0
    log_p_y = torch.stack([p[k, labels == y[k]].sum() for k in range(4)]).log().float()
    mean = (p @ images.flatten(1).double()).view_as(x_t).float()
    exact = Exact(images, labels, DDPMScheduler(**SCHEDULE))
    possible = log_p_y > -80  # elsewhere float32 rounds log p(x_t | x_0) too coarsely
    found = exact.log_p(x_t, times, y)
    torch.testing.assert_close(found[possible], log_p_y[possible], atol=1e-2, rtol=1e-3)
    torch.testing.assert_close(exact.denoised(x_t, times), mean, atol=1e-3, rtol=0)
    eps = (x_t - abar(t).sqrt() * mean) / (1 - abar(t)).sqrt()
    found = ExactDenoiser(DDPM, log_p, 1, exact).eps(x_t, t)
    torch.testing.assert_close(found, eps, atol=1e-3, rtol=1e-3)


def test_two_guides_are_compared_in_log_p_norm_and_direction():
    """One is three times the other, and so is the norm of its gradient."""
    x_t, t = torch.randn(3, *IMAGE_SHAPE), 400
    found = compare(log_p, lambda *inputs: 3 * log_p(*inputs), x_t, t, Y)
    expected = log_p(x_t, torch.full((3,), t), Y)
    torch.testing.assert_close(found["log_p_ours"], expected)
    torch.testing.assert_close(found["log_p_exact"], 3 * expected)
    torch.testing.assert_close(found["ratio"], torch.full((3,), 3.0))
    torch.testing.assert_close(found["cosine"], torch.ones(3))


def test_the_growth_is_recovered_from_the_ratios():
    snrs = [0.01, 0.1, 1.0, 10.0]
    assert fitted_growth(snrs, [1 + 6 * x for x in snrs]) == pytest.approx(6, abs=0.1)
    with pytest.raises(UserError, match="cannot fit"):
        fitted_growth(snrs, [0.0, 1, 2, 3])
