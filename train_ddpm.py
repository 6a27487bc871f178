"""Step 2: train the U-Net, without labels, to predict the noise.

    python train_ddpm.py
    python train_ddpm.py --steps 300 --models trial    # a short trial in another folder
    python train_ddpm.py --resume                      # continue after Ctrl-C

DDPM Algorithm 1: draw x_0, t and eps, make x_t by (4), and take a gradient step on L_simple (14),
with a weight that depends on t (`loss_weights`). What is kept is an exponential moving average
(EMA) of the network's weights.

Writes models/ddpm_unet.pth, sample_ddpm_output.png, results/ddpm_loss.png, and samples of every
epoch to previews/. With --models DIR, all of them go to DIR.
"""

import json

import torch
from diffusers.optimization import get_linear_schedule_with_warmup
from diffusers.training_utils import EMAModel
from torch.nn.utils import clip_grad_norm_

import inference
from diffusion import ALPHAS_CUMPROD, SCHEDULE, add_noise, make_unet, simple_loss
from diffusion import stratified_timesteps
from mnist import add_data_flags, open_dataset
from support import cli
from support.checkpoints import provenance, save_checkpoint
from support.files import beside, is_shipped, results_folder
from support.muon import Muon
from support.pictures import line_plot, save_figure, save_grid
from support.streams import batch_indices, generator
from support.training import Run, keep_memory, pick_precision

TRAIN_STEPS = 6_300
BATCH_SIZE = 64
LEARNING_RATE = 2.8e-3  # of AdamW
MUON_FACTOR = 3  # Muon's learning rate is that many times AdamW's
ADAM_BETAS = (0.9, 0.99)
WARMUP_STEPS = 200
EMA_DECAY = 0.998
MAX_LOSS_WEIGHT = 5
LOW_NOISE = 150  # below this t the loss counts half
VALIDATION_SEED = 1  # the same t and noise at every epoch and in every run
NUM_VALIDATION_IMAGES = 1_000


def train(run, unet, ema, optimizers, images, weights, draw_t=stratified_timesteps):
    """DDPM Algorithm 1 on images (N, 1, 28, 28), with `weights` (1000,) for L_simple at each t."""
    device, settings = unet.device, run.settings
    batch_size, seed = settings["batch_size"], settings["seed"]
    bfloat16 = settings["precision"] == "bfloat16"
    for step in run:
        rng = generator(seed, "U-Net", step)
        x_0 = images[batch_indices(len(images), batch_size, seed, step)]  # (B, 1, 28, 28)
        t = draw_t(batch_size, rng)  # (B,)
        eps = torch.randn(x_0.shape, generator=rng)
        x_t = add_noise(x_0, eps, t)  # DDPM (4)
        with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
            eps_theta = unet(x_t.to(device), t.to(device)).sample
        loss = simple_loss(eps_theta, eps.to(device))  # DDPM (14), (B,)
        unet.zero_grad()
        (weights[t].to(device) * loss).mean().backward()
        run.record(loss.mean(), clip_grad_norm_(unet.parameters(), 1.0))
        for optimizer in optimizers:
            optimizer.step()
        ema.step(unet.parameters())


def loss_weights():
    """The weight of L_simple at each t: (1000,).

    1 / abar_t makes it the squared error of v, which the layers predict, up to the maximum, which
    is reached at t = 396. Low noise counts half. benchmarks/recipe.py tries none.
    """
    weights = (1 / ALPHAS_CUMPROD).clamp(max=MAX_LOSS_WEIGHT)
    weights[:LOW_NOISE] /= 2
    return weights


def make_optimizers(unet, lr):
    """Muon for the kernels of the convolutions between the first and the last; AdamW otherwise."""
    outer = (unet.conv_in, unet.conv_out)
    convolutions = [m for m in unet.modules() if isinstance(m, torch.nn.Conv2d) and m not in outer]
    kernels = [module.weight for module in convolutions]
    chosen = {id(kernel) for kernel in kernels}
    rest = [parameter for parameter in unet.parameters() if id(parameter) not in chosen]
    adamw = torch.optim.AdamW(rest, lr=lr, betas=ADAM_BETAS, weight_decay=0.0, fused=True)
    return Muon(kernels, lr=MUON_FACTOR * lr), adamw


@torch.no_grad()
def validation_loss(unet, images, weights=None, batch_size=250):
    """L_simple of images (N, 1, 28, 28) over uniform t, with the same t and noise at every call.

    Args:
        weights: (1000,), of each t; None for ones.
    """
    weights = torch.ones_like(ALPHAS_CUMPROD) if weights is None else weights
    t = stratified_timesteps(len(images), generator(VALIDATION_SEED, "validation", 0))
    eps = torch.randn(images.shape, generator=generator(VALIDATION_SEED, "validation", 1))
    x_t = add_noise(images, eps, t)
    total = 0.0
    for x, t_part, eps_part in zip(*(tensor.split(batch_size) for tensor in (x_t, t, eps))):
        eps_theta = unet(x.to(unet.device), t_part.to(unet.device)).sample.cpu()
        total += (weights[t_part] * simple_loss(eps_theta, eps_part)).sum().item()
    return total / len(images)


def measure_epoch(run, unet, ema, images, preview_folder):
    """Validate the EMA weights and draw samples from them: a dict for the history."""
    ema.store(unet.parameters())
    ema.copy_to(unet.parameters())
    unet.eval()
    recent = run.losses[-run.steps_per_epoch :]
    entry = {"loss": sum(recent) / len(recent), "validation_loss": validation_loss(unet, images)}
    run.log(f"loss {entry['loss']:.4f}  validation {entry['validation_loss']:.4f}")
    y = torch.arange(10).repeat_interleave(4)  # unguided: y is only the key of the noise
    samples = inference.sample(unet, None, y, guidance_scale=0, sampler="ddim", steps=20)
    path = preview_folder / f"step_{run.step + 1:06d}.png"
    save_grid(path, samples, 4, json.dumps({"step": run.step + 1, **entry}))
    unet.train()
    ema.restore(unet.parameters())
    return entry


def plot_loss(history):
    """Training and validation loss against steps: a matplotlib figure."""
    labels = {"loss": "training", "validation_loss": "validation (EMA weights, fixed noise)"}
    curves = {label: [entry[name] for entry in history] for name, label in labels.items()}
    steps = [entry["step"] for entry in history]
    return line_plot(steps, curves, xlabel="step", ylabel="L_simple, DDPM (14)", yscale="log")


@cli.one_line_errors
def main(argv=None):
    parser = cli.ArgumentParser(__doc__)
    cli.add_training_flags(parser, TRAIN_STEPS, BATCH_SIZE, LEARNING_RATE)
    add_data_flags(parser)
    cli.add_precision_flag(parser)
    args = parser.parse_args(argv)
    device = cli.pick_device(args.device)
    keep_memory()
    dataset = open_dataset(args)
    images, _ = dataset.load("train")  # the labels are not used
    validation = dataset.load("validation")[0][:NUM_VALIDATION_IMAGES]
    weights, state = args.models / "ddpm_unet.pth", args.models / "ddpm_unet.state.pth"
    figure = results_folder(args.models) / "ddpm_loss.png"
    place = beside if is_shipped(args.models) else args.models.joinpath
    samples, previews = place("sample_ddpm_output.png"), place("previews")

    torch.manual_seed(args.seed)  # for the initial weights
    unet = make_unet().to(device)
    ema = EMAModel(unet.parameters(), decay=EMA_DECAY, foreach=True)
    settings = cli.training_settings(args, dataset.info)
    settings["precision"] = pick_precision(args.precision, device)
    parts, warmup = {"network": unet, "ema": ema}, min(WARMUP_STEPS, args.steps // 2)
    optimizers = make_optimizers(unet, args.lr)
    for name, optimizer in zip(("muon", "adamw"), optimizers):
        lr_scheduler = get_linear_schedule_with_warmup(optimizer, warmup, args.steps)
        parts |= {name: optimizer, f"{name}_lr": lr_scheduler}

    run = Run("U-Net", settings, parts, len(images),
              lambda run: measure_epoch(run, unet, ema, validation, previews))  # fmt: skip
    outputs = weights, samples, figure, previews / "step.png"
    run.keep_state(state, args.resume, "train_ddpm.py", *outputs)
    cli.say_start(args.dataset, device, args.steps * args.batch_size * 2.4e-3)
    ema.to(device)
    train(run, unet, ema, optimizers, images, loss_weights())
    ema.copy_to(unet.parameters())
    summary = {**settings, "seconds": run.elapsed(), **run.history[-1]}
    save_checkpoint(weights, unet, SCHEDULE, dataset.info, args.seed, summary)
    made_from = provenance(args.models, [weights.name], device, **settings)
    save_figure(figure, plot_loss(run.history), made_from)
    flags = ["--models", args.models, "--device", args.device, "--output", samples]
    inference.main(["--guidance-scale", "0", *map(str, flags)])
    run.done()
    print(f"{weights}, {samples} and {figure}: {args.steps} steps in {run.elapsed():.0f} s")


if __name__ == "__main__":
    main()
