"""Step 3: draw the digits that you ask for, by classifier guidance.

    python inference.py                                     # guided_output.png: the digit 1
    python inference.py --digits all --compare              # unguided above guided, same noise
    python inference.py --digits 3 --guidance-scale 0 1 10  # one row per scale, same noise

Dhariwal & Nichol 2021 ("ADM", arXiv 2105.05233), equation (14): at each step, the gradient of a
classifier moves the predicted noise toward the digit y. ADM's s is constant, ours is `scale_at`.

    eps_hat = eps(x_t, t) - s * sqrt(1 - abar_t) * grad_{x_t} log p(y | x_t, t)
"""

from functools import partial
from pathlib import Path

import torch
from diffusers import UNet2DModel
from tqdm import tqdm

from classifier import Classifier
from diffusion import NUM_TRAIN_TIMESTEPS, SAMPLERS, SCHEDULE, abar, clipped_noise
from diffusion import initial_noise, make_sampler, predicted_x_0, sampling_timesteps
from mnist import check_same_dataset, class_numbers
from support import cli, pictures
from support.cli import MODELS, require
from support.files import load_checkpoint, prepare_outputs, provenance
from support.streams import image_generators

GUIDANCE_SCALE = 1.0  # w: s where x_t is pure noise
SCALE_GROWTH = 24.0  # g; at 0, s is ADM's, the same at every t
SAMPLER = "sde-dpmsolver++"
STEPS = 20
BATCH_SIZE = 100
MAX_SHOWN = 20  # images of a digit in a picture


def guided_noise(unet, log_p, x_t, t, y, s, clip=True):
    """eps_hat of ADM (14): (B, 1, 28, 28). Unguided, at s = 0 or without a guide, it is eps.

    Args:
        unet: its `sample` of (x_t, t) is eps (B, 1, 28, 28).
        log_p: the guide, (x_t, t, y) -> log p(y | x_t, t) (B,), such as `Classifier.log_p`;
            or None.
        x_t: (B, 1, 28, 28). t: () or (B,). y: (B, ...), what is asked for.
        clip: clip the predicted x_0 to [-1, 1] before guiding it, as openai/guided-diffusion does;
            also unguided.
    """
    with torch.no_grad():
        eps = unet(x_t, t).sample
    if clip:
        eps = clipped_noise(x_t, t, eps)
    if s == 0 or log_p is None:
        return eps
    grad = guide_gradient(log_p, x_t, t.expand(len(x_t)), y)
    return eps - s * (1 - abar(t)).sqrt() * grad  # ADM (14), scaled by s


def guide_gradient(log_p, x_t, t, y):
    """grad_{x_t} log p(y | x_t, t), taken at x_t as in ADM Algorithm 2: (B, 1, 28, 28).

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
    found = tuple(log_p_y.shape) if torch.is_tensor(log_p_y) else type(log_p_y).__name__
    wanted = (batch_size,)
    require(found == wanted, f"the guide returned {found}, one number per image is {wanted}")
    require(log_p_y.requires_grad, "the guide is not differentiable in x_t")


def scale_at(t, guidance_scale, scale_growth=SCALE_GROWTH):
    """s_t = w (1 + g abar_t / (1 - abar_t)): w in pure noise, and more as the noise falls.

    abar_t / (1 - abar_t) is the signal-to-noise ratio (SNR). At growth 0, s is ADM's: constant.
    """
    return guidance_scale * (1 + scale_growth * (abar(t) / (1 - abar(t))).item())


def sample(
    unet,
    log_p,
    y,
    *,
    guidance_scale=GUIDANCE_SCALE,
    scale_growth=SCALE_GROWTH,
    sampler=SAMPLER,
    steps=STEPS,
    seed=0,
    batch_size=BATCH_SIZE,
    predict_noise=guided_noise,
    watch=None,
):
    """Draw an image for each y: DDPM Algorithm 2, or the same loop with another scheduler's step.

    The noise of an image depends on the seed, its digit and its number among those of the digit; of
    the seed and its number alone, where y is anything else than digits.

    Args:
        log_p: the guide, see `guided_noise`; None draws unguided.
        y: what is asked for: digits (N,), or anything else that log_p understands (N, ...).
        guidance_scale, scale_growth: w and g of `scale_at`.
        sampler: one of `diffusion.SAMPLERS`. steps: of the sampler, 1 .. 1000.
        predict_noise: a variant of `guided_noise`, with the same arguments.
        watch: called with t, x_t (B, 1, 28, 28) and eps_hat at each step of each batch.

    Returns:
        images: (N, 1, 28, 28) in [-1, 1].

    Raises:
        UserError: the guide is wrong, see `guide_gradient`, or an image is not finite.
    """
    generators = image_generators(seed, y)
    starts = range(0, len(y), batch_size)
    bar = tqdm(total=len(starts) * steps, desc="sampling", unit="call", disable=None)
    images = []
    for start in starts:
        batch = slice(start, start + batch_size)
        y_batch, rngs = y[batch].to(unet.device), generators[batch]
        scheduler = make_sampler(sampler, steps, unet.device)  # new, as DPM-Solver++ keeps a state
        x_t = initial_noise(rngs).to(unet.device)
        for t in scheduler.timesteps:
            s = scale_at(t, guidance_scale, scale_growth)
            eps_hat = predict_noise(unet, log_p, x_t, t, y_batch, s)
            if watch:
                watch(t, x_t, eps_hat)
            x_t = scheduler.step(eps_hat, t, x_t, generator=rngs).prev_sample
            bar.update()
        images.append(x_t.cpu())
    bar.close()
    images = torch.cat(images)
    require(images.isfinite().all(), "the samples are not finite: use a lower --guidance-scale")
    return images.clamp(-1, 1)


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

    def default(value):
        return [value] if nargs else value

    add = parser.add_argument
    scale = cli.number(float, 0)
    steps = cli.number(int, 1, NUM_TRAIN_TIMESTEPS)
    scale_help = "w, s in pure noise; 0: unguided; several: a row each, same noise"
    growth_help = "g of s = w (1 + g SNR); 0: ADM's s, the same at every t"
    samplers = "a scheduler of diffusers"
    add("--guidance-scale", nargs="+", type=scale, default=[GUIDANCE_SCALE], help=scale_help)
    add("--scale-growth", nargs=nargs, type=scale, default=default(SCALE_GROWTH), help=growth_help)
    add("--sampler", nargs=nargs, choices=SAMPLERS, default=default(SAMPLER), help=samplers)
    add("--steps", nargs=nargs, type=steps, default=default(STEPS), help="of the sampler")


def parse_args(argv):
    parser = cli.ArgumentParser(__doc__)
    add = parser.add_argument
    one_or_more = cli.number(int, 1)
    add("--digits", "--classes", nargs="+", default=["1"], help="names or numbers, or all")
    add("--num-samples", type=one_or_more, default=8, help="images of each digit")
    add_sampling_flags(parser)
    add("--batch-size", type=one_or_more, default=BATCH_SIZE, help="images at a time")
    add("--compare", action="store_true", help="unguided above guided, from the same noise")
    add(
        "--output",
        type=cli.file_name(".png"),
        default=Path("guided_output.png"),
        help=f"the grid, with up to {MAX_SHOWN} images of each digit",
    )
    add(
        "--npz",
        type=cli.file_name(".npz"),
        help="also write all images of the last scale, and their labels",
    )
    add(
        "--gif",
        type=cli.file_name(".gif"),
        help="also write a film of x_t beside predicted x_0, of the last scale",
    )
    cli.add_common_flags(parser)
    return parser.parse_args(argv)


def save_picture(path, rows, scales, num_samples, names, made_from):
    """Write the first images of each digit: a labelled row per scale, or else a row per digit.

    Args:
        rows: images (N, 1, 28, 28) of each scale, `num_samples` for each of the `names`.
    """
    columns = min(num_samples, MAX_SHOWN)
    parts = [images.unflatten(0, (len(names), num_samples))[:, :columns] for images in rows]
    images = torch.cat(parts).flatten(0, 1)
    if len(scales) > 1:
        labels = [f"w = {scale:g}" if scale else "unguided" for scale in scales]
        pictures.save_labelled_grid(path, images, labels, names, made_from)
    elif num_samples == 1:  # all digits in one row
        pictures.save_grid(path, images, len(names), made_from)
    else:
        pictures.save_grid(path, images, columns, made_from)


def add_frame(film, t, x_t, eps_hat):
    """Add x_t and the predicted x_0 of a step to a film."""
    film.add(int(t), x_t, predicted_x_0(x_t, t, eps_hat))


@cli.one_line_errors
def main(argv=None):
    args = parse_args(argv)
    outputs = [path for path in (args.output, args.npz, args.gif) if path]
    prepare_outputs(*outputs)
    device = cli.pick_device(args.device)
    scales = [0.0, *args.guidance_scale] if args.compare else args.guidance_scale
    unet, classifier = load_models(args.models, device, guide=max(scales) > 0)
    log_p = classifier.log_p if classifier else None
    digits = class_numbers(args.digits, unet.dataset["classes"])
    y = torch.tensor(digits).repeat_interleave(args.num_samples)
    print(f"reads {args.models}; device: {device}", flush=True)

    sampling = {
        "scale_growth": args.scale_growth,
        "sampler": args.sampler,
        "steps": args.steps,
        "seed": args.seed,
        "batch_size": args.batch_size,
    }
    rows, watch = [], None
    for scale in scales:
        if args.gif:
            film = pictures.Film(sampling_timesteps(args.steps))  # that of the last scale is kept
            watch = partial(add_frame, film)
        rows.append(sample(unet, log_p, y, guidance_scale=scale, watch=watch, **sampling))

    weights = [args.models / "ddpm_unet.pth"]
    if classifier:
        weights.append(args.models / "classifier.pth")
    asked = {"guidance_scale": scales, "digits": digits, "num_samples": args.num_samples}
    made_from = provenance(weights, **sampling, **asked)
    names = [unet.dataset["classes"][digit] for digit in digits]
    save_picture(args.output, rows, scales, args.num_samples, names, made_from)
    if args.npz:
        pictures.save_npz(args.npz, rows[-1], y)
    if args.gif:
        film.save(args.gif, rows[-1], args.num_samples, made_from)
    print(f"images drawn: {len(y) * len(scales)}; written: {', '.join(map(str, outputs))}")


if __name__ == "__main__":
    main()
