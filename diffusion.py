"""The DDPM: formulas in terms of abar, the class `DDPM`, noise schedule, U-Net, loading.

Each formula takes abar_t, the scheduler's `alphas_cumprod[t]`, so it holds for any noise schedule.
"DDPM" is Ho et al. 2020, arXiv 2006.11239. Images are float tensors (B, C, H, W) in [-1, 1];
timesteps t run from 0 to T - 1, and x_{T-1} is almost pure noise.
"""

import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler, UNet2DModel

from support.cli import UserError
from support.files import load_checkpoint
from support.seeds import generator

SCHEDULE = {  # config of the DDPMScheduler that all scripts share (DDPM, section 4)
    "num_train_timesteps": 1000,
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "prediction_type": "epsilon",  # or "v_prediction", or "sample"
    "clip_sample": True,  # predicted images are clipped to [-1, 1]
    "timestep_spacing": "trailing",  # as in `sampling_times`
}
CHANNELS = 16  # number of U-Net channels at full resolution
END = -1  # the timestep after the last step: no noise is left, abar[END] is 1
VALIDATION_SEED = 1


# --- noise and image ---


def add_noise(x_0, eps, abar_t):
    """x_t, the image x_0 with noise eps ~ N(0, I): DDPM (4)."""
    return abar_t.sqrt() * x_0 + (1 - abar_t).sqrt() * eps


def x_0_from_eps(x_t, eps, abar_t):
    """The image in x_t if its noise is eps: DDPM (15). May be outside [-1, 1]."""
    return (x_t - (1 - abar_t).sqrt() * eps) / abar_t.sqrt()


def eps_from_x_0(x_t, x_0, abar_t):
    """The noise that leads from the image x_0 to x_t: DDPM (4) solved for eps."""
    return (x_t - abar_t.sqrt() * x_0) / (1 - abar_t).sqrt()


def snr(abar_t):
    """The signal-to-noise ratio of x_t."""
    return abar_t / (1 - abar_t)


def abar_table(scheduler):
    """abar_t of all timesteps (T + 1,), where abar[END] is 1."""
    return F.pad(scheduler.alphas_cumprod, (0, 1), value=1.0)


def exact_x_0(x_t, abar_t, images):
    """E[x_0 | x_t] for the empirical distribution of `images` (N, C, H, W): (B, C, H, W).

    Each image is weighted by its probability, given x_t; by DDPM (4), this is the softmax of
    -|x_t - sqrt(abar_t) x_0|^2 / (2 (1 - abar_t)).
    """
    flat = images.flatten(1)
    squares = torch.cdist(x_t.flatten(1), abar_t.sqrt() * flat).square()  # (B, N)
    weights = (-squares / (2 * (1 - abar_t))).softmax(dim=1)
    return (weights @ flat).view_as(x_t)


# --- the DDPM ---


class DDPM:
    """A U-Net with its noise schedule: `ddpm(x_t, t)` predicts the noise in x_t.

    Args:
        unet: a diffusers U-Net, or another ModelMixin with (x_t, t (B,)) -> output with `.sample`,
            whose config has in_channels and sample_size. A learned variance is ignored.
        scheduler: its DDPMScheduler; dynamic thresholding is ignored.

    Attributes: `T` timesteps, `shape` (C, H, W), and `abar`: abar[t], and abar[END] = 1.

    Raises UserError if abar_{T-1} is 0 (zero terminal SNR), which DDPM (15) divides by.
    """

    def __init__(self, unet, scheduler):
        self.unet, self.scheduler, self.device = unet.eval(), scheduler, unet.device
        size = unet.config.sample_size
        height, width = (size, size) if isinstance(size, int) else size
        self.shape = unet.config.in_channels, height, width
        if scheduler.alphas_cumprod[-1] == 0:
            raise UserError("a noise schedule with zero terminal SNR is not supported")
        self.T = len(scheduler.alphas_cumprod)
        self.abar = abar_table(scheduler).to(self.device)

    def __call__(self, x_t, t, y=None):
        """The predicted noise (B, C, H, W), after clipping `x_0`. t: an int or (B,); y is ignored.

        As in openai/guided-diffusion, clipping comes before guidance.
        """
        return eps_from_x_0(x_t, self.x_0(x_t, t), self.abar_at(t))

    def x_0(self, x_t, t):
        """The predicted image (B, C, H, W), clipped as the scheduler says. t: an int or (B,).

        Differentiable in x_t, for guides of clean images; the gradient of a clipped pixel is 0.
        """
        return self.clip(x_0_from_eps(x_t, self.unet_eps(x_t, t), self.abar_at(t)))

    def unet_eps(self, x_t, t, *labels):
        """The U-Net's output as noise (B, C, H, W). t: an int or (B,); labels: (B,), if any."""
        times = t_batch(x_t, t) if isinstance(t, int) else t
        output = self.unet(x_t.to(self.unet.dtype), times, *labels).sample.to(x_t.dtype)
        output = output[:, : self.shape[0]]  # without a learned variance
        return eps_from_output(self.scheduler, output, x_t, self.abar_at(t))

    def clip(self, x_0):
        """Clip a predicted image as the scheduler says."""
        limit = self.scheduler.config.clip_sample_range
        return x_0.clamp(-limit, limit) if self.scheduler.config.clip_sample else x_0

    def abar_at(self, t):
        """abar_t as a factor of images, (1, 1, 1, 1) or (B, 1, 1, 1). t: an int or (B,)."""
        return self.abar[t].view(-1, 1, 1, 1)


def load_ddpm(path, device="cpu", unet_class=UNet2DModel):
    """Load a `DDPM` from a checkpoint; see `load_checkpoint` for the errors."""
    unet = load_checkpoint(path, unet_class, device)
    return DDPM(unet, DDPMScheduler(**unet.checkpoint["schedule"]))


def same_noise(schedule, other):
    """Whether two scheduler configs have the same alphas_cumprod."""
    abar, theirs = (DDPMScheduler(**config).alphas_cumprod for config in (schedule, other))
    return abar.shape == theirs.shape and torch.allclose(abar, theirs)


# --- timesteps ---


def sampling_times(T, steps):
    """`steps` evenly spaced, decreasing timesteps, the first of which is T - 1: a list of ints."""
    return [round(T * (steps - i) / steps) - 1 for i in range(steps)]


def t_batch(x_t, t):
    """The int t repeated for each image of x_t: (B,), on the device of x_t."""
    return torch.full((len(x_t),), t, device=x_t.device)


# --- what the U-Net predicts: eps, v, or x_0 ---


def training_target(scheduler, x_0, eps, t):
    """What the U-Net learns to predict (B, C, H, W), for timesteps t (B,)."""
    match scheduler.config.prediction_type:
        case "epsilon":
            return eps
        case "v_prediction":  # Salimans & Ho 2022, section 4
            return scheduler.get_velocity(x_0, eps, t)
        case "sample":
            return x_0


def eps_from_output(scheduler, output, x_t, abar_t):
    """The noise in x_t (B, C, H, W), given the U-Net's output: the inverse of `training_target`."""
    match scheduler.config.prediction_type:
        case "epsilon":
            return output
        case "v_prediction":
            return abar_t.sqrt() * output + (1 - abar_t).sqrt() * x_t
        case "sample":
            return eps_from_x_0(x_t, output, abar_t)


# --- validation, network ---


def noised_for_validation(scheduler, x_0):
    """(x_t, t, eps) for validation images x_0 (N, C, H, W), the same in every call.

    t (N,) covers all timesteps evenly, in random order.
    """
    n = len(x_0)
    t = torch.arange(n) * scheduler.config.num_train_timesteps // n
    t = t[torch.randperm(n, generator=generator(VALIDATION_SEED, "validation timesteps"))]
    eps = torch.randn(x_0.shape, generator=generator(VALIDATION_SEED, "validation noise"))
    return scheduler.add_noise(x_0, eps, t), t, eps


def make_unet(sample_size=28, in_channels=1, channels=CHANNELS, num_class_embeds=None):
    """diffusers' UNet2DModel for images whose side is a multiple of 4.

    channels: at full resolution, a multiple of 8. num_class_embeds: of a class-conditional U-Net.
    """
    return UNet2DModel(
        sample_size=sample_size,
        in_channels=in_channels,
        out_channels=in_channels,
        block_out_channels=(channels, 2 * channels, 4 * channels),  # at H, H / 2 and H / 4
        down_block_types=("DownBlock2D",) * 3,
        up_block_types=("UpBlock2D",) * 3,
        layers_per_block=1,
        norm_num_groups=8,
        resnet_time_scale_shift="scale_shift",  # t scales and shifts the normalized features
        add_attention=False,  # at H / 4 the convolutions see a whole digit
        num_class_embeds=num_class_embeds,
    )
