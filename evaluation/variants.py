"""Variants of `guided_noise`, the controls of the method.

A variant is a function (unet, log_p, x_t, t, y, guidance_scale) -> eps_hat. To add one, write it
here and name it in `variants`; `python evaluate.py --sweep controls` then measures it.
"""

from functools import partial

import torch

from classifier import NUM_CLASSES
from diffusion import abar, clipped_noise, sampling_timesteps
from inference import guided_noise
from support.streams import generator


def variants(steps):
    """Name -> variant, for a sampler with that many steps."""
    return {
        "ADM Algorithm 2": guided_noise,
        "without sqrt(1 - abar_t)": without_root,
        "ADM Algorithm 1": partial(algorithm_1, timesteps=sampling_timesteps(steps)),
        "clip after the tilt": clipped_afterwards,
        "no clipping": partial(guided_noise, clip=False),
        "guide t >= 500 only": partial(guided_sometimes, where=range(500, 1000)),
        "guide t < 500 only": partial(guided_sometimes, where=range(500)),
        "wrong digits": guided_to_other_digits,
    }


def without_root(unet, log_p, x_t, t, y, guidance_scale):
    """ADM (14) without sqrt(1 - abar_t), a common mistake: too strong at low noise."""
    return guided_noise(unet, log_p, x_t, t, y, guidance_scale / (1 - abar(t)).sqrt())


def algorithm_1(unet, log_p, x_t, t, y, guidance_scale, timesteps):
    """ADM Algorithm 1: the mean of a DDPM step is shifted by s * Sigma_t * grad, ADM (10).

    With Sigma_t = beta_tilde_t, this shifts the x_0 in the mean, DDPM (7), by
    s (1 - abar_prev) / sqrt(abar_prev) * grad, where `prev` is the next, less noisy timestep.
    That is ADM (14) at the scale below. It holds for the "ddpm" sampler.
    """
    after = timesteps.index(int(t)) + 1
    abar_prev = abar(torch.tensor(timesteps[after])) if after < len(timesteps) else torch.ones(1)
    abar_prev = abar_prev.to(x_t.device)
    scale = (abar(t) / abar_prev).sqrt() * (1 - abar_prev) / (1 - abar(t))
    scale = scale.clamp(min=1e-20)  # the last step has no shift, and is clipped all the same
    return guided_noise(unet, log_p, x_t, t, y, guidance_scale * scale)


def clipped_afterwards(unet, log_p, x_t, t, y, guidance_scale):
    """The predicted x_0 is clipped after guiding, which is what diffusers' schedulers do."""
    eps_hat = guided_noise(unet, log_p, x_t, t, y, guidance_scale, clip=False)
    return clipped_noise(x_t, t, eps_hat)


def guided_sometimes(unet, log_p, x_t, t, y, guidance_scale, where):
    """Guide only at the timesteps t in `where`."""
    if int(t) in where:
        return guided_noise(unet, log_p, x_t, t, y, guidance_scale)
    return clipped_noise(x_t, t, guided_noise(unet, log_p, x_t, t, y, 0))


def guided_to_other_digits(unet, log_p, x_t, t, y, guidance_scale):
    """Guide to random digits instead of those asked for: accuracy must fall to chance."""
    rng = generator(len(y), int(y.sum()))  # the same other digits at every step
    other = torch.randint(NUM_CLASSES, y.shape, generator=rng).to(y.device)
    return guided_noise(unet, log_p, x_t, t, other, guidance_scale)
