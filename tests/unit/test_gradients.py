"""Gradients: ADM's Algorithm 1 compared with equation (14), and the ablations of the report."""

from itertools import pairwise

import torch
from conftest import ABAR, IMAGE_SHAPE, abar, fake_ddpm
from diffusers import DDPMScheduler

from diffusion import END, SCHEDULE, predicted_x_0, sampling_times
from evaluation.classifier_free import classifier_free, implied_gradient
from evaluation.report import with_norm_of
from examples.samplers import step
from inference import gradient, guided

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
        eps_hat = guided(DDPM, gradient(log_p), s)(x_t, t, Y)
        ours = step(x_t, predicted_x_0(x_t, eps_hat, a), a, b, z, eta=1)
        x_u = theirs.step(0.5 * x_t, t, x_t).prev_sample
        shift = 0.5 * theirs._get_variance(t) * grad_by_hand(x_t, t)
        torch.testing.assert_close(ours, x_u + shift, atol=1e-4, rtol=1e-4)


def test_the_gradient_at_the_predicted_x_0_goes_through_the_unet():
    """x_0 is k x_t, so the gradient is k times that at x_0, or 0 where x_0 is clipped."""
    t = 400
    k = (1 - 0.5 * (1 - abar(t)).sqrt()) / abar(t).sqrt()
    x_0 = torch.randn(3, *IMAGE_SHAPE).clamp(-1.5, 1.5)

    def of_x_0(x_t, t, y):
        return log_p(DDPM.x_0(x_t, t), torch.zeros_like(t), y)

    expected = k * (x_0.abs() < 1) * grad_by_hand(x_0, 0)
    found = gradient(of_x_0)(x_0 / k, t, Y)
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)


def test_the_norm_of_a_gradient_is_replaced_per_image_or_on_average():
    x_t, t, ours = torch.randn(3, *IMAGE_SHAPE), 600, gradient(log_p)
    x_t[2] = 0.1  # its gradient has another norm
    grad, factor = grad_by_hand(x_t, t), torch.tensor([5.0, 0.0, 5.0]).view(3, 1, 1, 1)

    def other(x, t, y):
        return -factor * grad

    found = with_norm_of(ours, other)(x_t, t, Y)
    torch.testing.assert_close(found, factor * grad, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(with_norm_of(other, ours)(x_t, t, Y), -grad * (factor > 0))
    norms = grad.flatten(1).norm(dim=1)
    mean_factor = 5 * norms[[0, 2]].sum() / norms.sum()
    found = with_norm_of(ours, other, per_image=False)(x_t, t, Y)
    torch.testing.assert_close(found, mean_factor * grad, atol=1e-3, rtol=1e-3)


def test_a_classifier_free_network_with_its_implied_gradient_is_conditional():
    """Unguided eps plus the implied gradient is the conditional eps."""
    ddpm = fake_ddpm(
        lambda x_t, t, y: 0.1 * (1 + y.view(-1, 1, 1, 1)) * x_t,
        num_class_embeds=4,
        clip_sample=False,
    )
    x_t, unguided = torch.randn(3, *IMAGE_SHAPE), classifier_free(ddpm, 0)
    torch.testing.assert_close(unguided(x_t, 600, Y), 0.4 * x_t)  # the last label means "none"
    shift = (1 - abar(600)).sqrt() * implied_gradient(ddpm)(x_t, 600, Y)
    found = unguided(x_t, 600, Y) - shift
    torch.testing.assert_close(found, classifier_free(ddpm, 1)(x_t, 600, Y))
