"""The method: noising, the guided noise, and samples whose exact answer is known."""

import copy
from types import SimpleNamespace

import mixture
import pytest
import torch

from classifier import Classifier
from diffusion import ALPHAS_CUMPROD, END, abar, add_noise
from evaluation.variants import without_root
from inference import guide_gradient, guided_noise, sample, scale_at
from support.cli import UserError
from support.streams import gaussian_noise, image_seeds

IMAGE_SHAPE = (1, 28, 28)


class FakeUnet:
    """A U-Net whose eps is a given function of x_t and t."""

    device = torch.device("cpu")
    config = SimpleNamespace(in_channels=1, sample_size=28)

    def __init__(self, eps):
        self.eps = eps

    def __call__(self, x_t, t):
        return SimpleNamespace(sample=self.eps(x_t, t))


def x_T_of(seeds):
    """The noise that `sample` starts from."""
    return gaussian_noise(IMAGE_SHAPE, [torch.Generator().manual_seed(seed) for seed in seeds])


# --- noising ---


def test_noising_is_ddpm_equation_4():
    """abar_t is the product of all 1 - beta up to t; here in float64."""
    x_0, eps = torch.randn(2, 4, *IMAGE_SHAPE)
    t = torch.tensor([0, 1, 400, 999])
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    abar_t = (1 - betas).cumprod(dim=0)[t].view(4, 1, 1, 1)
    expected = abar_t.sqrt() * x_0 + (1 - abar_t).sqrt() * eps
    torch.testing.assert_close(add_noise(x_0, eps, t), expected.float(), atol=1e-5, rtol=0)
    assert abar(END) == 1 and abar(999) < 1e-4  # the last step ends at the image, not at noise


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
def test_the_noise_is_clipped_and_then_guided_by_adm_equation_14(t):
    """x_t is an image of 3s without noise. It is clipped to 1s, and then moved by all of (14)."""
    y, direction = torch.tensor([2, 9]), torch.randn(10, *IMAGE_SHAPE)
    x_t = 3 * abar(t).sqrt() * torch.ones(2, *IMAGE_SHAPE)
    unet = FakeUnet(lambda x_t, t: torch.zeros_like(x_t))

    def linear_log_p(x_t, t, y):
        assert t.shape == y.shape == (2,)
        return (x_t * direction[y]).sum(dim=(1, 2, 3))

    eps = (x_t - abar(t).sqrt()) / (1 - abar(t)).sqrt()
    expected = eps - 5 * (1 - abar(t)).sqrt() * direction[y]
    eps_hat = guided_noise(unet, linear_log_p, x_t, t, y, 5)
    torch.testing.assert_close(eps_hat, expected, atol=1e-4, rtol=1e-4)
    for log_p, s in ((None, 5), (linear_log_p, 0)):  # unguided
        unguided = guided_noise(unet, log_p, x_t, t, y, s)
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
        sample(FakeUnet(lambda x_t, t: x_t), log_p, torch.tensor([3, 1]), [0, 1], steps=2)


WRONG_ARGUMENTS = {  # -> what is said
    "sampler 'dpm' is not one of ddpm, ddim": {"sampler": "dpm"},
    "steps is 0": {"steps": 0},
    "y is for 2 images, but there are 3 seeds": {"seeds": range(3)},
    "y has values from 3 to 11; classes are 0 .. 9": {"y": [3, 11]},
}


@pytest.mark.parametrize("said", WRONG_ARGUMENTS)
def test_a_wrong_argument_is_an_error_that_says_so(said):
    settings = {"y": [3, 1], "seeds": [0, 1], "steps": 2, **WRONG_ARGUMENTS[said]}
    with pytest.raises(UserError, match=said):
        sample(FakeUnet(lambda x_t, t: x_t), Classifier().log_p, **settings)


def test_a_guide_that_diverges_is_named(unet):
    """Symmetry, too strong: without the warning, black and white noise would come out."""

    def symmetry(x_t, t, y):
        return -(x_t - x_t.flip(3)).square().sum(dim=(1, 2, 3)) / 2

    with pytest.warns(UserWarning, match="pixels reach .* use a lower guidance scale"):
        sample(unet, symmetry, [0, 0], [0, 1], scale_growth=0)
    with pytest.raises(UserError, match="the samples are not finite: use a lower guidance scale"):
        sample(FakeUnet(lambda x_t, t: x_t * torch.nan), None, None, [0], steps=2)


def test_the_scale_grows_with_the_signal_to_noise_ratio_inside_the_window():
    asked, timesteps = [], [999, 749, 499, 249]

    def spy(unet, log_p, x_t, t, y, guidance_scale, u):
        asked.append((int(t), int(u), guidance_scale))
        return x_t

    for w, g, settings in (
        (1, 24, {}),
        (2, 8, {"guidance_scale": 2, "scale_growth": 8}),
        (1, 0, {"scale_growth": 0}),  # ADM's
        (1, 24, {"window": (499, 749)}),  # both are timesteps; only 499 is inside
    ):
        sample(FakeUnet(None), None, None, [3], steps=4, predict_noise=spy, **settings)
        low, high = settings.get("window", (0, 1000))
        snr = [a.item() / (1 - a.item()) for a in ALPHAS_CUMPROD[timesteps]]
        scales = [w * (1 + g * r) if low <= t < high else 0 for t, r in zip(timesteps, snr)]
        assert asked == list(zip(timesteps, [749, 499, 249, END], map(pytest.approx, scales)))
        asked.clear()
    assert scale_at(499, 1) == pytest.approx(1 + 24 * snr[2])


# --- ten Gaussian classes, where everything is known exactly ---


def test_guidance_at_scale_1_draws_the_class_exactly_and_without_the_root_it_does_not():
    """Without noise of its own, a sampler keeps each pixel's place in its class, in deviations."""
    y, seeds, a = torch.arange(10), range(10), ALPHAS_CUMPROD[999]
    x_T, mu = x_T_of(seeds), mixture.MEANS.view(10, *IMAGE_SHAPE)
    place = (x_T - a.sqrt() * mu) / mixture.variance(torch.tensor(999)).sqrt()
    exact = mu + mixture.SIGMA * place
    settings, errors = {"scale_growth": 0, "sampler": "dpmsolver++", "steps": 300}, []
    for variant in (guided_noise, without_root):
        unet = FakeUnet(mixture.eps)
        images = sample(unet, mixture.log_p, y, seeds, predict_noise=variant, **settings)
        errors.append((images - exact).abs().max().item())
    assert errors[0] < 0.005 and errors[1] > 0.1


# --- sample ---


def test_the_noise_of_an_image_depends_on_seed_digit_and_number_alone():
    """Whatever is drawn beside it, in batches of any size."""
    unet, first = FakeUnet(lambda x_t, t: 0.9 * x_t), []

    def draw(*digits, seed=5, **settings):
        return sample(unet, None, None, image_seeds(seed, digits), steps=4, **settings)

    together = draw(3, 1, 3, 3, 7, watch=lambda t, x_t, x_0: first.append(x_t))
    assert torch.equal(first[0], x_T_of(image_seeds(5, [3, 1, 3, 3, 7])))
    for batch_size in (1, 2):
        torch.testing.assert_close(draw(3, 1, 3, 3, 7, batch_size=batch_size), together)
    torch.testing.assert_close(draw(7, 3, 3), together[[4, 0, 2]])
    others = torch.cat([together, draw(3, seed=6)]).flatten(1)
    assert torch.cdist(others, others).fill_diagonal_(9).min() > 1  # no two are equal
    assert draw(3, seed=4).shape == (1, *IMAGE_SHAPE)


def test_watch_sees_x_t_and_the_x_0_that_makes_the_next_one(unet, classifier):
    """DDIM by hand: the predicted x_0 with the same noise at the next t; x_0 itself at the end."""
    y, seen = torch.tensor([3, 8]), []
    settings = {"sampler": "ddim", "steps": 5, "watch": lambda *step: seen.append(step)}
    images = sample(unet, classifier.log_p, y, [4, 9], **settings)
    assert [int(t) for t, _, _ in seen] == [999, 799, 599, 399, 199]
    assert torch.equal(seen[0][1], x_T_of([4, 9]))
    for (t, x_t, x_0), (next_t, next_x_t, _) in zip(seen, [*seen[1:], (END, None, None)]):
        eps_hat = guided_noise(unet, classifier.log_p, x_t, t, y, scale_at(t, 1.0))
        expected = (x_t - (1 - abar(t)).sqrt() * eps_hat) / abar(t).sqrt()
        torch.testing.assert_close(x_0, expected, atol=1e-4, rtol=1e-4)
        if next_t != END:
            expected = add_noise(x_0, eps_hat, next_t)
            torch.testing.assert_close(next_x_t, expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(images, x_0.clamp(-1, 1), atol=1e-5, rtol=0)
