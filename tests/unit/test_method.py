"""The method: noising, the guided noise, and sampling problems with a known solution."""

import pytest
import torch
from conftest import ABAR, IMAGE_SHAPE, abar, fake_ddpm
from diffusers import DDPMScheduler
from torch import nn

import train_ddpm
from classifier import Classifier
from diffusion import DDPM, SCHEDULE, add_noise, make_unet, training_target
from evaluation.classifier_free import classifier_free
from inference import gradient, growing_scale, guided, load_models, sample, trajectory
from support import UserError
from support.streams import image_seeds


def noise_of(seeds):
    """The noise that `sample` starts from."""
    rngs = [torch.Generator().manual_seed(seed) for seed in seeds]
    return torch.stack([torch.randn(IMAGE_SHAPE, generator=rng) for rng in rngs])


def test_noising_is_ddpm_equation_4():
    """For `add_noise` and for the shared scheduler. Also checks the table of a `DDPM`."""
    torch.testing.assert_close(fake_ddpm(None).abar, ABAR)
    x_0, eps = torch.randn(2, 4, *IMAGE_SHAPE)
    t = torch.tensor([0, 1, 400, 999])
    expected = abar(t).sqrt() * x_0 + (1 - abar(t)).sqrt() * eps
    for x_t in (add_noise(x_0, eps, abar(t)), DDPMScheduler(**SCHEDULE).add_noise(x_0, eps, t)):
        torch.testing.assert_close(x_t, expected, atol=1e-5, rtol=0)


# --- the guided noise ---


def test_the_gradient_of_the_shipped_classifier_equals_finite_differences():
    classifier = load_models()[1].double()
    x_t, direction = torch.randn(2, 3, *IMAGE_SHAPE, dtype=torch.float64)
    t, times, y, h = 300, torch.full((3,), 300), torch.tensor([7, 0, 3]), 1e-5
    along = (gradient(classifier.log_p)(x_t, t, y) * direction).sum(dim=(1, 2, 3))

    def log_p(x_t):
        p = classifier(x_t, times).softmax(dim=1)
        return p[range(3), y].log()

    difference = log_p(x_t + h * direction) - log_p(x_t - h * direction)
    torch.testing.assert_close(along, difference / (2 * h), rtol=1e-5, atol=1e-8)
    assert not x_t.requires_grad and along.abs().min() > 1e-3


def linear_log_p(direction):
    """A guide whose gradient is `direction[y]`, with `direction` (K, C, H, W)."""
    return lambda x_t, t, y: (x_t * direction[y]).sum(dim=(1, 2, 3))


CLIPPING = [({}, 1), ({"clip_sample_range": 2.0}, 2), ({"clip_sample": False}, 3)]


@pytest.mark.parametrize("t", [20, 300])
@pytest.mark.parametrize("settings, x_0", CLIPPING)
def test_the_noise_is_clipped_and_then_guided_by_adm_equation_14(t, settings, x_0):
    """The predicted x_0 is 3. It is clipped to 1 by default, and then fully shifted by (14)."""
    y, direction = torch.tensor([2, 9]), torch.randn(10, *IMAGE_SHAPE)
    x_t = 3 * abar(t).sqrt() * torch.ones(2, *IMAGE_SHAPE)
    ddpm, log_p = fake_ddpm(lambda x_t, t: 0 * x_t, **settings), linear_log_p(direction)
    eps = (x_t - x_0 * abar(t).sqrt()) / (1 - abar(t)).sqrt()
    per_image = torch.tensor([5.0, -7.0]).view(2, 1, 1, 1)
    for scale, s in ((5, 5), (lambda u: 5 * (u == t), 5), (lambda u: per_image, per_image), (0, 0)):
        expected = eps - s * (1 - abar(t)).sqrt() * direction[y]
        eps_hat = guided(ddpm, gradient(log_p), scale)(x_t, t, y)
        torch.testing.assert_close(eps_hat, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_every_prediction_type_gives_the_same_noise(kind):
    """From the output of a U-Net that predicts its training target exactly. v is diffusers' own."""
    x_0, eps, t = torch.randn(3, *IMAGE_SHAPE), torch.randn(3, *IMAGE_SHAPE), torch.full((3,), 600)
    scheduler = DDPMScheduler(**SCHEDULE | {"prediction_type": kind})
    x_t, target = scheduler.add_noise(x_0, eps, t), training_target(scheduler, x_0, eps, t)
    v = ABAR[600].sqrt() * eps - (1 - ABAR[600]).sqrt() * x_0
    torch.testing.assert_close(target, {"epsilon": eps, "v_prediction": v, "sample": x_0}[kind])
    ddpm = fake_ddpm(lambda x_t, t: target, prediction_type=kind)
    for times in (600, t):  # an int, as in the loop, or a tensor, as in a guide
        torch.testing.assert_close(ddpm(x_t, times), ddpm(x_t, 600))
        torch.testing.assert_close(ddpm.unclipped_eps(x_t, times), eps, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(ddpm.x_0(x_t, times), x_0.clamp(-1, 1), atol=1e-3, rtol=1e-3)


def test_a_learned_variance_is_ignored():
    plain = fake_ddpm(lambda x_t, t: 0.5 * x_t)
    learned = fake_ddpm(lambda x_t, t: torch.cat([0.5 * x_t, torch.ones_like(x_t)], dim=1))
    samples = [sample(ddpm, None, [0, 1], steps=3) for ddpm in (plain, learned)]
    assert torch.equal(*samples)


def test_the_scale_grows_with_the_signal_to_noise_ratio():
    snr = (ABAR[:1000] / (1 - ABAR[:1000])).tolist()
    default, scale = growing_scale(fake_ddpm(None)), growing_scale(fake_ddpm(None), 8)
    found = [default(999), default(249), scale(749), scale(9)]
    expected = [1 + 15 * snr[999], 1 + 15 * snr[249], 1 + 8 * snr[749], 1 + 8 * snr[9]]
    assert found == pytest.approx(expected, rel=1e-3)


# --- mistakes that would otherwise be silent ---


def nan_at_the_end(x_t, t, y):
    return (x_t * torch.where(t < 500, torch.nan, 1).view(-1, 1, 1, 1)).sum(dim=(1, 2, 3))


def draw(log_p=None, y=(3, 1), seeds=(0, 1), **settings):
    ddpm, log_p = fake_ddpm(lambda x_t, t: x_t), log_p or Classifier().log_p
    predict = guided(ddpm, gradient(log_p), 1)
    return sample(ddpm, y, seeds, predict, **{"steps": 2} | settings)


MISTAKES = {
    "one number per image": lambda: draw(lambda x_t, t, y: x_t.flatten(1)[:, :10]),
    "steps must be 1 to 1000": lambda: draw(steps=1001),
    "2 conditions for 3 seeds": lambda: draw(seeds=range(3)),
    "not finite": lambda: draw(nan_at_the_end),
}


@pytest.mark.parametrize("said", MISTAKES)
def test_silent_mistakes_raise_errors(said):
    with pytest.raises(UserError, match=said):
        MISTAKES[said]()


@pytest.mark.parametrize("sign", [1, -1])
def test_a_diverging_guide_gives_a_warning(sign):
    """Also if only the last image is affected, at first, or if the values are negative.

    Without the warning, the samples would silently be black-and-white noise.
    """

    def log_p(x_t, t, y):
        return sign * y * (t > 900) * x_t.sum(dim=(1, 2, 3))

    with pytest.warns(UserWarning, match="too strong"):
        draw(log_p, y=torch.tensor([0, 0, 1]), seeds=range(3), batch_size=2)


def test_third_party_networks_may_be_in_train_mode_or_half_precision():
    """Dropout is off. Half-precision networks get inputs of their dtype; the rest stays float32."""
    unet = make_unet(IMAGE_SHAPE, channels=8)
    unet.mid_block.resnets[0].dropout = nn.Dropout(0.9)
    ddpm = DDPM(unet.train(), DDPMScheduler(**SCHEDULE))
    first, second = (sample(ddpm, None, [0], steps=2) for _ in range(2))
    assert torch.equal(first, second)
    ddpm, classifier = load_models()
    y, seeds, predict = torch.tensor([3, 5]), [0, 1], guided(ddpm, gradient(classifier.log_p), 5)
    full = sample(ddpm, y, seeds, predict, steps=4)
    ddpm.unet.to(torch.bfloat16), classifier.bfloat16()
    half = sample(ddpm, y, seeds, predict, steps=4)
    assert half.dtype == torch.float32 and (half - full).abs().mean() < 0.1


# --- sample ---


def test_every_batch_gets_its_own_conditions():
    asked = []

    def log_p(x_t, t, y):
        asked.append((t.tolist(), y.tolist()))
        return x_t.sum(dim=(1, 2, 3))

    draw(log_p, y=[4, 5, 6], seeds=[0, 1, 2], batch_size=2)
    assert asked == [([999] * 2, [4, 5]), ([499] * 2, [4, 5]), ([999], [6]), ([499], [6])]


def test_the_loop_can_be_custom():
    """This loop asks for the noise twice. Its last x_0, clipped, is the sample."""

    def twice(predict, scheduler, x_t, y, rngs):
        assert scheduler.timesteps.tolist() == [999, 499] and len(rngs) == 1
        for t in (999, 499):
            assert not torch.is_grad_enabled() and y.tolist() == [8]
            yield t, x_t, predict(x_t, t, y) + predict(x_t, t, y)

    def predict(x_t, t, y):
        return torch.full_like(x_t, t / 100 if y == 8 else 0)

    settings = {"steps": 2, "loop": twice}
    run = list(trajectory(fake_ddpm(None), [8], [3], predict, **settings))
    assert [t for t, _, _ in run] == [999, 499] and torch.equal(run[0][1], noise_of([3]))
    assert run[0][2].unique().item() == pytest.approx(19.98)
    images = sample(fake_ddpm(None), [8], [3], predict, **settings)
    assert torch.equal(images, torch.ones(1, *IMAGE_SHAPE))


def test_the_noise_of_an_image_depends_only_on_seed_label_and_rank():
    first = []

    def eps(x_t, t):
        first.append(x_t)
        return 0.9 * x_t

    def images(*digits, seed=5, **settings):
        return sample(fake_ddpm(eps), None, image_seeds(seed, digits), steps=4, **settings)

    together = images(3, 1, 3, 3, 7)
    assert torch.equal(first[0], noise_of(image_seeds(5, [3, 1, 3, 3, 7])))
    torch.testing.assert_close(images(3, 1, 3, 3, 7, batch_size=2), together)
    torch.testing.assert_close(images(7, 3, 3), together[[4, 0, 2]])
    others = torch.cat([together, images(3, seed=6)]).flatten(1)
    assert torch.cdist(others, others).fill_diagonal_(9).min() > 1  # all are different


def test_scale_0_is_the_pipeline_of_diffusers_with_which_training_ends(monkeypatch):
    """The same images from the same noise."""
    monkeypatch.setattr(train_ddpm, "NUM_SAMPLES", 3)
    monkeypatch.setattr(train_ddpm, "SAMPLING_STEPS", 12)
    ddpm, classifier = load_models()
    theirs = train_ddpm.unguided_samples(ddpm.unet)
    predict = guided(ddpm, gradient(classifier.log_p), 0)
    ours = sample(ddpm, [1, 1, 1], range(3), predict, steps=train_ddpm.SAMPLING_STEPS)
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)


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
    ddpm = fake_ddpm(exact_eps)
    predict = guided(ddpm, gradient(exact_log_p), 1)
    images = sample(ddpm, y, seeds, predict, sampler="dpmsolver++", steps=300)
    torch.testing.assert_close(images, exact, atol=0.005, rtol=0)


SCHEDULES = {
    "linear": {},
    "cosine": {"beta_schedule": "squaredcos_cap_v2"},
    "v": {"prediction_type": "v_prediction"},
    "400 timesteps": {"num_train_timesteps": 400},
}


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_third_party_ddpm_is_guided_with_its_own_schedule(schedule):
    """3 x 16 x 12 pixels from N(0, P), given an observation M of their mean with variance Q."""
    P, Q, M = 0.04, 5e-5, 0.5

    def exact(x_t, t):
        a = table[t].view(-1, 1, 1, 1)
        eps = (1 - a).sqrt() * x_t / (P * a + 1 - a)
        return (eps - (1 - a).sqrt() * x_t) / a.sqrt() if schedule == "v" else eps

    def log_p(x_t, t, y):
        a = table[t]
        mean = P * a.sqrt() / (P * a + 1 - a) * x_t.mean(dim=(1, 2, 3))  # E[mean of x_0 | x_t]
        variance = P * (1 - a) / (P * a + 1 - a) / 576 + Q
        return -(y - mean).square() / (2 * variance)

    ddpm = fake_ddpm(exact, (3, 16, 12), **SCHEDULES[schedule])
    table = ddpm.scheduler.alphas_cumprod
    predict = guided(ddpm, gradient(log_p), 1)
    images = sample(ddpm, torch.full((100,), M), range(100), predict, steps=200)
    assert images.shape == (100, 3, 16, 12)
    expected = M * (P / 576) / (P / 576 + Q)  # the mean of the posterior
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
                eps_hat = classifier_free(ddpm, scale)(x_t, t, y)
                torch.testing.assert_close(eps_hat, expected, atol=1e-4, rtol=1e-4)
