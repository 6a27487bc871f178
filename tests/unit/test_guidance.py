"""The mathematics: noising, the gradient, the timesteps, and cases whose exact answer is known."""

from functools import partial
from types import SimpleNamespace

import pytest
import torch
from diffusers import DDPMScheduler, UNet2DModel

import inference
from classifier import Classifier
from diffusion import (
    ALPHAS_CUMPROD,
    IMAGE_SHAPE,
    SAMPLERS,
    SCHEDULE,
    UNET_CONFIG,
    UNet,
    abar,
    add_noise,
    clipped_noise,
    initial_noise,
    make_sampler,
    predicted_x_0,
    sampling_timesteps,
)
from evaluation.tables import eps_at_scales, losses_against_t
from evaluation.variants import variants
from inference import guide_gradient, guided_noise, noise_predictor, reverse_process, scale_at
from support.streams import generator, image_generators


def test_noising_is_ddpm_equation_4():
    x_0 = torch.rand(8, *IMAGE_SHAPE) * 2 - 1
    eps = torch.randn(8, *IMAGE_SHAPE)
    t = torch.tensor([0, 1, 20, 100, 400, 700, 998, 999])
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    alphas_cumprod = torch.stack([(1 - betas[: int(s) + 1]).prod() for s in t]).view(-1, 1, 1, 1)
    expected = alphas_cumprod.sqrt() * x_0 + (1 - alphas_cumprod).sqrt() * eps
    torch.testing.assert_close(add_noise(x_0, eps, t), expected.float(), atol=1e-5, rtol=0)
    ours, theirs = add_noise(x_0, eps, t), DDPMScheduler(**SCHEDULE).add_noise(x_0, eps, t)
    assert torch.equal(ours, theirs)


def test_the_predicted_x_0_undoes_the_noising():
    """DDPM (15); what lies outside of [-1, 1] is clipped, and `clipped_noise` goes with it."""
    x_0 = 3 * torch.rand(4, *IMAGE_SHAPE) - 1.5
    eps, t = torch.randn(4, *IMAGE_SHAPE), torch.tensor([0, 100, 200, 400])
    x_t = add_noise(x_0, eps, t)
    torch.testing.assert_close(predicted_x_0(x_t, t, eps), x_0.clamp(-1, 1), atol=1e-4, rtol=0)
    clipped = clipped_noise(x_t, t, eps)
    torch.testing.assert_close(add_noise(x_0.clamp(-1, 1), clipped, t), x_t, atol=1e-4, rtol=0)
    assert ((clipped - eps).abs() > 0.1)[x_0.abs() > 1.4].all()


def test_the_v_prediction_is_exact(monkeypatch):
    """Layers that know v = sqrt(abar_t) eps - sqrt(1 - abar_t) x_0 give eps, for any shape of t."""
    x_0, eps = torch.rand(4, *IMAGE_SHAPE) * 2 - 1, torch.randn(4, *IMAGE_SHAPE)
    t = torch.tensor([0, 100, 600, 999])
    x_t = add_noise(x_0, eps, t)
    v = abar(t).sqrt() * eps - (1 - abar(t)).sqrt() * x_0
    layers = {"sample": v}
    monkeypatch.setattr(UNet2DModel, "forward", lambda *_: SimpleNamespace(**layers))
    unet = UNet(**UNET_CONFIG)
    torch.testing.assert_close(unet(x_t, t).sample, eps, atol=1e-5, rtol=0)
    layers["sample"] = v[2].expand(3, *IMAGE_SHAPE)
    predicted = unet(x_t[2:3].repeat(3, 1, 1, 1), t[2]).sample
    torch.testing.assert_close(predicted, eps[2].expand(3, *IMAGE_SHAPE), atol=1e-5, rtol=0)


def test_log_p_is_the_log_softmax_of_the_logits():
    classifier = Classifier().eval()
    x_t, t, y = torch.randn(3, *IMAGE_SHAPE), torch.tensor([5, 300, 900]), torch.tensor([7, 0, 3])
    logits = classifier(x_t, t)
    expected = torch.stack([logits[i, y[i]] - logits[i].exp().sum().log() for i in range(3)])
    torch.testing.assert_close(classifier.log_p(x_t, t, y), expected)


def test_gradient_equals_finite_differences():
    classifier = Classifier().double().eval()
    project = classifier.time_proj.forward
    classifier.time_proj.forward = lambda t: project(t).double()
    x_t = torch.randn(3, *IMAGE_SHAPE, dtype=torch.float64)
    t, y = torch.tensor([5, 300, 900]), torch.tensor([7, 0, 3])
    grad = guide_gradient(classifier.log_p, x_t, t, y)
    direction = torch.randn_like(x_t)

    def log_p(x):
        return classifier(x, t).log_softmax(dim=1)[torch.arange(3), y]

    h = 1e-5
    numerical = (log_p(x_t + h * direction) - log_p(x_t - h * direction)) / (2 * h)
    directional = (grad * direction).sum(dim=(1, 2, 3))
    torch.testing.assert_close(directional, numerical, rtol=1e-5, atol=1e-8)


def test_gradient_of_an_image_ignores_its_neighbours():
    classifier = Classifier().eval()
    x_t, t, y = torch.randn(4, *IMAGE_SHAPE), torch.full((4,), 50), torch.arange(4)
    together = guide_gradient(classifier.log_p, x_t, t, y)
    each = zip(x_t.split(1), t.split(1), y.split(1))
    alone = torch.cat([guide_gradient(classifier.log_p, *one) for one in each])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-6)


def test_gradient_leaves_no_trace():
    classifier = Classifier().eval()
    x_t = torch.randn(2, *IMAGE_SHAPE)
    guide_gradient(classifier.log_p, x_t, torch.tensor([3, 3]), torch.tensor([1, 2]))
    assert not x_t.requires_grad
    assert all(parameter.grad is None for parameter in classifier.parameters())


@pytest.mark.parametrize("clip", [True, False])
def test_the_prediction_is_clipped_before_it_is_guided(clip):
    """An x_0 of 3 is guided as an x_0 of 1; then equation (14) adds all of its change."""
    t, y = torch.tensor(300), torch.tensor([2, 9])
    x_t = 3 * abar(t).sqrt() * torch.ones(2, *IMAGE_SHAPE)
    direction = torch.randn(10, 784)

    def linear_log_p(x_t, t, y):
        assert t.shape == y.shape == (2,)
        return (x_t.flatten(1) * direction[y]).sum(dim=1)

    def zero_unet(x_t, t):  # x_t is all image and no noise
        return SimpleNamespace(sample=torch.zeros_like(x_t))

    grad = direction[y].view_as(x_t)
    eps = (x_t - abar(t).sqrt()) / (1 - abar(t)).sqrt() if clip else 0
    eps_hat = guided_noise(zero_unet, linear_log_p, x_t, t, y, 5, clip=clip)
    torch.testing.assert_close(eps_hat, eps - 5 * (1 - abar(t)).sqrt() * grad, atol=1e-4, rtol=1e-4)


def test_the_scale_grows_as_the_noise_falls():
    """s_t = w (1 + g abar_t / (1 - abar_t)): w in pure noise; constant at growth 0, as ADM's."""
    asked = []

    def form(unet, log_p, x_t, t, y, guidance_scale):
        asked.append((int(t), guidance_scale))
        return torch.zeros_like(x_t)

    timesteps, y = (999, 749, 499, 249), torch.tensor([3])
    alphas_cumprod = [ALPHAS_CUMPROD[t].item() for t in timesteps]
    snr = [abar_t / (1 - abar_t) for abar_t in alphas_cumprod]
    assert scale_at(torch.tensor(999), 2) == pytest.approx(2, rel=2e-3)
    by_default = [1 + 24 * r for r in snr]
    cases = (((1,), by_default), ((2, 8), [2 + 16 * r for r in snr]), ((10, 0), [10] * 4))
    for settings, scales in (*cases, ((0, 8), [0] * 4)):
        predict_noise = noise_predictor(None, None, *settings, form=form)
        inference.sample_with(predict_noise, lambda: make_sampler("ddpm", 4), y)
        assert [t for t, _ in asked] == [*timesteps]
        assert [s for _, s in asked] == pytest.approx(scales, rel=1e-6)
        asked.clear()


@pytest.mark.parametrize("num_steps", [1, 20, 61, 300, 600, 1000])
def test_timesteps(num_steps):
    timesteps = sampling_timesteps(num_steps)
    assert len(timesteps) == num_steps
    assert timesteps[0] == 999 and timesteps[-1] == round(1000 / num_steps) - 1
    assert all(a > b for a, b in zip(timesteps, timesteps[1:])) and timesteps[-1] >= 0
    for name in SAMPLERS:
        assert make_sampler(name, num_steps).timesteps.tolist() == timesteps


# --- ten equal classes N(mu_k, .15^2 I): p(y | x_t) and eps are known exactly ---

SIGMA = 0.15
MEANS = torch.zeros(10, 784)
MEANS[range(10), range(10)] = 0.2


def exact_logits(x_t, t):
    variance = (abar(t) * SIGMA**2 + 1 - abar(t)).view(-1, 1)
    means = abar(t).sqrt().view(-1, 1, 1) * MEANS  # (B, 10, 784)
    return -(x_t.flatten(1)[:, None] - means).square().sum(dim=2) / (2 * variance)


def exact_log_p(x_t, t, y):
    return exact_logits(x_t, t).log_softmax(dim=1).gather(1, y[:, None])[:, 0]


def exact_unet(x_t, t):
    t = t.expand(len(x_t))
    variance = abar(t) * SIGMA**2 + 1 - abar(t)
    mean = abar(t).sqrt() * (exact_logits(x_t, t).softmax(dim=1) @ MEANS).view_as(x_t)
    return SimpleNamespace(sample=(1 - abar(t)).sqrt() * (x_t - mean) / variance)


def draw_exact(form, y, num_steps, sampler):
    """x_T, and x_0 from the exact networks at scale 1."""
    generators = list(image_generators(0, y))
    x_T, scheduler = initial_noise(generators), make_sampler(sampler, num_steps)

    def predict_noise(x_t, t):
        return form(exact_unet, exact_log_p, x_t, t, y, 1.0)

    return x_T, reverse_process(predict_noise, scheduler, x_T, generators)


def deviation_from_exact(form, num_steps=1000, sampler="ddim"):
    y = torch.arange(10)
    x_T, x_0 = draw_exact(form, y, num_steps, sampler)
    abar_T = ALPHAS_CUMPROD[999]
    variance = abar_T * SIGMA**2 + 1 - abar_T
    mu = MEANS[y].view_as(x_T)
    exact = mu + SIGMA * (x_T - abar_T.sqrt() * mu) / variance.sqrt()  # the class's own flow
    return (x_0 - exact).abs().max().item()


def test_guidance_at_scale_1_samples_the_class_exactly():
    assert deviation_from_exact(guided_noise) < 0.02


def test_guidance_without_the_root_misses():
    assert deviation_from_exact(variants(1000)["without sqrt(1 - abar_t)"]) > 0.2


@pytest.mark.parametrize("factor", [1, 100])
def test_the_variants_differ_from_the_method_where_they_should(factor):
    """At t = 400; the images predicted from 100 x_t lie outside of [-1, 1]."""
    x_t = factor * initial_noise(image_generators(0, torch.full((4,), 3)))
    t, y = torch.tensor(400), torch.arange(4)
    arguments = (exact_unet, exact_log_p, x_t, t, y)
    unguided = guided_noise(*arguments, 0)
    clipped = clipped_noise(x_t, t, unguided)
    grad = guide_gradient(exact_log_p, x_t, t.expand(4), y)
    change = 5 * (1 - abar(t)).sqrt() * grad
    expected = {
        "ADM Algorithm 2": clipped - change,
        "without sqrt(1 - abar_t)": clipped - 5 * grad,
        "clip after the tilt": clipped_noise(x_t, t, unguided - change),
        "no clipping": unguided - change,
        "guide t >= 500 only": clipped,
        "guide t < 500 only": clipped - change,
    }
    for name, eps_hat in expected.items():
        torch.testing.assert_close(variants(20)[name](*arguments, 5), eps_hat)
    assert ((clipped - unguided).abs().max() < 1e-4) == (factor == 1)


@pytest.mark.parametrize("num_steps", [3, 20])
def test_algorithm_1_shifts_the_mean_of_a_ddpm_step(num_steps):
    """Literally: an unguided DDPM step that clips x_0, then mean + s * Sigma * grad, ADM (10)."""
    y, form = torch.arange(4), variants(num_steps)["ADM Algorithm 1"]
    x_t = initial_noise(image_generators(0, y))
    clipping, plain = (make_sampler("ddpm", num_steps, clip=clip) for clip in (True, False))
    for t in plain.timesteps:
        eps_hat = form(exact_unet, exact_log_p, x_t, t, y, 5)
        ours = plain.step(eps_hat, t, x_t, generator=list(image_generators(1, y))).prev_sample
        eps, grad = exact_unet(x_t, t).sample, guide_gradient(exact_log_p, x_t, t.expand(4), y)
        step = clipping.step(eps, t, x_t, generator=list(image_generators(1, y)))
        shift = 5 * clipping._get_variance(t) * grad
        torch.testing.assert_close(ours, step.prev_sample + shift, atol=1e-5, rtol=1e-4)
        x_t = ours


@pytest.mark.parametrize("confidence, best", [(1, 2), (2, 1)])
def test_an_exact_guide_predicts_the_noise_best_at_scale_1(confidence, best):
    """A guide that is twice too confident predicts it best at about half that scale."""

    def log_p(x_t, t, y):
        logits = confidence * exact_logits(x_t, t)
        return logits.log_softmax(dim=1).gather(1, y[:, None])[:, 0]

    y = torch.arange(3_000) % 10
    x_0 = (MEANS[y] + SIGMA * torch.randn(len(y), 784)).view(-1, *IMAGE_SHAPE)
    guide = SimpleNamespace(log_p=log_p)
    bench = SimpleNamespace(unet=exact_unet, classifier=guide, seed=0, device="cpu")
    predict = partial(eps_at_scales, bench, (0, 0.5, 1, 1.5, 2))
    losses, _ = losses_against_t(bench, x_0, y, predict)
    assert losses.mean(dim=1).argmin() == best


@pytest.mark.parametrize("num_steps, bound", [(61, 0.12), (300, 0.04), (600, 0.02)])
def test_ddim_is_right_where_n_does_not_divide_1000(num_steps, bound):
    """The more steps the nearer; a step to t - 1000 // N would leave a spread of .38 at N = 600."""
    assert deviation_from_exact(guided_noise, num_steps) < bound


@pytest.mark.parametrize("sampler", ["ddpm", "sde-dpmsolver++"])
def test_random_samplers_keep_the_class_where_n_does_not_divide_1000(sampler):
    """Ancestral sampling is random: its mean and spread must be the class's own."""
    for num_steps in (61, 300, 600):
        _, x_0 = draw_exact(guided_noise, torch.full((60,), 4), num_steps, sampler)
        assert abs(x_0.flatten(1)[:, 4].mean() - 0.2) < 0.08
        # beta_tilde is a little narrow at few steps
        assert abs(x_0.flatten(1)[:, 20:].std() - SIGMA) < 0.04


def test_noise_depends_on_seed_digit_and_number_alone():
    y = torch.tensor([2, 2, 2, 0, 0, 0, 2, 2, 2, 4, 4, 4])
    noise = initial_noise(image_generators(5, y))
    keys = [(2, 0), (2, 1), (2, 2), (0, 0), (0, 1), (0, 2), (2, 3), (2, 4), (2, 5), (4, 0)]
    assert torch.equal(noise[:10], initial_noise([generator(5, "samples", *key) for key in keys]))
    assert len({tuple(x.flatten()[:5].tolist()) for x in noise}) == 12
