"""Step 3: sample digits of your choice: the reverse process, each step nudged by the classifier's gradient.

    python inference.py                                  # guided_output.png: the digit 1
    python inference.py --digits all --num-samples 10    # a row a digit
    python inference.py --digits all --compare           # unguided above guided, from the same noise

Classifier guidance, Dhariwal & Nichol 2021 ("ADM"), Algorithm 2 and equation (14): at each step the predicted noise becomes

    eps_hat = eps(x_t, t) - s * sqrt(1 - abar_t) * grad_{x_t} log p(y | x_t, t)

with s the guidance scale. Any sampler that consumes eps can follow: DDPM, DDIM and DPM-Solver++ are diffusers' own.

Reads models/ddpm_unet.pth and models/classifier.pth; writes guided_output.png.
"""

import time
from pathlib import Path

import numpy as np
import torch
from diffusers import DDPMScheduler, DPMSolverMultistepScheduler, UNet2DModel
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torchvision.utils import make_grid
from tqdm import tqdm

from classifier import NUM_CLASSES, Classifier
from diffusion import (
    IMAGE_SHAPE,
    NUM_TRAIN_TIMESTEPS,
    SCHEDULE,
    ArgumentParser,
    UserError,
    add_common_flags,
    atomic_write,
    check_writable,
    generator,
    load_checkpoint,
    number,
    one_line_errors,
    pick_device,
    provenance,
    to_uint8,
)

DIGITS = "1"
NUM_SAMPLES = 8
GUIDANCE_SCALE = 10.0
SAMPLER = "ddpm"
STEPS = 20
BATCH_SIZE = 100
SAMPLERS = ("ddpm", "ddim", "dpmsolver++")


# --- the method -----------------------------------------------------------------------------------------------------


def classifier_gradient(classifier, x_t, t, y):
    """grad_{x_t} log p(y | x_t, t), the direction that makes each image more of its digit.

    The gradient is taken at x_t, where Algorithm 2 takes it. The images of a batch do not touch one another in the
    classifier, so the gradient of the sum is the batch of gradients.

    Args:
        x_t: (B, 1, 28, 28). t: (B,). y: (B,), the digits asked for.

    Returns:
        (B, 1, 28, 28).
    """
    with torch.enable_grad():
        x_t = x_t.detach().requires_grad_()
        log_p = classifier(x_t, t).log_softmax(dim=1)  # (B, 10)
        return torch.autograd.grad(log_p.gather(1, y[:, None]).sum(), x_t)[0]


def guided_noise(unet, classifier, alphas_cumprod, x_t, t, y, guidance_scale):
    """eps_hat of ADM Algorithm 2 / equation (14). At scale 0 it is eps, and the classifier does not run.

    Args:
        x_t: (B, 1, 28, 28). t: a timestep, a tensor with no dimension. y: (B,). alphas_cumprod: (1000,).

    Returns:
        (B, 1, 28, 28).
    """
    with torch.no_grad():
        eps = unet(x_t, t).sample
    if guidance_scale == 0:
        return eps
    grad = classifier_gradient(classifier, x_t, t.expand(len(x_t)), y)
    return eps - guidance_scale * (1 - alphas_cumprod[t]).sqrt() * grad  # ADM (14)


def reverse_process(unet, classifier, scheduler, x_T, y, guidance_scale, generators, noise=guided_noise):
    """From noise to images: at each timestep of the scheduler, predict the noise, tilt it, take the sampler's step.

    The samplers clip the predicted x_0 to [-1, 1] *after* the tilt: see README, "Where to clip".

    Args:
        scheduler: from `make_sampler`, fresh: DPM-Solver++ keeps the last prediction between steps.
        x_T: (B, 1, 28, 28), standard normal. y: (B,), the digits asked for.
        generators: B torch.Generators on the CPU, one an image, that the stochastic steps draw from.
        noise: the function that tilts eps; evaluate.py puts the formula's variants here.

    Returns:
        x_0: (B, 1, 28, 28), near [-1, 1].
    """
    alphas_cumprod = scheduler.alphas_cumprod.to(x_T.device)
    x_t = x_T
    for t in scheduler.timesteps:
        eps_hat = noise(unet, classifier, alphas_cumprod, x_t, t, y, guidance_scale)
        x_t = scheduler.step(eps_hat, t, x_t, generator=generators).prev_sample
    return x_t


def sampling_timesteps(num_steps):
    """The timesteps of every sampler for any number of steps from 1 to 1000: from 999 down to round(1000 / num_steps) - 1."""
    return [round(NUM_TRAIN_TIMESTEPS * (num_steps - i) / num_steps) - 1 for i in range(num_steps)]


def make_sampler(name, num_steps, device="cpu", clip=True):
    """A diffusers scheduler, its timesteps set.

    Args:
        name: "ddpm"; "ddim", as first-order DPM-Solver++, which is the same and right for any list of timesteps; or
            "dpmsolver++", second order, multistep.
        num_steps: 1 .. 1000.
        clip: clip the predicted x_0 to [-1, 1] at each step, and go on from the clipped prediction.
    """
    if name == "ddpm":
        scheduler = DDPMScheduler(**SCHEDULE, variance_type="fixed_small", clip_sample=clip)
    else:
        # "thresholding" with a maximum of 1 is clipping
        order = {"ddim": 1, "dpmsolver++": 2}[name]
        scheduler = DPMSolverMultistepScheduler(**SCHEDULE, solver_order=order, thresholding=clip, sample_max_value=1.0)
    scheduler.set_timesteps(timesteps=sampling_timesteps(num_steps), device=device)
    return scheduler


# --- many images, each its own --------------------------------------------------------------------------------------


def make_labels(digits, num_samples):
    """The images to draw, row by row: y (N,) and i (N,), the number of each image among those of its digit.

    A digit that is asked for twice goes on counting, so its second row holds new images.
    """
    labels = np.repeat(np.asarray(digits, dtype=np.int64), num_samples)
    numbers = np.zeros_like(labels)
    for digit in set(digits):
        numbers[labels == digit] = np.arange((labels == digit).sum())
    return torch.from_numpy(labels), torch.from_numpy(numbers)


def image_generators(seed, labels, numbers):
    """One generator an image, seeded by (seed, digit, number): an image's noise depends on nothing drawn beside it."""
    return [generator(seed, y, i) for y, i in zip(labels.tolist(), numbers.tolist())]


def initial_noise(generators):
    """x_T ~ N(0, I), each image from its own generator: (B, 1, 28, 28)."""
    return torch.stack([torch.randn(IMAGE_SHAPE, generator=rng) for rng in generators])


def draw_samples(
    unet,
    classifier,
    labels,
    numbers,
    guidance_scale=GUIDANCE_SCALE,
    sampler=SAMPLER,
    steps=STEPS,
    seed=0,
    device="cpu",
    batch_size=BATCH_SIZE,
    process=reverse_process,
    clip=True,
):
    """Draw images in batches, with a progress bar.

    Args:
        unet, classifier: from `load_checkpoint`. The classifier may be None at scale 0.
        labels, numbers: (N,) each, from `make_labels`.
        process: the loop; evaluate.py puts the method's variants here. clip: see `make_sampler`.

    Returns:
        (N, 1, 28, 28) in [-1, 1], on the CPU.

    Raises:
        UserError: an image is not finite.
    """
    images = []
    for y, i in zip(tqdm(labels.split(batch_size), desc="sampling", unit="batch", disable=None), numbers.split(batch_size)):
        generators = image_generators(seed, y, i)
        scheduler = make_sampler(sampler, steps, device, clip)
        x_T = initial_noise(generators).to(device)
        images.append(process(unet, classifier, scheduler, x_T, y.to(device), guidance_scale, generators).cpu())
    images = torch.cat(images)
    if not images.isfinite().all():
        raise UserError(f"the samples are not finite at --guidance-scale {guidance_scale:g}: use a lower one")
    return images.clamp(-1, 1)


# --- pictures and files ---------------------------------------------------------------------------------------------


def grid_image(images, columns, zoom=1):
    """Images (N, 1, 28, 28) in [-1, 1], row by row, as one gray PIL image; `zoom` repeats each pixel that often both ways."""
    grid = make_grid(to_uint8(images), nrow=columns)[0].numpy()  # (H, W), uint8
    return Image.fromarray(grid.repeat(zoom, axis=0).repeat(zoom, axis=1))


def save_grid(path, images, columns, made_from):
    """Write images (N, 1, 28, 28) in [-1, 1] as one PNG, row by row, with its provenance inside."""
    text = PngInfo()
    text.add_text("provenance", made_from)
    with atomic_write(path) as file:
        grid_image(images, columns).save(file, format="png", pnginfo=text)


def compare_grid(unguided, guided, num_digits):
    """Unguided images above guided ones, a column a digit, or a single digit's images side by side: images and columns."""
    if num_digits == 1:
        return torch.cat([unguided, guided]), len(guided)
    columns = [images.unflatten(0, (num_digits, -1)).transpose(0, 1).flatten(0, 1) for images in (unguided, guided)]
    return torch.cat(columns), num_digits


def save_npz(path, images, labels):
    """Write images and labels as openai/guided-diffusion does: arr_0 uint8 (N, 28, 28, 1), arr_1 int64 (N,)."""
    with atomic_write(path) as file:
        np.savez(file, arr_0=to_uint8(images).permute(0, 2, 3, 1).numpy(), arr_1=labels.numpy())


# --- the script -----------------------------------------------------------------------------------------------------


def parse_digits(words):
    """--digits: a list of digits, or "all". Raises UserError."""
    words = words.split() if isinstance(words, str) else words  # the default is a string
    if words == ["all"]:
        return list(range(NUM_CLASSES))
    for word in words:
        if word not in map(str, range(NUM_CLASSES)):
            raise UserError(
                f"argument --digits: {word!r} is not a digit from 0 to 9 (several go apart: --digits 1 2; or: --digits all)"
            )
    return [int(word) for word in words]


def parse_args(argv):
    parser = ArgumentParser(__doc__)
    parser.add_argument("--digits", nargs="+", default=DIGITS, metavar="DIGIT", help="0 to 9, one or several, or all; a row each")
    parser.add_argument("--num-samples", type=number(int, 1), default=NUM_SAMPLES, help="images of each digit")
    parser.add_argument(
        "--guidance-scale",
        type=number(float, 0),
        default=GUIDANCE_SCALE,
        help="s of the equation; 0: unguided, and no classifier runs",
    )
    parser.add_argument("--sampler", choices=SAMPLERS, default=SAMPLER, help="how to step from x_t to the next")
    parser.add_argument("--steps", type=number(int, 1, NUM_TRAIN_TIMESTEPS), default=STEPS, help="network calls an image")
    parser.add_argument("--batch-size", type=number(int, 1), default=BATCH_SIZE, help="images at a time")
    parser.add_argument("--output", type=Path, default=Path("guided_output.png"), metavar="PNG", help="the grid")
    parser.add_argument("--npz", type=Path, metavar="FILE", help="also write the images and their labels here")
    parser.add_argument("--compare", action="store_true", help="unguided above guided, from the same noise")
    add_common_flags(parser)
    args = parser.parse_args(argv)
    args.digits = parse_digits(args.digits)
    return args


@one_line_errors
def main(argv=None):
    args = parse_args(argv)
    device = pick_device(args.device)
    check_writable(*[path for path in (args.output, args.npz) if path])
    unet, _ = load_checkpoint(args.models / "ddpm_unet.pth", UNet2DModel, "train_ddpm.py", device)
    classifier = None
    if args.guidance_scale > 0:
        classifier, _ = load_checkpoint(args.models / "classifier.pth", Classifier, "train_classifier.py", device)

    labels, numbers = make_labels(args.digits, args.num_samples)
    settings = {"sampler": args.sampler, "steps": args.steps, "seed": args.seed, "batch_size": args.batch_size}
    print(f"digits {' '.join(map(str, args.digits))}, {args.num_samples} each, seed {args.seed}, {device}")
    print(f"{args.sampler}, {args.steps} steps, guidance scale {args.guidance_scale:g}")
    start = time.monotonic()
    images = draw_samples(unet, classifier, labels, numbers, args.guidance_scale, device=device, **settings)
    grid, columns = images, args.num_samples
    if args.compare:
        unguided = draw_samples(unet, None, labels, numbers, 0, device=device, **settings)
        grid, columns = compare_grid(unguided, images, len(args.digits))
    used = ["ddpm_unet.pth", "classifier.pth"] if classifier else ["ddpm_unet.pth"]
    what = {
        "digits": args.digits,
        "num_samples": args.num_samples,
        "guidance_scale": args.guidance_scale,
        "compare": args.compare,
    }
    save_grid(args.output, grid, columns, provenance(args.models, used, device, **what, **settings))
    if args.npz:
        save_npz(args.npz, images, labels)
    written = " and ".join(str(path) for path in (args.output, args.npz) if path)
    print(f"{written}: {len(grid)} images in {time.monotonic() - start:.1f} s")


if __name__ == "__main__":
    main()
