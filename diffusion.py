"""The process: noise schedule, noising, loss, the U-Net, the predicted x_0, and the samplers.

Equations are numbered as in Ho et al. 2020 ("DDPM", arXiv 2006.11239). Images are float tensors
(B, 1, 28, 28) in [-1, 1]; timesteps t are integers 0 .. 999, where x_999 is almost pure noise.
"""

import torch
from diffusers import DDPMScheduler, DPMSolverMultistepScheduler

IMAGE_SHAPE = (1, 28, 28)
NUM_TRAIN_TIMESTEPS = 1000
SCHEDULE = {  # DDPM, section 4
    "num_train_timesteps": NUM_TRAIN_TIMESTEPS,
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "prediction_type": "epsilon",  # all code here takes the output of the U-Net for eps
}
# abar_t, the product of 1 - beta up to t: (1000,)
ALPHAS_CUMPROD = DDPMScheduler(**SCHEDULE).alphas_cumprod
UNET_CONFIG = {  # of diffusers' UNet2DModel
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


def spread_timesteps(num_images, rng):
    """A t for each image, to measure with: evenly over 0 .. 999, in random order: (N,)."""
    t = torch.arange(num_images) * NUM_TRAIN_TIMESTEPS // num_images
    return t[torch.randperm(num_images, generator=rng)]


def sampling_timesteps(num_steps):
    """The timesteps of every sampler, from 999 down to round(1000 / num_steps) - 1."""
    total = NUM_TRAIN_TIMESTEPS
    return [round(total * (num_steps - i) / num_steps) - 1 for i in range(num_steps)]


def make_sampler(name, num_steps, device="cpu"):
    """A diffusers scheduler with its timesteps set; the next x_t is step(eps, t, x_t).prev_sample.

    With x_0 predicted from eps, DDPM (15), and u the next, less noisy timestep: the step of "ddim"
    is sqrt(abar_u) x_0 + sqrt(1 - abar_u) eps, which is DDPM (4) at u; that of "ddpm" is a draw of
    x_u given x_t and x_0, DDPM (6) and (7). "dpmsolver++" is "ddim" with x_0 extrapolated, along
    the logarithm of the signal-to-noise ratio, from the last two predictions to halfway to u.
    "sde-dpmsolver++" extrapolates x_0 in this way too, and then draws x_u given x_t and x_0.

    Args:
        name: one of `SAMPLERS`.
        num_steps: 1 .. 1000.
    """
    scheduler_class, settings = SAMPLERS[name]
    scheduler = scheduler_class(**SCHEDULE, **settings)
    scheduler.set_timesteps(timesteps=sampling_timesteps(num_steps), device=device)
    return scheduler
