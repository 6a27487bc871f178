"""The default scale, whose growth stops at a time: `--guidance-scale evaluation/capped.py:at_499`.

Of our schedule, 1 + 24 min(SNR_t, SNR of that time).
"""

from diffusers import DDPMScheduler

from diffusion import SCHEDULE, snr
from inference import DEFAULT_SCALE


def capped(t, time):
    """s at t, whose SNR counts as that of `time` if it is larger."""
    snr_at = snr(DDPMScheduler(**SCHEDULE).alphas_cumprod)
    w, g = DEFAULT_SCALE
    return w * (1 + g * min(snr_at[t], snr_at[time]).item())


def at_499(t):
    """The growth stops at t = 499."""
    return capped(t, 499)


def at_399(t):
    """The growth stops at t = 399."""
    return capped(t, 399)


def at_249(t):
    """The growth stops at t = 249."""
    return capped(t, 249)
