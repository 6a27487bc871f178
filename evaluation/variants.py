"""Variants of `guided_noise`, the controls of the method.

A variant is a function (unet, log_p, x_t, t, y, s) -> eps_hat (B, 1, 28, 28), called by `sample`
with one timestep t () for all images. To add one, write it here and name it in `variants`; then
`python evaluate.py --variant NAME` measures it.
"""

from functools import partial

import torch

from diffusion import abar, clipped_noise, predicted_x_0, sampling_timesteps
from evaluation import exact_guide
from evaluation.rivals import classifier_free
from inference import STEPS, guide_gradient, guided_noise

# from t down to the next one -> how many times longer the exact guide's gradient is than ours: the
# median over samples that go wrong at scale 1, from the appendix of the notebook
MEDIAN_RATIOS = {
    999: 1.0, 949: 0.89, 849: 1.09, 749: 1.05, 649: 1.14,
    549: 1.46, 449: 2.67, 349: 4.31, 249: 9.96, 149: 54.36,
}  # fmt: skip


def variants(steps=STEPS):
    """Name -> variant, for a sampler with that many steps."""
    timesteps = sampling_timesteps(steps)
    return {
        "guided_noise": guided_noise,
        "without_root": without_root,
        "algorithm_1": partial(algorithm_1, timesteps=timesteps),
        "clip_after_tilt": clip_after_tilt,
        "projected": projected,
        "wrong_digits": wrong_digits,
        "at_predicted_x_0": at_predicted_x_0,
        "only_t>=250": partial(in_window, low=250, high=1000),
        "only_t>=500": partial(in_window, low=500, high=1000),
        "only_t>=750": partial(in_window, low=750, high=1000),
        "only_t<250": partial(in_window, low=0, high=250),
        "only_t<500": partial(in_window, low=0, high=500),
        "only_250<=t<750": partial(in_window, low=250, high=750),
        "exact_guide": by_exact_guide,
        "exact_length": exact_length,
        "exact_direction": exact_direction,
        "median_length": median_length,
        "classifier_free": classifier_free,
    }


def without_root(unet, log_p, x_t, t, y, s):
    """ADM (14) without sqrt(1 - abar_t), a common mistake: too strong at low noise."""
    return guided_noise(unet, log_p, x_t, t, y, s / (1 - abar(t)).sqrt())


def algorithm_1(unet, log_p, x_t, t, y, s, timesteps):
    """ADM Algorithm 1: the mean of a DDPM step is shifted by s * Sigma_t * grad, ADM (10).

    With Sigma_t = beta_tilde_t, this shifts the x_0 in the mean, DDPM (7), by
    s (1 - abar_prev) / sqrt(abar_prev) * grad, where `prev` is the next, less noisy timestep.
    That is ADM (14) at the scale below. It holds for the "ddpm" sampler.
    """
    next_step = timesteps.index(int(t)) + 1
    if next_step == len(timesteps):  # the last step has no variance, so no shift
        return guided_noise(unet, log_p, x_t, t, y, 0)
    abar_prev = abar(torch.full_like(t, timesteps[next_step]))
    scale = (abar(t) / abar_prev).sqrt() * (1 - abar_prev) / (1 - abar(t))
    return guided_noise(unet, log_p, x_t, t, y, s * scale)


def clip_after_tilt(unet, log_p, x_t, t, y, s):
    """The predicted x_0 is clipped after guiding, which is what diffusers' schedulers do."""
    eps_hat = guided_noise(unet, log_p, x_t, t, y, s, clip=False)
    return clipped_noise(x_t, t, eps_hat)


def projected(unet, log_p, x_t, t, y, s):
    """The projection of adaptive projected guidance (Sadat et al. 2024, arXiv 2410.02416).

    The change that guidance makes loses its part along the predicted x_0, where black is 0, so it
    cannot brighten the image as a whole. Their limit on the change, and momentum, are left out.
    """
    eps = guided_noise(unet, log_p, x_t, t, y, 0)
    change = guided_noise(unet, log_p, x_t, t, y, s) - eps
    image = predicted_x_0(x_t, t, eps) + 1
    along = (change * image).sum(dim=(1, 2, 3), keepdim=True)
    length = image.square().sum(dim=(1, 2, 3), keepdim=True).clamp(min=1e-9)
    return eps + change - along / length * image


def wrong_digits(unet, log_p, x_t, t, y, s):
    """Guide to each digit in turn instead of that asked for: accuracy must fall to chance."""
    num_classes = len(unet.dataset["classes"])
    other = (y + torch.arange(len(y), device=y.device)) % num_classes
    return guided_noise(unet, log_p, x_t, t, other, s)


def at_predicted_x_0(unet, log_p, x_t, t, y, s):
    """The guide is given the predicted x_0, at t = 0; its gradient goes through the U-Net."""

    def log_p_of_x_0(x_t, t, y):
        return log_p(predicted_x_0(x_t, t, unet(x_t, t).sample), torch.zeros_like(t), y)

    return guided_noise(unet, log_p_of_x_0, x_t, t, y, s)


def in_window(unet, log_p, x_t, t, y, s, low, high):
    """Guide only at low <= t < high."""
    inside = low <= t < high
    return guided_noise(unet, log_p, x_t, t, y, s if inside else 0)


def by_exact_guide(unet, log_p, x_t, t, y, s):
    """The exact guide of the training images instead of log_p."""
    return guided_noise(unet, exact_guide.log_p, x_t, t, y, s)


def exact_length(unet, log_p, x_t, t, y, s):
    """The gradient of log_p, but as long as that of the exact guide of the training images."""
    return mixed_gradient(unet, log_p, exact_guide.log_p, x_t, t, y, s)


def exact_direction(unet, log_p, x_t, t, y, s):
    """The gradient of the exact guide of the training images, but as long as that of log_p."""
    return mixed_gradient(unet, exact_guide.log_p, log_p, x_t, t, y, s)


def mixed_gradient(unet, direction, length, x_t, t, y, s):
    """ADM (14) with the gradient of a guide `direction`, scaled to the length of another's."""
    eps = guided_noise(unet, None, x_t, t, y, 0)
    t_of_each = t.expand(len(x_t))
    grad = guide_gradient(direction, x_t, t_of_each, y)
    wanted = guide_gradient(length, x_t, t_of_each, y).flatten(1).norm(dim=1)
    ratio = wanted / grad.flatten(1).norm(dim=1).clamp(min=1e-12)
    return eps - s * (1 - abar(t)).sqrt() * ratio.view(-1, 1, 1, 1) * grad


def median_length(unet, log_p, x_t, t, y, s):
    """The scale times `MEDIAN_RATIOS`: the exact guide's length, as far as t alone can tell it."""
    for start, ratio in MEDIAN_RATIOS.items():  # from high t to low
        if t <= start:
            factor = ratio
    return guided_noise(unet, log_p, x_t, t, y, s * factor)
