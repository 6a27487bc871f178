"""Classifier guidance: the guided noise, and the reverse loop that draws with it.

Dhariwal & Nichol 2021 ("ADM", arXiv 2105.05233), equation (14): at each step, the gradient of a
classifier moves the predicted noise toward the digit y. ADM's s is constant; by default, ours is
`growing_scale`.

    eps_hat = eps(x_t, t) - s * sqrt(1 - abar_t) * grad_{x_t} log p(y | x_t, t)
"""

import warnings
from itertools import pairwise

import torch
from tqdm import tqdm

from diffusion import (
    END,
    NUM_TRAIN_TIMESTEPS,
    SAMPLERS,
    abar,
    clipped_noise,
    predicted_x_0,
    sampler_step,
    sampling_timesteps,
    snr,
)
from support.errors import require
from support.streams import gaussian_noise

GUIDANCE_SCALE = 1.0  # w: s where x_t is pure noise
SCALE_GROWTH = 24.0  # g; at 0, s is ADM's, the same at every t
WINDOW = (0, NUM_TRAIN_TIMESTEPS)  # guide at low <= t < high
SAMPLER = "sde-dpmsolver++"
STEPS = 20
BATCH_SIZE = 100
FAR_OUTSIDE = 10  # a pixel of a sample leaves [-1, 1] by little, unless the guide is too strong


def guided_noise(unet, log_p, x_t, t, y, s):
    """eps_hat of ADM (14), scaled by s: (B, C, H, W).

    As in openai/guided-diffusion, the x_0 that eps predicts is clipped before eps is guided. At s =
    0 or without a guide, this clipped eps is all. ADM gives (14) for DDIM; with the step of `ddpm`,
    it is their Algorithm 1 at another scale (tests/unit/test_variants.py).

    Args:
        unet: its `sample` of (x_t, t) is eps (B, C, H, W).
        log_p: the guide (x_t, t, y) -> log p(y | x_t, t) (B,), as `Classifier.log_p`; or None.
        x_t: (B, C, H, W). t: () or (B,). y: (B, ...), what is asked for. s: the scale, or one for
            each image (B, 1, 1, 1).
    """
    with torch.no_grad():
        eps = clipped_noise(x_t, t, unet(x_t, t).sample)
    unguided = log_p is None or not torch.as_tensor(s).any()
    if unguided:
        return eps
    grad = guide_gradient(log_p, x_t, t, y)
    return eps - s * (1 - abar(t)).sqrt() * grad  # ADM (14), scaled by s


def guide_gradient(log_p, x_t, t, y):
    """grad_{x_t} log p(y | x_t, t), taken at x_t as in ADM Algorithm 2: (B, C, H, W).

    The gradient of the sum is the batch of gradients: log p of an image depends on no other image.
    t is () or (B,), and the guide gets it as (B,). Raises UserError if the guide returns anything
    but a number per image, or has no finite gradient.
    """
    with torch.enable_grad():
        x_t = x_t.detach().requires_grad_()
        t = t.expand(len(x_t))
        log_p_y = log_p(x_t, t, y)  # (B,)
        require(log_p_y.shape == t.shape, f"the guide returned {tuple(log_p_y.shape)}, not (B,)")
        require(log_p_y.requires_grad, "the guide has no gradient in x_t: is it under no_grad?")
        [grad] = torch.autograd.grad(log_p_y.sum(), x_t)
    require(grad.isfinite().all(), "the gradient of the guide is not finite")
    return grad


def growing_scale(w=GUIDANCE_SCALE, g=SCALE_GROWTH, window=WINDOW):
    """s_t = w (1 + g abar_t / (1 - abar_t)), a function of t: w in pure noise, then more and more.

    Outside of the window, low <= t < high, it is 0. abar_t / (1 - abar_t) is the signal-to-noise
    ratio (SNR). At w = 1, g = 24, s is 1 at t = 999, 27 at 249, and 805 at 49, the last of 20
    steps. At g = 0 it is constant, as in ADM.

    By DDPM (15), the guide moves the predicted x_0 by s_t (1 - abar_t) / sqrt(abar_t) grad. With
    growth, this is w ((1 - abar_t) / sqrt(abar_t) + g sqrt(abar_t)) grad, and g w grad at the end.

    Raises UserError unless the window is (low, high) with 0 <= low < high.
    """
    low, high = window
    require(0 <= low < high, f"window is {window}, not (low, high) with 0 <= low < high")

    def scale_at(t):
        return w * (1 + g * snr(t).item()) if low <= t < high else 0

    return scale_at


DEFAULT_SCALE = growing_scale()


def reverse_process(predict_noise, x_t, rngs, sampler, times, watch=None):
    """x_0 from x_t: DDPM Algorithm 2, or the same loop with another sampler's step.

    Args:
        predict_noise: (x_t, t) -> eps_hat (B, C, H, W), for a timestep t () of all images.
        x_t: images (B, C, H, W) at the first of the times, such as pure noise.
        rngs: B generators, of the fresh noise of each image.
        sampler: a name of `diffusion.SAMPLERS`, or one of your own: a pair as there.
        times: falling timesteps, 999 or less, such as `sampling_timesteps(20)`, and `END`.
        watch: called at each step with t, x_t and the x_0 predicted from it, or None.
    """
    assert times[0] < NUM_TRAIN_TIMESTEPS, f"t = {times[0]} is more than 999"
    previous = None  # t and x_0 of the step before
    for t, u in pairwise(torch.as_tensor(times, device=x_t.device)):  # u is the next timestep
        eps_hat = predict_noise(x_t, t).detach()
        x_0 = predicted_x_0(x_t, t, eps_hat)
        if watch:
            watch(t, x_t, x_0)
        z = gaussian_noise(x_t.shape[1:], rngs).to(x_t.device)  # not used by all
        x_t = sampler_step(sampler, x_t, x_0, t, u, previous, z)
        previous = t, x_0
    return x_t


def sample(
    unet,
    log_p,
    y,
    seeds,
    *,
    scale=DEFAULT_SCALE,
    sampler=SAMPLER,
    steps=STEPS,
    batch_size=BATCH_SIZE,
    variant=guided_noise,
    watch=None,
):
    """Draw an image for each seed: `reverse_process`, guided, in batches.

    Args:
        unet: (x_t, t) -> eps, as `sample` of a UNet2DModel; with its `device`, and the shape of its
            images in `config.in_channels` and `config.sample_size`.
        log_p: the guide, see `guided_noise`; None draws unguided.
        y: what is asked for, as log_p takes it: (N, ...), such as digits (N,); or None.
        seeds: N whole numbers, such as range(N). All noise of an image comes from its own seed.
        scale: s, a number as in ADM, or a function of the timestep, such as `growing_scale`'s.
        variant: what predicts the noise instead of `guided_noise`, with the same arguments.
        steps: 1 .. 1000, of equal length. sampler, watch: as in `reverse_process`, for each batch.

    Returns:
        images: (N, C, H, W) in [-1, 1].

    Raises UserError if an argument or the guide is wrong, or an image is not finite.
    """
    check_request(log_p, y, seeds, sampler, steps)
    if y is not None:
        y = torch.as_tensor(y, device=unet.device)
    shape = unet.config.in_channels, unet.config.sample_size, unet.config.sample_size
    times = [*sampling_timesteps(steps), END]
    batches = [slice(k, k + batch_size) for k in range(0, len(seeds), batch_size)]
    images = []
    with tqdm(total=len(batches) * steps, desc="sampling", unit="call", disable=None) as bar:
        for batch in batches:
            y_batch = None if y is None else y[batch]

            def predict_noise(x_t, t, y_batch=y_batch):
                bar.update()
                s = scale(t) if callable(scale) else scale
                return variant(unet, log_p, x_t, t, y_batch, s)

            rngs = [torch.Generator().manual_seed(int(seed)) for seed in seeds[batch]]
            x_T = gaussian_noise(shape, rngs).to(unet.device)
            x_0 = reverse_process(predict_noise, x_T, rngs, sampler, times, watch)
            images.append(x_0.cpu())
    images = torch.cat(images)
    check_images(images)
    return images.clamp(-1, 1)


def check_request(log_p, y, seeds, sampler, steps):
    """Raises UserError if `sample` cannot draw what is asked for."""
    known = isinstance(sampler, tuple) or str(sampler) in SAMPLERS
    names = ", ".join(SAMPLERS)
    require(known, f"sampler {sampler!r} is not one of {names}, or a pair (function, order)")
    require(1 <= steps <= NUM_TRAIN_TIMESTEPS, f"steps is {steps}, not 1 .. {NUM_TRAIN_TIMESTEPS}")
    require(len(seeds) > 0, "there are no seeds")
    require(log_p is None or y is not None, "a guide needs y, what is asked for")
    if y is not None:
        require(len(y) == len(seeds), f"y is for {len(y)} images, but there are {len(seeds)} seeds")


def check_images(images):
    """Warns if a guide was so strong that pixels are far outside of [-1, 1].

    Raises UserError if one is not finite.
    """
    require(images.isfinite().all(), "the samples are not finite: use a lower guidance scale")
    largest = images.abs().max()
    if largest > FAR_OUTSIDE:
        message = f"pixels reach {largest:.2g} and are clipped to 1: use a lower guidance scale"
        warnings.warn(message, stacklevel=3)
