"""The default scale, whose growth stops at a time: `--guidance-scale evaluation/capped.py:at_499`.

Of our schedule, 1 + 24 min(SNR_t, SNR of that time).
"""

from diffusers import DDPMScheduler

from diffusion import SCHEDULE
from inference import growing_scale

SCALE = growing_scale(DDPMScheduler(**SCHEDULE))


def at_499(t):
    """The growth stops at t = 499."""
    return SCALE(max(t, 499))


def at_399(t):
    """The growth stops at t = 399."""
    return SCALE(max(t, 399))


def at_249(t):
    """The growth stops at t = 249."""
    return SCALE(max(t, 249))
