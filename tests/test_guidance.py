"""The mathematics: noising, the gradient, the timesteps, and guidance where the exact answer is known."""

import math
from types import SimpleNamespace

import pytest
import torch
from diffusers import DDPMPipeline, UNet2DModel

import evaluate
import inference
from classifier import Classifier
from diffusion import IMAGE_SHAPE, UNET_CONFIG, UNet, generator, make_scheduler
from evaluate import conditional_losses
from inference import (
    classifier_gradient,
    guided_noise,
    image_generators,
    initial_noise,
    make_labels,
    make_sampler,
    reverse_process,
    sampling_timesteps,
)


def test_noising_is_ddpm_equation_4():
    x_0 = torch.rand(8, *IMAGE_SHAPE) * 2 - 1
    eps = torch.randn(8, *IMAGE_SHAPE)
    t = torch.tensor([0, 1, 20, 100, 400, 700, 998, 999])
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    abar = torch.stack([(1 - betas[: int(s) + 1]).prod() for s in t]).view(-1, 1, 1, 1)
    expected = abar.sqrt() * x_0 + (1 - abar).sqrt() * eps
    torch.testing.assert_close(make_scheduler().add_noise(x_0, eps, t), expected.float(), atol=1e-5, rtol=0)


def test_the_way_past_the_layers_is_exact(monkeypatch):
    """Layers that know v = sqrt(abar_t) eps - sqrt(1 - abar_t) x_0 give eps, for a t each and for one t for all."""
    x_0, eps = torch.rand(4, *IMAGE_SHAPE) * 2 - 1, torch.randn(4, *IMAGE_SHAPE)
    t = torch.tensor([0, 100, 600, 999])
    abar = ABAR[t].view(-1, 1, 1, 1)
    x_t = make_scheduler().add_noise(x_0, eps, t)
    v = abar.sqrt() * eps - (1 - abar).sqrt() * x_0
    monkeypatch.setattr(UNet2DModel, "forward", lambda self, x_t, t: SimpleNamespace(sample=v[: len(x_t)]))
    unet = UNet(**UNET_CONFIG)
    torch.testing.assert_close(unet(x_t, t).sample, eps, atol=1e-5, rtol=0)
    monkeypatch.setattr(UNet2DModel, "forward", lambda self, x_t, t: SimpleNamespace(sample=v[2].expand(x_t.shape)))
    torch.testing.assert_close(unet(x_t[2:3].repeat(3, 1, 1, 1), t[2]).sample, eps[2].expand(3, 1, 28, 28), atol=1e-5, rtol=0)


def test_gradient_equals_finite_differences():
    classifier = Classifier().double().eval()
    classifier.time_proj.forward = lambda t, forward=classifier.time_proj.forward: forward(t).double()
    x_t = torch.randn(3, *IMAGE_SHAPE, dtype=torch.float64)
    t, y = torch.tensor([5, 300, 900]), torch.tensor([7, 0, 3])
    grad = classifier_gradient(classifier, x_t, t, y)
    direction = torch.randn_like(x_t)

    def log_p(x):
        return classifier(x, t).log_softmax(dim=1)[torch.arange(3), y]

    h = 1e-5
    numerical = (log_p(x_t + h * direction) - log_p(x_t - h * direction)) / (2 * h)
    torch.testing.assert_close((grad * direction).sum(dim=(1, 2, 3)), numerical, rtol=1e-5, atol=1e-8)


def test_gradient_of_an_image_ignores_its_neighbours():
    classifier = Classifier().eval()
    x_t, t, y = torch.randn(4, *IMAGE_SHAPE), torch.full((4,), 50), torch.arange(4)
    together = classifier_gradient(classifier, x_t, t, y)
    alone = torch.cat([classifier_gradient(classifier, x_t[i : i + 1], t[:1], y[i : i + 1]) for i in range(4)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-6)


def test_gradient_leaves_no_trace():
    classifier = Classifier().eval()
    x_t = torch.randn(2, *IMAGE_SHAPE)
    classifier_gradient(classifier, x_t, torch.tensor([3, 3]), torch.tensor([1, 2]))
    assert not x_t.requires_grad and all(parameter.grad is None for parameter in classifier.parameters())


def test_the_prediction_is_clipped_before_the_tilt():
    """An x_0 of 3 is guided as an x_0 of 1; then equation (14) adds all of its tilt."""
    t, y = torch.tensor(300), torch.tensor([2, 9])
    x_t = 3 * ABAR[t].sqrt() * torch.ones(2, *IMAGE_SHAPE)
    direction = torch.randn(10, 784)

    def linear_classifier(x_t, t):
        return x_t.flatten(1) @ direction.T

    def zero_unet(x_t, t):  # all of x_t is image, none of it noise
        return SimpleNamespace(sample=torch.zeros_like(x_t))

    grad = classifier_gradient(linear_classifier, x_t, t, y)
    eps_hat = guided_noise(zero_unet, linear_classifier, ABAR, x_t, t, y, 5)
    expected = (x_t - ABAR[t].sqrt()) / (1 - ABAR[t]).sqrt() - 5 * (1 - ABAR[t]).sqrt() * grad
    torch.testing.assert_close(eps_hat, expected, atol=1e-4, rtol=1e-4)
    assert grad.abs().max() > 0.1


def test_the_scale_grows_as_the_noise_falls():
    """By reverse_process, from the limit, which never raises a scale."""
    asked = []

    def noise(unet, classifier, alphas_cumprod, x_t, t, y, guidance_scale):
        asked.append((int(t), guidance_scale))
        return torch.zeros_like(x_t)

    labels, numbers = make_labels([3], 1)
    abar = make_scheduler().alphas_cumprod
    grown = [2 + 8 * abar[t].item() / (1 - abar[t].item()) for t in (999, 749, 499, 249)]
    for scale, early_scale, scales in ((10, 2, grown), (1, 2, [1] * 4), (10, math.inf, [10] * 4), (0, 2, [0] * 4)):
        generators = image_generators(0, labels, numbers)
        x_T, scheduler = initial_noise(generators), make_sampler("ddpm", 4)
        reverse_process(None, None, scheduler, x_T, labels, scale, generators, noise, early_scale=early_scale)
        assert asked == list(zip((999, 749, 499, 249), scales))
        asked.clear()


@pytest.mark.parametrize("num_steps", [1, 20, 61, 300, 600, 1000])
def test_timesteps(num_steps):
    timesteps = sampling_timesteps(num_steps)
    assert len(timesteps) == num_steps and timesteps[0] == 999 and timesteps[-1] == round(1000 / num_steps) - 1
    assert all(a > b for a, b in zip(timesteps, timesteps[1:])) and timesteps[-1] >= 0
    for name in inference.SAMPLERS:
        assert make_sampler(name, num_steps).timesteps.tolist() == timesteps


# --- ten equal classes N(mu_k, .15^2 I): p(y | x_t) and eps are known exactly ---

SIGMA = 0.15
MEANS = torch.zeros(10, 784)
MEANS[range(10), range(10)] = 0.2
ABAR = make_scheduler().alphas_cumprod


def exact_logits(x_t, t):
    abar = ABAR[t].view(-1, 1)
    variance = abar * SIGMA**2 + 1 - abar
    difference = x_t.flatten(1)[:, None] - abar.sqrt()[:, None] * MEANS  # (B, 10, 784)
    return -difference.square().sum(dim=2) / (2 * variance)


def exact_unet(x_t, t):
    t = t.expand(len(x_t))
    abar = ABAR[t].view(-1, 1)
    variance = abar * SIGMA**2 + 1 - abar
    mean = abar.sqrt() * (exact_logits(x_t, t).softmax(dim=1) @ MEANS)
    eps = (1 - abar).sqrt() * (x_t.flatten(1) - mean) / variance
    return SimpleNamespace(sample=eps.view_as(x_t))


def deviation_from_exact(noise, num_steps=1000, sampler="ddim"):
    labels, numbers = make_labels(range(10), 1)
    generators = image_generators(0, labels, numbers)
    x_T = initial_noise(generators)
    scheduler = make_sampler(sampler, num_steps)
    x_0 = reverse_process(exact_unet, exact_logits, scheduler, x_T, labels, 1.0, generators, noise)
    abar = ABAR[999]
    variance = abar * SIGMA**2 + 1 - abar
    mu = MEANS[labels].view_as(x_T)
    exact = mu + SIGMA * (x_T - abar.sqrt() * mu) / variance.sqrt()  # the class's own probability flow
    return (x_0 - exact).abs().max().item()


def test_guidance_at_scale_1_samples_the_class_exactly():
    assert deviation_from_exact(guided_noise) < 0.02


def test_guidance_without_the_root_misses():
    assert deviation_from_exact(evaluate.noise_without_root) > 0.2


@pytest.mark.parametrize("factor", [1, 100])
def test_the_variants_differ_from_the_method_where_they_should(factor):
    """At t = 400; the images predicted from 100 x_t lie outside of [-1, 1]."""
    x_t, t, y = factor * initial_noise(image_generators(0, *make_labels([3], 4))), torch.tensor(400), torch.arange(4)
    arguments = (exact_unet, exact_logits, ABAR, x_t, t, y)
    eps, unguided = guided_noise(*arguments, 5), guided_noise(*arguments, 0)
    assert torch.equal(evaluate.noise_on_interval(*arguments, 5, low=0, high=500), eps)
    clipped = inference.clipped_noise(ABAR, x_t, t, unguided)
    assert torch.equal(evaluate.noise_on_interval(*arguments, 5, low=500, high=1000), clipped)
    tilt = 5 * (1 - ABAR[t]).sqrt() * classifier_gradient(exact_logits, x_t, t.expand(4), y)
    torch.testing.assert_close(evaluate.noise_not_clipped(*arguments, 5), unguided - tilt)
    torch.testing.assert_close(eps, clipped - tilt)
    grown = guided_noise(*arguments, 2 + 3 * ABAR[t].item())
    assert torch.equal(evaluate.noise_growing_with_abar(*arguments, 5, low=2), grown)
    assert ((clipped - unguided).abs().max() < 1e-4) == (factor == 1)


@pytest.mark.parametrize("confidence, best", [(1, 2), (2, 1)])
def test_an_exact_guide_predicts_the_noise_best_at_scale_1(confidence, best):
    """And one that is twice as sure as it may be, at about half that."""

    def guide(x_t, t):
        return confidence * exact_logits(x_t, t)

    y = torch.arange(3_000) % 10
    x_0 = (MEANS[y] + SIGMA * torch.randn(len(y), 784)).view(-1, *IMAGE_SHAPE)
    bench = SimpleNamespace(unet=exact_unet, classifier=guide, seed=0, device="cpu")
    losses, _ = conditional_losses(bench, x_0, y, (0, 0.5, 1, 1.5, 2))
    assert losses.mean(dim=1).argmin() == best


@pytest.mark.parametrize("num_steps, bound", [(61, 0.12), (300, 0.04), (600, 0.02)])
def test_ddim_is_right_where_n_does_not_divide_1000(num_steps, bound):
    """Nearer to the exact image the more steps; a step to t - 1000 // N would leave a spread of .38 at N = 600."""
    assert deviation_from_exact(guided_noise, num_steps) < bound


@pytest.mark.parametrize("sampler", ["ddpm", "sde-dpmsolver++"])
def test_random_samplers_keep_the_class_where_n_does_not_divide_1000(sampler):
    """Ancestral sampling is random: its mean and spread must be the class's own."""
    for num_steps in (61, 300, 600):
        labels, numbers = make_labels([4], 60)
        generators = image_generators(0, labels, numbers)
        scheduler = make_sampler(sampler, num_steps)
        x_0 = reverse_process(exact_unet, exact_logits, scheduler, initial_noise(generators), labels, 1.0, generators)
        assert abs(x_0.flatten(1)[:, 4].mean() - 0.2) < 0.08
        assert abs(x_0.flatten(1)[:, 20:].std() - SIGMA) < 0.04  # beta_tilde is a little narrow at few steps


# --- scale 0 ---


def raising_classifier(x_t, t):
    raise AssertionError("the classifier ran at scale 0")


@pytest.mark.parametrize("num_steps", [20, 50])
def test_scale_0_is_the_ddpm_pipeline(unet, num_steps):
    """Exactly diffusers' own unguided sampler, given the same generators; and no classifier runs."""
    scheduler = make_scheduler()
    scheduler.register_to_config(timestep_spacing="trailing")  # for these N, diffusers' own list is ours
    pipeline = DDPMPipeline(unet, scheduler)
    pipeline.set_progress_bar_config(disable=True)
    labels, numbers = make_labels([1, 7], 2)
    theirs = pipeline(4, image_generators(0, labels, numbers), num_inference_steps=num_steps, output_type="pt").images
    generators = image_generators(0, labels, numbers)
    ours = reverse_process(
        unet, raising_classifier, make_sampler("ddpm", num_steps, clip=True), initial_noise(generators), labels, 0, generators
    )
    assert torch.equal((ours / 2 + 0.5).clamp(0, 1), theirs)
    assert torch.equal(inference.draw_samples(unet, None, labels, numbers, 0, "ddpm", num_steps), ours.clamp(-1, 1))


def test_guidance_changes_the_samples(unet, classifier):
    labels, numbers = make_labels([1], 2)
    plain, guided = (inference.draw_samples(unet, classifier, labels, numbers, scale, steps=5) for scale in (0, 10))
    assert (plain - guided).abs().max() > 0.1


# --- a sample is its own ---


def test_noise_depends_on_seed_digit_and_number_alone():
    labels, numbers = make_labels([2, 0, 2, 4], 3)
    assert list(zip(labels.tolist(), numbers.tolist()))[:3] == [(2, 0), (2, 1), (2, 2)]
    assert list(zip(labels.tolist(), numbers.tolist()))[6:9] == [(2, 3), (2, 4), (2, 5)]
    noise = initial_noise(image_generators(5, labels, numbers))
    assert torch.equal(noise[4], initial_noise([generator(5, 0, 1)])[0])
    assert len({tuple(x.flatten()[:5].tolist()) for x in noise}) == 12


@pytest.mark.parametrize("sampler", inference.SAMPLERS)
def test_a_sample_does_not_change_with_its_neighbours(unet, classifier, sampler):
    labels, numbers = make_labels(range(10), 2)
    settings = {"sampler": sampler, "steps": 20}
    grid = inference.to_uint8(inference.draw_samples(unet, classifier, labels, numbers, batch_size=20, **settings))
    alone = inference.to_uint8(inference.draw_samples(unet, classifier, *make_labels([3], 2), batch_size=20, **settings))
    small = inference.to_uint8(inference.draw_samples(unet, classifier, labels, numbers, batch_size=3, **settings))
    assert (grid.int() - small.int()).abs().max() <= 1
    assert (grid[6:8].int() - alone.int()).abs().max() <= 1
    shuffled = torch.randperm(20)
    mixed = inference.to_uint8(
        inference.draw_samples(unet, classifier, labels[shuffled], numbers[shuffled], batch_size=20, **settings)
    )
    assert torch.equal(mixed, grid[shuffled])  # at one batch size, bit for bit
