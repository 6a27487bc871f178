"""Variants of `guided_noise`, the controls of the method.

A variant is a function (unet, log_p, x_t, t, y, s, u) -> eps_hat (B, C, H, W), which `sample` calls
with two timesteps () for all images, t and the next one, u. `python evaluate.py --variant
FILE.py:NAME` measures one of your own.
"""

import torch

from diffusion import abar, clipped_noise, predicted_x_0
from evaluation.rivals import classifier_free
from guidance import guide_gradient, guided_noise


def without_root(unet, log_p, x_t, t, y, s, u=None):
    """ADM (14) without sqrt(1 - abar_t), a common mistake: too strong at low noise."""
    return guided_noise(unet, log_p, x_t, t, y, s / (1 - abar(t)).sqrt())


def algorithm_1(unet, log_p, x_t, t, y, s, u):
    """ADM Algorithm 1: the mean of a DDPM step is shifted by s * Sigma_t * grad, ADM (10).

    With Sigma_t = beta_tilde_t, this shifts the x_0 in the mean, DDPM (7), by
    s (1 - abar_u) / sqrt(abar_u) * grad. That is ADM (14) at the scale below, for --sampler ddpm.
    """
    a, b = abar(t), abar(u)
    return guided_noise(unet, log_p, x_t, t, y, s * (a / b).sqrt() * (1 - b) / (1 - a))


def clip_after_tilt(unet, log_p, x_t, t, y, s, u=None):
    """The predicted x_0 is clipped after guiding, which is what diffusers' schedulers do."""
    if s == 0 or log_p is None:
        return guided_noise(unet, log_p, x_t, t, y, 0)
    grad = guide_gradient(log_p, x_t, t.expand(len(x_t)), y)
    return clipped_noise(x_t, t, unet(x_t, t).sample - s * (1 - abar(t)).sqrt() * grad)


def projected(unet, log_p, x_t, t, y, s, u=None):
    """The projection of adaptive projected guidance (Sadat et al. 2024, arXiv 2410.02416).

    The change that guidance makes loses its part along the predicted x_0, where black is 0, so it
    cannot brighten the image as a whole. Their limit on the change, and momentum, are left out.
    """
    if s == 0 or log_p is None:
        return guided_noise(unet, log_p, x_t, t, y, 0)
    eps = clipped_noise(x_t, t, unet(x_t, t).sample)
    grad = guide_gradient(log_p, x_t, t.expand(len(x_t)), y)
    change = -s * (1 - abar(t)).sqrt() * grad  # of ADM (14)
    image = predicted_x_0(x_t, t, eps) + 1
    along = (change * image).sum(dim=(1, 2, 3), keepdim=True)
    length = image.square().sum(dim=(1, 2, 3), keepdim=True).clamp(min=1e-9)
    return eps + change - along / length * image


def at_predicted_x_0(unet, log_p, x_t, t, y, s, u=None):
    """The guide is given the predicted x_0, at t = 0; its gradient goes through the U-Net."""

    if log_p is None:
        return guided_noise(unet, None, x_t, t, y, s)

    def log_p_of_x_0(x_t, t, y):
        x_0 = predicted_x_0(x_t, t, unet(x_t, t).sample).clamp(-1, 1)
        return log_p(x_0, torch.zeros_like(t), y)

    return guided_noise(unet, log_p_of_x_0, x_t, t, y, s)


FUNCTIONS = (guided_noise, without_root, algorithm_1, clip_after_tilt, projected, at_predicted_x_0)
VARIANTS = {function.__name__: function for function in (*FUNCTIONS, classifier_free)}
