"""The process: noise schedule, noising, loss, the U-Net, the predicted x_0, and the samplers.

Equations are numbered as in Ho et al. 2020 ("DDPM", arXiv 2006.11239). Images are float tensors
(B, 1, 28, 28) in [-1, 1]; timesteps t are integers 0 .. 999, where x_999 is almost pure noise.
"""

import torch
from diffusers import DDPMScheduler, DPMSolverMultistepScheduler, UNet2DModel
from diffusers.models.upsampling import Upsample2D

IMAGE_SHAPE = (1, 28, 28)
NUM_TRAIN_TIMESTEPS = 1000
SCHEDULE = {  # DDPM, section 4
    "num_train_timesteps": NUM_TRAIN_TIMESTEPS,
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "prediction_type": "epsilon",
}
ALPHAS_CUMPROD = DDPMScheduler(**SCHEDULE).alphas_cumprod  # abar_t, (1000,)
UNET_CONFIG = {
    "sample_size": 28,
    "in_channels": 1,
    "out_channels": 1,
    "block_out_channels": (16, 32, 64),  # at 28x28, 14x14, 7x7
    "down_block_types": ("DownBlock2D",) * 3,
    "up_block_types": ("UpBlock2D",) * 3,
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "resnet_time_scale_shift": "scale_shift",  # t scales and shifts the normalised features
    "add_attention": False,  # at 7x7 the convolutions see the whole digit
}
SAMPLERS = {  # name -> a scheduler of diffusers, and its settings
    # ancestral sampling, DDPM Algorithm 2, with variance beta_tilde_t
    "ddpm": (DDPMScheduler, {"variance_type": "fixed_small", "clip_sample": False}),
    # DDIM (eta = 0) is first-order DPM-Solver++, for any list of timesteps
    "ddim": (DPMSolverMultistepScheduler, {"solver_order": 1}),
    # second order, multistep (Lu et al. 2022)
    "dpmsolver++": (DPMSolverMultistepScheduler, {"solver_order": 2}),
    # the same for the reverse SDE, with new noise at each step
    "sde-dpmsolver++": (DPMSolverMultistepScheduler, {"algorithm_type": "sde-dpmsolver++"}),
}


def abar(t):
    """abar_t for integer timesteps t (...): (..., 1, 1, 1), to broadcast against images."""
    return ALPHAS_CUMPROD.to(t.device)[t][..., None, None, None]


def initial_noise(generators):
    """x_T ~ N(0, I), each image from its own generator: (B, 1, 28, 28)."""
    return torch.stack([torch.randn(IMAGE_SHAPE, generator=rng) for rng in generators])


def add_noise(x_0, eps, t):
    """x_t, an image with noise eps ~ N(0, I) at timestep t: DDPM (4)."""
    return abar(t).sqrt() * x_0 + (1 - abar(t)).sqrt() * eps


def predicted_x_0(x_t, t, eps):
    """The image that x_t holds if eps is its noise, clipped to [-1, 1]: DDPM (15)."""
    return ((x_t - (1 - abar(t)).sqrt() * eps) / abar(t).sqrt()).clamp(-1, 1)


def clipped_noise(x_t, t, eps):
    """The noise that goes with the clipped `predicted_x_0` in x_t: DDPM (4), solved for eps."""
    return (x_t - abar(t).sqrt() * predicted_x_0(x_t, t, eps)) / (1 - abar(t)).sqrt()


def simple_loss(eps_theta, eps):
    """L_simple of each image, the mean of |eps - eps_theta|^2 over its pixels: DDPM (14), (B,)."""
    return (eps_theta - eps).square().mean(dim=(1, 2, 3))


def stratified_timesteps(batch_size, rng, max_t=NUM_TRAIN_TIMESTEPS - 1):
    """t uniform over 0 .. max_t, one from each of B equal slices: (B,).

    Stratifying lowers the variance of the loss and leaves its mean.
    """
    u = (torch.arange(batch_size) + torch.rand(batch_size, generator=rng)) / batch_size
    return (u * (max_t + 1)).long().clamp(max=max_t)


class UNet(UNet2DModel):
    """eps_theta(x_t, t): diffusers' U-Net, whose layers predict v instead of eps.

    eps = sqrt(1 - abar_t) x_t + sqrt(abar_t) v (v-prediction, Salimans & Ho 2022). The network
    returns eps. At t = 999, x_t is almost pure noise, and an error in eps is 157 times as large in
    the predicted x_0; with v, the layers need not copy x_t to the output.

    The convolution after each upsampling is left out, since another one follows.

    Args:
        config: as UNet2DModel.
    """

    def __init__(self, **config):
        super().__init__(**config)
        for block in self.up_blocks:
            if block.upsamplers is not None:
                channels = block.upsamplers[0].channels
                block.upsamplers = torch.nn.ModuleList([Upsample2D(channels)])

    def forward(self, x_t, t, y=None):
        """Predict the noise in x_t.

        Args:
            x_t: (B, 1, 28, 28). t: integer timesteps, (B,) or one for all, ().
            y: labels (B,), for a U-Net with `num_class_embeds`.

        Returns:
            an object whose `sample` is eps_theta, (B, 1, 28, 28).
        """
        output = super().forward(x_t, t, y)
        output.sample = (1 - abar(t)).sqrt() * x_t + abar(t).sqrt() * output.sample
        return output


def make_unet(**changes):
    """The U-Net of `UNET_CONFIG`. Its last layer starts at zero, so it first predicts v = 0."""
    unet = UNet(**UNET_CONFIG | changes)
    torch.nn.init.zeros_(unet.conv_out.weight)
    torch.nn.init.zeros_(unet.conv_out.bias)
    return unet


def sampling_timesteps(num_steps):
    """The timesteps of every sampler, from 999 down to round(1000 / num_steps) - 1."""
    total = NUM_TRAIN_TIMESTEPS
    return [round(total * (num_steps - i) / num_steps) - 1 for i in range(num_steps)]


def make_sampler(name, num_steps, device="cpu"):
    """A diffusers scheduler with its timesteps set; the next x_t is step(eps, t, x_t).prev_sample.

    With x_0 predicted from eps, DDPM (15), and `prev` the next, less noisy timestep: the step of
    "ddim" is sqrt(abar_prev) x_0 + sqrt(1 - abar_prev) eps, which is DDPM (4) at that timestep;
    that of "ddpm" is a draw of x_prev given x_t and x_0, DDPM (6) and (7).

    Args:
        name: one of `SAMPLERS`.
        num_steps: network calls per image, 1 .. 1000.
    """
    scheduler_class, settings = SAMPLERS[name]
    scheduler = scheduler_class(**SCHEDULE, **settings)
    scheduler.set_timesteps(timesteps=sampling_timesteps(num_steps), device=device)
    return scheduler
