"""Step 3: sample digits with classifier guidance.

    python inference.py                                      # guided_output.png: eight 1s
    python inference.py --digits 3 1 4 --guidance-scale 5    # a constant scale, s = 5

Runs the reverse process of Ho et al. 2020 ("DDPM", arXiv 2006.11239, Algorithm 2) and shifts the
predicted noise by the classifier's gradient: Dhariwal & Nichol 2021 ("ADM", arXiv 2105.05233),
equation (14).

    eps_hat = eps(x_t, t) - s_t * sqrt(1 - abar_t) * grad_{x_t} log p(y | x_t, t)

With --guidance-scale, s_t is constant, as in ADM; by default it grows as the noise decreases.
"""

import math
import warnings
from functools import partial
from itertools import pairwise
from pathlib import Path

import torch
from tqdm import tqdm

from classifier import load_classifier
from data import class_numbers
from diffusion import END, abar_table, check_prediction_type, clip_limit, clipped_noise, ddim_step
from diffusion import ddpm_step, image_shape, load_ddpm, multistep, predicted_noise, predicted_x_0
from diffusion import same_schedule, sampling_times, snr, timesteps
from support import cli, pictures
from support.cli import UserError
from support.files import MODELS, output_folder, provenance
from support.streams import gaussian_noise, image_seeds

SAMPLER, STEPS = "ddpm", 50
FAR_OUTSIDE = 15  # x_t stays within about [-5, 5] unless the guidance is too strong


class NoisePredictor:
    """Unguided sampling: predicts the noise in x_t with the U-Net of a DDPMPipeline.

    Called as (x_t (B, C, H, W), t (int), y (B, ...)); returns eps_hat (B, C, H, W).
    """

    def __init__(self, ddpm):
        if ddpm.unet.config.out_channels != ddpm.unet.config.in_channels:
            raise UserError("U-Nets with a learned variance are not supported")
        check_prediction_type(ddpm.scheduler)
        ddpm.unet.eval()
        self.ddpm, self.device, self.shape = ddpm, ddpm.device, image_shape(ddpm.unet)
        self.abar, self.limit = abar_table(ddpm.scheduler), clip_limit(ddpm.scheduler)

    def eps(self, x_t, t, *labels):
        """The predicted noise; `labels` (B,) for class-conditional U-Nets."""
        unet = self.ddpm.unet
        output = unet(x_t.to(unet.dtype), timesteps(x_t, t), *labels).sample.to(x_t.dtype)
        return predicted_noise(self.ddpm.scheduler, output, x_t, self.abar[t])

    @torch.no_grad()
    def clipped_eps(self, x_t, t):
        """`eps` after clipping the predicted x_0, as in openai/guided-diffusion."""
        return clipped_noise(x_t, self.eps(x_t, t), self.abar[t], self.limit)

    def __call__(self, x_t, t, y):
        return self.clipped_eps(x_t, t)


class Guided(NoisePredictor):
    """Classifier guidance with any log_p(x_t, t (B,), y (B, ...)) -> (B,), differentiable in x_t.

    log_p of one image must not depend on the other images in the batch. `scale` is s: a constant or
    a function of t.
    """

    def __init__(self, ddpm, log_p, scale):
        super().__init__(ddpm)
        classifier = getattr(log_p, "__self__", None)  # the `Classifier`, if log_p is its method
        if not same_schedule(getattr(classifier, "scheduler", ddpm.scheduler), ddpm.scheduler):
            raise UserError("classifier and U-Net were trained with different noise schedules")
        self.log_p, self.scale = log_p, scale if callable(scale) else lambda t: scale

    def __call__(self, x_t, t, y):
        eps, s = self.clipped_eps(x_t, t), self.scale(t)
        if s == 0:
            return eps
        return eps - s * (1 - self.abar[t]).sqrt() * gradient(self.log_p, x_t, t, y)  # ADM (14)


@torch.enable_grad()
def gradient(log_p, x_t, t, y):
    """grad_{x_t} log p(y | x_t, t), same shape as x_t: the gradient of the sum over the batch."""
    x_t = x_t.detach().requires_grad_()
    log_p_y = log_p(x_t, timesteps(x_t, t), y)
    if log_p_y.shape != x_t.shape[:1]:
        raise UserError(f"log_p must return one number per image, got shape {tuple(log_p_y.shape)}")
    return torch.autograd.grad(log_p_y.sum(), x_t)[0]


def first_order(step, predict_noise, abar, x_t, times, noise):
    """DDPM Algorithm 2 with `ddpm_step` as the step; DDIM with `ddim_step`.

    Yields (u, x_u, x_0) for each step from t to u: the new timestep, its image, and the predicted
    x_0 used to reach it. `predict_noise(x_t, t)` returns eps_hat, and `noise()` fresh noise, both
    with the shape of x_t (B, C, H, W). `times` are decreasing timesteps, then `END`.
    """
    for t, u in pairwise(times):
        eps_hat = predict_noise(x_t, t)
        x_0 = predicted_x_0(x_t, eps_hat, abar[t])  # DDPM (15)
        x_t = step(x_t, x_0, abar[t], abar[u], noise)  # DDPM (6), (7), or DDIM
        yield u, x_t, x_0


SAMPLERS = {  # "ddpm" uses the posterior variance, whatever the scheduler's `variance_type`
    "ddpm": partial(first_order, ddpm_step),
    "ddim": partial(first_order, ddim_step),
    "sde-dpmsolver++": partial(multistep, ddpm_step),  # 20 steps are enough
    "dpmsolver++": partial(multistep, ddim_step),
}


def trajectory(method, y, seeds, sampler=SAMPLER, steps=STEPS):
    """Sample one batch step by step: an iterator of (u, x_u, x_0); the last u is `END`.

    Args:
        method: (x_t, t, y) -> eps_hat, such as `Guided`, with attributes abar, shape, device.
        y: conditions (B, ...), as the method expects them, or None.
        seeds: B ints, 0 to 2**32 - 1. Each image has its own CPU generator, so its noise does not
            depend on device or batch size.
        sampler: a key of `SAMPLERS`, or your own generator function with the same arguments.
        steps: the number of steps, or a list of decreasing timesteps.

    Raises UserError if the steps are invalid.
    """
    T = len(method.abar) - 1
    times = sampling_times(T, steps) if isinstance(steps, int) else list(steps)
    if not times or not all(t > u for t, u in pairwise([T, *times, END])):
        raise UserError(f"steps must be 1 to {T}, or decreasing timesteps below {T}, got {steps}")
    rngs = [torch.Generator().manual_seed(seed) for seed in seeds]
    y = None if y is None else torch.as_tensor(y).to(method.device)

    def noise():
        return gaussian_noise(method.shape, rngs).to(method.device)

    def predict_noise(x_t, t):
        return method(x_t, t, y).detach()

    sampler = sampler if callable(sampler) else SAMPLERS[sampler]
    return sampler(predict_noise, method.abar, noise(), [*times, END], noise)


def sample(method, y, seeds, sampler=SAMPLER, steps=STEPS, batch_size=100):
    """Sample one image per seed, with a progress bar: (N, C, H, W) in [-1, 1].

    The arguments are those of `trajectory`. Raises UserError if y does not have one condition per
    seed, if the gradient for one image depends on the others, if the sampler stops early, or if
    samples are not finite. Warns if pixels are far outside [-1, 1].
    """
    seeds, y = list(seeds), None if y is None else torch.as_tensor(y)
    if y is not None and len(y) != len(seeds):
        raise UserError(f"got {len(y)} conditions for {len(seeds)} seeds")
    if isinstance(method, Guided) and mixes_the_batch(method, y, min(len(seeds), batch_size, 2)):
        message = "the guide's gradient for one image depends on the other images in the batch"
        raise UserError(f"{message}; is BatchNorm in train mode?")
    images, largest = [], torch.zeros((), device=method.device)
    with tqdm(total=len(seeds), unit="image", desc="sampling", disable=None) as bar:
        for first in range(0, len(seeds), batch_size):
            part = slice(first, first + batch_size)
            y_part = None if y is None else y[part]
            u = None
            for u, x_t, _ in trajectory(method, y_part, seeds[part], sampler, steps):
                largest = torch.maximum(largest, x_t.abs().max())  # synchronizes once, at the end
                bar.set_postfix(t=u)
            if u != END:
                raise UserError("the sampler stopped before it yielded END")
            images.append(x_t.cpu())
            bar.update(len(x_t))
    images = torch.cat(images)
    if not images.isfinite().all():
        raise UserError("the samples are not finite; lower the guidance scale or check the guide")
    if largest > FAR_OUTSIDE:
        warnings.warn(
            f"pixel values reached {largest:.2g}; the guidance is too strong", stacklevel=2
        )
    return images.clamp(-1, 1)


def mixes_the_batch(method, y, n):
    """Whether the gradient for the first of n images depends on the others."""
    rngs = [torch.Generator().manual_seed(k) for k in range(n)]
    x_t, t = gaussian_noise(method.shape, rngs).to(method.device), len(method.abar) // 2
    y = None if y is None else y[:n].to(method.device)
    grads = []
    for images in (x_t, torch.cat([x_t[:1], -x_t[1:]])):
        with torch.random.fork_rng():
            torch.manual_seed(0)  # the same random numbers, for guides with dropout
            grads.append(gradient(method.log_p, images, t, y)[0])
    return bool((grads[0] - grads[1]).abs().max() > 0.01 * grads[0].abs().max())


def growing_scale(scheduler, w=1.0, g=12.0, low=0, high=math.inf):
    """s_t = w (1 + g SNR_t), with SNR_t = abar_t / (1 - abar_t): a function of t.

    With w = 1, g = 12, and the default schedule, s is 1 at t = 999, 14 at 249, and 2,069 at 19. The
    shift of the predicted x_0, s (1 - abar) / sqrt(abar) grad, tends to g w grad as the noise
    vanishes. s is 0 outside low <= t < high.
    """
    ratios = snr(scheduler.alphas_cumprod).tolist()
    return lambda t: w * (1 + g * ratios[t]) if low <= t < high else 0


def load_models(folder=MODELS, device="cpu"):
    """Load (DDPMPipeline, Classifier) from a folder of checkpoints of one dataset.

    Raises UserError if a checkpoint is missing, corrupted, or incompatible.
    """
    ddpm = load_ddpm(Path(folder, "ddpm_unet.pth"), device)
    classifier = load_classifier(Path(folder, "classifier.pth"), device)
    if classifier.dataset != ddpm.unet.dataset:
        raise UserError(f"the networks in {folder} were trained on different datasets")
    return ddpm, classifier


# --- command line ---


def parse_args(argv):
    parser = cli.ArgumentParser(__doc__)
    add = parser.add_argument
    positive = cli.number(int, 1)
    add("--digits", nargs="+", default=["1"], help="digits or class names, or 'all'")
    add("--num-samples", type=positive, default=8, help="images per digit")
    scale_help = "constant scales, one row each, from the same noise (default: the growing scale)"
    scale = cli.number(float, 0)
    add("--guidance-scale", type=scale, nargs="+", metavar="S", help=scale_help)
    add("--sampler", choices=SAMPLERS, default=SAMPLER, help="sampling algorithm")
    add("--steps", type=positive, default=STEPS, help="sampling steps")
    add("--output", type=cli.file(".png"), help="PNG file (default: guided_output.png)")
    add("--npz", type=cli.file(".npz"), help="NPZ file for the images and labels of the last scale")
    add("--gif", type=cli.file(".gif"), help="GIF file for an animation of the last scale")
    add("--models", type=Path, default=MODELS, help="folder that contains the checkpoints")
    cli.add_run_flags(parser)
    return parser.parse_args(argv)


@cli.one_line_errors
def main(argv=None):
    args = parse_args(argv)
    ddpm, classifier = load_models(args.models, args.device)
    classes = classifier.dataset["classes"]
    digits = class_numbers(args.digits, classes)
    y = torch.tensor(digits).repeat_interleave(args.num_samples)  # (N,)
    seeds = image_seeds(args.seed, y.tolist())

    rows = {}  # label -> images
    for scale in args.guidance_scale or [growing_scale(ddpm.scheduler)]:
        method = Guided(ddpm, classifier.log_p, scale)
        images = sample(method, y, seeds, args.sampler, args.steps)
        label = "growing" if callable(scale) else f"s = {scale:g}"
        rows[label] = pictures.as_displayed(images, classifier.dataset)

    settings = {flag: getattr(args, flag) for flag in ("sampler", "steps", "seed", "num_samples")}
    made_from = provenance(ddpm.unet, classifier, scales=list(rows), digits=digits, **settings)
    columns = len(y) if args.num_samples == 1 else args.num_samples
    output = args.output or output_folder(args.models) / "guided_output.png"
    if len(rows) == 1:
        pictures.save_grid(output, rows[label], columns, made_from)
    else:
        pictures.save_labeled_grid(output, rows, [classes[k] for k in digits], made_from)
    if args.npz:
        pictures.save_npz(args.npz, images, y, classes)
    if args.gif:
        steps = with_push(method, y, trajectory(method, y, seeds, args.sampler, args.steps))
        steps = (
            (u, *(pictures.as_displayed(x.cpu(), classifier.dataset) for x in (x_u, x_0)), push)
            for u, x_u, x_0, push in steps
        )
        pictures.save_animation(args.gif, steps, args.steps, columns, made_from)
    print(f"saved {len(y) * len(rows)} images to {output}")


def with_push(method, y, steps):
    """Add to each step the gradient that the next one uses, or None: (u, x_u, x_0, grad)."""
    for u, x_u, x_0 in steps:
        apply = u != END and method.scale(u) != 0
        yield u, x_u, x_0, gradient(method.log_p, x_u, u, y.to(x_u.device)) if apply else None


if __name__ == "__main__":
    main()
