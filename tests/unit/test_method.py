"""The method: noising, the guided noise, and samples whose exact answer is known."""

import re
from functools import partial

import pytest
import torch
from conftest import ABAR, IMAGE_SHAPE, abar, fake_ddpm
from diffusers import DDPMScheduler

from classifier import Classifier
from diffusion import (
    END,
    SCHEDULE,
    abar_table,
    add_noise,
    make_unet,
    predicted_noise,
    training_target,
)
from inference import (
    SAMPLERS,
    Guided,
    Unguided,
    draw,
    first_order,
    gradient,
    growing_scale,
    load_models,
    sample,
)
from support.errors import UserError
from support.streams import gaussian_noise, image_seeds


def x_T_of(seeds):
    """The noise that `sample` starts from."""
    return gaussian_noise(IMAGE_SHAPE, [torch.Generator().manual_seed(seed) for seed in seeds])


def test_noising_is_ddpm_equation_4():
    """Ours, and that of the shared scheduler; abar_t is the product of all 1 - beta, in float64."""
    x_0, eps = torch.randn(2, 4, *IMAGE_SHAPE)
    t = torch.tensor([0, 1, 400, 999])
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    abar_t = (1 - betas).cumprod(dim=0)[t].view(4, 1, 1, 1)
    expected = (abar_t.sqrt() * x_0 + (1 - abar_t).sqrt() * eps).float()
    for x_t in (add_noise(x_0, eps, abar(t)), DDPMScheduler(**SCHEDULE).add_noise(x_0, eps, t)):
        torch.testing.assert_close(x_t, expected, atol=1e-5, rtol=0)


# --- the guided noise ---


def test_log_p_is_the_log_softmax_of_the_logits():
    classifier = Classifier()
    x_t, t, y = torch.randn(3, 1, 28, 28), torch.tensor([5, 300, 900]), torch.tensor([7, 0, 3])
    p = classifier(x_t, t).softmax(dim=1)
    torch.testing.assert_close(classifier.log_p(x_t, t, y), p[range(3), y].log())


@pytest.mark.parametrize("t", [5, 300, 900])
def test_the_gradient_of_the_shipped_classifier_equals_finite_differences(t):
    classifier = load_models()[1].double()
    classifier.time_proj.register_forward_hook(lambda module, t, embedding: embedding.double())
    x_t, direction = torch.randn(2, 3, *IMAGE_SHAPE, dtype=torch.float64)
    times, y, h = torch.full((3,), t), torch.tensor([7, 0, 3]), 1e-5
    along = (gradient(classifier.log_p, x_t, t, y) * direction).sum(dim=(1, 2, 3))
    up, down = (classifier.log_p(x_t + d * direction, times, y) for d in (h, -h))
    torch.testing.assert_close(along, (up - down) / (2 * h), rtol=1e-5, atol=1e-8)
    assert not x_t.requires_grad and along.abs().min() > 1e-3


def linear_log_p(direction):
    """A guide whose gradient is `direction` (K, C, H, W) of y."""
    return lambda x_t, t, y: (x_t * direction[y]).sum(dim=(1, 2, 3))


@pytest.mark.parametrize("t", [20, 300])
def test_the_noise_is_clipped_and_then_guided_by_adm_equation_14(t):
    """x_t is an image of 3s without noise. It is clipped to 1s, and then moved by all of (14)."""
    y, direction = torch.tensor([2, 9]), torch.randn(10, *IMAGE_SHAPE)
    x_t = 3 * abar(t).sqrt() * torch.ones(2, *IMAGE_SHAPE)
    ddpm, log_p = fake_ddpm(lambda x_t, t: 0 * x_t), linear_log_p(direction)
    eps = (x_t - abar(t).sqrt()) / (1 - abar(t)).sqrt()
    guided = eps - 5 * (1 - abar(t)).sqrt() * direction[y]
    for scale, expected in ((5, guided), (lambda t: t / t * 5, guided), (0, eps)):
        eps_hat = Guided(ddpm, log_p, scale)(x_t, t, y)
        torch.testing.assert_close(eps_hat, expected, atol=1e-4, rtol=1e-4)


def test_a_network_that_predicts_v_gives_the_same_noise():
    """The target of its training, v of Salimans & Ho 2022, and eps from its output."""
    x_0, eps, t = torch.randn(3, *IMAGE_SHAPE), torch.randn(3, *IMAGE_SHAPE), torch.full((3,), 600)
    scheduler = DDPMScheduler(**SCHEDULE | {"prediction_type": "v_prediction"})
    x_t, v = scheduler.add_noise(x_0, eps, t), training_target(scheduler, x_0, eps, t)
    torch.testing.assert_close(v, ABAR[600].sqrt() * eps - (1 - ABAR[600]).sqrt() * x_0)
    torch.testing.assert_close(predicted_noise(scheduler, v, x_t, ABAR[600]), eps)
    eps_of = Unguided(fake_ddpm(lambda x_t, t: v, prediction_type="v_prediction")).eps
    torch.testing.assert_close(eps_of(x_t, 600), eps)


# --- sample ---

FAKE, OWN = fake_ddpm(lambda x_t, t: x_t), Classifier()


def no_return(x_t, t, y):
    x_t.sum()


def in_place(x_t, t, y):
    return x_t.mul_(2).sum(dim=(1, 2, 3))


def in_place_behind_autograd(x_t, t, y):
    x_t.data.mul_(2)
    return x_t.sum(dim=(1, 2, 3))


def too_short(predict_noise, abar, x_t, times, noise):
    """A sampler that forgets the last step."""
    return SAMPLERS["ddpm"](predict_noise, abar, x_t, times[:-1], noise)


def of_the_batch(x_t, t, y):
    """The worst, since it works and is wrong."""
    return -(x_t - x_t.mean(dim=0)).square().sum(dim=(1, 2, 3))


def of_the_spread(x_t, t, y):
    """Of one image alone there is none."""
    return (x_t / x_t.std(dim=0)).sum(dim=(1, 2, 3))


def nan_at_the_end(x_t, t, y):
    return (x_t * torch.where(t < 500, torch.nan, 1).view(-1, 1, 1, 1)).sum(dim=(1, 2, 3))


WRONG_ARGUMENTS = {  # what is said -> what is wrong
    "sampler 'dpm' is not one of ddpm, ddim": {"sampler": "dpm"},
    "steps is 0: 1 .. 1000": {"steps": 0},
    "steps is 2.5": {"steps": 2.5},
    "steps is [1000, 0]": {"steps": [1000, 0]},
    "steps is [499, 999]": {"steps": [499, 999]},
    "steps is [999, -500]: 1 .. 1000, or times that fall from 999 to 0": {"steps": [999, -500]},
    "there are no seeds": {"y": [], "seeds": []},
    "some are not from 0 to": {"seeds": [0, 2**70]},
    "seeds are whole numbers, one for each image, not 5": {"seeds": 5},
    "not [0.2, 0.9]": {"seeds": [0.2, 0.9]},
    "batch_size is 0": {"batch_size": 0},
    "y is None": {"y": None},
    "y has the shape (2,), but there are 3 seeds": {"seeds": range(3)},
    "y has values from 3 to 11; classes are 0 .. 9": {"y": [3, 11]},
    "y is torch.float32 (2,), classes are ints": {"y": [3.0, 1.0]},
    "y is torch.int64 (2, 1)": {"y": [[3], [1]]},
    "y is ['3', '1'], not numbers": {"y": ["3", "1"]},
    "the guide returned (2, 10), one number": {"log_p": lambda x_t, t, y: x_t.flatten(1)[:, :10]},
    "the guide has no gradient in x_t": {"log_p": lambda x_t, t, y: t / 1000},
    "the guide returned a NoneType, not a tensor (2,)": {"log_p": no_return},
    "the guide returned a float": {"log_p": lambda x_t, t, y: 1.0},
    "the guide returned a ndarray": {"log_p": lambda x_t, t, y: y.numpy()},
    "the guide, called as log_p(x_t, t, y), raises TypeError": {"log_p": lambda x_t, t: x_t},
    "raises TypeError: Classifier.forward()": {"log_p": OWN},
    "raises RuntimeError: a leaf Variable": {"log_p": in_place},
    "gradient of an image changes with the rest of its batch": {"log_p": of_the_batch},
    "gradient of the guide is not finite": {"log_p": of_the_spread},
    "samples are not finite": {"log_p": nan_at_the_end},
    "the guide changes x_t in place": {"log_p": in_place_behind_autograd},
    "the sampler did not reach the end": {"sampler": too_short},
    "scale is None, not a number": {"scale": None},
    "scale is None, not a number or a function of t that returns one": {"scale": lambda t: None},
    "scale is '5'": {"scale": "5"},
    "scale is nan": {"scale": torch.nan},
}


@pytest.mark.parametrize("said", WRONG_ARGUMENTS)
def test_a_wrong_argument_is_an_error_that_says_so(said):
    settings = {"log_p": OWN.log_p, "scale": 1, "y": [3, 1], "seeds": [0, 1], "steps": 2}
    settings |= WRONG_ARGUMENTS[said]
    with pytest.raises(UserError, match=re.escape(said)):
        sample(Guided(FAKE, settings.pop("log_p"), settings.pop("scale")), **settings)


def test_a_method_that_returns_another_shape_and_networks_exchanged():
    class Half(Unguided):
        def __call__(self, x_t, t, y):
            return x_t[:, :, :14]

    said = re.escape("the method returned (2, 1, 14, 28), as x_t is (2, 1, 28, 28)")
    with pytest.raises(UserError, match=said):
        sample(Half(FAKE), None, [0, 1])
    with pytest.raises(UserError, match="takes a DDPMPipeline first, not a Classifier"):
        Guided(OWN, FAKE, 1)


WRONG_NETWORKS = {  # what is said -> what is wrong with the U-Net
    "prediction_type is 'sample', not epsilon or v_prediction": {"prediction_type": "sample"},
    "abar is 0 at the last timestep": {"rescale_betas_zero_snr": True},
    "dynamic thresholding": {"thresholding": True},
    "the U-Net takes labels": {"num_class_embeds": 11},
}


@pytest.mark.parametrize("said", WRONG_NETWORKS)
def test_a_network_that_would_be_misread_is_refused(said):
    with pytest.raises(UserError, match=re.escape(said)):
        Unguided(fake_ddpm(None, **WRONG_NETWORKS[said]))


def test_clipping_is_that_of_the_scheduler():
    """x_0 is 3 here: clipped to 1 by default, to 2, or not at all."""
    for settings, x_0 in (({}, 1), ({"clip_sample_range": 2.0}, 2), ({"clip_sample": False}, 3)):
        ddpm = fake_ddpm(lambda x_t, t: 0 * x_t, **settings)
        x_t = 3 * ABAR[300].sqrt() * torch.ones(1, *IMAGE_SHAPE)
        eps = Unguided(ddpm)(x_t, 300, None)
        found = (x_t - (1 - ABAR[300]).sqrt() * eps) / ABAR[300].sqrt()
        torch.testing.assert_close(found, torch.full_like(found, x_0), atol=1e-4, rtol=0)


def test_a_learned_variance_is_refused():
    ddpm = fake_ddpm(None)
    unet = make_unet(IMAGE_SHAPE)
    unet.register_to_config(out_channels=2)
    ddpm.unet = unet
    with pytest.raises(UserError, match="1 channels in and 2 out: a learned variance"):
        Unguided(ddpm)


def test_a_guide_of_other_betas_is_refused_and_both_are_named():
    """Of another prediction type, it is not."""
    classifier, cosine = load_models()[1], {"beta_schedule": "squaredcos_cap_v2"}
    said = "with 1000 linear betas from 0.0001 to 0.02, but the U-Net with 1000 squaredcos_cap_v2"
    for other in (cosine, {"num_train_timesteps": 500}):
        with pytest.raises(UserError, match="the guide was trained with") as error:
            Guided(fake_ddpm(None, **other), classifier.log_p, 1)
        assert other is not cosine or said in str(error.value)
    Guided(fake_ddpm(None, prediction_type="v_prediction"), classifier.log_p, 1)


def test_a_guide_that_diverges_is_named():
    """Symmetry, too strong: without the warning, black and white noise would come out."""

    def symmetry(x_t, t, y):
        return -(x_t - x_t.flip(3)).square().sum(dim=(1, 2, 3)) / 2

    with pytest.warns(UserWarning, match="pixels reached .* use a lower scale"):
        sample(Guided(load_models()[0], symmetry, 1), [0, 0], [0, 1], steps=20)


def test_the_scale_grows_with_the_signal_to_noise_ratio_inside_the_window():
    """Only the lower end of the window is inside."""
    snr = {t: abar(t).item() / (1 - abar(t).item()) for t in (499, 249)}
    expected = {999: 0, 749: 0, 499: 2 * (1 + 8 * snr[499]), 249: 2 * (1 + 8 * snr[249]), 0: 0}
    scheduler = DDPMScheduler(**SCHEDULE)
    scale = growing_scale(scheduler, 2, 8, window=(249, 749))
    assert {t: scale(t) for t in expected} == pytest.approx(expected)
    assert growing_scale(scheduler, 3, 0)(0) == 3
    for window in ((700, 200), (1000, 2000)):  # no t is in it
        with pytest.raises(UserError, match=re.escape(f"window is {window}")):
            growing_scale(scheduler, window=window)


def test_each_call_gets_its_time_and_its_own_y():
    """The guide sees t (B,) at each step; the second batch has its own labels, and no others."""
    asked = []

    def log_p(x_t, t, y):
        asked.append((t.tolist(), y.tolist()))
        return x_t.sum(dim=(1, 2, 3))

    sample(Guided(FAKE, log_p, 1), [4, 5, 6], [0, 1, 2], steps=2, batch_size=2)
    del asked[:2]  # the guide is tried first, in a batch and alone
    assert asked == [([999] * 2, [4, 5]), ([499] * 2, [4, 5]), ([999], [6]), ([499], [6])]


def test_a_sampler_and_its_times_may_be_your_own():
    """This one keeps half of the predicted image. The last time is `END`, and draws no noise."""

    halves = partial(first_order, lambda x_t, x_0, *others: x_0 / 2)
    method = Unguided(fake_ddpm(lambda x_t, t: 0.9 * x_t))
    run = list(draw(method, None, [3], sampler=halves, steps=[979, 400]))
    assert [u for u, _, _ in run] == [400, END]
    assert torch.equal(run[-1][1], run[-1][2] / 2)


def test_the_noise_of_an_image_depends_on_seed_digit_and_number_alone():
    """Whatever is drawn beside it, in batches of any size."""
    first = []

    def eps(x_t, t):
        first.append(x_t)
        return 0.9 * x_t

    def images(*digits, seed=5, **settings):
        method = Unguided(fake_ddpm(eps))
        return sample(method, None, image_seeds(seed, digits), steps=4, **settings)

    together = images(3, 1, 3, 3, 7)
    assert torch.equal(first[0], x_T_of(image_seeds(5, [3, 1, 3, 3, 7])))
    torch.testing.assert_close(images(3, 1, 3, 3, 7, batch_size=2), together)
    torch.testing.assert_close(images(7, 3, 3), together[[4, 0, 2]])
    others = torch.cat([together, images(3, seed=6)]).flatten(1)
    assert torch.cdist(others, others).fill_diagonal_(9).min() > 1  # no two are equal


def test_scale_0_is_diffusers_own_pipeline():
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
def test_anybodys_ddpm_is_steered_by_its_own_schedule(schedule):
    """3 x 16 x 16, pixels N(0, P). Asked for is their mean, observed as M, with variance Q."""
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
    table = abar_table(ddpm.scheduler)
    images = sample(Guided(ddpm, log_p, 1), torch.full((100,), M), range(100), steps=200)
    assert images.shape == (100, 3, 16, 16)
    expected = M * (P / 768) / (P / 768 + Q)  # the mean of the posterior
    assert images.mean().item() == pytest.approx(expected, abs=0.005)
    assert images.std(dim=(1, 2, 3)).mean().item() == pytest.approx(P**0.5, abs=0.02)
