"""Step 3: sample digits with classifier guidance.

    python inference.py                                      # guided_output.png: eight 1s
    python inference.py --digits 3 1 4 --guidance-scale 5    # a constant scale, s = 5

Runs the reverse process of Ho et al. 2020 ("DDPM", arXiv 2006.11239) with a diffusers scheduler.
At each step, the classifier's gradient shifts the predicted noise: Dhariwal & Nichol 2021 ("ADM",
arXiv 2105.05233), equation (14), with a scale s_t.

    eps_hat = eps(x_t, t) - s_t * sqrt(1 - abar_t) * grad_{x_t} log p(y | x_t, t)

With --guidance-scale, s_t is constant, as in ADM; by default it grows as the noise decreases.
Images are tensors (B, C, H, W) in [-1, 1], and abar_t is the scheduler's alphas_cumprod[t].
"""

import math
import warnings
from itertools import pairwise
from operator import index
from pathlib import Path

import torch
from diffusers import DDPMScheduler, DPMSolverMultistepScheduler, UNet2DModel
from tqdm import tqdm

from classifier import Classifier, load_classifier
from data import class_numbers
from diffusion import END, load_ddpm, predicted_x_0, sampling_times, snr, timesteps
from diffusion import trained_scheduler
from support import UserError, cli, pictures
from support.files import MODELS, output_folder, provenance
from support.streams import gaussian_noise, image_seeds

SAMPLER, STEPS = "ddpm", 50
FAR_OUTSIDE = 15  # x_t stays within about [-5, 5] unless the guidance is too strong


def guided(ddpm, grad, scale):
    """Classifier guidance: a function (x_t, t, y) -> the guided noise eps_hat, for `sample`.

    Args:
        ddpm: a `DDPM`, the prediction of the noise without guidance.
        grad: (x_t, t, y) -> the gradient of log p(y | x_t, t), such as `gradient(log_p)`. Any
            network in it must have been trained with the same noise schedule.
        scale: s, a number or a function of t (int).

    Equation (14) is ADM's rule for DDIM; we use it with every sampler. For ancestral sampling, ADM
    shifts the mean of each step instead (Algorithm 1). With the posterior variance, that is (14)
    with the smaller scale s sqrt(abar_t / abar_u) (1 - abar_u) / (1 - abar_t), if u follows t.
    """

    def predict(x_t, t, y):
        eps = ddpm(x_t, t)
        s = scale(t) if callable(scale) else scale
        if s == 0:
            return eps
        return eps - s * (1 - ddpm.abar[t]).sqrt() * grad(x_t, t, y)  # ADM (14)

    return predict


def gradient(log_p):
    """The gradient of a guide: a function (x_t, t, y) -> (B, C, H, W), where t is an int.

    A guide is any function log_p(x_t, t (B,), y (B, ...)) -> (B,), differentiable in x_t. Each
    value must depend on one image only: put networks with BatchNorm in eval mode.
    """

    @torch.enable_grad()
    def grad(x_t, t, y):
        x_t = x_t.detach().requires_grad_()
        log_p_y = log_p(x_t, timesteps(x_t, t), y)
        if log_p_y.shape != (len(x_t),):
            raise UserError(f"log_p must return one number per image, got {tuple(log_p_y.shape)}")
        return torch.autograd.grad(log_p_y.sum(), x_t)[0]

    return grad


@torch.no_grad()
def reverse(predict, scheduler, x_t, y, rngs):
    """The reverse process: yields (t, x_t, x_0) at each timestep of a diffusers scheduler.

    Args:
        predict: (x_t, t (int), y) -> the predicted noise: `guided(...)`, or a `DDPM` by itself.
        x_t: noise (B, C, H, W) to start from.
        y: the conditions for `predict`: labels (B,), or whatever it expects.
        rngs: one generator per image, for the noise that `scheduler.step` adds.

    x_0 is the image in x_t if its noise is the predicted one. The last x_0 is the sample.
    """
    for t in scheduler.timesteps.tolist():
        eps_hat = predict(x_t, t, y)
        yield t, x_t, predicted_x_0(x_t, eps_hat, scheduler.alphas_cumprod[t])  # DDPM (15)
        x_t = scheduler.step(eps_hat, t, x_t, generator=rngs).prev_sample  # DDPM (6), (7)


def growing_scale(ddpm, a=1.5, b=12, low=0, high=math.inf):
    """s_t = a + b SNR_t for low <= t < high, otherwise 0: a function of t.

    SNR_t is abar_t / (1 - abar_t). With the default noise schedule, s is 1.5 at t = 999, 15 at 249,
    and 2,070 at 19. The shift of the predicted image, s (1 - abar) / sqrt(abar) grad, tends to
    b grad as the noise vanishes.
    """
    return lambda t: a + b * snr(ddpm.abar[t]) if low <= t < high else 0


def solver(scheduler_class, **settings):
    """A function: the trained DDPMScheduler -> a diffusers scheduler with its noise schedule.

    Nothing else is taken from the trained one: `DDPM` returns eps, already clipped and without a
    learned variance, whatever the U-Net predicts.
    """

    def with_schedule_of(trained):
        betas = trained.betas.tolist()
        return scheduler_class(num_train_timesteps=len(betas), trained_betas=betas, **settings)

    return with_schedule_of


SAMPLERS = {  # written out in examples/samplers.py
    "ddpm": solver(DDPMScheduler, clip_sample=False),
    # order 1 is DDIM; diffusers' DDIMScheduler supports only evenly spaced timesteps
    "ddim": solver(DPMSolverMultistepScheduler, solver_order=1),
    # 20 steps are enough for these two
    "sde-dpmsolver++": solver(DPMSolverMultistepScheduler, algorithm_type="sde-dpmsolver++"),
    "dpmsolver++": solver(DPMSolverMultistepScheduler),
}


@torch.no_grad()
def trajectory(ddpm, y, seeds, predict=None, sampler=SAMPLER, steps=STEPS, loop=reverse):
    """Sample one batch, step by step: yields (t, x_t, x_0); the last x_0 is the sample.

    Args:
        ddpm: a `DDPM`.
        y: conditions (B, ...), as predict expects them, or None.
        seeds: B ints, 0 to 2**32 - 1. Each image has its own generator on the CPU, so its noise
            depends on its seed only, not on the device or the batch.
        predict: (x_t, t (int), y) -> the predicted noise, such as `guided(...)`; unguided by
            default.
        sampler: a key of `SAMPLERS`.
        steps: the number of steps, evenly spaced, or decreasing timesteps (ints).
        loop: `reverse`, or your own generator function with its arguments.

    Raises UserError if the steps are invalid.
    """
    T, rngs = len(ddpm.abar) - 1, [torch.Generator().manual_seed(seed) for seed in seeds]
    times = sampling_times(T, steps) if isinstance(steps, int) else [index(t) for t in steps]
    if not times or not all(t > u for t, u in pairwise([T, *times, END])):
        raise UserError(f"steps must be 1 to {T}, or decreasing timesteps below {T}, got {steps}")
    scheduler = SAMPLERS[sampler](ddpm.scheduler)
    scheduler.set_timesteps(timesteps=times)
    x_t = gaussian_noise(ddpm.shape, rngs).to(ddpm.device)
    y = None if y is None else torch.as_tensor(y).to(ddpm.device)
    yield from loop(predict or ddpm, scheduler, x_t, y, rngs)


def sample(ddpm, y, seeds, predict=None, batch_size=100, **settings):
    """Sample one image per seed, with a progress bar: (N, C, H, W) in [-1, 1].

    The arguments are those of `trajectory`; `settings` are sampler, steps, and loop. Raises
    UserError if y does not have one condition per seed, or if the samples are not finite. Warns if
    pixels are far outside [-1, 1].
    """
    if y is not None and len(y) != len(seeds):
        raise UserError(f"got {len(y)} conditions for {len(seeds)} seeds")
    images, largest = [], torch.zeros((), device=ddpm.device)
    # inside another progress bar, this one disappears when it is complete
    with tqdm(total=len(seeds), unit="image", desc="sampling", disable=None, leave=None) as bar:
        for first in range(0, len(seeds), batch_size):
            part = slice(first, first + batch_size)
            y_part = None if y is None else y[part]
            for t, x_t, x_0 in trajectory(ddpm, y_part, seeds[part], predict, **settings):
                image, largest = x_0, torch.maximum(largest, x_t.abs().max())
                bar.set_postfix(t=t)
            images.append(image.cpu())
            bar.update(len(image))
    images = torch.cat(images)
    if not images.isfinite().all():
        raise UserError("the samples are not finite; lower the guidance scale or check the guide")
    largest = max(largest.item(), images.abs().max().item())
    if largest > FAR_OUTSIDE:
        warnings.warn(
            f"pixel values reached {largest:.2g}; the guidance is too strong", stacklevel=2
        )
    return images.clamp(-1, 1)


def load_models(folder=MODELS, device="cpu", unet_class=UNet2DModel, classifier_class=Classifier):
    """Load (DDPM, classifier) from a folder of checkpoints.

    Raises UserError if one is missing, corrupted, or incompatible, or if the two were not trained
    on the same dataset with the same noise schedule.
    """
    ddpm = load_ddpm(Path(folder, "ddpm_unet.pth"), device, unet_class)
    classifier = load_classifier(Path(folder, "classifier.pth"), device, classifier_class)
    if classifier.dataset_info != ddpm.unet.dataset_info:
        raise UserError(f"the networks in {folder} were trained on different datasets")
    abar, other = ddpm.scheduler.alphas_cumprod, trained_scheduler(classifier).alphas_cumprod
    if abar.shape != other.shape or not torch.allclose(abar, other):
        raise UserError(f"the networks in {folder} were trained with different noise schedules")
    return ddpm, classifier


# --- command line ---


def parse_args(argv):
    parser = cli.ArgumentParser(__doc__)
    add = parser.add_argument
    positive = cli.number(int, 1)
    add("--digits", nargs="+", default=["1"], help="digits or class names, or 'all'")
    add("--num-samples", type=positive, default=8, help="images per digit")
    scale_help = "constant scales, one row each, 0 for no guidance (default: a growing scale)"
    add("--guidance-scale", type=cli.number(float), nargs="+", metavar="S", help=scale_help)
    add("--sampler", choices=SAMPLERS, default=SAMPLER, help="sampling algorithm")
    add("--steps", type=positive, default=STEPS, help="sampling steps")
    add("--output", type=cli.output(".png"), help="PNG file (default: guided_output.png)")
    add("--npz", type=cli.output(".npz"), help="NPZ file for the samples of the last scale")
    add("--gif", type=cli.output(".gif"), help="GIF file for an animation of the last scale")
    add("--models", type=Path, default=MODELS, help="folder that contains the checkpoints")
    cli.add_run_flags(parser)
    return parser.parse_args(argv)


@cli.one_line_errors
def main(argv=None, unet_class=UNet2DModel, classifier_class=Classifier):
    args = parse_args(argv)
    ddpm, classifier = load_models(args.models, args.device, unet_class, classifier_class)
    info, grad = classifier.dataset_info, gradient(classifier.log_p)
    digits = class_numbers(args.digits, info["classes"])
    y = torch.tensor(digits).repeat_interleave(args.num_samples)  # (N,)
    seeds = image_seeds(args.seed, y.tolist())
    settings = {"sampler": args.sampler, "steps": args.steps}

    scales = {f"s = {s}".removesuffix(".0"): s for s in args.guidance_scale or []}
    scales = scales or {"growing": growing_scale(ddpm)}
    predicts = {label: guided(ddpm, grad, scale) for label, scale in scales.items()}
    rows = {label: sample(ddpm, y, seeds, p, **settings) for label, p in predicts.items()}

    columns = len(y) if args.num_samples == 1 else args.num_samples
    settings |= {"seed": args.seed, "num_samples": args.num_samples}
    made_from = provenance(ddpm.unet, classifier, scales=list(rows), digits=digits, **settings)
    output = args.output or output_folder(args.models) / "guided_output.png"
    last = list(rows)[-1]
    if len(rows) == 1:
        pictures.save_grid(output, pictures.as_displayed(rows[last], info), columns, made_from)
    else:
        grids = {label: pictures.as_displayed(images, info) for label, images in rows.items()}
        names = [info["classes"][k] for k in digits]
        pictures.save_labeled_grid(output, grids, names, made_from)
    if args.npz:
        pictures.save_npz(args.npz, rows[last], y, info["classes"])
    if args.gif:  # sampled again, step by step
        steps = trajectory(ddpm, y, seeds, predicts[last], args.sampler, args.steps)
        guide = None if scales[last] == 0 else lambda x_t, t: grad(x_t, t, y.to(x_t.device))
        pictures.save_animation(args.gif, steps, guide, args.steps, columns, info, made_from)
    print(f"saved {len(y) * len(rows)} images to {output}")


if __name__ == "__main__":
    main()
