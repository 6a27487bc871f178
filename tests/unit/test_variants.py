"""Each variant of the method does what its name says."""

from types import SimpleNamespace

import pytest
import torch
from diffusers import DDPMScheduler

from diffusion import IMAGE_SHAPE, SCHEDULE, abar, clipped_noise, make_sampler, predicted_x_0
from evaluation import exact_guide
from evaluation.variants import variants
from support.streams import image_generators

Y = torch.arange(3)


def unet(x_t, t):
    """eps = x_t / 2: a part of the predicted x_0 is clipped, and a part is not."""
    return SimpleNamespace(sample=0.5 * x_t)


unet.dataset = {"classes": list("0123456789")}


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
    expected = {
        "without_root": clipped + change / (1 - abar(t)).sqrt(),
        "clip_after_tilt": clipped_noise(x_t, t, 0.5 * x_t + change),
    }
    for name, eps_hat in expected.items():
        found = variants()[name](unet, log_p, x_t, t, Y, 0.2)
        torch.testing.assert_close(found, eps_hat, atol=1e-4, rtol=1e-4)
    assert (clipped - 0.5 * x_t).abs().max() > 0.1


@pytest.mark.parametrize("steps", [3, 20])
def test_algorithm_1_shifts_the_mean_of_a_ddpm_step(steps):
    """Literally: a step of diffusers that clips x_0, then its mean + s Sigma_t grad, ADM (10)."""
    algorithm_1, plain = variants(steps)["algorithm_1"], make_sampler("ddpm", steps)
    theirs = DDPMScheduler(**SCHEDULE, variance_type="fixed_small", clip_sample=True)
    theirs.set_timesteps(timesteps=plain.timesteps.tolist())
    for t in plain.timesteps:
        x_t = torch.randn(3, *IMAGE_SHAPE)
        eps_hat = algorithm_1(unet, log_p, x_t, t, Y, 0.5)
        ours = plain.step(eps_hat, t, x_t, generator=image_generators(1, Y)).prev_sample
        step = theirs.step(0.5 * x_t, t, x_t, generator=image_generators(1, Y)).prev_sample
        shift = 0.5 * theirs._get_variance(t) * gradient(x_t, t)
        torch.testing.assert_close(ours, step + shift, atol=1e-4, rtol=1e-4)


def test_what_is_projected_has_no_part_along_the_image():
    """And is otherwise what the guide adds. Black, which is -1, counts as 0 in the image."""
    x_t, t = torch.randn(3, *IMAGE_SHAPE), torch.tensor(600)
    clipped, change = by_hand(x_t, t, 2.0)
    image = (predicted_x_0(x_t, t, clipped) + 1).flatten(1)
    kept = (variants()["projected"](unet, log_p, x_t, t, Y, 2.0) - clipped).flatten(1)
    lost = change.flatten(1) - kept
    cosine = torch.nn.functional.cosine_similarity
    assert cosine(kept, image).abs().max() < 1e-4
    assert cosine(lost, image).abs().min() > 0.999 and lost.norm(dim=1).min() > 0.1


def test_wrong_digits_asks_for_each_digit_in_turn():
    """That of one image in ten happens to be right."""
    asked = []

    def spy(x_t, t, digits):
        asked.extend(digits.tolist())
        return log_p(x_t, t, digits)

    x_t, t, y = torch.randn(20, *IMAGE_SHAPE), torch.tensor(500), torch.full((20,), 7)
    variants()["wrong_digits"](unet, spy, x_t, t, y, 2.0)
    assert sorted(asked) == sorted([*range(10), *range(10)])


def test_the_gradient_at_the_predicted_x_0_goes_through_the_unet():
    """x_0 is k x_t, so the gradient is k times that at x_0 and t = 0; it is 0 where x_0 clips."""
    t = torch.tensor(400)
    k = (1 - 0.5 * (1 - abar(t)).sqrt()) / abar(t).sqrt()
    x_0 = torch.randn(3, *IMAGE_SHAPE).clamp(-1.5, 1.5)
    x_t = x_0 / k
    grad = k * (x_0.abs() < 1) * gradient(x_0, torch.tensor(0))
    eps_hat = variants()["at_predicted_x_0"](unet, log_p, x_t, t, Y, 2.0)
    expected = clipped_noise(x_t, t, 0.5 * x_t) - 2 * (1 - abar(t)).sqrt() * grad
    torch.testing.assert_close(eps_hat, expected, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("t, inside", [(249, False), (250, True), (749, True), (750, False)])
def test_a_window_guides_inside_and_only_clips_outside(t, inside):
    x_t, t = 3 * torch.randn(3, *IMAGE_SHAPE), torch.tensor(t)
    clipped, change = by_hand(x_t, t, 0.2)
    eps_hat = variants()["only_250<=t<750"](unet, log_p, x_t, t, Y, 0.2)
    torch.testing.assert_close(eps_hat, clipped + inside * change, atol=1e-4, rtol=1e-4)


def test_mixed_gradients_take_length_and_direction_from_different_guides(monkeypatch):
    monkeypatch.setattr(exact_guide, "log_p", lambda x, t, y: x.pow(3).sum(dim=(1, 2, 3)))
    x_t, t = torch.randn(3, *IMAGE_SHAPE), torch.tensor(400)
    clipped, by_log_p = by_hand(x_t, t, 2.0)
    by_exact = -2 * (1 - abar(t)).sqrt() * 3 * x_t.square()
    found = {}
    for name in ("exact_guide", "exact_length", "exact_direction"):
        found[name] = variants()[name](unet, log_p, x_t, t, Y, 2.0) - clipped
    torch.testing.assert_close(found["exact_guide"], by_exact, atol=1e-4, rtol=1e-4)
    ratio = by_exact.flatten(1).norm(dim=1) / by_log_p.flatten(1).norm(dim=1)
    ratio = ratio.view(-1, 1, 1, 1)
    torch.testing.assert_close(found["exact_length"], by_log_p * ratio, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found["exact_direction"], by_exact / ratio, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("t, ratio", [(999, 1), (949, 0.89), (349, 4.31), (250, 4.31), (49, 54.36)])
def test_the_median_length_multiplies_the_scale(t, ratio):
    x_t, t = torch.randn(3, *IMAGE_SHAPE), torch.tensor(t)
    clipped, change = by_hand(x_t, t, 0.2)
    eps_hat = variants()["median_length"](unet, log_p, x_t, t, Y, 0.2)
    torch.testing.assert_close(eps_hat - clipped, ratio * change, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("t", [torch.tensor(400), torch.tensor([20, 400, 990])])
def test_classifier_free_noise_is_equation_6_of_the_paper(t):
    """(1 + w) eps(y) - w eps(no label), then clipped; each image with its own t and y."""
    x_t, y = torch.randn(3, *IMAGE_SHAPE), torch.tensor([7, 0, 3])

    def labelled_unet(x_t, t, y):
        t, y = t.view(-1, 1, 1, 1), y.view(-1, 1, 1, 1)
        return SimpleNamespace(sample=0.8 * x_t.sin() + t / 5_000 + y / 50)

    labelled_unet.config = SimpleNamespace(num_class_embeds=11)
    for w in (0, 2.5):
        eps_hat = variants()["classifier_free"](labelled_unet, None, x_t, t, y, w)
        eps, free = (labelled_unet(x_t, t, label).sample for label in (y, torch.tensor(10)))
        torch.testing.assert_close(eps_hat, clipped_noise(x_t, t, (1 + w) * eps - w * free))
