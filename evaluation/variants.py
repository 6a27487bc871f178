"""Variants of `guided`, the controls of the method.

A variant is a function (unet, log_p, y, scale) -> predict_noise, which `reverse_process` calls as
predict_noise(x_t, t, u) -> eps_hat (B, C, H, W), with two timesteps () for all images, t and the
next one, u. `python evaluate.py --variant FILE.py:NAME` measures one of your own.
"""

import torch

from diffusion import abar, clipped_noise, predicted_x_0
from evaluation.rivals import classifier_free
from guidance import guide_gradient, guided, guided_noise


def without_root(unet, log_p, y, scale):
    """ADM (14) without sqrt(1 - abar_t), a common mistake: too strong at low noise."""
    return guided(unet, log_p, y, lambda t: scale(t) / (1 - abar(t)).sqrt())


def algorithm_1(unet, log_p, y, scale):
    """ADM Algorithm 1: the mean of a DDPM step is shifted by s * Sigma_t * grad, ADM (10).

    With Sigma_t = beta_tilde_t, this shifts the x_0 in the mean, DDPM (7), by
    s (1 - abar_u) / sqrt(abar_u) * grad. That is ADM (14) at the scale below, for --sampler ddpm.
    """

    def predict_noise(x_t, t, u):
        a, b = abar(t), abar(u)
        s = scale(t) * (a / b).sqrt() * (1 - b) / (1 - a)
        return guided_noise(unet, log_p, x_t, t, y, s)

    return predict_noise


def clip_after_tilt(unet, log_p, y, scale):
    """The predicted x_0 is clipped after guiding, which is what diffusers' schedulers do."""

    def predict_noise(x_t, t, u):
        with torch.no_grad():
            eps = unet(x_t, t).sample
        return clipped_noise(x_t, t, eps + change_of_noise(log_p, x_t, t, y, scale(t)))

    return predict_noise


def projected(unet, log_p, y, scale):
    """The projection of adaptive projected guidance (Sadat et al. 2024, arXiv 2410.02416).

    The change that guidance makes loses its part along the predicted x_0, where black is 0, so it
    cannot brighten the image as a whole. Their limit on the change, and momentum, are left out.
    """

    def predict_noise(x_t, t, u):
        eps = guided_noise(unet, None, x_t, t, y, 0)
        change = change_of_noise(log_p, x_t, t, y, scale(t))
        image = predicted_x_0(x_t, t, eps) + 1
        along = (change * image).sum(dim=(1, 2, 3), keepdim=True)
        length = image.square().sum(dim=(1, 2, 3), keepdim=True).clamp(min=1e-9)
        return eps + change - along / length * image

    return predict_noise


def change_of_noise(log_p, x_t, t, y, s):
    """What ADM (14) adds to eps: (B, C, H, W), zeros at s = 0 or without a guide."""
    if s == 0 or log_p is None:
        return torch.zeros_like(x_t)
    return -s * (1 - abar(t)).sqrt() * guide_gradient(log_p, x_t, t.expand(len(x_t)), y)


def at_predicted_x_0(unet, log_p, y, scale):
    """The guide is given the predicted x_0, at t = 0; its gradient goes through the U-Net."""

    def log_p_of_x_0(x_t, t, y):
        x_0 = predicted_x_0(x_t, t, unet(x_t, t).sample).clamp(-1, 1)
        return log_p(x_0, torch.zeros_like(t), y)

    return guided(unet, log_p and log_p_of_x_0, y, scale)


VARIANTS = {
    "guided_noise": guided,
    "without_root": without_root,
    "algorithm_1": algorithm_1,
    "clip_after_tilt": clip_after_tilt,
    "projected": projected,
    "at_predicted_x_0": at_predicted_x_0,
    "classifier_free": classifier_free,
}
