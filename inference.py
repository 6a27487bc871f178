"""Step 3: draw the digits that you ask for, by classifier guidance.

    python inference.py                                     # guided_output.png: the digit 1
    python inference.py --digits all --compare              # unguided above guided, same noise
    python inference.py --digits 3 --guidance-scale 0 1 10  # one row per scale, same noise

Dhariwal & Nichol 2021 ("ADM", arXiv 2105.05233), equation (14): at each step, the gradient of a
classifier moves the predicted noise toward the digit y. ADM's s is constant, ours is `scale_at`.

    eps_hat = eps(x_t, t) - s * sqrt(1 - abar_t) * grad_{x_t} log p(y | x_t, t)
"""

import math
import re
import warnings
from itertools import pairwise
from pathlib import Path

import torch
from diffusers import UNet2DModel
from tqdm import tqdm

from classifier import Classifier
from diffusion import END, NUM_TRAIN_TIMESTEPS, SAMPLERS, SCHEDULE
from diffusion import abar, clipped_noise, predicted_x_0
from diffusion import image_shape, sampler_step, sampling_timesteps
from mnist import check_same_dataset, class_numbers
from support import cli, pictures
from support.cli import MODELS, require
from support.files import check_outputs, load_checkpoint, output_folder, provenance
from support.streams import gaussian_noise, image_seeds

GUIDANCE_SCALE = 1.0  # w: s where x_t is pure noise
SCALE_GROWTH = 24.0  # g; at 0, s is ADM's, the same at every t
WINDOW = (0, NUM_TRAIN_TIMESTEPS)  # guide at low <= t < high
SAMPLER = "sde-dpmsolver++"
STEPS = 20
BATCH_SIZE = 100
FAR_OUTSIDE = 10  # a pixel of a sample leaves [-1, 1] by little, unless the guide is too strong
MAX_SHOWN = 20  # images of a digit in a picture


def guided_noise(unet, log_p, x_t, t, y, s, u=None):
    """eps_hat of ADM (14), scaled by s: (B, C, H, W). At s = 0 or without a guide, it is eps.

    First the image predicted from eps is clipped to [-1, 1], as in openai/guided-diffusion.

    Args:
        unet: its `sample` of (x_t, t) is eps (B, C, H, W).
        log_p: the guide (x_t, t, y) -> log p(y | x_t, t) (B,), as `Classifier.log_p`; or None.
        x_t: (B, C, H, W). t: () or (B,). y: (B, ...), what is asked for. s: the scale.
        u: the timestep that the sampler steps to, which variants of this function may need.
    """
    with torch.no_grad():
        eps = clipped_noise(x_t, t, unet(x_t, t).sample)
    if s == 0 or log_p is None:
        return eps
    grad = guide_gradient(log_p, x_t, t.expand(len(x_t)), y)
    return eps - s * (1 - abar(t)).sqrt() * grad  # ADM (14), scaled by s


def guide_gradient(log_p, x_t, t, y):
    """grad_{x_t} log p(y | x_t, t), taken at x_t as in ADM Algorithm 2: (B, C, H, W).

    The gradient of the sum is the batch of gradients: log p of an image depends on no other image.
    Raises UserError if the guide is wrong: see `check_guide`.
    """
    with torch.enable_grad():
        x_t = x_t.detach().requires_grad_()
        log_p_y = log_p(x_t, t, y)  # (B,)
        check_guide(log_p_y, len(x_t))
        [grad] = torch.autograd.grad(log_p_y.sum(), x_t, allow_unused=True)
    require(grad is not None, "the guide does not depend on x_t")
    require(grad.isfinite().all(), "the gradient of the guide is not finite")
    return grad


def check_guide(log_p_y, batch_size):
    """Raises UserError unless a guide returned one differentiable number per image."""
    shape = tuple(log_p_y.shape) if torch.is_tensor(log_p_y) else type(log_p_y).__name__
    one_each = (batch_size,)
    require(shape == one_each, f"the guide returned {shape}, one number per image is {one_each}")
    require(log_p_y.requires_grad, "the guide is not differentiable in x_t")


def scale_at(t, guidance_scale, scale_growth=SCALE_GROWTH):
    """s_t = w (1 + g abar_t / (1 - abar_t)): w in pure noise, and more as the noise falls.

    abar_t / (1 - abar_t) is the signal-to-noise ratio (SNR). At w = 1, g = 24, s is 1 at t = 999,
    27 at 249, and 805 at 49, the last of 20 steps. At g = 0 it is constant, as in ADM.

    By DDPM (15), the guide moves the predicted x_0 by s_t (1 - abar_t) / sqrt(abar_t) grad. With
    growth, this is w ((1 - abar_t) / sqrt(abar_t) + g sqrt(abar_t)) grad, and g w grad at the end.
    """
    return guidance_scale * (1 + scale_growth * (abar(t) / (1 - abar(t))).item())


def sample(
    unet,
    log_p,
    y,
    seeds,
    *,
    guidance_scale=GUIDANCE_SCALE,
    scale_growth=SCALE_GROWTH,
    window=WINDOW,
    sampler=SAMPLER,
    steps=STEPS,
    batch_size=BATCH_SIZE,
    predict_noise=guided_noise,
    watch=None,
):
    """Draw an image for each seed: DDPM Algorithm 2, or the same loop with another sampler's step.

    Args:
        log_p: the guide, see `guided_noise`; None draws unguided.
        y: what is asked for, as log_p takes it: (N, ...), such as digits (N,). Without a guide,
            it may be None.
        seeds: N whole numbers, such as range(N). All noise of an image comes from its own seed.
        guidance_scale, scale_growth: w and g of `scale_at`.
        window: (low, high), to guide at low <= t < high only.
        sampler: one of `diffusion.SAMPLERS`. steps: of the sampler, 1 .. 1000.
        predict_noise: a variant of `guided_noise`, with the same arguments.
        watch: called at each step of a batch with t, x_t and the x_0 predicted from it.

    Returns:
        images: (N, C, H, W) in [-1, 1].

    Raises:
        UserError: an argument or the guide is wrong, or an image is not finite.
    """
    require(sampler in SAMPLERS, f"sampler {sampler!r} is not one of {', '.join(SAMPLERS)}")
    require(1 <= steps <= NUM_TRAIN_TIMESTEPS, f"steps is {steps}, not 1 .. {NUM_TRAIN_TIMESTEPS}")
    require(len(seeds) > 0, "there are no seeds: nothing to draw")
    require(log_p is None or y is not None, "a guide needs y, what is asked for")
    if y is not None:
        y = torch.as_tensor(y)
        require(len(y) == len(seeds), f"y is for {len(y)} images, but there are {len(seeds)} seeds")
    low, high = window
    shape = image_shape(unet)
    device = unet.device
    times = torch.tensor([*sampling_timesteps(steps), END], device=device)
    batches = [slice(k, k + batch_size) for k in range(0, len(seeds), batch_size)]
    bar = tqdm(total=len(batches) * steps, desc="sampling", unit="call", disable=None)
    images = []
    for batch in batches:
        y_batch = None if y is None else y[batch].to(device)
        rngs = [torch.Generator().manual_seed(seed) for seed in seeds[batch]]
        x_t = gaussian_noise(shape, rngs).to(device)
        before = None  # there is no step before the first
        for t, u in pairwise(times):  # u is the next timestep
            s = scale_at(t, guidance_scale, scale_growth) if low <= t < high else 0
            eps_hat = predict_noise(unet, log_p, x_t, t, y_batch, s, u).detach()
            x_0 = predicted_x_0(x_t, t, eps_hat)
            if watch:
                watch(t, x_t, x_0)
            z = gaussian_noise(shape, rngs).to(device)
            x_t = sampler_step(sampler, x_t, x_0, t, u, before, z)
            before = t, x_0
            bar.update()
        images.append(x_t.cpu())
    bar.close()
    images = torch.cat(images)
    check_range(images)
    return images.clamp(-1, 1)


def check_range(images):
    """Raises UserError if samples are not finite, and warns if they are far outside of [-1, 1]."""
    largest = images.abs().max().item()
    require(math.isfinite(largest), "the samples are not finite: use a lower guidance scale")
    if largest > FAR_OUTSIDE:
        clipped = f"pixels reach {largest:.2g} and are clipped to [-1, 1]: the guide is too strong"
        warnings.warn(f"{clipped}; use a lower guidance scale", stacklevel=3)


def load_models(folder=MODELS, device="cpu", guide=True):
    """The U-Net and the classifier (None unless `guide`) of a folder. Raises UserError."""
    path = Path(folder, "ddpm_unet.pth")
    unet = load_checkpoint(path, UNet2DModel, SCHEDULE, "train_ddpm.py", device)
    if not guide:
        return unet, None
    path = Path(folder, "classifier.pth")
    classifier = load_checkpoint(path, Classifier, SCHEDULE, "train_classifier.py", device)
    check_same_dataset(classifier.dataset, unet.dataset, path)
    return unet, classifier


def add_sampling_flags(parser, nargs=None):
    """The flags of `sample`: several scales, and with nargs="+" several of the others too."""

    def add(flag, value, help, nargs=nargs, **others):
        default = [value] if nargs else value
        parser.add_argument(flag, nargs=nargs, default=default, help=help, **others)

    scale = cli.number(float, 0)
    scale_help = "w, s in pure noise; 0: unguided; several: a row each, same noise"
    add("--guidance-scale", GUIDANCE_SCALE, scale_help, nargs="+", type=scale)
    add("--scale-growth", SCALE_GROWTH, "g of s = w (1 + g SNR); 0: ADM's s, constant", type=scale)
    window_help = "guide at LOW <= t < HIGH only, such as 250-750"
    add("--window", WINDOW, window_help, type=parse_window, metavar="LOW-HIGH")
    add("--sampler", SAMPLER, "how x_t becomes less noisy", choices=SAMPLERS)
    steps = cli.number(int, 1, NUM_TRAIN_TIMESTEPS)
    add("--steps", STEPS, "of the sampler, a call of the networks each", type=steps)


def parse_window(text):
    """An argparse type: "250-750" as (250, 750)."""
    found = re.fullmatch(r"(\d+)-(\d+)", text)
    require(found, f"{text!r} is not LOW-HIGH, two timesteps")
    low, high = map(int, found.groups())
    require(low < high <= NUM_TRAIN_TIMESTEPS, f"{text!r} is not 0 <= LOW < HIGH <= 1000")
    return low, high


def parse_args(argv):
    parser = cli.ArgumentParser(__doc__)
    add = parser.add_argument
    one_or_more = cli.number(int, 1)
    add("--digits", "--classes", nargs="+", default=["1"], help="names or numbers, or all")
    add("--num-samples", type=one_or_more, default=8, help="images of each digit")
    add_sampling_flags(parser)
    add("--batch-size", type=one_or_more, default=BATCH_SIZE, help="images at a time")
    add("--compare", action="store_true", help="unguided above guided, from the same noise")
    grid_help = f"the grid, up to {MAX_SHOWN} images of each digit; without it, guided_output.png"
    add("--output", type=cli.file_name(".png"), help=grid_help)
    add("--npz", type=cli.file_name(".npz"), help="all images of the last scale, with labels")
    add("--gif", type=cli.file_name(".gif"), help="a film of x_t beside x_0, of the last scale")
    add("--models", type=Path, default=MODELS, metavar="DIR", help="folder of the checkpoints")
    cli.add_run_flags(parser)
    return parser.parse_args(argv)


@cli.one_line_errors
def main(argv=None):
    args = parse_args(argv)
    output = args.output or output_folder(args.models) / "guided_output.png"
    outputs = [path for path in (output, args.npz, args.gif) if path]
    check_outputs(*outputs)
    scales = [0.0, *args.guidance_scale] if args.compare else args.guidance_scale
    unet, classifier = load_models(args.models, args.device, guide=max(scales) > 0)
    log_p = classifier.log_p if classifier else None
    digits = class_numbers(args.digits, unet.dataset["classes"])
    y = torch.tensor(digits).repeat_interleave(args.num_samples)
    seeds = image_seeds(args.seed, y.tolist())
    print(f"reads {args.models}; device: {args.device}", flush=True)

    flags = ("scale_growth", "window", "sampler", "steps", "batch_size")
    settings = {flag: getattr(args, flag) for flag in flags}
    rows = []
    for scale in scales:
        film = pictures.Film(sampling_timesteps(args.steps)) if args.gif else None
        watch = film.add if film else None  # the film of the last scale is kept
        rows.append(sample(unet, log_p, y, seeds, guidance_scale=scale, watch=watch, **settings))

    settings |= {"guidance_scale": scales, "digits": digits, "num_samples": args.num_samples}
    names = ["ddpm_unet.pth", "classifier.pth"] if classifier else ["ddpm_unet.pth"]
    made_from = provenance([args.models / name for name in names], seed=args.seed, **settings)
    shown = torch.arange(len(y)) % args.num_samples < MAX_SHOWN  # (N,)
    columns = min(args.num_samples, MAX_SHOWN)
    if columns == 1:  # one image of each digit: all in one row
        columns = len(digits)
    if len(scales) > 1:
        images = torch.cat([row[shown] for row in rows])
        labels = [f"w = {scale:g}" if scale else "unguided" for scale in scales]
        classes = [unet.dataset["classes"][digit] for digit in digits]
        pictures.save_labelled_grid(output, images, labels, classes, made_from)
    else:
        pictures.save_grid(output, rows[0][shown], columns, made_from)
    if args.npz:
        pictures.save_npz(args.npz, rows[-1], y)
    if args.gif:
        film.save(args.gif, rows[-1], shown, columns, made_from)
    print(f"images drawn: {len(y) * len(scales)}; written: {', '.join(map(str, outputs))}")


if __name__ == "__main__":
    main()
