"""The method: noising, the guided noise, and sampling problems with a known solution."""

from functools import partial

import pytest
import torch
from conftest import ABAR, IMAGE_SHAPE, abar, fake_ddpm
from diffusers import DDPMPipeline, DDPMScheduler
from torch import nn

from classifier import Classifier
from diffusion import END, SCHEDULE, abar_table, add_noise, make_unet, predicted_image
from diffusion import predicted_noise, training_target
from evaluation.classifier_free import ClassifierFree
from inference import SAMPLERS, Guided, NoisePredictor, first_order, gradient, growing_scale
from inference import load_models, sample, trajectory
from support.cli import UserError
from support.streams import gaussian_noise, image_seeds


def noise_of(seeds):
    """The noise that `sample` starts from."""
    return gaussian_noise(IMAGE_SHAPE, [torch.Generator().manual_seed(seed) for seed in seeds])


def test_noising_is_ddpm_equation_4():
    """For `add_noise` and for the shared scheduler. Also checks the abar table."""
    torch.testing.assert_close(abar_table(DDPMScheduler(**SCHEDULE)), ABAR)
    x_0, eps = torch.randn(2, 4, *IMAGE_SHAPE)
    t = torch.tensor([0, 1, 400, 999])
    expected = abar(t).sqrt() * x_0 + (1 - abar(t)).sqrt() * eps
    for x_t in (add_noise(x_0, eps, abar(t)), DDPMScheduler(**SCHEDULE).add_noise(x_0, eps, t)):
        torch.testing.assert_close(x_t, expected, atol=1e-5, rtol=0)


# --- the guided noise ---


@pytest.mark.parametrize("t", [5, 300, 900])
def test_the_gradient_of_the_shipped_classifier_equals_finite_differences(t):
    classifier = load_models()[1].double()
    x_t, direction = torch.randn(2, 3, *IMAGE_SHAPE, dtype=torch.float64)
    times, y, h = torch.full((3,), t), torch.tensor([7, 0, 3]), 1e-5
    along = (gradient(classifier.log_p, x_t, t, y) * direction).sum(dim=(1, 2, 3))

    def log_p(x_t):
        p = classifier(x_t, times).softmax(dim=1)
        return p[range(3), y].log()

    difference = log_p(x_t + h * direction) - log_p(x_t - h * direction)
    torch.testing.assert_close(along, difference / (2 * h), rtol=1e-5, atol=1e-8)
    assert not x_t.requires_grad and along.abs().min() > 1e-3


def linear_log_p(direction):
    """A guide whose gradient is `direction[y]`, with `direction` (K, C, H, W)."""
    return lambda x_t, t, y: (x_t * direction[y]).sum(dim=(1, 2, 3))


@pytest.mark.parametrize("t", [20, 300])
def test_the_noise_is_clipped_and_then_guided_by_adm_equation_14(t):
    """The predicted x_0 is 3. It is clipped to 1, and then the full shift of (14) is applied."""
    y, direction = torch.tensor([2, 9]), torch.randn(10, *IMAGE_SHAPE)
    x_t = 3 * abar(t).sqrt() * torch.ones(2, *IMAGE_SHAPE)
    ddpm, log_p = fake_ddpm(lambda x_t, t: 0 * x_t), linear_log_p(direction)
    eps = (x_t - abar(t).sqrt()) / (1 - abar(t)).sqrt()
    guided = eps - 5 * (1 - abar(t)).sqrt() * direction[y]
    for scale, expected in ((5, guided), (lambda u: 5 * (u == t), guided), (0, eps)):
        eps_hat = Guided(ddpm, log_p, scale)(x_t, t, y)
        torch.testing.assert_close(eps_hat, expected, atol=1e-4, rtol=1e-4)


def test_a_network_that_predicts_v_gives_the_same_noise():
    """The training target, v of Salimans & Ho 2022, and eps from the network's output."""
    x_0, eps, t = torch.randn(3, *IMAGE_SHAPE), torch.randn(3, *IMAGE_SHAPE), torch.full((3,), 600)
    scheduler = DDPMScheduler(**SCHEDULE | {"prediction_type": "v_prediction"})
    x_t, v = scheduler.add_noise(x_0, eps, t), training_target(scheduler, x_0, eps, t)
    torch.testing.assert_close(v, ABAR[600].sqrt() * eps - (1 - ABAR[600]).sqrt() * x_0)
    torch.testing.assert_close(predicted_noise(scheduler, v, x_t, ABAR[600]), eps)
    predictor = NoisePredictor(fake_ddpm(lambda x_t, t: v, prediction_type="v_prediction"))
    torch.testing.assert_close(predictor.eps(x_t, 600), eps)


def test_clipping_follows_the_scheduler():
    """x_0 is 3 here: clipped to 1 by default, to 2, or not at all."""
    for settings, x_0 in (({}, 1), ({"clip_sample_range": 2.0}, 2), ({"clip_sample": False}, 3)):
        ddpm = fake_ddpm(lambda x_t, t: 0 * x_t, **settings)
        x_t = 3 * ABAR[300].sqrt() * torch.ones(1, *IMAGE_SHAPE)
        eps = NoisePredictor(ddpm)(x_t, 300, None)
        found = (x_t - (1 - ABAR[300]).sqrt() * eps) / ABAR[300].sqrt()
        torch.testing.assert_close(found, torch.full_like(found, x_0), atol=1e-4, rtol=0)


def test_the_scale_grows_with_the_signal_to_noise_ratio_inside_its_window():
    snr = {t: ABAR[t].item() / (1 - ABAR[t].item()) for t in (499, 249)}
    expected = {999: 0, 749: 0, 499: 2 * (1 + 8 * snr[499]), 249: 2 * (1 + 8 * snr[249]), 248: 0}
    scale = growing_scale(DDPMScheduler(**SCHEDULE), 2, 8, low=249, high=749)
    assert {t: scale(t) for t in expected} == pytest.approx(expected, rel=1e-4)


# --- mistakes that would otherwise be silent ---


def learned_variance():
    unet = make_unet(IMAGE_SHAPE)
    unet.register_to_config(out_channels=2)
    return NoisePredictor(DDPMPipeline(unet, DDPMScheduler(**SCHEDULE)))


def of_the_batch(x_t, t, y):
    """Its gradient for one image depends on the other."""
    return -(x_t - x_t.mean(dim=0)).square().sum(dim=(1, 2, 3))


def nan_at_the_end(x_t, t, y):
    return (x_t * torch.where(t < 500, torch.nan, 1).view(-1, 1, 1, 1)).sum(dim=(1, 2, 3))


def stops_early(predict_noise, abar, x_t, times, noise):
    return SAMPLERS["ddpm"](predict_noise, abar, x_t, times[:-1], noise)


def draw(log_p=None, y=(3, 1), seeds=(0, 1), **settings):
    ddpm, classifier = fake_ddpm(lambda x_t, t: x_t), Classifier()
    return sample(Guided(ddpm, log_p or classifier.log_p, 1), y, seeds, **{"steps": 2} | settings)


MISTAKES = {
    "learned variance": learned_variance,
    "prediction_type": lambda: NoisePredictor(fake_ddpm(None, prediction_type="sample")),
    "noise schedules": lambda: Guided(
        fake_ddpm(None, beta_schedule="squaredcos_cap_v2"), load_models()[1].log_p, 1
    ),
    "one number per image": lambda: draw(lambda x_t, t, y: x_t.flatten(1)[:, :10]),
    "steps must be 1 to 1000": lambda: draw(steps=1001),
    "decreasing timesteps": lambda: draw(steps=[499, 999]),
    "2 conditions for 3 seeds": lambda: draw(seeds=range(3)),
    "stopped before": lambda: draw(sampler=stops_early),
    "not finite": lambda: draw(nan_at_the_end),
    "depends on the other images": lambda: draw(of_the_batch),
    "depends on the other images in the batch": lambda: draw(of_the_batch, None),
}


@pytest.mark.parametrize("said", MISTAKES)
def test_silent_mistakes_raise_errors(said):
    with pytest.raises(UserError, match=said):
        MISTAKES[said]()


def test_batchnorm_in_train_mode_is_detected_and_dropout_is_accepted():
    """A guide with dropout is stochastic, but does not mix the batch."""
    norm, dropout = nn.BatchNorm2d(1), nn.Dropout(0.5)
    with pytest.raises(UserError, match="BatchNorm"):
        draw(lambda x_t, t, y: norm(x_t).square().mul(x_t).sum(dim=(1, 2, 3)))
    draw(lambda x_t, t, y: dropout(x_t).square().sum(dim=(1, 2, 3)) / 1e3)


def test_a_diverging_guide_gives_a_warning():
    """Without the warning, the samples would silently be black-and-white noise."""

    def symmetry(x_t, t, y):
        return -(x_t - x_t.flip(3)).square().sum(dim=(1, 2, 3)) / 2

    with pytest.warns(UserWarning, match="too strong"):
        sample(Guided(load_models()[0], symmetry, 1), [0, 0], [0, 1], steps=20)


def test_third_party_networks_may_be_in_train_mode_or_half_precision():
    """Dropout is off. Half-precision networks get inputs of their dtype; the rest stays float32."""
    unet = make_unet(IMAGE_SHAPE, channels=8)
    unet.mid_block.resnets[0].dropout = nn.Dropout(0.9)
    ddpm = DDPMPipeline(unet.train(), DDPMScheduler(**SCHEDULE))
    first, second = (sample(NoisePredictor(ddpm), None, [0], steps=2) for _ in range(2))
    assert torch.equal(first, second)
    ddpm, classifier = load_models()
    y, seeds = torch.tensor([3, 5]), [0, 1]
    full = sample(Guided(ddpm, classifier.log_p, 5), y, seeds, steps=10)
    ddpm.unet.to(torch.bfloat16)
    half = sample(Guided(ddpm, classifier.bfloat16().log_p, 5), y, seeds, steps=10)
    assert half.dtype == torch.float32 and (half - full).abs().mean() < 0.1

    def ink(x_t, t, y):
        return predicted_image(ddpm, x_t, t).sum(dim=(1, 2, 3))

    assert sample(Guided(ddpm, ink, 1), None, seeds, steps=2).dtype == torch.float32


def test_equal_schedules_may_be_configured_differently():
    """For example, as `trained_betas`. The U-Net's prediction type does not matter to the guide."""
    classifier, betas = load_models()[1], torch.linspace(1e-4, 0.02, 1000).tolist()
    Guided(fake_ddpm(None, trained_betas=betas), classifier.log_p, 1)
    Guided(fake_ddpm(None, prediction_type="v_prediction"), classifier.log_p, 1)


# --- sample ---


def test_every_batch_gets_its_own_conditions():
    asked = []

    def log_p(x_t, t, y):
        asked.append((t.tolist(), y.tolist()))
        return x_t.sum(dim=(1, 2, 3))

    draw(log_p, y=[4, 5, 6], seeds=[0, 1, 2], batch_size=2)
    del asked[:2]  # the check of the gradient
    assert asked == [([999] * 2, [4, 5]), ([499] * 2, [4, 5]), ([999], [6]), ([499], [6])]


def test_samplers_and_timesteps_can_be_custom():
    """This sampler halves the predicted image. The last timestep is `END`."""
    halves = partial(first_order, lambda x_t, x_0, *others: x_0 / 2)
    method = NoisePredictor(fake_ddpm(lambda x_t, t: 0.9 * x_t))
    run = list(trajectory(method, None, [3], sampler=halves, steps=[979, 400]))
    assert [u for u, _, _ in run] == [400, END]
    assert torch.equal(run[-1][1], run[-1][2] / 2)


def test_the_noise_of_an_image_depends_only_on_seed_label_and_rank():
    first = []

    def eps(x_t, t):
        first.append(x_t)
        return 0.9 * x_t

    def images(*digits, seed=5, **settings):
        method = NoisePredictor(fake_ddpm(eps))
        return sample(method, None, image_seeds(seed, digits), steps=4, **settings)

    together = images(3, 1, 3, 3, 7)
    assert torch.equal(first[0], noise_of(image_seeds(5, [3, 1, 3, 3, 7])))
    torch.testing.assert_close(images(3, 1, 3, 3, 7, batch_size=2), together)
    torch.testing.assert_close(images(7, 3, 3), together[[4, 0, 2]])
    others = torch.cat([together, images(3, seed=6)]).flatten(1)
    assert torch.cdist(others, others).fill_diagonal_(9).min() > 1  # all are different


def test_scale_0_matches_the_diffusers_pipeline():
    """The same images from the same noise: `DDPMPipeline` with its scheduler, in 50 steps."""
    ddpm, classifier = load_models()
    ddpm.set_progress_bar_config(disable=True)
    rngs = [torch.Generator().manual_seed(seed) for seed in (3, 4)]
    theirs = ddpm(2, rngs, num_inference_steps=50, output_type="np").images[..., 0] * 2 - 1
    ours = sample(Guided(ddpm, classifier.log_p, 0), [1, 1], [3, 4])[:, 0]
    torch.testing.assert_close(ours, torch.from_numpy(theirs), atol=1e-4, rtol=0)


# --- ten Gaussian classes N(mu_k, SIGMA^2 I), where everything is known exactly ---

SIGMA = 0.1
MEANS = torch.zeros(10, 784)
MEANS[range(10), range(10)] = 0.4


def variance(t):
    """The variance of each pixel of x_t within a class."""
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


def test_guidance_at_scale_1_samples_the_class_exactly():
    """A deterministic sampler preserves each pixel's z-score within its class."""
    y, seeds, T = torch.arange(10), range(10), 999
    mu = MEANS.view(10, *IMAGE_SHAPE)
    exact = mu + SIGMA * (noise_of(seeds) - abar(T).sqrt() * mu) / variance(T).sqrt()
    method = Guided(fake_ddpm(exact_eps), exact_log_p, scale=1)
    images = sample(method, y, seeds, sampler="dpmsolver++", steps=300)
    torch.testing.assert_close(images, exact, atol=0.005, rtol=0)


SCHEDULES = {
    "linear": {},
    "cosine": {"beta_schedule": "squaredcos_cap_v2"},
    "v": {"prediction_type": "v_prediction"},
    "400 timesteps": {"num_train_timesteps": 400},
}


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_third_party_ddpm_is_guided_with_its_own_schedule(schedule):
    """3 x 16 x 16 pixels from N(0, P), given an observation M of their mean with variance Q."""
    P, Q, M = 0.04, 5e-5, 0.5

    def exact(x_t, t):
        a = table[t].view(-1, 1, 1, 1)
        eps = (1 - a).sqrt() * x_t / (P * a + 1 - a)
        return (eps - (1 - a).sqrt() * x_t) / a.sqrt() if schedule == "v" else eps

    def log_p(x_t, t, y):
        a = table[t]
        mean = P * a.sqrt() / (P * a + 1 - a) * x_t.mean(dim=(1, 2, 3))  # E[mean of x_0 | x_t]
        variance = P * (1 - a) / (P * a + 1 - a) / 768 + Q
        return -(y - mean).square() / (2 * variance)

    ddpm = fake_ddpm(exact, (3, 16, 16), **SCHEDULES[schedule])
    table = ddpm.scheduler.alphas_cumprod
    images = sample(Guided(ddpm, log_p, 1), torch.full((100,), M), range(100), steps=200)
    assert images.shape == (100, 3, 16, 16)
    expected = M * (P / 768) / (P / 768 + Q)  # the mean of the posterior
    assert images.mean().item() == pytest.approx(expected, abs=0.005)
    assert images.std(dim=(1, 2, 3)).mean().item() == pytest.approx(P**0.5, abs=0.02)


def test_classifier_free_noise_is_equation_6_of_the_paper():
    """(1 + w) eps(y) - w eps(no label), then clipped, at s = 1 + w; also if s is a function."""

    def output(x_t, t, y):
        return 0.8 * x_t.sin() + t.view(-1, 1, 1, 1) / 5_000 + y.view(-1, 1, 1, 1) / 50

    ddpm, y = fake_ddpm(output, num_class_embeds=11), torch.arange(3)
    x_t = torch.randn(3, *IMAGE_SHAPE)
    for t in (20, 400, 990):
        times, a = torch.full((3,), t), abar(t)
        eps, none = (output(x_t, times, label) for label in (y, torch.full_like(y, 10)))
        for w in (-1, 0, 2.5):
            x_0 = (x_t - (1 - a).sqrt() * ((1 + w) * eps - w * none)) / a.sqrt()
            expected = (x_t - a.sqrt() * x_0.clamp(-1, 1)) / (1 - a).sqrt()
            for scale in (1 + w, lambda t, w=w: 1 + w):
                eps_hat = ClassifierFree(ddpm, scale)(x_t, t, y)
                torch.testing.assert_close(eps_hat, expected, atol=1e-4, rtol=1e-4)
