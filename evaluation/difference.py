"""Is it the guide or the U-Net? Two terms of guidance, with two U-Nets: variants of `guided_noise`.

The terms are the classifier's gradient, and the *difference* of the two predictions of the U-Net of
classifier-free guidance, with and without the digit. Both are -s sqrt(1 - abar_t) grad log p(y |
x_t) if all networks are exact. `python evaluate.py --scale-growth 0 --variant guided_noise
evaluation/difference.py:difference` compares them at s = 1.
"""

import functools

from diffusion import clipped_noise
from evaluation.rivals import load_rival, without_label
from guidance import guided_noise

MIDDLE = 500  # of all timesteps


def difference(unet, log_p, x_t, t, y, s):
    """Our U-Net, and the difference in the place of the classifier's term."""
    rival = load_rival(unet.path.parent, x_t.device)
    eps = clipped_noise(x_t, t, unet(x_t, t).sample)
    return eps + s * (rival(x_t, t, y).sample - without_label(rival, x_t, t).sample)


def on_rival(unet, log_p, x_t, t, y, s):
    """The rival's U-Net without label, and the classifier's term."""
    rival = functools.partial(without_label, load_rival(unet.path.parent, x_t.device))
    return guided_noise(rival, log_p, x_t, t, y, s)


def difference_late(unet, log_p, x_t, t, y, s):
    """Our U-Net; the classifier's term at t >= 500, the difference below."""
    variant = guided_noise if t >= MIDDLE else difference
    return variant(unet, log_p, x_t, t, y, s)


def difference_early(unet, log_p, x_t, t, y, s):
    """Our U-Net; the difference at t >= 500, the classifier's term below."""
    variant = difference if t >= MIDDLE else guided_noise
    return variant(unet, log_p, x_t, t, y, s)
