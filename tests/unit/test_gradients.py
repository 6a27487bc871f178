"""Gradients: ADM's Algorithm 1 compared with equation (14), and the ablations of the report."""

import math
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from conftest import ABAR, IMAGE_SHAPE, abar, fake_ddpm
from diffusers import DDPMScheduler

from diffusion import END, SCHEDULE, exact_x_0, x_0_from_eps, sampling_times, snr
from evaluation import nudges
from evaluation.nudges import compare, fitted_b, measured_nudges, pooled_scale, target, target_loss
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
        ours = step(x_t, x_0_from_eps(x_t, eps_hat, a), a, b, z, eta=1)
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


def test_the_target_is_the_difference_of_two_averages_over_the_images():
    """Of one image with label 0 and two with label 1, weighted by their probability given x_t."""
    images, labels = torch.tensor([-1.0, 0.0, 1.0]).view(3, 1, 1, 1), torch.tensor([0, 1, 1])
    x_t, y = torch.tensor([0.3, 0.3]).view(2, 1, 1, 1), torch.tensor([1, 0])
    ddpm = SimpleNamespace(abar=torch.tensor([0.25]))
    p = [math.exp(-((0.3 - 0.5 * x_0) ** 2) / 1.5) for x_0 in (-1, 0, 1)]
    mean = (p[2] - p[0]) / sum(p)
    torch.testing.assert_close(exact_x_0(x_t, ddpm.abar[0], images).flatten(), mean * torch.ones(2))
    expected = torch.tensor([p[2] / (p[1] + p[2]) - mean, -1 - mean])
    found = target(ddpm, x_t, 0, y, images, labels)
    torch.testing.assert_close(found.flatten(), expected)
    losses = -math.log((p[1] + p[2]) / sum(p)), -math.log(p[0] / sum(p))
    found = target_loss(ddpm, x_t, 0, y, images, labels)
    assert found == pytest.approx(sum(losses) / 2)


def test_a_scale_is_measured_from_norms_and_cosines():
    """The nudge is half as long as the target, with a cosine of 0.6."""
    exact = torch.randn(100, *IMAGE_SHAPE)
    other = torch.randn_like(exact).flatten(1)
    e = exact.flatten(1)
    other -= (other * e).sum(dim=1, keepdim=True) / e.square().sum(dim=1, keepdim=True) * e
    other *= e.norm(dim=1, keepdim=True) / other.norm(dim=1, keepdim=True)
    row = compare((0.5 * (0.6 * e + 0.8 * other)).view_as(exact), exact)
    assert row["r"] == pytest.approx(2) and row["cosine"] == pytest.approx(0.6)
    assert row["component"] == pytest.approx(2 / 0.6)
    assert row["nudge_low"] < row["nudge"] < row["nudge_high"]


def test_the_pooled_scale_finds_the_factor_behind_two_noisy_targets():
    """n = (true target) / 3 plus noise, and each half sees the true target with its own noise.

    The interval matches the spread over fresh images.
    """
    rows = []
    for _ in range(200):
        true, *noise = torch.randn(4, 100, 1, 8, 8)
        rows.append(pooled_scale(true / 3 + noise[0] / 3, true + noise[1], true + noise[2]))
    S = torch.tensor([row["S"] for row in rows])
    width = sum(row["S_high"] - row["S_low"] for row in rows) / len(rows)
    assert S.mean() == pytest.approx(3, rel=0.02)
    assert width == pytest.approx(2 * 1.96 * S.std().item(), rel=0.25)


def test_the_fit_of_b_uses_the_first_three_quarters_of_t():
    ddpm = fake_ddpm(lambda x_t, t: x_t)
    rows = {t: {"S": 1 + 7 * snr(abar(t))} for t in range(249, 1000, 50)} | {199: {"S": 1e3}}
    rows[299]["S"] *= 1.01
    assert fitted_b(ddpm, rows, "S") == pytest.approx(7, rel=0.02)
    assert fitted_b(ddpm, rows, "S", [249, 349]) == pytest.approx(7, rel=1e-4)


def test_nudges_are_measured_toward_wrong_labels_with_disjoint_images(few_images, monkeypatch):
    """The two targets of S share no training image; the losses are of the true labels."""
    seen = []

    def spy(ddpm, x_t, t, y, images, labels):
        seen.append((y, images.flatten(1)))
        return torch.ones_like(x_t)

    monkeypatch.setattr(nudges, "target", spy)
    true, train = few_images.splits["validation"][1][:40], few_images.splits["train"][0]

    def log_p(x_t, t, y):
        assert torch.equal(y, true)
        return -2.0 * torch.ones(40)

    ones = torch.ones_like
    found = dict(measured_nudges(DDPM, lambda x_t, t, y: ones(x_t), log_p, few_images, n=40))
    assert list(found) == [999 - 50 * k for k in range(17)]
    assert all(row["loss"] == 2 < row["loss_of_target"] + 3 for row in found.values())
    wrong, (everything, *parts) = seen[0][0], [images for _, images in seen[:5]]
    assert (wrong != true).all() and len(((wrong - true) % 10).unique()) > 5
    assert len(everything) == len(train)
    for a, b in (parts[:2], parts[2:]):
        both = torch.cat([a, b])
        assert len(both.unique(dim=0)) == len(both)
    assert [len(part) for part in parts] == [250, 250, 125, 125]
    list(measured_nudges(DDPM, lambda x_t, t, y: ones(x_t), log_p, few_images, n=40, right=True))
    assert torch.equal(seen[-1][0], true)
