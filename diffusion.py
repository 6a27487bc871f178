"""The process: noise schedule, noising, loss, U-Net, predicted x_0, one sampling step.

Equations are numbered as in Ho et al. 2020 ("DDPM", arXiv 2006.11239). Images are float tensors
(B, C, H, W) in [-1, 1]; timesteps t are integers 0 .. 999, where x_999 is almost pure noise.
"""

import torch
from diffusers import DDPMScheduler, UNet2DModel

from support.files import load_checkpoint
from support.streams import generator

NUM_TRAIN_TIMESTEPS = 1000
SCHEDULE = {  # DDPM, section 4
    "num_train_timesteps": NUM_TRAIN_TIMESTEPS,
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "prediction_type": "epsilon",  # all code here takes the output of the U-Net for eps
}
END = -1  # the time after the last step, where no noise is left
# abar_t, the product of 1 - beta up to t, for t = 0 .. 999; its last entry, at index END, is 1
ALPHAS_CUMPROD = torch.cat([DDPMScheduler(**SCHEDULE).alphas_cumprod, torch.ones(1)])
VALIDATION_SEED = 1
UNet = UNet2DModel  # the class of all U-Nets here; its `sample` is eps


def sampling_timesteps(num_steps):
    """The timesteps of every sampler, from 999 down to round(1000 / num_steps) - 1."""
    total = NUM_TRAIN_TIMESTEPS
    return [round(total * (num_steps - i) / num_steps) - 1 for i in range(num_steps)]


def abar(t):
    """abar_t of timesteps t (B,): (B, 1, 1, 1), for images; of one timestep: (). 1 at `END`."""
    t = torch.as_tensor(t)
    abar_t = ALPHAS_CUMPROD.to(t.device)[t]
    return abar_t[:, None, None, None] if t.ndim else abar_t


# --- noise and image ---


def add_noise(x_0, eps, t):
    """x_t, an image with noise eps ~ N(0, I) at timestep t: DDPM (4)."""
    return abar(t).sqrt() * x_0 + (1 - abar(t)).sqrt() * eps


def predicted_x_0(x_t, t, eps):
    """The image in x_t if eps is its noise: DDPM (15). It may leave [-1, 1]."""
    return (x_t - (1 - abar(t)).sqrt() * eps) / abar(t).sqrt()


def implied_noise(x_t, t, x_0):
    """The noise in x_t if x_0 is its image: DDPM (4), solved for eps."""
    return (x_t - abar(t).sqrt() * x_0) / (1 - abar(t)).sqrt()


def clipped_noise(x_t, t, eps):
    """The noise in x_t if its image is that predicted from eps, clipped to [-1, 1]."""
    return implied_noise(x_t, t, predicted_x_0(x_t, t, eps).clamp(-1, 1))


# --- one sampling step, from t to the next, less noisy timestep u ---


def same_noise(x_t, x_0, t, u, z):
    """x_u with the noise that is in x_t if x_0 is its image: DDPM (4) at u. z is not used."""
    return add_noise(x_0, implied_noise(x_t, t, x_0), u)


def posterior(x_t, x_0, t, u, z):
    """A draw of q(x_u | x_t, x_0), with fresh noise z ~ N(0, I): DDPM (6), (7).

    There u is t - 1; here it is any lower timestep, so alpha and beta are of all steps in between.
    With an extrapolated x_0, this is the step of SDE-DPM-Solver++ (2M): beta / (1 - abar_t) is its
    1 - exp(-2 h), with h = lambda_u - lambda_t of `half_log_snr`.
    """
    abar_t, abar_u = abar(t), abar(u)
    alpha, beta = abar_t / abar_u, 1 - abar_t / abar_u
    of_x_0 = abar_u.sqrt() * beta / (1 - abar_t)
    of_x_t = alpha.sqrt() * (1 - abar_u) / (1 - abar_t)
    variance = (1 - abar_u) / (1 - abar_t) * beta  # beta_tilde_t
    return of_x_0 * x_0 + of_x_t * x_t + variance.sqrt() * z


SAMPLERS = {  # name -> what makes x_u, and the order: at 2, x_0 is extrapolated first
    "ddpm": (posterior, 1),  # DDPM Algorithm 2, with the variance beta_tilde_t; DDIM at eta = 1
    "ddim": (same_noise, 1),  # Song et al. 2021, at eta = 0
    "sde-dpmsolver++": (posterior, 2),  # Lu et al. 2022, multistep
    "dpmsolver++": (same_noise, 2),
}


def sampler_step(sampler, x_t, x_0, t, u, previous, z):
    """x_u, the images at the next timestep u, from x_t, the predicted x_0 and fresh noise z.

    All are (B, C, H, W). The last u is `END`, and there x_u is x_0. `previous` is t and x_0 of the
    step before, or None in the first step. `sampler` is a name of `SAMPLERS`, or a pair as there.
    """
    if isinstance(sampler, str):
        sampler = SAMPLERS[sampler]
    make_x_u, order = sampler
    assert order in (1, 2), f"the order of a sampler is 1 or 2, not {order}"
    if order == 2 and previous is not None and u != END:  # at END, lambda is infinite
        x_0 = extrapolated(x_0, t, u, previous)
    return make_x_u(x_t, x_0, t, u, z)


def extrapolated(x_0, t, u, previous):
    """x_0 as it may be halfway from t to u, on the line through the x_0 of the last two steps.

    The line is in lambda, half the logarithm of the signal-to-noise ratio: DPM-Solver++ (2M) of
    Lu et al. 2022, arXiv 2211.01095, Algorithm 2. It may leave [-1, 1].
    """
    t_previous, x_0_previous = previous
    slope = (x_0 - x_0_previous) / (half_log_snr(t) - half_log_snr(t_previous))
    return x_0 + slope * (half_log_snr(u) - half_log_snr(t)) / 2


def half_log_snr(t):
    """lambda_t, half the logarithm of the signal-to-noise ratio."""
    return snr(t).log() / 2


def snr(t):
    """The signal-to-noise ratio (SNR) abar_t / (1 - abar_t) of timesteps, as `abar`."""
    return abar(t) / (1 - abar(t))


# --- the U-Net, and what it learns ---


def make_unet(shape, num_class_embeds=None):
    """diffusers' UNet2DModel for images (C, H, W), square; H is a multiple of 4.

    `num_class_embeds` is for a U-Net that is given labels too, of classifier-free guidance.
    """
    channels, size, _ = shape
    return UNet(
        sample_size=size,
        in_channels=channels,
        out_channels=channels,
        block_out_channels=(16, 32, 64),  # at sizes H, H / 2 and H / 4
        down_block_types=("DownBlock2D",) * 3,
        up_block_types=("UpBlock2D",) * 3,
        layers_per_block=1,
        norm_num_groups=8,
        resnet_time_scale_shift="scale_shift",  # t scales and shifts the normalised features
        add_attention=False,  # at H / 4 the convolutions see a whole digit
        num_class_embeds=num_class_embeds,
    )


def load_unet(path, device="cpu", made_by="train_ddpm.py"):
    """The U-Net of a checkpoint that a script has made, in eval mode. Raises UserError."""
    return load_checkpoint(path, UNet, SCHEDULE, made_by, device)


def simple_loss(eps_theta, eps):
    """L_simple of each image, the mean of |eps - eps_theta|^2 over its pixels: DDPM (14), (B,)."""
    return (eps_theta - eps).square().mean(dim=(1, 2, 3))


def validation_times(n):
    """t (N,), spread evenly over 0 .. 999, in an order that is the same at every call."""
    t = torch.arange(n) * NUM_TRAIN_TIMESTEPS // n
    return t[torch.randperm(n, generator=generator(VALIDATION_SEED, "validation", 0))]


def validation_noise(shape):
    """eps of a shape, the same at every call."""
    return torch.randn(shape, generator=generator(VALIDATION_SEED, "validation", 1))
