"""Is it the guide or the U-Net? Two terms of guidance, with two U-Nets: variants of `guided`.

The terms are the classifier's gradient, and the *difference* of the two predictions of the U-Net of
classifier-free guidance, with and without the digit. Both are -s sqrt(1 - abar_t) grad log p(y |
x_t) if all networks are exact. `python evaluate.py --scale-growth 0 --variant guided_noise
evaluation/difference.py:difference` compares them at s = 1.
"""

import functools

import torch

from diffusion import clipped_noise
from evaluation.rivals import load_rival
from guidance import guided

MIDDLE = 500  # of all timesteps


@functools.cache
def rival(device):
    """The U-Net of classifier-free guidance that ships."""
    return load_rival(device=device)


def without_label(x_t, t):
    """The rival's U-Net as one that takes no label: its `sample` is eps (B, C, H, W)."""
    unet = rival(x_t.device)
    no_label = torch.full((len(x_t),), unet.config.num_class_embeds - 1, device=x_t.device)
    return unet(x_t, t, no_label)


def difference(unet, log_p, y, scale):
    """Our U-Net, and the difference in the place of the classifier's term."""

    @torch.no_grad()
    def predict_noise(x_t, t, u):
        eps = clipped_noise(x_t, t, unet(x_t, t).sample)
        with_label = rival(x_t.device)(x_t, t, y).sample
        return eps + scale(t) * (with_label - without_label(x_t, t).sample)

    return predict_noise


def on_rival(unet, log_p, y, scale):
    """The rival's U-Net without label, and the classifier's term."""
    return guided(without_label, log_p, y, scale)


def difference_late(unet, log_p, y, scale):
    """Our U-Net; the classifier's term at t >= 500, the difference below."""
    return switched(guided(unet, log_p, y, scale), difference(unet, log_p, y, scale))


def difference_early(unet, log_p, y, scale):
    """Our U-Net; the difference at t >= 500, the classifier's term below."""
    return switched(difference(unet, log_p, y, scale), guided(unet, log_p, y, scale))


def switched(early, late):
    """The predict_noise that is `early` at t >= 500, and `late` below."""

    def predict_noise(x_t, t, u):
        return early(x_t, t, u) if t >= MIDDLE else late(x_t, t, u)

    return predict_noise
