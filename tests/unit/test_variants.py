"""Variants that the Gaussian case does not tell apart: guiding to other digits."""

import torch

from diffusion import IMAGE_SHAPE
from evaluation.variants import variants
from inference import guided_noise


def test_guided_to_other_digits_guides_to_other_digits(unet, classifier):
    """Each image toward one digit, the same at every t; asked for by chance only."""
    form, y = variants(20)["wrong digits"], torch.arange(10).repeat(2)
    x_t, asked = torch.randn(20, *IMAGE_SHAPE), []

    def log_p(x, t, digits):
        asked.append(digits)
        return classifier.log_p(x, t, digits)

    for t in (torch.tensor(500), torch.tensor(99)):
        eps_hat = form(unet, log_p, x_t, t, y, 2.0)
        assert torch.equal(eps_hat, guided_noise(unet, classifier.log_p, x_t, t, asked[-1], 2.0))
    assert torch.equal(asked[0], asked[1]) and asked[0].shape == y.shape
    assert (asked[0] == y).float().mean() <= 0.25
    assert asked[0].min() >= 0 and asked[0].max() <= 9 and len(asked[0].unique()) > 5


def test_the_names_of_the_variants_are_those_of_the_tables():
    names = list(variants(7))
    assert names == list(variants(1)) and "ADM Algorithm 2" in names and len(names) == 8
