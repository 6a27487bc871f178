"""The method: noising, the guided noise, and samples whose exact answer is known."""

import copy
from types import SimpleNamespace

import mixture
import pytest
import torch
from diffusers import DDPMScheduler

from diffusion import ALPHAS_CUMPROD, IMAGE_SHAPE, SCHEDULE, abar, add_noise
from diffusion import initial_noise, predicted_x_0
from evaluation.variants import without_root
from inference import guide_gradient, guided_noise, sample, scale_at
from support.cli import UserError
from support.streams import generator, image_generators


class FakeUnet:
    """A U-Net whose eps is a given function of x_t and t."""

    device = torch.device("cpu")

    def __init__(self, eps):
        self.eps = eps

    def __call__(self, x_t, t):
        return SimpleNamespace(sample=self.eps(x_t, t))


# --- noising ---


def test_noising_is_ddpm_equation_4():
    """abar_t is the product of all 1 - beta up to t; here in float64."""
    x_0, eps = torch.randn(2, 4, *IMAGE_SHAPE)
    t = torch.tensor([0, 1, 400, 999])
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    abar_t = (1 - betas).cumprod(dim=0)[t].view(4, 1, 1, 1)
    expected = abar_t.sqrt() * x_0 + (1 - abar_t).sqrt() * eps
    torch.testing.assert_close(add_noise(x_0, eps, t), expected.float(), atol=1e-5, rtol=0)


# --- the guided noise ---


def test_the_gradient_of_the_shipped_classifier_equals_finite_differences(classifier):
    classifier = copy.deepcopy(classifier).double()
    classifier.time_proj.register_forward_hook(lambda module, t, embedding: embedding.double())
    x_t, direction = torch.randn(2, 3, *IMAGE_SHAPE, dtype=torch.float64)
    t, y, h = torch.tensor([5, 300, 900]), torch.tensor([7, 0, 3]), 1e-5
    grad = guide_gradient(classifier.log_p, x_t, t, y)
    up, down = (classifier.log_p(x_t + d * direction, t, y) for d in (h, -h))
    along = (grad * direction).sum(dim=(1, 2, 3))
    torch.testing.assert_close(along, (up - down) / (2 * h), rtol=1e-5, atol=1e-8)
    assert not x_t.requires_grad and along.abs().min() > 1e-3


@pytest.mark.parametrize("t", [torch.tensor(300), torch.tensor([20, 300])], ids=["one t", "two"])
@pytest.mark.parametrize("clip", [True, False])
def test_the_noise_is_clipped_and_then_guided_by_adm_equation_14(clip, t):
    """x_t is an image of 3s without noise. It is clipped to 1s, and then moved by all of (14)."""
    y, direction = torch.tensor([2, 9]), torch.randn(10, *IMAGE_SHAPE)
    x_t = 3 * abar(t).sqrt() * torch.ones(2, *IMAGE_SHAPE)
    unet = FakeUnet(lambda x_t, t: torch.zeros_like(x_t))

    def linear_log_p(x_t, t, y):
        assert t.shape == y.shape == (2,)
        return (x_t * direction[y]).sum(dim=(1, 2, 3))

    eps = (x_t - abar(t).sqrt()) / (1 - abar(t)).sqrt() if clip else torch.zeros_like(x_t)
    expected = eps - 5 * (1 - abar(t)).sqrt() * direction[y]
    eps_hat = guided_noise(unet, linear_log_p, x_t, t, y, 5, clip=clip)
    torch.testing.assert_close(eps_hat, expected, atol=1e-4, rtol=1e-4)
    for log_p, s in ((None, 5), (linear_log_p, 0)):  # unguided
        unguided = guided_noise(unet, log_p, x_t, t, y, s, clip=clip)
        torch.testing.assert_close(unguided, eps, atol=1e-4, rtol=1e-4)


WRONG_GUIDES = {  # what is wrong -> the guide, and what the message says
    "a number per class": (lambda x_t, t, y: x_t.flatten(1)[:, :10], r"\(2, 10\).* is \(2,\)"),
    "one number for all": (lambda x_t, t, y: x_t.sum(), r"returned \(\)"),
    "not a tensor": (lambda x_t, t, y: None, "returned NoneType"),
    "detached": (lambda x_t, t, y: x_t.detach().sum(dim=(1, 2, 3)), "not differentiable in x_t"),
    "of t alone": (
        lambda x_t, t, y: torch.ones(2, requires_grad=True) * t,
        "does not depend on x_t",
    ),
    "not a number": (lambda x_t, t, y: x_t.sum(dim=(1, 2, 3)) * torch.nan, "not finite"),
}


@pytest.mark.parametrize("fault", WRONG_GUIDES)
def test_a_wrong_guide_is_an_error_that_says_so(fault):
    log_p, message = WRONG_GUIDES[fault]
    with pytest.raises(UserError, match=message):
        sample(FakeUnet(lambda x_t, t: x_t), log_p, torch.tensor([3, 1]), steps=2)


def test_the_scale_grows_with_the_signal_to_noise_ratio_at_each_step():
    asked, timesteps = [], [999, 749, 499, 249]

    def spy(unet, log_p, x_t, t, y, guidance_scale):
        asked.append((int(t), guidance_scale))
        return x_t

    for w, g, settings in (
        (1, 24, {}),
        (2, 8, {"guidance_scale": 2, "scale_growth": 8}),
        (1, 0, {"scale_growth": 0}),  # ADM's
    ):
        sample(FakeUnet(None), None, torch.tensor([3]), steps=4, predict_noise=spy, **settings)
        snr = [a.item() / (1 - a.item()) for a in ALPHAS_CUMPROD[timesteps]]
        assert asked == [(t, pytest.approx(w * (1 + g * r))) for t, r in zip(timesteps, snr)]
        asked.clear()


# --- ten Gaussian classes, where everything is known exactly ---


def test_guidance_at_scale_1_draws_the_class_exactly_and_without_the_root_it_does_not():
    """Without noise of its own, a sampler keeps each pixel's place in its class, in deviations."""
    y, a = torch.arange(10), ALPHAS_CUMPROD[999]
    x_T, mu = initial_noise(image_generators(0, y)), mixture.MEANS.view(10, *IMAGE_SHAPE)
    place = (x_T - a.sqrt() * mu) / mixture.variance(torch.tensor(999)).sqrt()
    exact = mu + mixture.SIGMA * place
    settings, errors = {"scale_growth": 0, "sampler": "dpmsolver++", "steps": 300}, []
    for variant in (guided_noise, without_root):
        unet = FakeUnet(mixture.eps)
        images = sample(unet, mixture.log_p, y, predict_noise=variant, **settings)
        errors.append((images - exact).abs().max().item())
    assert errors[0] < 0.005 and errors[1] > 0.1


# --- sample ---


def test_the_noise_of_an_image_depends_on_seed_digit_and_number_alone():
    """Whatever is drawn beside it, in batches of any size; each batch needs a new scheduler."""
    unet, first = FakeUnet(lambda x_t, t: 0.9 * x_t), []

    def draw(*digits, **settings):
        settings = {"steps": 4, "seed": 5, **settings}
        return sample(unet, None, torch.tensor(digits), **settings)

    together = draw(3, 1, 3, 3, 7, watch=lambda t, x_t, _: first.append(x_t))
    keys = ((3, 0), (1, 0), (3, 1), (3, 2), (7, 0))
    assert torch.equal(first[0], initial_noise([generator(5, "samples", *key) for key in keys]))
    for batch_size in (1, 2):
        torch.testing.assert_close(draw(3, 1, 3, 3, 7, batch_size=batch_size), together)
    torch.testing.assert_close(draw(7, 3, 3), together[[4, 0, 2]])
    others = torch.cat([together, draw(3, seed=6)]).flatten(1)
    assert torch.cdist(others, others).fill_diagonal_(9).min() > 1  # no two are equal


def test_watch_sees_x_t_and_the_eps_hat_that_makes_the_next_one(unet, classifier):
    """DDIM by hand: the predicted x_0 with the same noise at the next t; x_0 itself at the end."""
    y, seen = torch.tensor([3, 8]), []
    settings = {"sampler": "ddim", "steps": 5, "watch": lambda *step: seen.append(step)}
    images = sample(unet, classifier.log_p, y, **settings)
    assert [int(t) for t, _, _ in seen] == [999, 799, 599, 399, 199]
    assert torch.equal(seen[0][1], initial_noise(image_generators(0, y)))
    for t, x_t, eps_hat in seen:
        expected = guided_noise(unet, classifier.log_p, x_t, t, y, scale_at(t, 1.0))
        torch.testing.assert_close(eps_hat, expected)
    for (t, x_t, eps_hat), (next_t, next_x_t, _) in zip(seen, seen[1:]):
        x_0 = (x_t - (1 - abar(t)).sqrt() * eps_hat) / abar(t).sqrt()
        expected = add_noise(x_0, eps_hat, next_t)
        torch.testing.assert_close(next_x_t, expected, atol=1e-4, rtol=1e-4)
    t, x_t, eps_hat = seen[-1]
    torch.testing.assert_close(images, predicted_x_0(x_t, t, eps_hat), atol=1e-4, rtol=0)


def test_unguided_ddpm_sampling_is_that_of_diffusers(unet):
    """There the scheduler clips the predicted x_0; here it is `guided_noise` that clips."""
    y = torch.tensor([3, 8])
    rngs, scheduler = image_generators(0, y), DDPMScheduler(**SCHEDULE, clip_sample=True)
    scheduler.set_timesteps(timesteps=list(range(999, 0, -100)))
    x_t = initial_noise(rngs)
    for t in scheduler.timesteps:
        eps = guided_noise(unet, None, x_t, t, y, 0, clip=False)
        x_t = scheduler.step(eps, t, x_t, generator=rngs).prev_sample
    images = sample(unet, None, y, sampler="ddpm", steps=10)
    torch.testing.assert_close(images, x_t.clamp(-1, 1), atol=1e-4, rtol=0)


def test_samples_that_are_not_finite_are_an_error():
    unet = FakeUnet(lambda x_t, t: x_t * torch.nan)
    with pytest.raises(UserError, match="samples are not finite"):
        sample(unet, None, torch.tensor([3]), steps=2)
