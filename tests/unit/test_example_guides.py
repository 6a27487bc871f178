"""The guides of examples/."""

from functools import partial
from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT

from classifier import Classifier
from diffusion import ALPHAS_CUMPROD, abar
from evaluation.examples import share
from examples import ambigram, inpainting, not_a_digit, two_digits
from inference import guide_gradient

T = torch.tensor([0, 400, 999])
PAIRS = torch.tensor([[6, 9], [3, 8], [1, 1]])
HALVES = torch.cat([torch.rand(3, 392) * 2 - 1, torch.tensor([[3.0], [0], [9]])], dim=1)


def guides(unet, classifier):
    """Name -> guide, y."""
    return {
        "ambigram": (ambigram.both_ways(classifier.log_p), PAIRS),
        "two_digits": (two_digits.between(classifier.log_p, 0.3), PAIRS),
        "pixels": (partial(inpainting.seen, unet, None), HALVES),
        "pixels and class": (partial(inpainting.seen, unet, classifier.log_p), HALVES),
        "not_a_digit": (partial(not_a_digit.anything_but, classifier), PAIRS[:, 0]),
    }


@pytest.mark.parametrize("name", guides(None, Classifier()))
def test_a_guide_is_finite_and_differentiable(unet, classifier, name):
    """At the first, a middle and the last t; and it sees no neighbour."""
    log_p, y = guides(unet, classifier)[name]
    x_t = torch.randn(3, 1, 28, 28)
    value, grad = log_p(x_t, T, y), guide_gradient(log_p, x_t, T, y)
    assert value.shape == (3,) and value.isfinite().all()
    assert grad.shape == x_t.shape and grad.isfinite().all()
    assert (grad.flatten(1).norm(dim=1) > 0).all()
    for k in range(3):
        alone = guide_gradient(log_p, x_t[k : k + 1], T[k : k + 1], y[k : k + 1])[0]
        assert (grad[k] - alone).norm() < 1e-3 * alone.norm() + 1e-4


def test_the_ambigram_guide_is_the_sum_of_both_ways():
    def log_p(x_t, t, y):
        return x_t[:, 0, 0, 0] * y  # the upper left pixel

    x_t = torch.arange(3 * 784.0).view(3, 1, 28, 28)
    expected = [6 * 0 + 9 * 783, 3 * 784 + 8 * 1567, 1568 + 2351]
    assert ambigram.both_ways(log_p)(x_t, T, PAIRS).tolist() == expected


def test_the_weights_go_from_one_digit_to_the_other(classifier):
    x_t = torch.randn(3, 1, 28, 28)
    first, second = (classifier.log_p(x_t, T, PAIRS[:, k]) for k in (0, 1))
    for w in (0, 0.25, 1):
        value = two_digits.between(classifier.log_p, w)(x_t, T, PAIRS)
        torch.testing.assert_close(value, first + w * (second - first))


def test_the_negative_guide_is_accurate_where_the_digit_is_certain():
    """log(1 - p) of logits whose p is 1 in floating point, and of p = 1/10."""

    def logits(x_t, t):
        return torch.tensor([[0.0] * 9 + [200], [0.0] * 10])

    y = torch.tensor([9, 9])
    value = not_a_digit.anything_but(logits, None, None, y).double()
    expected = torch.tensor([9.0, 0.9]).double().log() - torch.tensor([200.0, 0])
    torch.testing.assert_close(value, expected, atol=1e-4, rtol=0)


def test_the_guide_of_pixels_is_the_normal_density_at_the_predicted_x_0(classifier):
    """By a U-Net that predicts no noise, so that the predicted x_0 is x_t / sqrt(abar_t)."""

    def unet(x_t, t):
        return SimpleNamespace(sample=torch.zeros_like(x_t))

    x_0, t = torch.rand(3, 1, 28, 28) - 0.5, torch.tensor([0, 400, 700])
    x_t, y = abar(t).sqrt() * x_0, HALVES.clone()
    y[:, :392] = x_0[:, 0, :14].flatten(1) + 0.1
    variance = 0.02 + 0.1 * (1 - ALPHAS_CUMPROD[t])
    pixels = inpainting.seen(unet, None, x_t, t, y)
    torch.testing.assert_close(pixels, -392 * 0.1**2 / (2 * variance), rtol=1e-3, atol=0)
    both = inpainting.seen(unet, classifier.log_p, x_t, t, y)
    label = classifier.log_p(x_t, t, torch.tensor([3, 0, 9]))
    torch.testing.assert_close(both, pixels + label)


def test_the_share_has_its_interval_and_n():
    assert share(torch.arange(100) < 44) == "0.440 [0.347, 0.538] of 100"
    assert share(torch.zeros(0, dtype=torch.bool)) == "0.000 [0.000, 1.000] of 0"


@pytest.mark.parametrize("name", ["ambigram", "two_digits", "inpainting", "not_a_digit"])
def test_an_example_has_40_lines(name):
    assert len((ROOT / "examples" / f"{name}.py").read_text().splitlines()) <= 40
