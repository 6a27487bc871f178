"""The method: noising, the guided noise, and samples whose exact answer is known."""

import re

import pytest
import torch
from conftest import FakeUnet

from classifier import Classifier
from diffusion import abar, add_noise
from guidance import growing_scale, guide_gradient, guided_noise, sample
from inference import load_models
from support.errors import UserError
from support.streams import gaussian_noise, image_seeds

IMAGE_SHAPE = (1, 28, 28)


def x_T_of(seeds):
    """The noise that `sample` starts from."""
    return gaussian_noise(IMAGE_SHAPE, [torch.Generator().manual_seed(seed) for seed in seeds])


def test_noising_is_ddpm_equation_4():
    """abar_t is the product of all 1 - beta up to t; here in float64."""
    x_0, eps = torch.randn(2, 4, *IMAGE_SHAPE)
    t = torch.tensor([0, 1, 400, 999])
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    abar_t = (1 - betas).cumprod(dim=0)[t].view(4, 1, 1, 1)
    expected = abar_t.sqrt() * x_0 + (1 - abar_t).sqrt() * eps
    torch.testing.assert_close(add_noise(x_0, eps, t), expected.float(), atol=1e-5, rtol=0)


# --- the guided noise ---


def test_log_p_is_the_log_softmax_of_the_logits():
    classifier = Classifier()
    x_t, t, y = torch.randn(3, 1, 28, 28), torch.tensor([5, 300, 900]), torch.tensor([7, 0, 3])
    p = classifier(x_t, t).softmax(dim=1)
    torch.testing.assert_close(classifier.log_p(x_t, t, y), p[range(3), y].log())


def test_the_gradient_of_the_shipped_classifier_equals_finite_differences():
    classifier = load_models()[1].double()
    classifier.time_proj.register_forward_hook(lambda module, t, embedding: embedding.double())
    x_t, direction = torch.randn(2, 3, *IMAGE_SHAPE, dtype=torch.float64)
    t, y, h = torch.tensor([5, 300, 900]), torch.tensor([7, 0, 3]), 1e-5
    along = (guide_gradient(classifier.log_p, x_t, t, y) * direction).sum(dim=(1, 2, 3))
    up, down = (classifier.log_p(x_t + d * direction, t, y) for d in (h, -h))
    torch.testing.assert_close(along, (up - down) / (2 * h), rtol=1e-5, atol=1e-8)
    assert not x_t.requires_grad and along.abs().min() > 1e-3


def test_the_noise_is_clipped_and_then_guided_by_adm_equation_14():
    """x_t is an image of 3s without noise. It is clipped to 1s, and then moved by all of (14)."""
    t, y, direction = torch.tensor([20, 300]), torch.tensor([2, 9]), torch.randn(10, *IMAGE_SHAPE)
    x_t = 3 * abar(t).sqrt() * torch.ones(2, *IMAGE_SHAPE)
    unet = FakeUnet(lambda x_t, t: 0 * x_t)

    def linear_log_p(x_t, t, y):
        return (x_t * direction[y]).sum(dim=(1, 2, 3))

    eps = (x_t - abar(t).sqrt()) / (1 - abar(t)).sqrt()
    guided = eps - 5 * (1 - abar(t)).sqrt() * direction[y]
    each = torch.tensor([5.0, 0.0]).view(2, 1, 1, 1)
    both = torch.stack([guided[0], eps[1]])
    for s, expected in ((5, guided), (0, eps), (each, both)):
        eps_hat = guided_noise(unet, linear_log_p, x_t, t, y, s)
        torch.testing.assert_close(eps_hat, expected, atol=1e-4, rtol=1e-4)


# --- sample ---

WRONG_ARGUMENTS = {  # what is said -> what is wrong
    "sampler 'dpm' is not one of ddpm, ddim": {"sampler": "dpm"},
    "steps is 0": {"steps": 0},
    "there are no seeds": {"y": [], "seeds": []},
    "a guide needs y": {"y": None},
    "y is for 2 images, but there are 3 seeds": {"seeds": range(3)},
    "y has values from 3 to 11; classes are 0 .. 9": {"y": [3, 11]},
    "returned (2, 10)": {"log_p": lambda x_t, t, y: x_t.flatten(1)[:, :10]},
    "the guide has no gradient in x_t": {"log_p": lambda x_t, t, y: t / 1000},
    "guide is not finite": {"log_p": lambda x_t, t, y: x_t.sum(dim=(1, 2, 3)) * torch.nan},
    "samples are not finite": {"unet": FakeUnet(lambda x_t, t: x_t * torch.nan), "log_p": None},
}


@pytest.mark.parametrize("said", WRONG_ARGUMENTS)
def test_a_wrong_argument_is_an_error_that_says_so(said):
    settings = {"unet": FakeUnet(lambda x_t, t: x_t), "log_p": Classifier().log_p, "y": [3, 1]}
    settings |= {"seeds": [0, 1], "steps": 2, **WRONG_ARGUMENTS[said]}
    with pytest.raises(UserError, match=re.escape(said)):
        sample(**settings)


def test_a_guide_that_diverges_is_named():
    """Symmetry, too strong: without the warning, black and white noise would come out."""

    def symmetry(x_t, t, y):
        return -(x_t - x_t.flip(3)).square().sum(dim=(1, 2, 3)) / 2

    with pytest.warns(UserWarning, match="pixels reach .* use a lower guidance scale"):
        sample(load_models()[0], symmetry, [0, 0], [0, 1], scale=1)


def test_the_scale_grows_with_the_signal_to_noise_ratio_inside_the_window():
    """Both ends of the window are timesteps of the run, and only the lower one is inside."""
    asked = {}

    def spy(unet, log_p, x_t, t, y, s):
        asked[int(t)] = s
        return x_t

    scale = growing_scale(2, 8, window=(249, 749))
    sample(FakeUnet(None), None, None, [3], scale=scale, steps=4, variant=spy)
    snr = {t: abar(t).item() / (1 - abar(t).item()) for t in (499, 249)}
    expected = {999: 0, 749: 0, 499: 2 * (1 + 8 * snr[499]), 249: 2 * (1 + 8 * snr[249])}
    assert asked == pytest.approx(expected)
    with pytest.raises(UserError, match=re.escape("window is (700, 200)")):
        growing_scale(window=(700, 200))


def test_a_sampler_may_be_a_pair_of_your_own():
    """This one keeps the predicted image, which is that of the last step."""
    seen = []
    unet, own = FakeUnet(lambda x_t, t: 0.9 * x_t), (lambda x_t, x_0, t, u, z: x_0 / 2, 1)
    image = sample(unet, None, None, [3], sampler=own, steps=3, watch=lambda *now: seen.append(now))
    assert len(seen) == 3 and torch.equal(image, seen[-1][2] / 2)


def test_the_noise_of_an_image_depends_on_seed_digit_and_number_alone():
    """Whatever is drawn beside it, in batches of any size."""
    unet, first = FakeUnet(lambda x_t, t: 0.9 * x_t), []

    def draw(*digits, seed=5, **settings):
        return sample(unet, None, None, image_seeds(seed, digits), steps=4, **settings)

    together = draw(3, 1, 3, 3, 7, watch=lambda t, x_t, x_0: first.append(x_t))
    assert torch.equal(first[0], x_T_of(image_seeds(5, [3, 1, 3, 3, 7])))
    torch.testing.assert_close(draw(3, 1, 3, 3, 7, batch_size=2), together)
    torch.testing.assert_close(draw(7, 3, 3), together[[4, 0, 2]])
    others = torch.cat([together, draw(3, seed=6)]).flatten(1)
    assert torch.cdist(others, others).fill_diagonal_(9).min() > 1  # no two are equal


# --- ten Gaussian classes N(mu_k, SIGMA^2 I), where everything is known exactly ---

SIGMA = 0.1
MEANS = torch.zeros(10, 784)
MEANS[range(10), range(10)] = 0.4


def variance(t):
    """Of each pixel of x_t in a class."""
    return abar(t) * SIGMA**2 + 1 - abar(t)


def log_joint(x_t, t):
    """log p(x_t, y) of all y, up to a constant: (B, 10)."""
    distance = x_t.flatten(1)[:, None] - abar(t).sqrt().view(-1, 1, 1) * MEANS  # (B, 10, 784)
    return -distance.square().sum(dim=2) / (2 * variance(t).view(-1, 1))


def exact_log_p(x_t, t, y):
    return log_joint(x_t, t).log_softmax(dim=1).gather(1, y[:, None])[:, 0]


def exact_eps(x_t, t):
    """What an exact U-Net predicts, E[eps | x_t]: (B, 1, 28, 28)."""
    mean = (log_joint(x_t, t).softmax(dim=1) @ MEANS).view_as(x_t)
    return (1 - abar(t)).sqrt() * (x_t - abar(t).sqrt() * mean) / variance(t)


def test_guidance_at_scale_1_draws_the_class_exactly():
    """Without noise of its own, a sampler keeps each pixel's place in its class, in deviations."""
    y, seeds, T = torch.arange(10), range(10), 999
    mu = MEANS.view(10, *IMAGE_SHAPE)
    exact = mu + SIGMA * (x_T_of(seeds) - abar(T).sqrt() * mu) / variance(T).sqrt()
    settings = {"scale": 1, "sampler": "dpmsolver++", "steps": 300}
    images = sample(FakeUnet(exact_eps), exact_log_p, y, seeds, **settings)
    torch.testing.assert_close(images, exact, atol=0.005, rtol=0)
