"""Variants of `guided_noise`, the controls of the method.

A variant is a function (unet, log_p, x_t, t, y, s) -> eps_hat (B, C, H, W), which `sample` calls
with a timestep t () for all images. `python evaluate.py --variant FILE.py:NAME` measures one of
your own.
"""

import torch

from diffusion import abar, clipped_noise, predicted_x_0
from evaluation.rivals import classifier_free
from guidance import guide_gradient, guided_noise


def without_root(unet, log_p, x_t, t, y, s):
    """ADM (14) without sqrt(1 - abar_t), a common mistake: stronger where noise is low."""
    return guided_noise(unet, log_p, x_t, t, y, s / (1 - abar(t)).sqrt())


def clip_after_tilt(unet, log_p, x_t, t, y, s):
    """The predicted x_0 is clipped after it is guided, which is what diffusers' schedulers do."""
    eps = unet(x_t, t).sample
    grad = guide_gradient(log_p, x_t, t, y)
    return clipped_noise(x_t, t, eps - s * (1 - abar(t)).sqrt() * grad)


def projected(unet, log_p, x_t, t, y, s):
    """The projection of adaptive projected guidance (Sadat et al. 2024, arXiv 2410.02416).

    The change that guidance makes loses its part along the predicted x_0, where black is 0, so it
    cannot brighten the image as a whole. Their limit on the change, and momentum, are left out.
    """
    eps = clipped_noise(x_t, t, unet(x_t, t).sample)
    change = -s * (1 - abar(t)).sqrt() * guide_gradient(log_p, x_t, t, y)
    image = predicted_x_0(x_t, t, eps) + 1
    along = (change * image).sum(dim=(1, 2, 3), keepdim=True)
    length = image.square().sum(dim=(1, 2, 3), keepdim=True).clamp(min=1e-9)
    return eps + change - along / length * image


def at_predicted_x_0(unet, log_p, x_t, t, y, s):
    """The guide is given the predicted x_0, at t = 0; its gradient goes through the U-Net."""

    def log_p_of_x_0(x_t, t, y):
        x_0 = predicted_x_0(x_t, t, unet(x_t, t).sample).clamp(-1, 1)
        return log_p(x_0, torch.zeros_like(t), y)

    return guided_noise(unet, log_p_of_x_0, x_t, t, y, s)


FUNCTIONS = (guided_noise, without_root, clip_after_tilt, projected, at_predicted_x_0)
VARIANTS = {function.__name__: function for function in (*FUNCTIONS, classifier_free)}
