"""Step 3: sample digits of your choice: the reverse process, each step nudged by the classifier's gradient.

    python inference.py                                  # guided_output.png: the digit 1
    python inference.py --digits all --num-samples 10    # a row a digit
    python inference.py --digits all --compare           # unguided above guided, from the same noise
    python inference.py --digits 3 --scales 0 1 5 20     # a row a guidance scale, from the same noise
    python inference.py --digits all --gif guided.gif    # watch it happen

Classifier guidance, Dhariwal & Nichol 2021 ("ADM"), Algorithm 2 and equation (14): at each step the predicted noise becomes

    eps_hat = eps(x_t, t) - s * sqrt(1 - abar_t) * grad_{x_t} log p(y | x_t, t)

with s the guidance scale, lower at high noise (`scale_at`), and eps such that the image predicted from it lies within [-1, 1]. Any
sampler that consumes eps can follow: DDPM, DDIM, DPM-Solver++ and its stochastic form are diffusers' own.

Reads models/ddpm_unet.pth and models/classifier.pth; writes guided_output.png.
"""

import contextlib
import math
import time
import zipfile
from pathlib import Path

import numpy as np
import torch
from diffusers import DDPMScheduler, DPMSolverMultistepScheduler
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
    UNet,
    UserError,
    add_common_flags,
    atomic_write,
    check_writable,
    generator,
    load_checkpoint,
    make_scheduler,
    number,
    one_line_errors,
    pick_device,
    provenance,
    to_uint8,
)

DIGITS = "1"
NUM_SAMPLES = 8
GUIDANCE_SCALE = 25.0  # where x_t is half image, half noise
EARLY_SCALE = 1.5  # the most that the scale may be in pure noise, from where it grows: see scale_at
SAMPLER = "sde-dpmsolver++"
STEPS = 20
BATCH_SIZE = 100
GRID_COLUMNS = 100  # the PNG and the GIF show at most that many images of a digit; the NPZ holds all
GIF_FRAMES = 25
SAMPLERS = ("ddpm", "ddim", "dpmsolver++", "sde-dpmsolver++")


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


def predicted_x_0(alphas_cumprod, x_t, t, eps):
    """DDPM (15): the image (B, 1, 28, 28) that the noise eps in x_t stands for, clipped to [-1, 1]."""
    return ((x_t - (1 - alphas_cumprod[t]).sqrt() * eps) / alphas_cumprod[t].sqrt()).clamp(-1, 1)


def clipped_noise(alphas_cumprod, x_t, t, eps):
    """The noise (B, 1, 28, 28) that stands for the same image as eps, clipped to [-1, 1]."""
    x_0 = predicted_x_0(alphas_cumprod, x_t, t, eps)
    return (x_t - alphas_cumprod[t].sqrt() * x_0) / (1 - alphas_cumprod[t]).sqrt()


def guided_noise(unet, classifier, alphas_cumprod, x_t, t, y, guidance_scale):
    """eps_hat of ADM Algorithm 2 / equation (14). At scale 0 it is eps, and the classifier does not run.

    The image that eps stands for is clipped before the tilt, not after it, so that a strong tilt is not cut off.

    Args:
        x_t: (B, 1, 28, 28). t: a timestep, a tensor with no dimension. y: (B,). alphas_cumprod: (1000,).

    Returns:
        (B, 1, 28, 28).
    """
    with torch.no_grad():
        eps = unet(x_t, t).sample
    if guidance_scale == 0:
        return eps
    eps = clipped_noise(alphas_cumprod, x_t, t, eps)
    grad = classifier_gradient(classifier, x_t, t.expand(len(x_t)), y)
    return eps - guidance_scale * (1 - alphas_cumprod[t]).sqrt() * grad  # ADM (14)


def scale_at(alphas_cumprod, t, guidance_scale, early_scale=EARLY_SCALE):
    """s at timestep t, a number: from no more than `early_scale` in pure noise it grows with abar_t / (1 - abar_t), the ratio
    of image to noise in x_t, and is `guidance_scale` where that is 1.

    At high noise the guide can but pull every image towards the same one, the average of its digit: there a high s costs
    variety. At low noise the gradient is next to nothing where the digit is clear, and a high s mends what is not.
    """
    early_scale, abar = min(early_scale, guidance_scale), alphas_cumprod[t].item()
    return early_scale + (guidance_scale - early_scale) * abar / (1 - abar)


def reverse_process(
    unet, classifier, scheduler, x_T, y, guidance_scale, generators, noise=guided_noise, watch=None, early_scale=EARLY_SCALE
):
    """From noise to images: at each timestep of the scheduler, predict the noise, tilt it, take the sampler's step.

    Args:
        scheduler: from `make_sampler`, fresh: DPM-Solver++ keeps the last prediction between steps.
        x_T: (B, 1, 28, 28), standard normal. y: (B,), the digits asked for.
        generators: B torch.Generators on the CPU, one an image, that the stochastic steps draw from.
        noise: the function that tilts eps; evaluate.py puts the formula's variants here.
        watch: called with (x_t, t, eps_hat) at each step.
        early_scale: see `scale_at`; math.inf for the same scale at every t.

    Returns:
        x_0: (B, 1, 28, 28), near [-1, 1]; `sample_batches` clips it.
    """
    alphas_cumprod = scheduler.alphas_cumprod.to(x_T.device)
    x_t = x_T
    for t in scheduler.timesteps:
        scale = scale_at(alphas_cumprod, t, guidance_scale, early_scale)
        eps_hat = noise(unet, classifier, alphas_cumprod, x_t, t, y, scale)
        if watch is not None:
            watch(x_t, t, eps_hat)
        x_t = scheduler.step(eps_hat, t, x_t, generator=generators).prev_sample
    return x_t


def sampling_timesteps(num_steps):
    """The timesteps of every sampler for any number of steps from 1 to 1000: from 999 down to round(1000 / num_steps) - 1."""
    return [round(NUM_TRAIN_TIMESTEPS * (num_steps - i) / num_steps) - 1 for i in range(num_steps)]


def make_sampler(name, num_steps, device="cpu", clip=False):
    """A diffusers scheduler, its timesteps set.

    Args:
        name: "ddpm"; "ddim", as first-order DPM-Solver++, which is the same and right for any list of timesteps;
            "dpmsolver++", second order, multistep; or "sde-dpmsolver++", the same for the reverse SDE: fresh noise at each step.
        num_steps: 1 .. 1000.
        clip: clip the predicted x_0 to [-1, 1] at each step, and go on from the clipped prediction: for scale 0.
            `guided_noise` at any other scale has clipped already, before the tilt: see README, "Where to clip".
    """
    if name == "ddpm":
        scheduler = DDPMScheduler(**SCHEDULE, variance_type="fixed_small", clip_sample=clip)
    else:
        # "thresholding" with a maximum of 1 is clipping
        solver = {
            "ddim": {"solver_order": 1},
            "dpmsolver++": {"solver_order": 2},
            "sde-dpmsolver++": {"solver_order": 2, "algorithm_type": "sde-dpmsolver++"},
        }[name]
        scheduler = DPMSolverMultistepScheduler(**SCHEDULE, **solver, thresholding=clip, sample_max_value=1.0)
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


def sample_batches(
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
    sampler_clips=False,
    watch=None,
    early_scale=EARLY_SCALE,
):
    """Draw images batch by batch, with a progress bar, holding no more than one batch.

    Args:
        unet, classifier: from `load_checkpoint`. The classifier may be None at scale 0.
        labels, numbers: (N,) each, from `make_labels`.
        process: the loop; evaluate.py puts the method's variants here.
        sampler_clips: the sampler clips what it predicts at every scale, as it does at scale 0.
        watch: called with (x_t, t, eps_hat) at each step of each batch.
        early_scale: see `scale_at`.

    Yields:
        (B, 1, 28, 28) in [-1, 1], on the CPU.

    Raises:
        UserError: an image is not finite.
    """
    batches = list(zip(labels.split(batch_size), numbers.split(batch_size)))
    with tqdm(total=len(batches) * steps, desc="sampling", unit="step", disable=None) as bar:

        def step_done(x_t, t, eps_hat):
            bar.update()
            if watch is not None:
                watch(x_t, t, eps_hat)

        done = 0
        for y, i in batches:
            generators = image_generators(seed, y, i)
            scheduler = make_sampler(sampler, steps, device, clip=guidance_scale == 0 or sampler_clips)
            x_T = initial_noise(generators).to(device)
            what = (unet, classifier, scheduler, x_T, y.to(device), guidance_scale, generators)
            images = process(*what, watch=step_done, early_scale=early_scale).cpu()
            if not images.isfinite().all():
                raise UserError(f"the samples are not finite at guidance scale {guidance_scale:g}: use a lower one")
            done += len(y)
            bar.set_postfix(images=f"{done}/{len(labels)}", refresh=False)
            yield images.clamp(-1, 1)


def draw_samples(unet, classifier, labels, numbers, *args, **settings):
    """All images of `sample_batches`, which takes the same arguments, in one tensor: (N, 1, 28, 28) in [-1, 1]."""
    return torch.cat(list(sample_batches(unet, classifier, labels, numbers, *args, **settings)))


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


@contextlib.contextmanager
def npz_writer(path, labels):
    """Write images and their labels (N,) as openai/guided-diffusion does: arr_0 uint8 (N, 28, 28, 1), arr_1 int64 (N,).

    Gives a function to call with the images (B, 1, 28, 28) of each batch in turn, so that no more than a batch is in memory.
    """
    channels, height, width = IMAGE_SHAPE
    header = {"descr": "|u1", "fortran_order": False, "shape": (len(labels), height, width, channels)}
    with atomic_write(path) as file, zipfile.ZipFile(file, "w") as archive:
        with archive.open("arr_0.npy", "w", force_zip64=True) as member:
            np.lib.format.write_array_header_1_0(member, header)
            yield lambda images: member.write(to_uint8(images).permute(0, 2, 3, 1).contiguous().numpy())
        with archive.open("arr_1.npy", "w") as member:
            np.lib.format.write_array(member, labels.numpy())


def keep_shown(batches, shown, write_npz):
    """Of the images that `sample_batches` yields, those to be shown, bool (N,); all go to `write_npz`, unless that is None."""
    kept, done = [], 0
    for images in batches:
        if write_npz:
            write_npz(images)
        kept.append(images[shown[done : done + len(images)]])
        done += len(images)
    return torch.cat(kept)


class Film:
    """Watches the reverse process: x_t, left, beside the predicted x_0, right, at GIF_FRAMES of the steps.

    Args:
        shown: bool (N,), which of the images to keep. columns: images in a row.
    """

    def __init__(self, alphas_cumprod, timesteps, shown, columns):
        self.alphas_cumprod, self.shown, self.columns = alphas_cumprod, shown, columns
        every = math.ceil(len(timesteps) / GIF_FRAMES)
        self.frames = {int(t): ([], []) for t in timesteps[::every]}
        self.last_t, self.start = int(timesteps[-1]), 0

    def watch(self, x_t, t, eps_hat):
        """Keep the images that are shown, as uint8."""
        shown = self.shown[self.start : self.start + len(x_t)].to(x_t.device)
        if int(t) in self.frames:
            x_0 = predicted_x_0(self.alphas_cumprod.to(x_t.device), x_t, t, eps_hat)
            for kept, images in zip(self.frames[int(t)], (x_t, x_0)):
                kept.append(to_uint8(images[shown]).cpu())
        if int(t) == self.last_t:
            self.start += len(x_t)

    def save(self, path, images, made_from):
        """Write a GIF that ends in, and rests on, the images (N, 1, 28, 28) in [-1, 1], with its provenance as a comment."""
        frames = [[torch.cat(part).float() / 127.5 - 1 for part in pair] for pair in self.frames.values()]
        pictures = []
        for x_t, x_0 in [*frames, [images, images]]:
            left, right = (np.asarray(grid_image(part, self.columns)) for part in (x_t, x_0))
            gap = np.full((len(left), 10), 255, dtype=np.uint8)
            pictures.append(Image.fromarray(np.concatenate([left, gap, right], axis=1) // 32 * 36))  # 8 grays: a small file
        durations = [120] * len(frames) + [2500]
        with atomic_write(path) as file:
            settings = {"append_images": pictures[1:], "duration": durations, "loop": 0, "comment": made_from.encode()}
            pictures[0].save(file, format="gif", save_all=True, **settings)


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
        help="s of the equation, where x_t is half image, half noise; 0: unguided, and no classifier runs",
    )
    parser.add_argument(
        "--early-scale",
        type=number(float, 0, exclusive=True),
        default=EARLY_SCALE,
        help="the most that s may be in pure noise, from where it grows; as much as --guidance-scale: one s for every t",
    )
    parser.add_argument("--sampler", choices=SAMPLERS, default=SAMPLER, help="how to step from x_t to the next")
    parser.add_argument("--steps", type=number(int, 1, NUM_TRAIN_TIMESTEPS), default=STEPS, help="network calls an image")
    parser.add_argument("--batch-size", type=number(int, 1), default=BATCH_SIZE, help="images at a time")
    parser.add_argument("--output", type=Path, default=Path("guided_output.png"), metavar="PNG", help="the grid")
    parser.add_argument("--npz", type=Path, metavar="FILE", help="also write the images and their labels here")
    parser.add_argument(
        "--gif", type=Path, metavar="FILE", help="also write the guided images as they form: x_t beside predicted x_0"
    )
    rows = parser.add_mutually_exclusive_group()
    rows.add_argument("--compare", action="store_true", help="unguided above guided, from the same noise")
    rows.add_argument(
        "--scales", type=number(float, 0), nargs="+", metavar="S", help="a row a guidance scale, from the same noise"
    )
    add_common_flags(parser)
    args = parser.parse_args(argv)
    args.digits = parse_digits(args.digits)
    if args.scales and (args.npz or args.gif):
        raise UserError("argument --scales: makes a PNG only; for --npz and --gif name one --guidance-scale")
    outputs = [path.resolve() for path in (args.output, args.npz, args.gif) if path]
    if len(set(outputs)) < len(outputs):
        raise UserError("--output, --npz and --gif name the same file: name different ones")
    return args


@one_line_errors
def main(argv=None):
    args = parse_args(argv)
    device = pick_device(args.device)
    check_writable(*[path for path in (args.output, args.npz, args.gif) if path])
    unet, _ = load_checkpoint(args.models / "ddpm_unet.pth", UNet, "train_ddpm.py", device)
    scales = args.scales or ([0.0] if args.compare else []) + [args.guidance_scale]
    classifier = None
    if max(scales) > 0:
        classifier, _ = load_checkpoint(args.models / "classifier.pth", Classifier, "train_classifier.py", device)

    labels, numbers = make_labels(args.digits, args.num_samples)
    shown = torch.arange(len(labels)) % args.num_samples < GRID_COLUMNS
    columns = min(args.num_samples, GRID_COLUMNS)
    settings = {name: getattr(args, name) for name in ("early_scale", "sampler", "steps", "seed", "batch_size")}
    print(f"digits {' '.join(map(str, args.digits))}, {args.num_samples} each, seed {args.seed}, {device}")
    shown_scales = " ".join(f"{scale:g}" for scale in scales)
    limit = f", at most {args.early_scale:g} in pure noise" if classifier else ""
    print(f"{args.sampler}, {args.steps} steps, guidance scale {shown_scales}{limit}")
    start = time.monotonic()
    film = Film(make_scheduler().alphas_cumprod, sampling_timesteps(args.steps), shown, columns) if args.gif else None
    rows = []
    with npz_writer(args.npz, labels) if args.npz else contextlib.nullcontext() as write_npz:
        for number_of_row, scale in enumerate(scales):
            last = number_of_row == len(scales) - 1
            watch = film.watch if film and last else None
            batches = sample_batches(unet, classifier, labels, numbers, scale, device=device, watch=watch, **settings)
            rows.append(keep_shown(batches, shown, write_npz if last else None))
    if args.compare:
        grid, columns = compare_grid(*rows, len(args.digits))
    else:  # with --scales, a row a scale; or a row a digit
        grid, columns = torch.cat(rows), len(rows[0]) if args.scales else columns
    used = ["ddpm_unet.pth", "classifier.pth"] if classifier else ["ddpm_unet.pth"]
    what = {"digits": args.digits, "num_samples": args.num_samples, "guidance_scales": scales, "compare": args.compare}
    made_from = provenance(args.models, used, device, **what, **settings)
    save_grid(args.output, grid, columns, made_from)
    if film:
        film.save(args.gif, rows[-1], made_from)
    written = " and ".join(str(path) for path in (args.output, args.npz, args.gif) if path)
    print(f"{written}: {len(labels) * len(scales)} images in {time.monotonic() - start:.1f} s")


if __name__ == "__main__":
    main()
