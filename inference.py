"""Step 3: draw the digits that you ask for, by classifier guidance.

    python inference.py                                      # guided_output.png: the digit 1
    python inference.py --digits 3 1 4 --guidance-scale 5    # a row of each, at a constant s = 5

The reverse loop of Ho et al. 2020 ("DDPM", arXiv 2006.11239, Algorithm 2), with the predicted noise
moved toward the digit y by a classifier: Dhariwal & Nichol 2021 ("ADM", arXiv 2105.05233), (14),
with the gradient scaled by s_t: a constant, as in their Algorithm 1, or by default `growing_scale`:

    eps_hat = eps(x_t, t) - s_t * sqrt(1 - abar_t) * grad_{x_t} log p(y | x_t, t)
"""

import math
import operator
import re
import warnings
from functools import partial
from itertools import pairwise
from pathlib import Path

import torch
from tqdm import tqdm

from classifier import load_classifier
from diffusion import END, abar_table, betas_in_words, check_prediction_type, clip_limit
from diffusion import clipped_noise, for_each, image_shape, load_ddpm, posterior, predicted_noise
from diffusion import predicted_x_0, same_betas, same_noise, sampling_times, snr
from mnist import check_same_dataset, class_numbers
from support import cli, pictures
from support.errors import UserError
from support.files import MODELS, check_outputs, output_folder, provenance
from support.streams import gaussian_noise, image_seeds

SAMPLER, STEPS = "ddpm", 50
DEFAULT_SCALE = 1.0, 24.0  # w and g of `growing_scale`
BATCH_SIZE = 100
MAX_SHOWN = 20  # images of a digit in a picture
FAR_OUTSIDE = 15  # pixels of x_t are within about 5, unless the guide is too strong


# --- the noise in x_t: as the U-Net predicts it, and guided ---


class Method:
    """What predicts the noise for a sampler: called with x_t (B, C, H, W), an int t and y (B, ...).

    Args:
        ddpm: a DDPMPipeline, ours or anybody's; betas, size and prediction type are its own.
        scale: s, a number as in ADM, or a function of t, such as `growing_scale`'s.
    """

    labelled = False  # whether the U-Net takes labels
    needs_y = True

    def __init__(self, ddpm, scale=0.0):
        check_ddpm(ddpm, self.labelled)
        check_scale(scale, ddpm.scheduler.config.num_train_timesteps - 1)
        self.ddpm, self.device, self.shape = ddpm, ddpm.device, image_shape(ddpm.unet)
        self.abar, self.limit = abar_table(ddpm.scheduler), clip_limit(ddpm.scheduler)
        self.scale = scale if callable(scale) else lambda t: scale

    def eps(self, x_t, t, *labels):
        """The noise that the U-Net predicts, given labels (B,) if it takes some: as x_t."""
        output = self.ddpm.unet(x_t, for_each(x_t, t), *labels).sample
        return predicted_noise(self.ddpm.scheduler, output, x_t, self.abar[t])

    @torch.no_grad()
    def clipped_eps(self, x_t, t):
        """As `eps`, but the x_0 that it predicts is clipped, as in openai/guided-diffusion."""
        return clipped_noise(x_t, self.eps(x_t, t), self.abar[t], self.limit)


class Guided(Method):
    """Classifier guidance, ADM (14).

    log_p is the guide: (x_t, t (B,), y (B, ...)) -> log p(y | x_t, t) (B,), differentiable in x_t,
    such as `Classifier.log_p`. An image's log p may depend on no other image.
    """

    def __init__(self, ddpm, log_p, scale):
        super().__init__(ddpm, scale)
        check_betas(log_p, ddpm)
        self.log_p = log_p

    def __call__(self, x_t, t, y):
        """eps_hat, as x_t. At s = 0, it is unguided."""
        eps, s = self.clipped_eps(x_t, t), self.scale(t)
        if s == 0:
            return eps
        grad = gradient(self.log_p, x_t, t, y)
        return eps - s * (1 - self.abar[t]).sqrt() * grad  # ADM (14), scaled by s


@torch.enable_grad()
def gradient(log_p, x_t, t, y):
    """grad_{x_t} log p(y | x_t, t), taken at x_t as in ADM Algorithm 2: (B, C, H, W).

    The gradient of the sum is the batch of gradients: log p of an image depends on no other image.
    """
    x_t = x_t.detach().requires_grad_()
    log_p_y = log_p(x_t, for_each(x_t, t), y)  # (B,)
    check_shape("guide", log_p_y, x_t.shape[:1])
    return torch.autograd.grad(log_p_y.sum(), x_t)[0]


# --- the reverse loop: from noise to images ---


def first_order(step, predict_noise, abar, x_t, times, noise):
    """DDPM Algorithm 2, with `posterior` as its step; with `same_noise`, it is DDIM.

    Yields at each step the time u that it reached, x_u, and the x_0 that led there.

    Args:
        predict_noise: (x_t, t) -> eps_hat, as x_t.
        x_t: images (B, C, H, W) at the first of the times, such as pure noise.
        times: falling ints, and `END`.
        noise: () -> fresh noise, as x_t.
    """
    for t, u in pairwise(times):
        eps_hat = predict_noise(x_t, t)
        x_0 = predicted_x_0(x_t, eps_hat, abar[t])  # DDPM (15)
        x_t = step(x_t, x_0, abar[t], abar[u], noise)  # DDPM (6), (7)
        yield u, x_t, x_0


def draw(method, y, seeds, sampler=SAMPLER, steps=STEPS):
    """One batch, step by step: for a film, a preview, an early stop.

    All noise is drawn on the CPU, that of an image from its own seed, so that the same images come
    out on every device and in every batch. Nothing but this noise, and y, moves to the device.

    Args:
        method: (x_t, t, y) -> eps_hat, such as `Guided`, with its `abar`, `shape` and `device`.
        y: what is asked for, as the method takes it: (B, ...), such as digits (B,); or None.
        seeds: B whole numbers, such as range(B).
        sampler: a name of `SAMPLERS`, or a generator of your own with the arguments of
            `first_order` but `step`.
        steps: how many, or a list of falling times of your own, without `END`.

    Returns:
        a generator of (u, x_u, x_0), as `first_order`; the last u is `END`.

    Raises UserError if an argument is wrong.
    """
    y, seeds, times = checked_request(method, y, seeds, sampler, steps)
    if y is not None:
        y = y.to(method.device)
    rngs = [torch.Generator().manual_seed(seed) for seed in seeds]

    def noise():
        return gaussian_noise(method.shape, rngs).to(method.device)

    def predict_noise(x_t, t):
        eps_hat = method(x_t, t, y)
        check_shape("method", eps_hat, x_t.shape)
        return eps_hat.detach()

    sampler = SAMPLERS.get(sampler, sampler)
    return sampler(predict_noise, method.abar, noise(), [*times, END], noise)


def sample(method, y, seeds, sampler=SAMPLER, steps=STEPS, batch_size=BATCH_SIZE):
    """An image for each seed, (N, C, H, W) in [-1, 1]: `draw` in batches, with a bar.

    Warns if pixels went far outside of [-1, 1] at any step. Raises UserError if an argument or the
    guide is wrong, or an image is not finite.
    """
    y, seeds, times = checked_request(method, y, seeds, sampler, steps)
    if batch_size < 1:
        raise UserError(f"batch_size is {batch_size}, 1 is the least")
    if hasattr(method, "log_p"):
        check_guide(method.log_p, method, y)
    batches = [slice(k, k + batch_size) for k in range(0, len(seeds), batch_size)]
    images, largest = [], torch.zeros((), device=method.device)
    with tqdm(total=len(batches) * len(times), desc="sampling", disable=None) as bar:
        for batch in batches:
            y_batch, at_end = None if y is None else y[batch], False
            for u, x_t, _ in draw(method, y_batch, seeds[batch], sampler, times):
                largest = torch.maximum(largest, x_t.abs().max())  # read once, at the end
                at_end = u == END
                bar.update()
            if not at_end or len(x_t) != len(seeds[batch]):
                raise UserError("the sampler did not reach the end, or not with all images")
            images.append(x_t.cpu())
    images = torch.cat(images)
    check_images(images, largest)
    return images.clamp(-1, 1)


# --- the command ---


@cli.one_line_errors
def main(argv=None):
    args = parse_args(argv)
    outputs = [path for path in (args.output, args.npz, args.gif) if path]
    check_outputs(*outputs)
    ddpm, classifier = load_models(args.models, args.device)
    classes = classifier.dataset["classes"]
    digits = class_numbers(args.digits, classes)
    y = torch.tensor(digits).repeat_interleave(args.num_samples)  # (N,)
    seeds = image_seeds(args.seed, y.tolist())
    check_window(args.window, abar_table(ddpm.scheduler), args.steps)
    print(f"reads {args.models}; device: {args.device}", flush=True)

    rows = {}  # the images of each scale, by its label
    for guidance_scale in args.guidance_scale or [None]:
        w, g = scale_of_flags(guidance_scale, args.growth)
        scale = growing_scale(ddpm.scheduler, w, g, args.window)
        method = Guided(ddpm, classifier.log_p, scale)
        images = sample(method, y, seeds, args.sampler, args.steps, args.batch_size)
        rows[scale_in_words(w, g)] = images

    made_from = provenance_of(args, digits)
    shown = torch.arange(len(y)) % args.num_samples < MAX_SHOWN  # (N,)
    columns = min(args.num_samples, MAX_SHOWN)
    if columns == 1:  # one image of each digit: all in one row
        columns = len(digits)
    if len(rows) > 1:
        names = [classes[digit] for digit in digits]
        grids = {label: row[shown] for label, row in rows.items()}
        pictures.save_labelled_grid(args.output, grids, names, made_from)
    else:
        pictures.save_grid(args.output, images[shown], columns, made_from)
    if args.npz:
        pictures.save_npz(args.npz, images, y)
    if args.gif:  # drawn once more, step by step
        shown_seeds = [seed for seed, is_shown in zip(seeds, shown) if is_shown]
        steps = film(method, y[shown], shown_seeds, args.sampler, args.steps)
        pictures.save_film(args.gif, steps, args.steps, columns, made_from)
    print(f"images drawn: {len(y) * len(rows)}; written: {', '.join(map(str, outputs))}")


def film(method, y, seeds, sampler, steps):
    """`draw`, with the gradient of the guide at each x_u, which pushes the next step."""
    for u, x_t, x_0 in draw(method, y, seeds, sampler, steps):
        at_end = u == END
        yield u, x_t, x_0, None if at_end else gradient(method.log_p, x_t, u, y.to(x_t.device))


def load_models(folder=MODELS, device="cpu"):
    """The DDPM, a DDPMPipeline, and the guide, a `Classifier`, of a folder. Raises UserError.

    `ddpm.scheduler` is the DDPMScheduler with which both were trained.
    """
    ddpm = load_ddpm(Path(folder, "ddpm_unet.pth"), device)
    classifier = load_classifier(Path(folder, "classifier.pth"), device)
    check_same_dataset(classifier.dataset, ddpm.unet.dataset, Path(folder, "classifier.pth"))
    check_betas(classifier.log_p, ddpm)
    return ddpm, classifier


def parse_args(argv):
    parser = cli.ArgumentParser(__doc__)
    add = parser.add_argument
    one_or_more, number = cli.number(int, 1, 100_000), cli.number(float, 0)
    add("--digits", "--classes", nargs="+", default=["1"], help="names or numbers, or all")
    add("--num-samples", type=one_or_more, default=8, help="images of each digit")
    scale_help = "s, the same at every t, as in ADM; 0: unguided; several: a row each, same noise"
    add("--guidance-scale", nargs="+", type=number, metavar="S", help=scale_help)
    growth_help = "s = S (1 + G SNR) instead; without both flags, S = 1 and G = 24"
    add("--growth", type=number, metavar="G", help=growth_help)
    window_help = "guide at LOW <= t < HIGH only, such as 250-750"
    add("--window", type=parse_window, metavar="LOW-HIGH", help=window_help)
    sampler_help = f"how x_t becomes less noisy: {', '.join(SAMPLERS)}"
    add("--sampler", choices=SAMPLERS, default=SAMPLER, metavar="NAME", help=sampler_help)
    add("--steps", type=one_or_more, default=STEPS, help="of the sampler")
    add("--batch-size", type=one_or_more, default=BATCH_SIZE, help="images at a time")
    grid_help = f"the grid, up to {MAX_SHOWN} images of each digit; without it, guided_output.png"
    add("--output", type=cli.file(".png"), metavar="PNG", help=grid_help)
    npz_help = "all images of the last scale, with labels"
    gif_help = "a film of the last scale: x_t, x_0 and the gradient"
    add("--npz", type=cli.file(".npz"), metavar="NPZ", help=npz_help)
    add("--gif", type=cli.file(".gif"), metavar="GIF", help=gif_help)
    models_help = "folder of the checkpoints"
    add("--models", type=cli.folder, default=MODELS, metavar="DIR", help=models_help)
    cli.add_run_flags(parser)
    args = parser.parse_args(argv)
    if args.output is None:
        args.output = output_folder(args.models) / "guided_output.png"
    return args


def parse_window(text):
    """An argparse type: "250-750" as (250, 750)."""
    found = re.fullmatch(r"(\d+)-(\d+)", text)
    if not found or not int(found[1]) < int(found[2]):
        raise UserError(f"{text} is not LOW-HIGH, 0 <= LOW < HIGH")
    return int(found[1]), int(found[2])


def scale_of_flags(guidance_scale, growth, default=DEFAULT_SCALE):
    """w and g of `growing_scale`, of --guidance-scale and --growth, or None where there is none.

    A scale that is asked for is constant unless its growth is, too.
    """
    if guidance_scale is None:
        return default[0], default[1] if growth is None else growth
    return guidance_scale, growth or 0.0


def scale_in_words(w, g):
    """The label of a scale in a picture."""
    if w == 0:
        return "left to chance"
    return f"w = {w:.10g}" if g else f"s = {w:.10g}"


def provenance_of(args, digits):
    """What made the files, see `support.files.provenance`."""
    paths = [args.models / "ddpm_unet.pth", args.models / "classifier.pth"]
    recorded = ("guidance_scale", "growth", "window", "sampler", "steps", "batch_size", "seed")
    settings = {flag: getattr(args, flag) for flag in recorded}
    return provenance(paths, **settings, digits=digits, num_samples=args.num_samples)


# --- a method without a guide, scales, other samplers ---


class Unguided(Method):
    """The noise that the U-Net predicts, and nothing else."""

    needs_y = False

    def __init__(self, ddpm):
        super().__init__(ddpm)

    def __call__(self, x_t, t, y):
        return self.clipped_eps(x_t, t)


def growing_scale(scheduler, w=DEFAULT_SCALE[0], g=DEFAULT_SCALE[1], window=None):
    """s_t = w (1 + g abar_t / (1 - abar_t)), a function of t: w in pure noise, then more and more.

    Outside of the window, low <= t < high, it is 0; None is everywhere. abar_t / (1 - abar_t) is
    the signal-to-noise ratio (SNR). At w = 1, g = 24 and our schedule, s is 1 at t = 999, 27 at
    249, and 4,137 at 19, the last of 50 steps. At g = 0 it is constant, as in ADM.

    By DDPM (15), the guide moves the predicted x_0 by s_t (1 - abar_t) / sqrt(abar_t) grad. With
    growth, this is w ((1 - abar_t) / sqrt(abar_t) + g sqrt(abar_t)) grad, and g w grad at the end.

    Raises UserError if no t is in the window.
    """
    T = scheduler.config.num_train_timesteps
    low, high = window or (0, T)
    if not any(low <= t < high for t in range(T)):
        raise UserError(f"window is {window}, not (low, high) with 0 <= low < high and low < {T}")
    snr_at = snr(scheduler.alphas_cumprod).tolist()

    def scale(t):
        return w * (1 + g * snr_at[t]) if low <= t < high else 0

    return scale


def multistep(step, predict_noise, abar, x_t, times, noise):
    """DPM-Solver++ (2M) of Lu et al. 2022, arXiv 2211.01095, Algorithm 2: as `first_order`.

    The step takes x_0 as it may be halfway from t to u, on the line through the x_0 of the last two
    steps. The line is in lambda, half the logarithm of the SNR. With `posterior` it is SDE-DPM-
    Solver++: beta / (1 - abar_t) is their 1 - exp(-2 h), with h = lambda_u - lambda_t.
    """
    half_log_snr = snr(abar).log() / 2  # lambda
    previous = None  # t and x_0 of the step before
    for t, u in pairwise(times):
        eps_hat = predict_noise(x_t, t)
        x_0 = halfway = predicted_x_0(x_t, eps_hat, abar[t])
        if previous is not None and u != END:  # at END, lambda is infinite
            t_before, x_0_before = previous
            slope = (x_0 - x_0_before) / (half_log_snr[t] - half_log_snr[t_before])
            halfway = x_0 + slope * (half_log_snr[u] - half_log_snr[t]) / 2
        x_t = step(x_t, halfway, abar[t], abar[u], noise)
        previous = t, x_0
        yield u, x_t, x_0


SAMPLERS = {
    "ddpm": partial(first_order, posterior),  # Algorithm 2, with the variance beta_tilde_t
    "ddim": partial(first_order, same_noise),
    "sde-dpmsolver++": partial(multistep, posterior),  # the fast one: 20 steps are enough
    "dpmsolver++": partial(multistep, same_noise),
}


def predicted_image(ddpm, x_t, t):
    """The clean image that x_t at t (B,) is predicted to become, clipped: for guides, (B, C, H, W).

    Its gradient goes through the U-Net, and is 0 where a pixel is clipped.
    """
    abar_t = ddpm.scheduler.alphas_cumprod.to(t.device)[t].view(-1, 1, 1, 1)
    eps = predicted_noise(ddpm.scheduler, ddpm.unet(x_t, t).sample, x_t, abar_t)
    limit = clip_limit(ddpm.scheduler)
    return predicted_x_0(x_t, eps, abar_t).clamp(-limit, limit)


# --- checks ---


def check_ddpm(ddpm, labelled):
    """Raises UserError if the methods here would draw something wrong with a DDPMPipeline."""
    if not (hasattr(ddpm, "unet") and hasattr(ddpm, "scheduler")):
        raise UserError(f"a method takes a DDPMPipeline first, not a {type(ddpm).__name__}")
    if not hasattr(ddpm.scheduler, "alphas_cumprod"):
        kind = type(ddpm.scheduler).__name__
        raise UserError(f"the scheduler is a {kind}, which has no alphas_cumprod")
    unet, scheduler = ddpm.unet.config, ddpm.scheduler.config
    check_prediction_type(ddpm.scheduler)
    if unet.out_channels != unet.in_channels:
        channels = f"{unet.in_channels} channels in and {unet.out_channels} out"
        raise UserError(f"the U-Net has {channels}: a learned variance is not supported")
    if labelled != bool(unet.get("num_class_embeds")):
        takes = "no labels" if labelled else "labels"
        raise UserError(f"the U-Net takes {takes}: it belongs to another method")
    if scheduler.get("thresholding"):
        raise UserError("the scheduler has dynamic thresholding, which is not supported")
    if (ddpm.scheduler.alphas_cumprod <= 0).any():
        raise UserError("abar is 0 at the last timestep: betas of zero SNR are not supported")


def check_window(window, abar, steps):
    """Raises UserError if no time of so many steps is in a window: nothing would be guided."""
    times = sampling_times(len(abar) - 1, steps)
    if window and not any(window[0] <= t < window[1] for t in times):
        low, high = window
        raise UserError(f"--window {low}-{high}: no step is in it, the times are {times}")


def check_scale(scale, t):
    """Raises UserError unless a scale is a finite number, or a function that returns one at t."""
    value = scale(t) if callable(scale) else scale
    try:
        good = math.isfinite(value)
    except (TypeError, ValueError):
        good = False
    if not good:
        raise UserError(f"scale is {value!r}, not a number or a function of t that returns one")


def check_betas(log_p, ddpm):
    """Raises UserError if a guide is the method of a classifier of other noise than a DDPM's."""
    classifier = getattr(log_p, "__self__", None)
    if hasattr(classifier, "scheduler") and not same_betas(classifier.scheduler, ddpm.scheduler):
        theirs, ours = (betas_in_words(part.scheduler) for part in (classifier, ddpm))
        raise UserError(f"the guide was trained with {theirs}, but the U-Net with {ours}")


def check_guide(log_p, method, y):
    """Raises UserError if a guide cannot guide: it is tried once, on two images.

    The gradient of an image must be the same alone and in a batch, or samples would depend on what
    else is drawn. y is what is asked for, (N, ...).
    """
    rngs = [torch.Generator().manual_seed(seed) for seed in (0, 1)]
    x_t, t = gaussian_noise(method.shape, rngs).to(method.device), len(method.abar) // 2
    y, before = torch.stack([y[0], y[-1]]).to(method.device), x_t.clone()
    try:
        together = gradient(log_p, x_t, t, y)[:1]
        alone = gradient(log_p, before[:1], t, y[:1])
    except UserError:
        raise
    except Exception as error:  # a guide of somebody's own can raise anything
        what = f"{type(error).__name__}: {error}"
        raise UserError(f"the guide, called as log_p(x_t, t, y), raises {what}") from error
    if not alone.isfinite().all():
        raise UserError("the gradient of the guide is not finite")
    if (together - alone).abs().max() > 0.01 * alone.abs().max():
        raise UserError("the guide's gradient of an image changes with the rest of its batch")
    if not torch.equal(x_t, before):
        raise UserError("the guide changes x_t in place")
    if not alone.any():
        warnings.warn(f"the gradient of the guide is 0 at t = {t}", stacklevel=3)


def check_shape(what, returned, shape):
    """Raises UserError unless a guide or a method returned a tensor of this shape."""
    if not isinstance(returned, torch.Tensor):
        kind = type(returned).__name__
        raise UserError(f"the {what} returned a {kind}, not a tensor {tuple(shape)}")
    if returned.shape != shape:
        found, wanted = tuple(returned.shape), tuple(shape)
        each = "one number per image" if len(shape) == 1 else "as x_t"
        raise UserError(f"the {what} returned {found}, {each} is {wanted}")
    if len(shape) == 1 and not returned.requires_grad:
        raise UserError("the guide has no gradient in x_t: is it under no_grad, or detached?")


def checked_request(method, y, seeds, sampler, steps):
    """y as a tensor or None, the seeds as ints, and the times, of the arguments of `draw`.

    Raises UserError if it cannot draw what is asked for.
    """
    T = len(method.abar) - 1
    if not (callable(sampler) or str(sampler) in SAMPLERS):
        raise UserError(f"sampler {sampler!r} is not one of {', '.join(SAMPLERS)}, or a generator")
    try:
        seeds = [operator.index(seed) for seed in seeds]
    except TypeError:
        raise UserError(f"seeds are whole numbers, one for each image, not {seeds!r}") from None
    if not seeds or min(seeds) < 0 or max(seeds) >= 2**64:
        raise UserError("there are no seeds, or some are not from 0 to 2^64 - 1")
    try:
        y = None if y is None else torch.as_tensor(y)
    except (TypeError, ValueError, RuntimeError):
        raise UserError(f"y is {y!r}, not numbers, or all of one shape") from None
    if y is None and method.needs_y:
        raise UserError("y is None: this method needs to know what is asked for")
    if y is not None and (y.ndim == 0 or len(y) != len(seeds)):
        raise UserError(f"y has the shape {tuple(y.shape)}, but there are {len(seeds)} seeds")
    try:
        if hasattr(steps, "__iter__"):
            times = [operator.index(t) for t in steps]
        else:
            steps = operator.index(steps)
            times = sampling_times(T, steps) if steps <= T else []
    except TypeError:
        times = []
    if not times or not all(t > u for t, u in pairwise([T, *times, END])):
        raise UserError(f"steps is {steps!r}: 1 .. {T}, or times that fall from {T - 1} to 0")
    return y, seeds, times


def check_images(images, largest):
    """Warns if a pixel, the largest of any step, was far outside of [-1, 1].

    Raises UserError if an image is not finite.
    """
    if not images.isfinite().all():
        raise UserError("the samples are not finite: use a lower scale, or check the guide")
    if largest > FAR_OUTSIDE:
        message = (
            f"pixels reached {largest:.2g}: use a lower scale, or no guide at first (a window)"
        )
        warnings.warn(message, stacklevel=3)


if __name__ == "__main__":
    main()
