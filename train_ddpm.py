"""Step 2: train the U-Net, without labels, to predict the noise.

    python train_ddpm.py
    python train_ddpm.py --steps 300 --models trial    # a short trial in another folder
    python train_ddpm.py --resume                      # continue after Ctrl-C

Algorithm 1 of Ho et al. 2020 ("DDPM", arXiv 2006.11239). What is kept is an exponential moving
average (EMA) of the network's weights.

Writes models/ddpm_unet.pth, sample_ddpm_output.png, results/ddpm_loss.png, and unguided samples at
every validation to previews/. With --models DIR, they all go into DIR.
"""

import contextlib

import torch
import torch.nn.functional as F
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from diffusers.optimization import get_linear_schedule_with_warmup
from diffusers.training_utils import EMAModel
from torch.nn.utils import clip_grad_norm_

from diffusion import CHANNELS, SCHEDULE, check_folder, make_unet, noised_for_validation
from diffusion import schedule_of, training_target
from mnist import add_data_flags, training_data
from support import cli
from support.files import output_folder, provenance, save_checkpoint
from support.pictures import ACCENT, INK, save_figure, save_grid
from support.training import Run

STEPS = 16_000
BATCH_SIZE = 32
LEARNING_RATE = 3e-3
ADAM_BETAS = (0.9, 0.99)
WARMUP_STEPS = 200
MAX_GRAD_NORM = 1.0
EMA_DECAY = 0.998
NUM_VALIDATION_IMAGES = 1_000
SAMPLING_STEPS = 50
NUM_SAMPLES, COLUMNS = 40, 10  # of the pictures


def ddpm_loss(unet, scheduler, x_0, y, rng):
    """The loss of a batch of images x_0 (B, C, H, W): DDPM (14), without their labels y.

    `rng` is the random stream of this step.
    """
    t = torch.randint(scheduler.config.num_train_timesteps, (len(x_0),), generator=rng)  # (B,)
    eps = torch.randn(x_0.shape, generator=rng)
    x_t = scheduler.add_noise(x_0, eps, t)  # DDPM (4)
    target = training_target(scheduler, x_0, eps, t)  # eps, or v
    prediction = unet(x_t.to(unet.device), t.to(unet.device)).sample
    return F.mse_loss(prediction, target.to(unet.device))


def train(args, dataset, checkpoint, unet, scheduler, validate, loss_of=ddpm_loss):
    """DDPM Algorithm 1: the finished `Run`. The U-Net ends with the average of its weights.

    `validate(run)` is called with the U-Net averaged, see `Run.validates`.
    """
    parameters = unet.parameters()
    optimizer = torch.optim.AdamW(parameters, args.lr, ADAM_BETAS, weight_decay=0.0, fused=True)
    warmup = min(WARMUP_STEPS, args.steps // 2)
    lr_scheduler = get_linear_schedule_with_warmup(optimizer, warmup, args.steps)
    ema = EMAModel(unet.parameters(), decay=EMA_DECAY, foreach=True)
    parts = {"unet": unet, "optimizer": optimizer, "lr_scheduler": lr_scheduler, "ema": ema}
    settings = cli.training_settings(args)
    name = getattr(loss_of, "__name__", type(loss_of).__name__)  # a partial has none
    settings |= {"schedule": schedule_of(scheduler), "loss_of": name}
    run = Run("U-Net", checkpoint, settings, dataset, args.resume, **parts)
    ema.to(unet.device)  # a state is loaded to the CPU

    for x_0, y, rng in run.batches():
        loss = loss_of(unet, scheduler, x_0, y, rng)

        optimizer.zero_grad()
        loss.backward()
        clip_grad_norm_(unet.parameters(), MAX_GRAD_NORM)
        optimizer.step()
        lr_scheduler.step()
        ema.step(unet.parameters())

        run.losses.append(loss.detach())
        if run.validates:
            with averaged(unet, ema):
                validate(run)
    ema.copy_to(unet.parameters())
    unet.eval()
    return run


@contextlib.contextmanager
def averaged(unet, ema):
    """The U-Net has the average of its weights, and is in eval mode, within the context."""
    ema.store(unet.parameters())
    ema.copy_to(unet.parameters())
    unet.eval()
    try:
        yield
    finally:
        unet.train()
        ema.restore(unet.parameters())


@torch.no_grad()
def validation_loss(unet, scheduler, x_0, batch_size=250):
    """The loss of images (N, C, H, W) over all t, with the same t and noise at every call."""
    x_t, t, eps = noised_for_validation(scheduler, x_0)
    target = training_target(scheduler, x_0, eps, t)
    total = 0.0
    for part in torch.arange(len(x_0)).split(batch_size):
        prediction = unet(x_t[part].to(unet.device), t[part].to(unet.device)).sample.cpu()
        total += F.mse_loss(prediction, target[part]).item() * len(part)
    return total / len(x_0)


def unguided_samples(unet, scheduler, seeds):
    """Images (N, C, H, W) in [-1, 1], each from its own seed, by diffusers' own `DDPMPipeline`."""
    ddpm = DDPMPipeline(unet, scheduler)
    ddpm.set_progress_bar_config(disable=None, desc="sampling", leave=False)
    rngs = [torch.Generator().manual_seed(seed) for seed in seeds]
    steps = min(SAMPLING_STEPS, scheduler.config.num_train_timesteps)
    settings = {"num_inference_steps": steps, "output_type": "np"}
    images = ddpm(len(seeds), rngs, **settings).images  # (N, H, W, C) in [0, 1]
    return torch.from_numpy(images).permute(0, 3, 1, 2) * 2 - 1


def plot_loss(run):
    """Training and validation loss against steps: a matplotlib figure."""
    import matplotlib.pyplot as plt  # here, since a script starts faster without it

    size = max(1, len(run.losses) // 100)  # steps of a point
    means = [part.mean().item() for part in torch.tensor(run.losses).split(size)]
    steps = [entry["step"] for entry in run.history]
    losses = [entry["validation"] for entry in run.history]
    figure, axes = plt.subplots(figsize=(6, 3.5), layout="constrained")
    axes.plot([size * (k + 1) for k in range(len(means))], means, color=INK, lw=1, label="training")
    axes.plot(steps, losses, "o", color=ACCENT, label="validation, averaged weights")
    axes.set(xlabel="step", ylabel="mean squared error of the noise", yscale="log")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    return figure


def add_unet_flags(parser, steps):
    """The flags of a script that trains a U-Net, by default for so many steps."""
    cli.add_training_flags(parser, steps, BATCH_SIZE, LEARNING_RATE)
    channels = cli.multiple_of(8)
    parser.add_argument("--channels", type=channels, default=CHANNELS, help="width of the U-Net")
    add_data_flags(parser)


@cli.one_line_errors
def main(argv=None, loss_of=ddpm_loss):
    parser = cli.ArgumentParser(__doc__)
    add_unet_flags(parser, STEPS)
    args = parser.parse_args(argv)
    checkpoint, top = args.models / "ddpm_unet.pth", output_folder(args.models)
    samples, figure = top / "sample_ddpm_output.png", top / "results" / "ddpm_loss.png"
    scheduler = DDPMScheduler(**SCHEDULE)  # the same in all three scripts
    check_folder(args.models, checkpoint, scheduler)
    dataset = training_data(args, UNet2DModel, checkpoint, samples, figure)
    validation = dataset.load("validation")[0][:NUM_VALIDATION_IMAGES]

    torch.manual_seed(args.seed)  # for the initial weights
    unet = make_unet(dataset.info["shape"], args.channels).to(args.device)

    def validate(run):
        run.record(validation=validation_loss(unet, scheduler, validation))
        preview = top / "previews" / f"step_{run.step:06d}.png"
        made_from = provenance([], step=run.step, **run.settings)
        images = unguided_samples(unet, scheduler, range(NUM_SAMPLES))
        save_grid(preview, images, COLUMNS, made_from)

    run = train(args, dataset, checkpoint, unet, scheduler, validate, loss_of)
    save_checkpoint(checkpoint, unet, schedule_of(scheduler), dataset.info, run.summary())
    made_from = provenance([checkpoint], **run.settings)
    save_figure(figure, plot_loss(run), made_from)
    images = unguided_samples(unet, scheduler, range(NUM_SAMPLES))
    save_grid(samples, images, COLUMNS, made_from)
    run.remove_state()
    files = f"{checkpoint}, {samples} and {figure}"
    print(f"{files}: {args.steps} steps in {run.elapsed():.0f} s")


if __name__ == "__main__":
    main()
