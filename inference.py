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

from classifier import Classifier
from diffusion import NUM_TRAIN_TIMESTEPS, SAMPLERS, SCHEDULE, UNet, abar, clipped_noise
from diffusion import initial_noise, make_sampler, predicted_x_0, sampling_timesteps
from mnist import MNIST_INFO, class_numbers
from support import cli, pictures
from support.autograd import gradient_of_sum
from support.checkpoints import MODELS, load_checkpoint, provenance
from support.errors import require
from support.streams import in_batches

GUIDANCE_SCALE = 1.0  # w: s where x_t is pure noise
SCALE_GROWTH = 24.0  # g; at 0, s is ADM's, the same at every t
SAMPLER = "sde-dpmsolver++"
STEPS = 20  # network calls per image
BATCH_SIZE = 100
NAMES = ("ddpm_unet.pth", "classifier.pth")
AGREED = {"schedule": SCHEDULE, "dataset": MNIST_INFO}  # the latter if a checkpoint does not say


def reverse_process(predict_noise, scheduler, x_T, generators):
    """From noise to images: DDPM Algorithm 2, or the same loop with another scheduler's step.

    Args:
        predict_noise: (x_t, t) -> eps (B, 1, 28, 28). Pass another function for a variant.
        scheduler: from `make_sampler`, not used before. x_T: (B, 1, 28, 28), standard normal.
        generators: B torch.Generators on the CPU, for the noise that the scheduler adds.
    """
    x_t = x_T
    for t in scheduler.timesteps:
        x_t = scheduler.step(predict_noise(x_t, t), t, x_t, generator=generators).prev_sample
    return x_t


def guided_noise(unet, log_p, x_t, t, y, guidance_scale, clip=True):
    """eps_hat of ADM (14): (B, 1, 28, 28). At scale 0 it is the U-Net's eps, and no guide runs.

    Args:
        log_p: the guide, (x_t, t, y) -> log p(y | x_t, t) (B,), such as `Classifier.log_p`.
        x_t: (B, 1, 28, 28). t: () or (B,). y: (B, ...), what is asked for.
        clip: clip the predicted x_0 to [-1, 1] before guiding it, as openai/guided-diffusion does.
    """
    with torch.no_grad():
        eps = unet(x_t, t).sample
    if guidance_scale == 0:
        return eps
    eps = clipped_noise(x_t, t, eps) if clip else eps
    grad = guide_gradient(log_p, x_t, t.expand(len(x_t)), y)
    return eps - guidance_scale * (1 - abar(t)).sqrt() * grad  # ADM (14)


def guide_gradient(log_p, x_t, t, y):
    """grad_{x_t} log p(y | x_t, t), taken at x_t as in ADM Algorithm 2: (B, 1, 28, 28).

    The gradient of the sum is the batch of gradients: log p of an image depends on no other image.
    Raises UserError for a log_p that is not (B,), or whose gradient is not finite or not there.
    """
    with torch.enable_grad():
        x_t = x_t.detach().requires_grad_()
        return gradient_of_sum(log_p(x_t, t, y), x_t)


def scale_at(t, guidance_scale, scale_growth=SCALE_GROWTH):
    """s_t = w (1 + g abar_t / (1 - abar_t)): w in pure noise, and more as the noise falls.

    abar_t / (1 - abar_t) is the signal-to-noise ratio (SNR). At growth 0, s is ADM's: constant.
    """
    return guidance_scale * (1 + scale_growth * (abar(t) / (1 - abar(t))).item())


def sample(unet, log_p, y, *, guidance_scale=GUIDANCE_SCALE, scale_growth=SCALE_GROWTH,
           sampler=SAMPLER, steps=STEPS, seed=0, batch_size=BATCH_SIZE):  # fmt: skip
    """Draw an image of each y (N, ...): (N, 1, 28, 28) in [-1, 1]. At scale 0, log_p may be None.

    The noise depends on the seed, the digit and its number among those; for other y, on its number.
    See `guided_noise`, `scale_at` and `make_sampler`. Raises UserError if an image is not finite.
    """
    predict_noise = noise_predictor(unet, log_p, guidance_scale, scale_growth)
    new_sampler = partial(make_sampler, sampler, steps, unet.device, clip=guidance_scale == 0)
    return sample_with(predict_noise, new_sampler, y, seed, batch_size)


def noise_predictor(unet, log_p, guidance_scale, scale_growth=SCALE_GROWTH, form=guided_noise):
    """predict_noise(x_t, t, y) by `guided_noise`, or another form of it, at the s of `scale_at`."""
    return lambda x_t, t, y: form(unet, log_p, x_t, t, y, scale_at(t, guidance_scale, scale_growth))


def sample_with(predict_noise, new_sampler, y, seed=0, batch_size=BATCH_SIZE):
    """As `sample`, by any predict_noise(x_t, t, y), with the scheduler that new_sampler() makes."""

    def draw(y, generators, step_done):
        def predict(x_t, t):
            step_done(x_t, t)
            return predict_noise(x_t, t, y)

        scheduler = new_sampler()  # a new one for each batch, since DPM-Solver++ keeps a state
        device = scheduler.timesteps.device
        x_T, y = initial_noise(generators).to(device), y.to(device)
        return reverse_process(predict, scheduler, x_T, generators).cpu()

    return in_batches(draw, y, seed, batch_size, steps=len(new_sampler().timesteps)).clamp(-1, 1)


def load_models(folder=MODELS, device="cpu", guide=True):
    """The U-Net and the classifier (None unless `guide`) of a folder. Raises UserError."""
    load, folder = partial(load_checkpoint, **AGREED, device=device), Path(folder)
    unet = load(folder / NAMES[0], UNet, made_by="train_ddpm.py")
    guide = load(folder / NAMES[1], Classifier, made_by="train_classifier.py") if guide else None
    one = guide is None or guide.dataset == unet.dataset
    require(one, f"{' and '.join(NAMES)} in {folder} are of two data sets: train both on one")
    return unet, guide


def parse_args(argv):
    parser = cli.ArgumentParser(__doc__)
    add, number = parser.add_argument, cli.number
    add("--digits", "--classes", nargs="+", default=["1"], metavar="NAME",
        help="one row each: names of classes, their numbers from 0, or all")  # fmt: skip
    add("--num-samples", type=number(int, 1), default=8, help="images of each digit")
    add("--guidance-scale", type=number(float, 0), nargs="+", default=[GUIDANCE_SCALE], metavar="W",
        help="s in pure noise; 0: unguided; several: one row each, same noise")  # fmt: skip
    add("--scale-growth", type=number(float, 0), default=SCALE_GROWTH, metavar="G",
        help="s = W (1 + G * SNR); 0: ADM's s, the same at every t")  # fmt: skip
    add("--sampler", choices=SAMPLERS, default=SAMPLER, help="a scheduler of diffusers")
    add("--steps", type=number(int, 1, NUM_TRAIN_TIMESTEPS), default=STEPS, help="calls per image")
    add("--batch-size", type=number(int, 1), default=BATCH_SIZE, help="images at a time")
    add("--compare", action="store_true", help="unguided above guided, from the same noise")
    cli.add_output_flags(parser, "guided_output.png")
    cli.add_common_flags(parser)
    args = parser.parse_args(argv)
    if len(args.guidance_scale) > 1 and (args.npz or args.gif or args.compare):
        parser.error("argument --guidance-scale: --npz, --gif and --compare take one scale")
    args.guidance_scales = [0.0] * args.compare + args.guidance_scale
    return args


@cli.one_line_errors
def main(argv=None):
    args = parse_args(argv)
    device, guided = cli.pick_device(args.device), max(args.guidance_scales) > 0
    unet, classifier = load_models(args.models, device, guided)
    args.digits = class_numbers(args.digits, unet.dataset["classes"])
    args.names = [unet.dataset["classes"][y] for y in args.digits]
    cli.check_outputs(args, len(args.digits) * args.num_samples)
    y = torch.tensor(args.digits).repeat_interleave(args.num_samples)
    flags = ("digits", "num_samples", "guidance_scales", "compare", "scale_growth", "sampler")
    settings = {name: getattr(args, name) for name in (*flags, "steps", "seed", "batch_size")}
    cli.say_start(args.models, device, 2 + len(y) * len(args.guidance_scales) * args.steps * 0.002)
    rows, film = [], pictures.Film(sampling_timesteps(args.steps) if args.gif else [])
    for scale in args.guidance_scales:
        predict_noise = noise_predictor(unet, guided and classifier.log_p, scale, args.scale_growth)
        predict_noise = film.watch(predict_noise, beside=predicted_x_0)
        new_sampler = partial(make_sampler, args.sampler, args.steps, device, clip=scale == 0)
        rows.append(sample_with(predict_noise, new_sampler, y, args.seed, args.batch_size))
    made_from = provenance(args.models, NAMES[: 1 + guided], device, **settings)
    pictures.save_samples(args, rows, y, film, made_from)


if __name__ == "__main__":
    main()
