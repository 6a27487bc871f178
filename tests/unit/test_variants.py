"""Each variant of the method does what its name says."""

from itertools import pairwise
from types import SimpleNamespace

import torch
from conftest import FakeUnet
from diffusers import DDPMScheduler

from diffusion import (
    END,
    SCHEDULE,
    abar,
    clipped_noise,
    predicted_x_0,
    sampler_step,
    sampling_timesteps,
)
from evaluation import difference, saturation
from evaluation.variants import VARIANTS
from guidance import guided_noise

IMAGE_SHAPE = (1, 28, 28)
Y = torch.arange(3)
UNET = FakeUnet(lambda x_t, t: 0.5 * x_t)  # a part of the predicted x_0 is clipped, a part is not


def log_p(x, t, y):
    """Not a distribution, but smooth, and it depends on all that it is given."""
    strength = (1 + t / 100) * (1 + y)  # (B,)
    return strength * (x.sin() + 0.3 * x.square()).sum(dim=(1, 2, 3))


def gradient(x, t):
    """The gradient of `log_p` at y = Y, by hand."""
    strength = (1 + t / 100) * (1 + Y)
    return strength.view(-1, 1, 1, 1) * (x.cos() + 0.6 * x)


def by_hand(x_t, t, guidance_scale):
    """The clipped eps of the U-Net, and the change that ADM (14) makes."""
    change = -guidance_scale * (1 - abar(t)).sqrt() * gradient(x_t, t)
    return clipped_noise(x_t, t, 0.5 * x_t), change


def test_a_variant_changes_the_one_thing_that_it_is_named_for():
    """The root, and the clipping, which comes after the guide instead of before it."""
    x_t, t = 3 * torch.randn(3, *IMAGE_SHAPE), torch.tensor(400)
    clipped, change = by_hand(x_t, t, 0.2)
    for name, expected in (
        ("without_root", clipped + change / (1 - abar(t)).sqrt()),
        ("clip_after_tilt", clipped_noise(x_t, t, 0.5 * x_t + change)),
    ):
        eps_hat = VARIANTS[name](UNET, log_p, x_t, t, Y, 0.2)
        torch.testing.assert_close(eps_hat, expected, atol=1e-4, rtol=1e-4)
    assert (clipped - 0.5 * x_t).abs().max() > 0.1


def test_algorithm_1_of_adm_is_equation_14_at_a_smaller_scale(monkeypatch):
    """Literally: a step of diffusers that clips x_0, then its mean + s Sigma_t grad, ADM (10).

    This shifts the x_0 in the mean, DDPM (7), by s (1 - abar_u) / sqrt(abar_u) grad.
    """
    theirs = DDPMScheduler(**SCHEDULE, variance_type="fixed_small", clip_sample=True)
    theirs.set_timesteps(timesteps=sampling_timesteps(20))
    z = torch.randn(3, *IMAGE_SHAPE)
    monkeypatch.setattr("diffusers.schedulers.scheduling_ddpm.randn_tensor", lambda *_, **__: z)
    for t, u in pairwise(torch.tensor([*sampling_timesteps(20), END])):
        x_t = torch.randn(3, *IMAGE_SHAPE)
        a, b = abar(t), abar(u)
        s = 0.5 * (a / b).sqrt() * (1 - b) / (1 - a)
        eps_hat = guided_noise(UNET, log_p, x_t, t, Y, s)
        ours = sampler_step("ddpm", x_t, predicted_x_0(x_t, t, eps_hat), t, u, None, z)
        step = theirs.step(0.5 * x_t, t, x_t).prev_sample
        shift = 0.5 * theirs._get_variance(t) * gradient(x_t, t)
        torch.testing.assert_close(ours, step + shift, atol=1e-4, rtol=1e-4)


def test_what_is_projected_has_no_part_along_the_image():
    """And is otherwise what the guide adds. Black, which is -1, counts as 0 in the image."""
    x_t, t = torch.randn(3, *IMAGE_SHAPE), torch.tensor(600)
    clipped, change = by_hand(x_t, t, 2.0)
    image = (predicted_x_0(x_t, t, clipped) + 1).flatten(1)
    kept = (VARIANTS["projected"](UNET, log_p, x_t, t, Y, 2.0) - clipped).flatten(1)
    lost = change.flatten(1) - kept
    cosine = torch.nn.functional.cosine_similarity
    assert cosine(kept, image).abs().max() < 1e-4
    assert cosine(lost, image).abs().min() > 0.999 and lost.norm(dim=1).min() > 0.1


def test_the_gradient_at_the_predicted_x_0_goes_through_the_unet():
    """x_0 is k x_t, so the gradient is k times that at x_0 and t = 0; it is 0 where x_0 clips."""
    t = torch.tensor(400)
    k = (1 - 0.5 * (1 - abar(t)).sqrt()) / abar(t).sqrt()
    x_0 = torch.randn(3, *IMAGE_SHAPE).clamp(-1.5, 1.5)
    x_t = x_0 / k
    grad = k * (x_0.abs() < 1) * gradient(x_0, torch.tensor(0))
    eps_hat = VARIANTS["at_predicted_x_0"](UNET, log_p, x_t, t, Y, 2.0)
    expected = clipped_noise(x_t, t, 0.5 * x_t) - 2 * (1 - abar(t)).sqrt() * grad
    torch.testing.assert_close(eps_hat, expected, atol=1e-3, rtol=1e-3)


def test_classifier_free_noise_is_equation_6_of_the_paper():
    """(1 + w) eps(y) - w eps(no label), then clipped, at s = 1 + w; each with its own t and y."""
    x_t, t = torch.randn(3, *IMAGE_SHAPE), torch.tensor([20, 400, 990])

    def unet(x_t, t, y):
        t, y = t.view(-1, 1, 1, 1), y.view(-1, 1, 1, 1)
        return SimpleNamespace(sample=0.8 * x_t.sin() + t / 5_000 + y / 50)

    unet.config = SimpleNamespace(num_class_embeds=11)
    eps, free = (unet(x_t, t, label).sample for label in (Y, torch.tensor(10)))
    for w in (-1, 2.5):
        eps_hat = VARIANTS["classifier_free"](unet, None, x_t, t, Y, 1 + w)
        torch.testing.assert_close(eps_hat, clipped_noise(x_t, t, (1 + w) * eps - w * free))


def test_the_guide_and_the_unet_are_exchanged_for_those_of_the_rival(monkeypatch):
    """The term: what the label changes in the rival's noise. The U-Net: the rival's, unlabelled."""

    def rival(x_t, t, y):
        return SimpleNamespace(sample=0.1 * x_t * y.view(-1, 1, 1, 1))

    rival.config = SimpleNamespace(num_class_embeds=11)
    monkeypatch.setattr(difference, "load_rival", lambda folder, device: rival)
    x_t = torch.randn(3, *IMAGE_SHAPE)
    for t in torch.tensor([400, 500]):
        own, change = by_hand(x_t, t, 2.0)
        by_rival = own + 0.2 * x_t * (Y - 10).view(-1, 1, 1, 1)
        early, late = (by_rival, own + change) if t == 500 else (own + change, by_rival)
        for variant, expected in (
            (difference.difference, by_rival),
            (difference.on_rival, clipped_noise(x_t, t, x_t) + change),  # 0.1 times label 10
            (difference.difference_early, early),
            (difference.difference_late, late),
        ):
            eps_hat = variant(UNET, log_p, x_t, t, Y, 2.0)
            torch.testing.assert_close(eps_hat, expected, atol=1e-4, rtol=1e-4)


def test_two_guides_are_compared_in_log_p_length_and_direction():
    """One is three times the other: its gradient is three times as long, in the same direction."""
    x_t, t, y = torch.randn(150, *IMAGE_SHAPE), 400, torch.arange(150) % 3
    found = saturation.compare((log_p, lambda *inputs: 3 * log_p(*inputs)), x_t, t, y)
    expected = log_p(x_t, torch.full((150,), t), y)
    torch.testing.assert_close(found["ours"], expected)
    torch.testing.assert_close(found["exact"], 3 * expected)
    torch.testing.assert_close(found["ratio"], torch.full((150,), 3.0))
    torch.testing.assert_close(found["cosine"], torch.ones(150))
