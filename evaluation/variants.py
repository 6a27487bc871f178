"""Variants of `guided_noise`, the controls of the method.

A variant is a function (unet, log_p, x_t, t, y, guidance_scale) -> eps_hat. To add one, write it
here and name it in `variants`, and in `CONTROLS` of tables.py, which
`python evaluate.py --sweep controls` measures.
"""

import functools
import runpy
import sys
from functools import partial
from pathlib import Path

import torch

from diffusion import abar, clipped_noise, predicted_x_0, sampling_timesteps
from evaluation.rivals import free_noise
from inference import guided_noise
from support.errors import UserError, require

GUIDE_OF = {  # variant -> its guide in evaluation/guides.py; all others take the classifier
    "clean guide at x_t": "clean",
    "clean guide at predicted x_0": "clean",
    "raw-t guide": "raw_t",
    "raw-t guide, no root": "raw_t",
}
RIVAL_OF = {  # variant -> its U-Net in evaluation/rivals.py; all others take ours
    "classifier-free": "classifier_free",
    "course U-Net": "course",
}
WINDOWS = (250, 500, 750, 900)  # timesteps at which guidance starts or ends


def variants(steps, num_classes=10):
    """Name -> variant, for a sampler with that many steps."""
    timesteps = sampling_timesteps(steps)
    shift_of_mean = partial(algorithm_1, timesteps=timesteps)
    return {
        "ADM Algorithm 2": guided_noise,
        "without sqrt(1 - abar_t)": without_root,
        "ADM Algorithm 1": shift_of_mean,
        "clip after the tilt": clipped_afterwards,
        "no clipping": partial(guided_noise, clip=False),
        "projected": projected,
        "rescaled": rescaled,
        "wrong digits": partial(guided_to_other_digits, num_classes=num_classes),
        "gradient at the mean": at_the_mean(guided_noise, timesteps),
        "Algorithm 1 at the mean": at_the_mean(shift_of_mean, timesteps),
        "guide at t = 0": at_t_0,
        "clean guide at x_t": guided_noise,
        "clean guide at predicted x_0": at_predicted_x_0,
        "raw-t guide": guided_noise,
        "raw-t guide, no root": without_root,
        "classifier-free": free_noise,
        "course U-Net": guided_noise,
        **{
            f"guide t >= {t} only": partial(guided_sometimes, where=range(t, 1000)) for t in WINDOWS
        },
        **{f"guide t < {t} only": partial(guided_sometimes, where=range(t)) for t in WINDOWS},
    }


@functools.lru_cache(maxsize=1)  # the file runs once, not for each row and check
def brought(text):
    """The variant that guides by a log_p of the user's own, named FILE.py:NAME.

    Raises:
        UserError: there is no such function, or the file cannot be run.
    """
    path, _, name = text.rpartition(":")
    require(Path(path).is_file(), f"--guide {text}: there is no file {path!r}; write FILE.py:NAME")
    sys.path.append(str(Path(path).resolve().parent))  # for what it imports
    try:
        names = runpy.run_path(path)
    except (Exception, SystemExit) as error:  # the user's code can raise anything
        raise UserError(f"--guide {text}: {type(error).__name__}: {error}") from error
    log_p = names.get(name)
    require(callable(log_p), f"--guide {text}: {path} has no function {name!r}")

    def own_log_p(x_t, t, y):
        try:
            return log_p(x_t, t, y)
        except Exception as error:  # as above
            raise UserError(f"--guide {text}: {type(error).__name__}: {error}") from error

    return lambda unet, _, *args: guided_noise(unet, own_log_p, *args)


def without_root(unet, log_p, x_t, t, y, guidance_scale):
    """ADM (14) without sqrt(1 - abar_t), a common mistake: too strong at low noise."""
    return guided_noise(unet, log_p, x_t, t, y, guidance_scale / (1 - abar(t)).sqrt())


def algorithm_1(unet, log_p, x_t, t, y, guidance_scale, timesteps):
    """ADM Algorithm 1: the mean of a DDPM step is shifted by s * Sigma_t * grad, ADM (10).

    With Sigma_t = beta_tilde_t, this shifts the x_0 in the mean, DDPM (7), by
    s (1 - abar_prev) / sqrt(abar_prev) * grad, where `prev` is the next, less noisy timestep.
    That is ADM (14) at the scale below. It holds for the "ddpm" sampler.
    """
    _, abar_prev = next_step(t, timesteps)
    scale = (abar(t) / abar_prev).sqrt() * (1 - abar_prev) / (1 - abar(t))
    scale = scale.clamp(min=1e-20)  # the last step has no shift, and is clipped all the same
    return guided_noise(unet, log_p, x_t, t, y, guidance_scale * scale)


def next_step(t, timesteps):
    """The next, less noisy timestep () and its abar; after the last one, 0 and 1: that is x_0."""
    after = timesteps.index(int(t)) + 1
    if after == len(timesteps):
        return torch.zeros_like(t), torch.ones(1, device=t.device)
    t_prev = torch.full_like(t, timesteps[after])
    return t_prev, abar(t_prev)


def clipped_afterwards(unet, log_p, x_t, t, y, guidance_scale):
    """The predicted x_0 is clipped after guiding, which is what diffusers' schedulers do."""
    eps_hat = guided_noise(unet, log_p, x_t, t, y, guidance_scale, clip=False)
    return clipped_noise(x_t, t, eps_hat)


def projected(unet, log_p, x_t, t, y, guidance_scale):
    """The projection of adaptive projected guidance (Sadat et al. 2024, arXiv 2410.02416).

    The change that guidance makes loses its part along the predicted x_0, where black is 0, so it
    cannot brighten the image as a whole. Their limit on the change, and momentum, are left out.
    """
    eps, eps_hat = without_and_with(unet, log_p, x_t, t, y, guidance_scale)
    change, image = eps_hat - eps, predicted_x_0(x_t, t, eps) + 1
    inner = [(a * image).sum(dim=(1, 2, 3), keepdim=True) for a in (change, image)]
    return eps_hat - inner[0] / inner[1].clamp(min=1e-9) * image


def rescaled(unet, log_p, x_t, t, y, guidance_scale, share=0.7):
    """Guidance rescale (Lin et al. 2023, arXiv 2305.08891), of the predicted x_0.

    The guided x_0 is clipped, and gets the standard deviation of the unguided one. That is mixed
    with the guided x_0 by `share`, the paper's phi.
    """
    both = without_and_with(unet, log_p, x_t, t, y, guidance_scale)
    x_0, guided_x_0 = (predicted_x_0(x_t, t, eps) for eps in both)
    std, guided_std = (x.std(dim=(1, 2, 3), keepdim=True) for x in (x_0, guided_x_0))
    excess = share * (1 - std / guided_std.clamp(min=1e-3)) * guided_x_0
    return clipped_noise(x_t, t, both[1]) + (abar(t) / (1 - abar(t))).sqrt() * excess


def without_and_with(unet, log_p, x_t, t, y, guidance_scale):
    """The clipped eps, and eps_hat, from one call of the U-Net."""
    with torch.no_grad():
        output = unet(x_t, t)
    eps = clipped_noise(x_t, t, output.sample)
    return eps, guided_noise(lambda *_: output, log_p, x_t, t, y, guidance_scale)


def guided_sometimes(unet, log_p, x_t, t, y, guidance_scale, where):
    """Guide only at the timesteps t in `where`."""
    if int(t) in where:
        return guided_noise(unet, log_p, x_t, t, y, guidance_scale)
    return clipped_noise(x_t, t, guided_noise(unet, log_p, x_t, t, y, 0))


def guided_to_other_digits(unet, log_p, x_t, t, y, guidance_scale, num_classes):
    """Guide to each digit in turn instead of that asked for: accuracy must fall to chance."""
    other = (y + torch.arange(len(y), device=y.device)) % num_classes
    return guided_noise(unet, log_p, x_t, t, other, guidance_scale)


def at_the_mean(form, timesteps):
    """The variant `form`, with the gradient at the mean of the DDPM step, where ADM derives it.

    DDPM (7) is the mean of the next, less noisy x, so the guide is given the t of that step.
    """

    def variant(unet, log_p, x_t, t, y, guidance_scale):
        t_prev, abar_prev = next_step(t, timesteps)
        with torch.no_grad():
            x_0, alpha = predicted_x_0(x_t, t, unet(x_t, t).sample), abar(t) / abar_prev
        of_x_0, of_x_t = abar_prev.sqrt() * (1 - alpha), alpha.sqrt() * (1 - abar_prev)
        mean = (of_x_0 * x_0 + of_x_t * x_t) / (1 - abar(t))

        def log_p_at_mean(x, _, y):  # its gradient at x = x_t is that of log_p at the mean
            return log_p(x - x_t + mean, t_prev.expand(len(x)), y)

        return form(unet, log_p_at_mean, x_t, t, y, guidance_scale)

    return variant


def at_t_0(unet, log_p, x_t, t, y, guidance_scale):
    """The guide is told that t is 0, whatever it is."""

    def log_p_at_t_0(x, t, y):
        return log_p(x, torch.zeros_like(t), y)

    return guided_noise(unet, log_p_at_t_0, x_t, t, y, guidance_scale)


def at_predicted_x_0(unet, log_p, x_t, t, y, guidance_scale):
    """The guide is given the predicted x_0, at t = 0; its gradient goes through the U-Net."""

    def log_p_of_x_0(x, t, y):
        return log_p(predicted_x_0(x, t, unet(x, t).sample), torch.zeros_like(t), y)

    return guided_noise(unet, log_p_of_x_0, x_t, t, y, guidance_scale)
