"""Each method of a table does what its name says."""

from itertools import pairwise
from unittest.mock import Mock

import torch
from conftest import ABAR, IMAGE_SHAPE, abar, fake_ddpm
from diffusers import DDPMScheduler

from diffusion import END, SCHEDULE, clipped_noise, posterior, predicted_x_0, sampling_times
from evaluation import lengths
from evaluation.methods import METHODS
from inference import Guided

Y = torch.arange(3)
DDPM = fake_ddpm(lambda x_t, t: 0.5 * x_t)  # a part of the predicted x_0 is clipped, a part is not


def log_p(x, t, y):
    """Not a distribution, but smooth, and it depends on all that it is given."""
    strength = (1 + t / 100) * (1 + y)  # (B,)
    return strength * (x.sin() + 0.3 * x.square()).sum(dim=(1, 2, 3))


def grad_by_hand(x, t):
    """The gradient of `log_p` at y = Y."""
    strength = (1 + t / 100) * (1 + Y)
    return strength.view(-1, 1, 1, 1) * (x.cos() + 0.6 * x)


def clipped(x_t, eps, t):
    """The noise whose x_0 is that of eps, clipped to [-1, 1]."""
    return clipped_noise(x_t, eps, abar(t))


def by_hand(x_t, t, guidance_scale):
    """The clipped eps of the U-Net, and the change that ADM (14) makes."""
    change = -guidance_scale * (1 - abar(t)).sqrt() * grad_by_hand(x_t, t)
    return clipped(x_t, 0.5 * x_t, t), change


def test_a_control_changes_the_one_thing_that_it_is_named_for():
    """The root, and the clipping, which comes after the guide instead of before it."""
    x_t, t = 3 * torch.randn(3, *IMAGE_SHAPE), 400
    eps, change = by_hand(x_t, t, 0.2)
    for name, expected in (
        ("without_root", eps + change / (1 - abar(t)).sqrt()),
        ("clip_after_tilt", clipped(x_t, 0.5 * x_t + change, t)),
    ):
        eps_hat = METHODS[name](DDPM, log_p, 0.2)(x_t, t, Y)
        torch.testing.assert_close(eps_hat, expected, atol=1e-4, rtol=1e-4)
    assert (eps - 0.5 * x_t).abs().max() > 0.1


def test_algorithm_1_of_adm_is_equation_14_at_a_smaller_scale(monkeypatch):
    """Literally: a step of diffusers that clips x_0, then its mean + s Sigma_t grad, ADM (10).

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
        ours = posterior(x_t, predicted_x_0(x_t, eps_hat, a), a, b, lambda: z)
        step = theirs.step(0.5 * x_t, t, x_t).prev_sample
        shift = 0.5 * theirs._get_variance(t) * grad_by_hand(x_t, t)
        torch.testing.assert_close(ours, step + shift, atol=1e-4, rtol=1e-4)


def test_the_gradient_at_the_predicted_x_0_goes_through_the_unet():
    """x_0 is k x_t, so the gradient is k times that at x_0 and t = 0; it is 0 where x_0 clips."""
    t = 400
    k = (1 - 0.5 * (1 - abar(t)).sqrt()) / abar(t).sqrt()
    x_0 = torch.randn(3, *IMAGE_SHAPE).clamp(-1.5, 1.5)
    x_t = x_0 / k
    grad = k * (x_0.abs() < 1) * grad_by_hand(x_0, 0)
    eps_hat = METHODS["at_predicted_x_0"](DDPM, log_p, 2.0)(x_t, t, Y)
    expected = clipped(x_t, 0.5 * x_t, t) - 2 * (1 - abar(t)).sqrt() * grad
    torch.testing.assert_close(eps_hat, expected, atol=1e-3, rtol=1e-3)


def test_classifier_free_noise_is_equation_6_of_the_paper():
    """(1 + w) eps(y) - w eps(no label), then clipped, at s = 1 + w; also where s is a function."""

    def output(x_t, t, y):
        return 0.8 * x_t.sin() + t.view(-1, 1, 1, 1) / 5_000 + y.view(-1, 1, 1, 1) / 50

    rival = fake_ddpm(output, num_class_embeds=11)
    x_t = torch.randn(3, *IMAGE_SHAPE)
    for t in (20, 400, 990):
        times = torch.full((3,), t)
        eps, free = (output(x_t, times, label) for label in (Y, torch.full_like(Y, 10)))
        for w in (-1, 0, 2.5):
            expected = clipped(x_t, (1 + w) * eps - w * free, t)
            for scale in (1 + w, lambda t, w=w: 1 + w):
                eps_hat = METHODS["classifier_free"](rival, scale)(x_t, t, Y)
                torch.testing.assert_close(eps_hat, expected)


def test_the_guide_can_push_the_rivals_unet():
    """Which is called without a label."""
    rival = fake_ddpm(lambda x_t, t, y: 0.1 * x_t * y.view(-1, 1, 1, 1), num_class_embeds=11)
    x_t, t = torch.randn(3, *IMAGE_SHAPE), 400
    _, change = by_hand(x_t, t, 2.0)
    eps_hat = METHODS["on_rival"](rival, log_p, 2.0)(x_t, t, Y)
    torch.testing.assert_close(eps_hat, clipped(x_t, x_t, t) + change, atol=1e-4, rtol=1e-4)


def test_the_exact_networks_give_the_denoiser_the_length_or_the_direction():
    """These say: all images are 0.25; log p has five times our gradient, the other way."""
    x_t, t = torch.randn(3, *IMAGE_SHAPE), 600
    exact = Mock(denoised=lambda x_t, t: torch.full_like(x_t, 0.25))
    exact.log_p = lambda *inputs: -5 * log_p(*inputs)
    eps, change = by_hand(x_t, t, 2.0)
    denoised = (x_t - abar(t).sqrt() * 0.25) / (1 - abar(t)).sqrt()
    for name, expected in (
        ("exact_denoiser", denoised + change),
        ("exact_length", eps + 5 * change),
        ("exact_direction", eps - change),
    ):
        eps_hat = METHODS[name](DDPM, log_p, exact, 2.0)(x_t, t, Y)
        torch.testing.assert_close(eps_hat, expected, atol=1e-4, rtol=1e-4)


def test_two_guides_are_compared_in_log_p_length_and_direction():
    """One is three times the other: its gradient is three times as long, in the same direction."""
    x_t, t, y = torch.randn(150, *IMAGE_SHAPE), 400, torch.arange(150) % 3
    found = lengths.compare(log_p, lambda *inputs: 3 * log_p(*inputs), x_t, t, y)
    expected = log_p(x_t, torch.full((150,), t), y)
    torch.testing.assert_close(found["log_p_ours"], expected)
    torch.testing.assert_close(found["log_p_exact"], 3 * expected)
    torch.testing.assert_close(found["ratio"], torch.full((150,), 3.0))
    torch.testing.assert_close(found["cosine"], torch.ones(150))
