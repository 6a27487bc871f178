"""The process: the noise schedule, the formulas of one step, the U-Net and its checkpoint.

A DDPM is a U-Net and its scheduler: diffusers' `DDPMPipeline`. Each formula takes abar_t, the
`alphas_cumprod[t]` of that scheduler, so it holds for any schedule. Equations are numbered as in
Ho et al. 2020 ("DDPM", arXiv 2006.11239). Images are float tensors (B, C, H, W) in [-1, 1];
timesteps t are 0 .. T - 1, where x_{T-1} is almost pure noise.
"""

import math

import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

from support.errors import UserError
from support.files import load_checkpoint, readable_checkpoints
from support.streams import generator

SCHEDULE = {  # of our DDPMScheduler, in the words of diffusers: DDPM, section 4
    "num_train_timesteps": 1000,
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "prediction_type": "epsilon",  # what the U-Net learns: the noise; or "v_prediction"
    "timestep_spacing": "trailing",  # of diffusers' own sampling: the times of `sampling_times`
}
CHANNELS = 16  # of the U-Net at full size
END = -1  # the time after the last step, where no noise is left; abar[-1], the last entry, is 1
VALIDATION_SEED = 1


# --- noise and image ---


def add_noise(x_0, eps, abar_t):
    """x_t, an image with noise eps ~ N(0, I): DDPM (4). `DDPMScheduler.add_noise` takes t."""
    return abar_t.sqrt() * x_0 + (1 - abar_t).sqrt() * eps


def predicted_x_0(x_t, eps, abar_t):
    """The image in x_t if eps is its noise: DDPM (15). It may leave [-1, 1]."""
    return (x_t - (1 - abar_t).sqrt() * eps) / abar_t.sqrt()


def implied_noise(x_t, x_0, abar_t):
    """The noise in x_t if x_0 is its image: DDPM (4), solved for eps."""
    return (x_t - abar_t.sqrt() * x_0) / (1 - abar_t).sqrt()


def clipped_noise(x_t, eps, abar_t, limit=1.0):
    """The noise in x_t if its image is that predicted from eps, clipped to [-limit, limit]."""
    return implied_noise(x_t, predicted_x_0(x_t, eps, abar_t).clamp(-limit, limit), abar_t)


def snr(abar_t):
    """The signal-to-noise ratio (SNR) of x_t."""
    return abar_t / (1 - abar_t)


# --- one sampling step, from t to any later, less noisy time u ---


def posterior(x_t, x_0, abar_t, abar_u, noise):
    """A draw of q(x_u | x_t, x_0): DDPM (6), (7). `noise()` is fresh noise, of the shape of x_t.

    In the paper u is t - 1; here it is any lower time, so alpha and beta are of all steps between.
    """
    alpha, beta = abar_t / abar_u, 1 - abar_t / abar_u
    of_x_0 = abar_u.sqrt() * beta / (1 - abar_t)
    of_x_t = alpha.sqrt() * (1 - abar_u) / (1 - abar_t)
    variance = (1 - abar_u) / (1 - abar_t) * beta  # beta_tilde_t
    return of_x_0 * x_0 + of_x_t * x_t + variance.sqrt() * noise()


def same_noise(x_t, x_0, abar_t, abar_u, noise):
    """x_u with the noise that is in x_t: DDIM (Song et al. 2021) at eta = 0. Draws no noise."""
    return add_noise(x_0, implied_noise(x_t, x_0, abar_t), abar_u)


# --- the scheduler ---


def abar_table(scheduler):
    """abar_t, the product of 1 - beta up to t, for t = 0 .. T - 1, and 1 at `END`: (T + 1,).

    It stays on the CPU, where the times are: abar[t] is a tensor () that fits images anywhere.
    """
    return torch.nn.functional.pad(scheduler.alphas_cumprod.cpu(), (0, 1), value=1.0)


def sampling_times(num_timesteps, steps):
    """The falling times of every sampler, evenly spread: from T - 1 to round(T / steps) - 1."""
    T = num_timesteps
    return [round(T * (steps - i) / steps) - 1 for i in range(steps)]


def for_each(x_t, t):
    """The time t, an int, for each image of x_t: (B,), made on its device."""
    return torch.full((len(x_t),), t, device=x_t.device)


def training_target(scheduler, x_0, eps, t):
    """What a U-Net is to predict, by the `prediction_type` of its scheduler: as x_0."""
    check_prediction_type(scheduler)
    if scheduler.config.prediction_type == "v_prediction":
        return scheduler.get_velocity(x_0, eps, t)
    return eps


def predicted_noise(scheduler, output, x_t, abar_t):
    """eps, from the output of a U-Net that learned `training_target`: as x_t."""
    if scheduler.config.prediction_type == "v_prediction":  # Salimans & Ho 2022, section 4
        return abar_t.sqrt() * output + (1 - abar_t).sqrt() * x_t
    return output


def clip_limit(scheduler):
    """To how much a scheduler clips the predicted x_0, by default to 1: a number, or infinity."""
    if not scheduler.config.get("clip_sample", True):
        return math.inf
    return scheduler.config.get("clip_sample_range", 1.0)


def noised_for_validation(scheduler, x_0, t=None):
    """Images x_0 (N, C, H, W) with noise, the same at every call: x_t and t (N,), eps.

    By default, t is spread evenly over all timesteps, in random order.
    """
    n = len(x_0)
    if t is None:
        t = torch.arange(n) * scheduler.config.num_train_timesteps // n
        t = t[torch.randperm(n, generator=generator(VALIDATION_SEED, "validation", 0))]
    eps = torch.randn(x_0.shape, generator=generator(VALIDATION_SEED, "validation", 1))
    return scheduler.add_noise(x_0, eps, t), t, eps


# --- the U-Net, and the DDPM ---


def make_unet(shape, channels=CHANNELS, num_class_embeds=None):
    """diffusers' UNet2DModel for images (C, H, W), square; H is a multiple of 4.

    `channels`, a multiple of 8, is the width at full size. `num_class_embeds` is for a U-Net that
    is given labels too, of classifier-free guidance.
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
        resnet_time_scale_shift="scale_shift",  # t scales and shifts the normalised features
        add_attention=False,  # at H / 4 the convolutions see a whole digit
        num_class_embeds=num_class_embeds,
    )


def load_ddpm(path, device="cpu"):
    """The U-Net of a checkpoint and its scheduler: a DDPMPipeline. Raises UserError.

    `ddpm.unet.dataset` says on what it was trained. `ddpm.save_pretrained(folder)` writes it for
    diffusers alone.
    """
    unet = load_checkpoint(path, UNet2DModel, device)
    return DDPMPipeline(unet, scheduler_of(unet, path))


def scheduler_of(network, path):
    """The DDPMScheduler with which the network of a checkpoint was trained. Raises UserError."""
    spacing = {"timestep_spacing": SCHEDULE["timestep_spacing"]}  # if it says nothing
    try:
        return DDPMScheduler(**spacing | network.schedule)
    except (TypeError, ValueError, NotImplementedError) as error:
        raise UserError(f"{path} is damaged: its schedule is {network.schedule}") from error


def image_shape(unet):
    """(C, H, W) of the images of a U-Net of diffusers."""
    size = unet.config.sample_size
    height, width = (size, size) if isinstance(size, int) else size
    return unet.config.in_channels, height, width


# --- schedules that fit together ---


def check_prediction_type(scheduler):
    """Raises UserError if a U-Net predicts, or is to predict, neither eps nor v."""
    kind = scheduler.config.prediction_type
    if kind not in ("epsilon", "v_prediction"):
        raise UserError(f"prediction_type is {kind!r}, not epsilon or v_prediction")


def schedule_of(scheduler):
    """What a checkpoint keeps of a scheduler: the words of `SCHEDULE`, a dict."""
    return {word: scheduler.config[word] for word in SCHEDULE}


def same_betas(scheduler, other):
    """Whether two schedulers have the same noise at every timestep."""
    return torch.equal(scheduler.alphas_cumprod.cpu(), other.alphas_cumprod.cpu())


def check_folder(folder, checkpoint, scheduler):
    """Raises UserError if a training would replace the network of another schedule.

    Or if a network of the folder has other betas, so that the two could not work together.
    """
    for path, content in readable_checkpoints(folder):
        schedule = content.get("schedule")
        if not isinstance(schedule, dict) or not set(schedule) <= set(SCHEDULE):
            continue
        theirs = DDPMScheduler(**schedule)
        learned, wanted = theirs.config.prediction_type, scheduler.config.prediction_type
        if not same_betas(theirs, scheduler) or (path == checkpoint and learned != wanted):
            raise UserError(
                f"{path} was trained with {betas_in_words(theirs)} and {learned}, this one would "
                f"be with {betas_in_words(scheduler)} and {wanted}: name another folder with "
                "--models"
            )


def betas_in_words(scheduler):
    """The betas of a scheduler in words."""
    config = scheduler.config
    ends = f" from {config.beta_start:g} to {config.beta_end:g}"
    if config.beta_schedule == "squaredcos_cap_v2":  # which does not use the ends
        ends = ""
    return f"{config.num_train_timesteps} {config.beta_schedule} betas{ends}"
