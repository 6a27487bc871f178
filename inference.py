"""Step 3: sample digits with classifier guidance.

    python inference.py                                      # guided_output.png: eight 1s
    python inference.py --digits 3 1 4 --guidance-scale 0 1 2

Runs the reverse process of Ho et al. 2020 ("DDPM", arXiv 2006.11239) with a diffusers scheduler.
At each step, the classifier's gradient shifts the predicted noise: Dhariwal & Nichol 2021 ("ADM",
arXiv 2105.05233), equation (14), with a scale s_t.

    eps_hat = eps(x_t, t) - s_t * sqrt(1 - abar_t) * grad_{x_t} log p(y | x_t, t)

The scale is s_t = s (1 + b SNR_t), where s is --guidance-scale and b is --growth. With b = 0, it is
constant, as in ADM.

Images are tensors (B, C, H, W) in [-1, 1], and abar_t is the scheduler's alphas_cumprod[t].
"""

import warnings
from pathlib import Path

import torch
from diffusers import DDPMScheduler, DPMSolverMultistepScheduler, UNet2DModel
from diffusers.utils.torch_utils import randn_tensor
from matplotlib.figure import Figure
from tqdm import tqdm

from classifier import Classifier
from data import class_numbers
from diffusion import load_ddpm, same_noise, sampling_times, snr, t_batch, x_0_from_eps
from support import cli, pictures
from support.cli import UserError
from support.files import MODELS, check_writable, load_checkpoint, output_folder, write_files
from support.seeds import image_seeds

SAMPLER, STEPS = "ddpm", 50
GUIDANCE_SCALE, GROWTH = 1, 12  # s and b; chosen by the rule in results/README.md
FAR_OUTSIDE = 15  # x_t stays within about [-5, 5] unless the guidance is too strong


def guided(ddpm, grad, scale):
    """Classifier guidance: a function (x_t, t, y) -> the guided noise eps_hat, for `sample`.

    grad is (x_t, t, y) -> (B, C, H, W), such as `gradient(classifier.log_p)`; the classifier must
    have the same noise schedule. scale is s, a number or a function of t (int).

    (14) is ADM's rule for DDIM; here it serves every sampler. ADM's Algorithm 1 for DDPM is (14)
    with s sqrt(abar_t / abar_u) (1 - abar_u) / (1 - abar_t), where u is the timestep after t.
    """

    def predict(x_t, t, y):
        eps = ddpm(x_t, t)
        s = scale(t) if callable(scale) else scale
        return eps - s * (1 - ddpm.abar[t]).sqrt() * grad(x_t, t, y)  # ADM (14)

    return predict


def gradient(log_p):
    """The gradient of a guide: a function (x_t, t, y) -> (B, C, H, W), where t is an int.

    A guide is any log_p(x_t, t (B,), y (B, ...)) -> (B,), differentiable in x_t. The gradient is
    that of the sum, so a network must not mix images (no BatchNorm in train mode).
    Raises UserError if log_p does not return (B,).
    """

    @torch.enable_grad()
    def grad(x_t, t, y):
        x_t = x_t.detach().requires_grad_()
        log_p_y = log_p(x_t, t_batch(x_t, t), y)
        if log_p_y.shape != (len(x_t),):
            raise UserError(f"log_p must return one number per image, got {tuple(log_p_y.shape)}")
        return torch.autograd.grad(log_p_y.sum(), x_t)[0]

    return grad


@torch.no_grad()
def reverse(predict, scheduler, x_t, y, rngs):
    """The reverse process: yields (t, x_t, x_0) at each timestep of a diffusers scheduler.

    Starts from noise x_t (B, C, H, W). predict is (x_t, t (int), y) -> noise: `guided(...)`, or a
    `DDPM` by itself; y (B, ...) is what it expects. rngs has one generator per image. x_0 is the
    image that x_t and the predicted noise imply; the last x_0 is the sample.
    """
    for t in scheduler.timesteps.tolist():
        eps_hat = predict(x_t, t, y)
        yield t, x_t, x_0_from_eps(x_t, eps_hat, scheduler.alphas_cumprod[t])  # DDPM (15)
        x_t = scheduler.step(eps_hat, t, x_t, generator=rngs).prev_sample  # DDPM (6), (7)


def growing_scale(ddpm, s=GUIDANCE_SCALE, b=GROWTH):
    """s_t = s (1 + b SNR_t), a function of t, where SNR_t is abar_t / (1 - abar_t).

    s is ADM's scale: 1 is Bayes' rule, 0 is unguided. 1 + b SNR grows as the noise decreases; we
    think it makes up for a gradient that is too small (lesson 2). With b = 0, s_t is constant.
    """
    return lambda t: s * (1 + b * snr(ddpm.abar[t]))


SAMPLERS = {  # written out in examples/samplers.py
    "ddpm": (DDPMScheduler, {"clip_sample": False}),
    # order 1 is DDIM; diffusers' DDIMScheduler supports only evenly spaced timesteps
    "ddim": (DPMSolverMultistepScheduler, {"solver_order": 1}),
    "sde-dpmsolver++": (DPMSolverMultistepScheduler, {"algorithm_type": "sde-dpmsolver++"}),
    "dpmsolver++": (DPMSolverMultistepScheduler, {}),
}


def make_scheduler(sampler, trained, times):
    """A diffusers scheduler for decreasing timesteps, with the betas of the trained one.

    Other settings of the trained one do not matter: `DDPM` has clipped x_0 and returns eps.
    """
    scheduler_class, settings = SAMPLERS[sampler]
    betas = trained.betas.tolist()
    scheduler = scheduler_class(num_train_timesteps=len(betas), trained_betas=betas, **settings)
    scheduler.set_timesteps(timesteps=times)
    return scheduler


@torch.no_grad()
def trajectory(ddpm, y, seeds, predict=None, sampler=SAMPLER, steps=STEPS, loop=reverse):
    """Sample one batch: yields (t, x_t, x_0) at each step; the last x_0 is the sample.

    Args:
        y: conditions (B, ...) for predict, or None.
        seeds: B ints below 2**32. Each image has its own generator on the CPU, so its noise depends
            neither on the device nor on the batch.
        predict: (x_t, t (int), y) -> noise, such as `guided(...)`; by default `ddpm`, unguided.
        sampler: a key of `SAMPLERS`. steps: 1 to T, evenly spaced in t, or UserError.
        loop: `reverse`, or your own generator function with its arguments.
    """
    if not 1 <= steps <= ddpm.T:
        raise UserError(f"steps must be 1 to {ddpm.T}, got {steps}")
    scheduler = make_scheduler(sampler, ddpm.scheduler, sampling_times(ddpm.T, steps))
    rngs = [torch.Generator().manual_seed(seed) for seed in seeds]
    x_t = randn_tensor((len(rngs), *ddpm.shape), rngs, ddpm.device)
    y = None if y is None else torch.as_tensor(y).to(ddpm.device)
    yield from loop(predict or ddpm, scheduler, x_t, y, rngs)


def sample(ddpm, y, seeds, predict=None, batch_size=100, **settings):
    """Sample one image per seed, with a progress bar: (N, C, H, W), clipped to [-1, 1].

    The arguments are those of `trajectory`. For pixels only; for latents, use `trajectory`.

    Raises UserError if there are no seeds or not one condition per seed, or if the samples are not
    finite. Warns if a pixel, at any step, is beyond FAR_OUTSIDE.
    """
    if len(seeds) == 0 or (y is not None and len(y) != len(seeds)):
        raise UserError(f"got {len(seeds)} seeds for {'no' if y is None else len(y)} conditions")
    images, largest = [], torch.zeros((), device=ddpm.device)
    batches = [slice(k, k + batch_size) for k in range(0, len(seeds), batch_size)]
    # inside another progress bar, this one disappears when it is complete
    total = len(batches) * settings.get("steps", STEPS)
    with tqdm(total=total, unit="step", desc="sampling", disable=None, leave=None) as bar:
        for part in batches:
            y_part = None if y is None else y[part]
            for _, x_t, x_0 in trajectory(ddpm, y_part, seeds[part], predict, **settings):
                image, largest = x_0, torch.maximum(largest, x_t.abs().max())
                bar.update()
            images.append(image.cpu())
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
    classifier = load_checkpoint(Path(folder, "classifier.pth"), classifier_class, device)
    ours, theirs = ddpm.unet.checkpoint, classifier.checkpoint
    if ours["dataset"] != theirs["dataset"]:
        raise UserError(f"the networks in {folder} were trained on different datasets")
    if not same_noise(ours["schedule"], theirs["schedule"]):
        raise UserError(f"the networks in {folder} were trained with different noise schedules")
    return ddpm, classifier


# --- command line ---


def add_sampling_flags(parser):
    """Add --guidance-scale, --growth, --sampler, --steps, and --models."""
    add, real, default = parser.add_argument, cli.number(float), "(default: %(default)s)"
    text = f"s, one row each; 0 is unguided (default: {GUIDANCE_SCALE})"
    add("--guidance-scale", type=real, nargs="+", metavar="S", default=[GUIDANCE_SCALE], help=text)
    text = f"b in s (1 + b SNR); 0 is a constant scale (default: {GROWTH})"
    add("--growth", type=real, metavar="B", default=GROWTH, help=text)
    add("--sampler", choices=SAMPLERS, default=SAMPLER, help=f"sampling algorithm {default}")
    add("--steps", type=cli.number(int, 1), default=STEPS, help=f"sampling steps {default}")
    add("--models", type=Path, default=MODELS, help="folder of the checkpoints (default: models)")


@cli.one_line_errors
def main(argv=None):
    parser = cli.make_parser(__doc__)
    add, default = parser.add_argument, "(default: %(default)s)"
    add("--digits", nargs="+", default=["1"], help="digits, class names, or 'all' (default: 1)")
    add("--num-samples", type=cli.number(int, 1), default=8, help=f"images per digit {default}")
    add_sampling_flags(parser)
    add("--output", type=cli.output(".png"), help="PNG file (default: guided_output.png)")
    add("--npz", type=cli.output(".npz"), help="NPZ file for the samples of all rows")
    cli.add_run_flags(parser)
    args = parser.parse_args(argv)
    output = args.output or output_folder(args.models) / "guided_output.png"
    for path in [output, args.npz] if args.npz else [output]:
        check_writable(path)

    ddpm, classifier = load_models(args.models, args.device)
    dataset, grad = ddpm.unet.checkpoint["dataset"], gradient(classifier.log_p)
    y = torch.tensor(class_numbers(args.digits, dataset["classes"]))
    y = y.repeat_interleave(args.num_samples)  # (N,)
    seeds, rows = image_seeds(args.seed, y.tolist()), {}
    for s in args.guidance_scale:
        predict = guided(ddpm, grad, growing_scale(ddpm, s, args.growth)) if s else ddpm
        rows[f"s = {s:g}"] = sample(ddpm, y, seeds, predict, sampler=args.sampler, steps=args.steps)

    shown = {name: pictures.as_displayed(images, dataset) for name, images in rows.items()}
    if len(rows) == 1:
        columns = len(y) if args.num_samples == 1 else args.num_samples
        picture = pictures.grid_image(*shown.values(), columns)
    else:
        pictures.draw_rows(picture := Figure(), shown, [dataset["classes"][k] for k in y])
    files = {output: pictures.png(picture)}
    if args.npz:
        images, labels = torch.cat([*rows.values()]), y.repeat(len(rows))
        files[args.npz] = pictures.npz(images, labels, dataset["classes"])
    write_files(files)
    print(f"saved {len(y) * len(rows)} images to {output}")


if __name__ == "__main__":
    main()
