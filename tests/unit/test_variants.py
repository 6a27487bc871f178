"""Variants that the Gaussian case does not tell apart: where, when and to what the guide looks."""

from types import SimpleNamespace

import pytest
import torch

from diffusion import IMAGE_SHAPE, abar, add_noise, clipped_noise, make_sampler, predicted_x_0
from diffusion import sampling_timesteps
from evaluation.solvers import SOLVERS, Solver
from evaluation.variants import GUIDE_OF, RIVAL_OF, WINDOWS, variants
from inference import guided_noise, reverse_process
from support.streams import image_generators

Y = torch.arange(3)


def unet_of(gain):
    """eps = gain * x_t."""
    return lambda x_t, t: SimpleNamespace(sample=gain * x_t)


def log_p(x, t, y):
    """No distribution, but smooth, and it depends on all that it is given."""
    strength = (1 + t.double() / 100) * (1 + y)  # (B,)
    return strength * (x.sin() + 0.3 * x.square()).sum(dim=(1, 2, 3))


def gradient_by_differences(x, t, y, h=1e-5):
    """The gradient of `log_p` at x (B, 1, 28, 28): each pixel is alone in its term of the sum."""
    strength = (1 + t.double() / 100) * (1 + y)
    up, down = ((x + d).sin() + 0.3 * (x + d).square() for d in (h, -h))
    return strength.view(-1, 1, 1, 1) * (up - down) / (2 * h)


def step_of_ddpm(num_steps, eps, t, x_t, noise=True):
    """x_prev by diffusers, clipped; without noise, its mean. And the variance of the step."""
    scheduler = make_sampler("ddpm", num_steps, clip=True)
    variance = scheduler._get_variance(t)
    if not noise:
        scheduler._get_variance = lambda *_, **__: torch.zeros(())
    generators = list(image_generators(1, Y))
    return scheduler.step(eps, t, x_t, generator=generators).prev_sample, variance


@pytest.mark.parametrize("num_steps", [3, 20])
def test_the_gradient_at_the_mean_is_that_at_the_mean_of_a_ddpm_step(num_steps):
    """And the guide gets the t of the next step; of 0 after the last one, where the mean is x_0."""
    timesteps = [*make_sampler("ddpm", num_steps).timesteps, torch.tensor(0)]
    x_t = torch.randn(3, *IMAGE_SHAPE, dtype=torch.float64)
    for t, t_prev in zip(timesteps, timesteps[1:]):
        eps = 0.9 * x_t
        mean, variance = step_of_ddpm(num_steps, eps, t, x_t, noise=False)
        grad = gradient_by_differences(mean, t_prev.expand(3), Y)
        form = variants(num_steps)["gradient at the mean"]
        eps_hat = form(unet_of(0.9), log_p, x_t, t, Y, 2.0)
        expected = clipped_noise(x_t, t, eps) - 2 * (1 - abar(t)).sqrt() * grad
        torch.testing.assert_close(eps_hat, expected, atol=1e-4, rtol=1e-4)
        at_x_t = guided_noise(unet_of(0.9), log_p, x_t, t, Y, 2.0)
        assert (eps_hat - at_x_t).abs().max() > 0.01

        eps_hat = variants(num_steps)["Algorithm 1 at the mean"](
            unet_of(0.9), log_p, x_t, t, Y, 0.01
        )
        scheduler, generators = make_sampler("ddpm", num_steps), list(image_generators(1, Y))
        ours = scheduler.step(eps_hat, t, x_t, generator=generators).prev_sample
        plain, _ = step_of_ddpm(num_steps, eps, t, x_t)
        torch.testing.assert_close(ours, plain + 0.01 * variance * grad, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("t", [0, 400, 999])
def test_t_is_0_for_a_guide_that_is_told_so(t):
    x_t, t, seen = torch.randn(3, *IMAGE_SHAPE), torch.tensor(t), []

    def spy(x, t, y):
        seen.append((x, t))
        return log_p(x, t, y)

    eps_hat = variants(20)["guide at t = 0"](unet_of(0.9), spy, x_t, t, Y, 2.0)
    [(x, t_seen)] = seen
    assert torch.equal(x, x_t) and t_seen.tolist() == [0, 0, 0]
    grad = gradient_by_differences(x_t.double(), torch.zeros(3), Y)
    expected = clipped_noise(x_t, t, 0.9 * x_t) - 2 * (1 - abar(t)).sqrt() * grad
    torch.testing.assert_close(eps_hat.double(), expected, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("t", [0, 400, 800])
def test_the_gradient_at_the_predicted_x_0_goes_through_the_unet(t):
    """Of a linear U-Net x_0 is k x_t, so the gradient is k times that at x_0; 0 where x_0 clips."""
    gain, t, seen = 0.5, torch.tensor(t), []
    k = (1 - gain * (1 - abar(t)).sqrt()) / abar(t).sqrt()
    x_t = torch.randn(3, *IMAGE_SHAPE) / k
    x_0 = (k * x_t).clamp(-1, 1)

    def spy(x, t, y):
        seen.append((x.detach(), t))
        return log_p(x, t, y)

    eps_hat = variants(20)["clean guide at predicted x_0"](unet_of(gain), spy, x_t, t, Y, 2.0)
    [(x, t_seen)] = seen
    torch.testing.assert_close(x, x_0, atol=1e-5, rtol=1e-5)
    assert t_seen.tolist() == [0, 0, 0]
    grad = gradient_by_differences(x_0.double(), torch.zeros(3), Y) * k * (x_0.abs() < 1)
    expected = clipped_noise(x_t, t, gain * x_t) - 2 * (1 - abar(t)).sqrt() * grad
    inside = ((k * x_t).abs() - 1).abs() > 1e-4
    assert 0.2 < (x_0.abs() == 1).float().mean() < 0.5
    torch.testing.assert_close(eps_hat.double()[inside], expected[inside], atol=1e-3, rtol=1e-3)


SAME = {  # a variant whose network is another -> the form that it shares
    "clean guide at x_t": "ADM Algorithm 2",
    "raw-t guide": "ADM Algorithm 2",
    "course U-Net": "ADM Algorithm 2",
    "raw-t guide, no root": "without sqrt(1 - abar_t)",
}


@pytest.mark.parametrize("name", SAME)
def test_other_networks_guide_by_the_same_form(name):
    x_t, t = torch.randn(3, *IMAGE_SHAPE), torch.tensor(400)
    same, ours = (
        variants(20)[form](unet_of(0.9), log_p, x_t, t, Y, 2.0) for form in (SAME[name], name)
    )
    assert torch.equal(same, ours)


@pytest.mark.parametrize("t", [100, 600])
def test_what_is_projected_has_no_part_along_the_image(t):
    """And differs from what guidance changes along the image only."""
    x_t, t = torch.randn(3, *IMAGE_SHAPE), torch.tensor(t)
    arguments = unet_of(0.9), log_p, x_t, t, Y, 2.0
    eps, eps_hat = clipped_noise(x_t, t, 0.9 * x_t), guided_noise(*arguments)
    ours, image = variants(20)["projected"](*arguments), predicted_x_0(x_t, t, eps) + 1
    dot = [(a * image).sum(dim=(1, 2, 3)) for a in (ours - eps, eps_hat - eps, image)]
    assert (dot[0].abs() < 1e-3 * dot[1].abs()).all()
    expected = eps_hat - (dot[1] / dot[2]).view(-1, 1, 1, 1) * image
    torch.testing.assert_close(ours, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("t", [100, 600])
def test_what_is_rescaled_has_the_deviation_of_the_unguided_image_to_a_share(t):
    x_t, t = torch.randn(3, *IMAGE_SHAPE), torch.tensor(t)
    arguments = unet_of(0.9), log_p, x_t, t, Y, 2.0
    forms = guided_noise, variants(20)["rescaled"]
    eps = [clipped_noise(x_t, t, 0.9 * x_t), *(form(*arguments) for form in forms)]
    plain, guided = (predicted_x_0(x_t, t, e) for e in eps[:2])
    ours = (x_t - (1 - abar(t)).sqrt() * eps[2]) / abar(t).sqrt()  # not clipped
    ratio = plain.flatten(1).std(dim=1) / guided.flatten(1).std(dim=1)
    expected = (0.7 * ratio + 0.3).view(-1, 1, 1, 1) * guided
    torch.testing.assert_close(ours, expected, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("name", SOLVERS)
def test_a_solver_ends_at_the_image_if_the_noise_is_known(name):
    """eps of one image: each step stays on the line between it and the noise."""
    x_0, eps = torch.rand(2, *IMAGE_SHAPE) * 2 - 1, torch.randn(2, *IMAGE_SHAPE)
    solver = Solver(name, 20)
    assert solver.timesteps.tolist() == sampling_timesteps(20)
    end = reverse_process(lambda *_: eps, solver, add_noise(x_0, eps, torch.tensor(999)), None)
    expected = {"unipc": x_0, "deis": add_noise(x_0, eps, torch.tensor(0))}[name]
    torch.testing.assert_close(end, expected, atol=1e-3, rtol=0)


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("inside", [False, True])
def test_one_of_two_windows_guides_at_each_t(window, inside):
    """T itself belongs to the noisy side. Outside, the prediction is clipped all the same."""
    x_t, t = 3 * torch.randn(3, *IMAGE_SHAPE), torch.tensor(window - (not inside))
    arguments = unet_of(0.9), log_p, x_t, t, Y
    guided = guided_noise(*arguments, 2.0)
    clipped = clipped_noise(x_t, t, 0.9 * x_t)
    for side, on in ((">=", inside), ("<", not inside)):
        eps_hat = variants(20)[f"guide t {side} {window} only"](*arguments, 2.0)
        assert torch.equal(eps_hat, guided if on else clipped)


def test_guided_to_other_digits_guides_to_other_digits(unet, classifier):
    """Each image toward one digit, the same at every t; one in ten is asked for."""
    form, y = variants(20)["wrong digits"], torch.arange(10).repeat_interleave(2)
    x_t, asked = torch.randn(20, *IMAGE_SHAPE), []

    def log_p(x, t, digits):
        asked.append(digits)
        return classifier.log_p(x, t, digits)

    for t in (torch.tensor(500), torch.tensor(99)):
        eps_hat = form(unet, log_p, x_t, t, y, 2.0)
        assert torch.equal(eps_hat, guided_noise(unet, classifier.log_p, x_t, t, asked[-1], 2.0))
    assert torch.equal(asked[0], asked[1]) and asked[0].shape == y.shape
    assert (asked[0] == y).nonzero().flatten().tolist() == [0, 10]
    assert asked[0].min() >= 0 and asked[0].max() <= 9 and len(asked[0].unique()) > 5


def test_the_names_of_the_variants_are_those_of_the_tables():
    names = list(variants(7))
    assert names == list(variants(1)) and "ADM Algorithm 2" in names and len(names) == 25
    assert {*GUIDE_OF, *RIVAL_OF} < set(names) and not GUIDE_OF.keys() & RIVAL_OF.keys()
