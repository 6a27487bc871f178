"""The method: formulas, the class DDPM, the guided noise, and problems with a known solution."""

import pytest
import torch
from conftest import ABAR, IMAGE_SHAPE, abar, fake_ddpm
from diffusers import DDPMScheduler, UNet2DModel
from torch.distributions import Normal
from torch.testing import assert_close

from diffusion import DDPM, SCHEDULE, add_noise, eps_from_x_0, exact_x_0, make_unet
from diffusion import noised_for_validation, training_target, x_0_from_eps
from inference import gradient, growing_scale, guided, load_models, sample
from support.cli import UserError
from support.files import config_of

# --- formulas ---


def test_noising_and_its_inverses_are_ddpm_equations_4_and_15():
    x_0, eps = torch.randn(2, 4, *IMAGE_SHAPE)
    t = torch.tensor([0, 1, 400, 999])
    x_t = abar(t).sqrt() * x_0 + (1 - abar(t)).sqrt() * eps
    assert_close(fake_ddpm(None).abar, ABAR)
    assert_close(DDPMScheduler(**SCHEDULE).add_noise(x_0, eps, t), x_t, atol=1e-5, rtol=0)
    assert_close(add_noise(x_0, eps, abar(t)), x_t)
    assert_close(x_0_from_eps(x_t, eps, abar(t)), x_0, atol=1e-3, rtol=0)
    assert_close(eps_from_x_0(x_t, x_0, abar(t)), eps, atol=1e-3, rtol=0)


def test_the_exact_x_0_is_the_mean_of_the_images_by_bayes_rule():
    images, x_t, a = torch.randn(5, 1, 2, 2), torch.randn(3, 1, 2, 2), torch.tensor(0.3)
    likelihood = Normal(a.sqrt() * images, (1 - a).sqrt()).log_prob(x_t[:, None])
    p = likelihood.sum(dim=(2, 3, 4)).exp()  # (3, 5)
    expected = torch.einsum("bn,nchw->bchw", p / p.sum(dim=1, keepdim=True), images)
    assert_close(exact_x_0(x_t, a, images), expected)


CLIPPING = [({}, 1), ({"clip_sample_range": 2.0}, 2), ({"clip_sample": False}, 99)]


@pytest.mark.parametrize("clipping, limit", CLIPPING)
@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_every_prediction_type_gives_the_noise_after_clipping_x_0(kind, clipping, limit):
    """For one t or one per image; a learned variance is ignored."""
    t = torch.tensor([20, 300, 900])
    x_0, eps = 2 * torch.randn(3, *IMAGE_SHAPE), torch.randn(3, *IMAGE_SHAPE)
    settings = {"prediction_type": kind, **clipping}
    scheduler = DDPMScheduler(**SCHEDULE | settings)
    a, target = abar(t), training_target(scheduler, x_0, eps, t)
    v = a.sqrt() * eps - (1 - a).sqrt() * x_0  # Salimans & Ho 2022, section 4
    assert_close(target, {"epsilon": eps, "v_prediction": v, "sample": x_0}[kind])

    def unet(x_t, times):
        mean = target[[t.tolist().index(u) for u in times]]
        return torch.cat([mean, torch.full_like(mean, 9)], dim=1)

    ddpm, x_t = fake_ddpm(unet, **settings), scheduler.add_noise(x_0, eps, t)
    clipped = x_0.clamp(-limit, limit)
    noise = (x_t - a.sqrt() * clipped) / (1 - a).sqrt()
    for part, u in [(slice(3), t), *((slice(k, k + 1), int(t[k])) for k in range(3))]:
        found = ddpm.unet_eps(x_t[part], u), ddpm.x_0(x_t[part], u), ddpm(x_t[part], u)
        assert_close(found, (eps[part], clipped[part], noise[part]), atol=1e-4, rtol=1e-4)


def test_a_third_party_network_in_train_mode_and_half_precision_with_a_learned_variance():
    """Dropout is off. The network gets images of its dtype; everything else is in float32."""
    config = config_of(make_unet((8, 12), 3, channels=8)) | {"out_channels": 6, "dropout": 0.5}
    unet = UNet2DModel(**config).train().bfloat16()
    ddpm = DDPM(unet, DDPMScheduler(**SCHEDULE))
    x_t = torch.randn(2, 3, 8, 12)
    expected = unet.eval()(x_t.bfloat16(), torch.tensor(400)).sample[:, :3].float()
    assert_close(ddpm.unet_eps(x_t, 400), expected, atol=0, rtol=0)  # including the dtype
    assert sample(ddpm, None, [0, 1], steps=2).shape == x_t.shape


def test_zero_terminal_snr_is_refused():
    with pytest.raises(UserError, match="zero terminal SNR"):
        fake_ddpm(None, rescale_betas_zero_snr=True)


def test_validation_images_get_the_same_noise_over_all_timesteps():
    scheduler, x_0 = DDPMScheduler(**SCHEDULE), torch.randn(500, *IMAGE_SHAPE)
    x_t, t, eps = noised_for_validation(scheduler, x_0)
    assert t.sort().values.tolist() == list(range(0, 1000, 2))
    assert t[:250].float().mean().item() == pytest.approx(500, abs=50)  # in random order
    assert_close(x_t, add_noise(x_0, eps, abar(t)), atol=1e-5, rtol=0)
    assert eps.mean().abs() < 0.01 and eps.std().item() == pytest.approx(1, abs=0.01)
    assert torch.equal(noised_for_validation(scheduler, x_0)[0], x_t)


def test_the_unet_fits_its_images_and_the_included_one_is_the_default():
    unet, x_t, t = make_unet(12, 3, channels=8, num_class_embeds=4), torch.randn(2, 3, 12, 12), 5
    ddpm, labels = DDPM(unet, DDPMScheduler(**SCHEDULE)), torch.tensor([3, 0])
    assert ddpm.shape == x_t.shape[1:]
    assert torch.equal(ddpm.unet_eps(x_t, t, labels), unet(x_t, t, labels).sample)
    assert unet.config.block_out_channels[0] == 8
    assert config_of(make_unet()) == config_of(load_models()[0].unet)


# --- the guided noise ---


def log_p(x, t, y):
    return (1 + t) * (1 + y) * x.sin().sum(dim=(1, 2, 3))


def grad_of_log_p(x, t, y):
    return (1 + t) * (1 + y).view(-1, 1, 1, 1) * x.cos()


@pytest.mark.parametrize("t", [0, 20, 999])
def test_the_guided_noise_is_adm_equation_14(t):
    """The predicted x_0 is clipped first, here from 3 to 1, and then fully shifted."""
    y, x_t = torch.tensor([2, 9]), 3 * abar(t).sqrt() * torch.ones(2, *IMAGE_SHAPE)
    eps = (x_t - abar(t).sqrt()) / (1 - abar(t)).sqrt()
    ddpm, grad = fake_ddpm(lambda x_t, t: 0 * x_t), gradient(log_p)
    for scale in (1.5, torch.tensor([1.5]), lambda u: {t: 1.5}[u]):
        expected = eps - 1.5 * (1 - abar(t)).sqrt() * grad_of_log_p(x_t, t, y)
        assert_close(guided(ddpm, grad, scale)(x_t, t, y), expected, atol=1e-4, rtol=1e-4)


def test_the_gradient_at_the_predicted_x_0_goes_through_the_network():
    """x_0 is k x_t, so the gradient is k times that at x_0, or 0 where x_0 is clipped."""
    ddpm, y = fake_ddpm(lambda x_t, t: 0.5 * x_t), torch.arange(3)
    k = (1 - 0.5 * (1 - abar(400)).sqrt()) / abar(400).sqrt()
    x_0 = torch.randn(3, *IMAGE_SHAPE).clamp(-1.5, 1.5)
    found = gradient(lambda x_t, t, y: log_p(ddpm.x_0(x_t, t), t, y))(x_0 / k, 400, y)
    expected = k * (x_0.abs() < 1) * grad_of_log_p(x_0, 400, y)
    assert_close(found, expected, atol=1e-3, rtol=1e-3)


def test_a_potential_of_the_whole_batch_has_the_gradient_of_its_sum():
    """The images repel each other. The gradient is computed in torch.no_grad, too."""
    x_t = torch.randn(3, *IMAGE_SHAPE)
    repulsion = gradient(lambda x, t, y: (x[:, None] - x).square().sum(dim=(1, 2, 3, 4)) / 2)
    with torch.no_grad():
        found = repulsion(x_t, 5, None)
    assert_close(found, 2 * (3 * x_t - x_t.sum(dim=0)), atol=1e-4, rtol=1e-4)
    assert not (x_t.requires_grad or found.requires_grad)


@pytest.mark.parametrize("shape", [(2, 1), ()])
def test_a_guide_that_does_not_return_one_number_per_image_is_refused(shape):
    with pytest.raises(UserError, match="one number per image"):
        gradient(lambda x_t, t, y: x_t.sum().expand(shape))(torch.randn(2, *IMAGE_SHAPE), 5, None)


def test_the_scale_grows_with_the_signal_to_noise_ratio():
    ddpm, snr = fake_ddpm(None), (ABAR[:1000] / (1 - ABAR[:1000])).tolist()
    found = growing_scale(ddpm, 2)(249), growing_scale(ddpm, 3, -8)(0)
    assert found == pytest.approx((2 * (1 + 12 * snr[249]), 3 * (1 - 8 * snr[0])), rel=1e-3)


# --- Gaussian pixels with noisy observations, where everything is known exactly ---

SCHEDULES = [{}, {"beta_schedule": "squaredcos_cap_v2"}, {"num_train_timesteps": 400}]


@pytest.mark.parametrize("config", [*SCHEDULES, {"prediction_type": "v_prediction"}], ids=str)
def test_guidance_at_scale_1_samples_the_posterior_with_any_noise_schedule(config):
    """Pixels from N(0, P) have observations y with variance Q; a deterministic sampler keeps z."""
    P, Q = 0.04, 0.02
    V = 1 / (1 / P + 1 / Q)  # the variance of a pixel, given y

    def exact_output(x_t, t):
        a = table[t].view(-1, 1, 1, 1)
        eps = (1 - a).sqrt() * x_t / (P * a + 1 - a)
        return (eps - (1 - a).sqrt() * x_t) / a.sqrt() if "prediction_type" in config else eps

    def exact_log_p(x_t, t, y):
        a = table[t].view(-1, 1, 1, 1)
        mean = P * a.sqrt() / (P * a + 1 - a) * x_t  # E[x_0 | x_t]
        variance = P * (1 - a) / (P * a + 1 - a) + Q
        return -((y - mean).square() / (2 * variance)).sum(dim=(1, 2, 3))

    ddpm = fake_ddpm(exact_output, (3, 16, 12), **config)
    table, y, seeds = ddpm.scheduler.alphas_cumprod, torch.rand(2, 3, 16, 12) - 0.5, [5, 6]
    predict = guided(ddpm, gradient(exact_log_p), 1)
    images = sample(ddpm, y, seeds, predict, sampler="dpmsolver++", steps=300)
    rngs = [torch.Generator().manual_seed(seed) for seed in seeds]
    noise = torch.stack([torch.randn(3, 16, 12, generator=rng) for rng in rngs])
    mu, a = V / Q * y, table[-1]
    expected = mu + (noise - a.sqrt() * mu) * (V / (a * V + 1 - a)).sqrt()
    assert_close(images, expected, atol=0.005, rtol=0)
