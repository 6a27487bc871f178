"""The DDPM: formulas in terms of abar, sampling steps, multistep solver, schedule, U-Net.

A DDPM is a U-Net and its scheduler, as in diffusers' `DDPMPipeline`. Each formula takes abar_t,
the scheduler's `alphas_cumprod[t]`, so it holds for any noise schedule. Equation numbers refer to
Ho et al. 2020 ("DDPM", arXiv 2006.11239). Images are float tensors (B, C, H, W) in [-1, 1];
timesteps t run from 0 to T - 1, and x_{T-1} is almost pure noise.
"""

import math
from itertools import pairwise

import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

from support.cli import UserError
from support.files import load_checkpoint
from support.streams import generator

SCHEDULE = {  # config of the DDPMScheduler that all scripts share (DDPM, section 4)
    "num_train_timesteps": 1000,
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "prediction_type": "epsilon",  # or "v_prediction"
    "timestep_spacing": "trailing",  # as in `sampling_times`
}
CHANNELS = 16  # number of U-Net channels at full resolution
END = -1  # the timestep after the last step: no noise is left, abar[END] is 1
VALIDATION_SEED = 1


# --- noise and image ---


def add_noise(x_0, eps, abar_t):
    """x_t, the image x_0 with noise eps ~ N(0, I): DDPM (4)."""
    return abar_t.sqrt() * x_0 + (1 - abar_t).sqrt() * eps


def predicted_x_0(x_t, eps, abar_t):
    """The image in x_t if its noise is eps: DDPM (15). May be outside [-1, 1]."""
    return (x_t - (1 - abar_t).sqrt() * eps) / abar_t.sqrt()


def implied_noise(x_t, x_0, abar_t):
    """The noise in x_t if its image is x_0: DDPM (4) solved for eps."""
    return (x_t - abar_t.sqrt() * x_0) / (1 - abar_t).sqrt()


def clipped_noise(x_t, eps, abar_t, limit=1.0):
    """The noise in x_t after clipping the x_0 predicted from eps to [-limit, limit]."""
    return implied_noise(x_t, predicted_x_0(x_t, eps, abar_t).clamp(-limit, limit), abar_t)


def snr(abar_t):
    """The signal-to-noise ratio of x_t."""
    return abar_t / (1 - abar_t)


# --- one sampling step, from t to any less noisy timestep u ---


def ddpm_step(x_t, x_0, abar_t, abar_u, noise):
    """Sample from q(x_u | x_t, x_0): DDPM (6), (7). `noise()` draws noise with the shape of x_t.

    In the paper, u = t - 1. For a smaller u, alpha and beta span all timesteps in between.
    """
    alpha, beta = abar_t / abar_u, 1 - abar_t / abar_u
    x_0_weight = abar_u.sqrt() * beta / (1 - abar_t)
    x_t_weight = alpha.sqrt() * (1 - abar_u) / (1 - abar_t)
    mean = x_0_weight * x_0 + x_t_weight * x_t
    variance = (1 - abar_u) / (1 - abar_t) * beta  # beta_tilde_t
    return mean + variance.sqrt() * noise()


def ddim_step(x_t, x_0, abar_t, abar_u, noise):
    """x_u with the same noise as x_t: DDIM with eta = 0 (Song et al. 2021, arXiv 2010.02502)."""
    return add_noise(x_0, implied_noise(x_t, x_0, abar_t), abar_u)


def multistep(step, predict_noise, abar, x_t, times, noise):
    """DPM-Solver++ (2M): Lu et al. 2022, arXiv 2211.01095, Algorithm 2.

    Extrapolates x_0 linearly in lambda, half the log-SNR, from the last two steps to the midpoint
    of t and u. With `ddpm_step` this is SDE-DPM-Solver++. For the arguments and the yielded tuples,
    see `first_order` in inference.py.
    """
    half_log_snr = snr(abar).log() / 2  # lambda
    previous = None  # t and x_0 of the previous step
    for t, u in pairwise(times):
        eps_hat = predict_noise(x_t, t)
        x_0 = halfway = predicted_x_0(x_t, eps_hat, abar[t])
        if previous is not None and u != END:  # at END lambda is infinite
            s, x_0_at_s = previous
            slope = (x_0 - x_0_at_s) / (half_log_snr[t] - half_log_snr[s])
            halfway = x_0 + slope * (half_log_snr[u] - half_log_snr[t]) / 2
        x_t = step(x_t, halfway, abar[t], abar[u], noise)
        previous = t, x_0
        yield u, x_t, x_0


# --- the scheduler ---


def abar_table(scheduler):
    """abar_t for t = 0 .. T - 1, and 1 for t = END: a tensor (T + 1,) on the CPU."""
    return torch.nn.functional.pad(scheduler.alphas_cumprod.cpu(), (0, 1), value=1.0)


def sampling_times(T, steps):
    """`steps` evenly spaced, decreasing timesteps, the first of which is T - 1: a list of ints."""
    return [round(T * (steps - i) / steps) - 1 for i in range(steps)]


def timesteps(x_t, t):
    """The int t repeated for each image of x_t: (B,), on the device of x_t."""
    return torch.full((len(x_t),), t, device=x_t.device)


def same_schedule(scheduler, other):
    """Whether two schedulers add the same amount of noise at each timestep."""
    a, b = scheduler.alphas_cumprod.cpu(), other.alphas_cumprod.cpu()
    return a.shape == b.shape and torch.allclose(a, b)


def training_target(scheduler, x_0, eps, t):
    """What the U-Net learns to predict, eps or v, same shape as x_0."""
    check_prediction_type(scheduler)
    if scheduler.config.prediction_type == "v_prediction":
        return scheduler.get_velocity(x_0, eps, t)
    return eps


def predicted_noise(scheduler, output, x_t, abar_t):
    """eps, given the output of a U-Net that predicts `training_target`."""
    if scheduler.config.prediction_type == "v_prediction":  # Salimans & Ho 2022, section 4
        return abar_t.sqrt() * output + (1 - abar_t).sqrt() * x_t
    return output


def check_prediction_type(scheduler):
    """Raise UserError unless the prediction type is epsilon or v_prediction."""
    kind = scheduler.config.prediction_type
    if kind not in ("epsilon", "v_prediction"):
        raise UserError(f"prediction_type must be epsilon or v_prediction, got {kind}")


def clip_limit(scheduler):
    """The absolute value at which a scheduler clips the predicted x_0; infinity if it does not."""
    return scheduler.config.clip_sample_range if scheduler.config.clip_sample else math.inf


def noised_for_validation(scheduler, x_0, t=None):
    """Add noise to validation images x_0 (N, C, H, W); the noise is the same in every call.

    Returns (x_t, t, eps). By default, t (N,) covers all timesteps evenly, in random order.
    """
    n = len(x_0)
    if t is None:
        t = torch.arange(n) * scheduler.config.num_train_timesteps // n
        t = t[torch.randperm(n, generator=generator(VALIDATION_SEED, "validation", 0))]
    eps = torch.randn(x_0.shape, generator=generator(VALIDATION_SEED, "validation", 1))
    return scheduler.add_noise(x_0, eps, t), t, eps


# --- the U-Net and the DDPM ---


def make_unet(shape, channels=CHANNELS, num_class_embeds=None):
    """diffusers' UNet2DModel for images (C, H, H), where H is a multiple of 4.

    Args:
        channels: number of channels at full resolution, a multiple of 8.
        num_class_embeds: number of labels of a class-conditional U-Net.
    """
    return UNet2DModel(
        sample_size=shape[1],
        in_channels=shape[0],
        out_channels=shape[0],
        block_out_channels=(channels, 2 * channels, 4 * channels),  # at H, H / 2 and H / 4
        down_block_types=("DownBlock2D",) * 3,
        up_block_types=("UpBlock2D",) * 3,
        layers_per_block=1,
        norm_num_groups=8,
        resnet_time_scale_shift="scale_shift",  # t scales and shifts the normalized features
        add_attention=False,  # at H / 4 the convolutions see a whole digit
        num_class_embeds=num_class_embeds,
    )


def load_ddpm(path, device="cpu"):
    """Load a DDPMPipeline from a checkpoint; `ddpm.unet.dataset` describes its training data.

    Raises UserError if the checkpoint is missing, corrupted, or incompatible.
    """
    unet = load_checkpoint(path, UNet2DModel, device)
    return DDPMPipeline(unet, DDPMScheduler(**unet.schedule))


def image_shape(unet):
    """(C, H, W) of the images of a diffusers U-Net."""
    size = unet.config.sample_size
    height, width = (size, size) if isinstance(size, int) else size
    return unet.config.in_channels, height, width


def predicted_image(ddpm, x_t, t):
    """The predicted x_0, clipped, for guides that expect clean images: (B, C, H, W).

    Differentiable through the U-Net; the gradient is 0 where a pixel is clipped. t is (B,).
    """
    abar_t = ddpm.scheduler.alphas_cumprod.to(t.device)[t].view(-1, 1, 1, 1)
    output = ddpm.unet(x_t.to(ddpm.unet.dtype), t).sample.to(x_t.dtype)
    eps = predicted_noise(ddpm.scheduler, output, x_t, abar_t)
    limit = clip_limit(ddpm.scheduler)
    return predicted_x_0(x_t, eps, abar_t).clamp(-limit, limit)
