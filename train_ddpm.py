"""Step 2: train the U-Net, without labels, to predict the noise.

    python train_ddpm.py --bf16                        # as the included network was trained
    python train_ddpm.py --steps 300 --models trial    # a short trial in another folder
    python train_ddpm.py --bf16 --resume               # after an interruption

Algorithm 1 of Ho et al. 2020 ("DDPM", arXiv 2006.11239). Like the authors' code, it keeps an
exponential moving average (EMA) of the weights.

Writes models/ddpm_unet.pth, sample_ddpm_output.png, and, after every validation but the last,
unguided samples to previews/. With --models DIR, all are in DIR.
"""

import torch
import torch.nn.functional as F
from diffusers import DDPMPipeline, DDPMScheduler
from diffusers.optimization import get_linear_schedule_with_warmup
from diffusers.training_utils import EMAModel
from torch.nn.utils import clip_grad_norm_

from data import parse_with_dataset
from diffusion import CHANNELS, SCHEDULE, make_unet, noised_for_validation, training_target
from support import UserError, cli
from support.files import output_folder
from support.pictures import as_displayed, grid_image, save_picture
from support.training import FUSED, Run, add_bf16_flag, add_training_flags, run_settings

STEPS = 64_000
BATCH_SIZE = 32
LEARNING_RATE = 1.5e-3
ADAM_BETAS = (0.9, 0.99)
WARMUP_STEPS = 200
MAX_GRAD_NORM = 1.0
EMA_DECAY = 0.9999
NUM_VALIDATION_IMAGES = 1_000
SAMPLING_STEPS = 50
NUM_SAMPLES, COLUMNS = 40, 10  # of the sample grids


def ddpm_loss(unet, scheduler, x_0, y):
    """The loss on a batch of images x_0 (B, C, H, W): L_simple, DDPM (14).

    The labels y (B,) are used only by a U-Net with class embeddings, which ours does not have.
    """
    t = torch.randint(scheduler.config.num_train_timesteps, (len(x_0),))  # (B,)
    eps = torch.randn_like(x_0)
    x_t = scheduler.add_noise(x_0, eps, t)  # DDPM (4)
    target = training_target(scheduler, x_0, eps, t)  # eps by default
    labels = [y] if unet.config.get("num_class_embeds") else []
    inputs = [tensor.to(unet.device) for tensor in (x_t, t, *labels)]
    return F.mse_loss(unet(*inputs).sample, target.to(unet.device))


def train(unet, scheduler, run, lr, validate, loss_of=ddpm_loss, bf16=False):
    """Run DDPM Algorithm 1. On return, the U-Net holds the averaged weights.

    Args:
        unet: (x_t, t) -> output with `.sample`.
        scheduler: a DDPMScheduler, which adds the noise.
        run: a `Run`, which makes the batches, shows a progress bar, and saves the state.
        lr: the peak learning rate.
        validate: called while the U-Net holds the averaged weights, in eval mode; returns a dict
            of numbers for the log.
        loss_of: (unet, scheduler, x_0, y) -> loss; must draw from torch's CPU generator. The
            U-Net must still predict the scheduler's target, which `main` validates and samples.
        bf16: compute the loss in bfloat16 where torch.autocast does so; the weights stay float32.
    """
    optimizer = torch.optim.AdamW(
        unet.parameters(), lr, ADAM_BETAS, weight_decay=0.0, fused=unet.device.type in FUSED
    )
    warmup = min(WARMUP_STEPS, run.steps // 2)
    lr_scheduler = get_linear_schedule_with_warmup(optimizer, warmup, run.steps)
    ema = EMAModel(unet.parameters(), decay=EMA_DECAY, foreach=True)

    for x_0, y in run.batches(optimizer=optimizer, lr_scheduler=lr_scheduler, ema=ema):
        with torch.autocast(unet.device.type, torch.bfloat16, enabled=bf16):
            loss = loss_of(unet, scheduler, x_0, y)

        optimizer.zero_grad()
        loss.backward()
        clip_grad_norm_(unet.parameters(), MAX_GRAD_NORM)
        optimizer.step()
        lr_scheduler.step()
        ema.step(unet.parameters())

        run.log(loss)
        if run.validates:
            ema.store(unet.parameters())
            ema.copy_to(unet.parameters())
            unet.eval()
            run.record(**validate())
            unet.train()
            ema.restore(unet.parameters())
    ema.copy_to(unet.parameters())
    unet.eval()


@torch.no_grad()
def validation_loss(unet, scheduler, x_0, batch_size=250):
    """The loss on images (N, C, H, W), over all t; the noise is the same in every call."""
    x_t, t, eps = noised_for_validation(scheduler, x_0)
    target, losses = training_target(scheduler, x_0, eps, t), []
    for part in torch.arange(len(x_0)).split(batch_size):
        prediction = unet(x_t[part].to(unet.device), t[part].to(unet.device)).sample.cpu()
        losses.append((prediction - target[part]).square().mean(dim=(1, 2, 3)))
    return torch.cat(losses).mean().item()


@torch.no_grad()
def unguided_samples(unet, scheduler, n, steps):
    """Samples from diffusers' DDPMPipeline, which calls unet(x_t, t) with t of shape ().

    Returns (n, C, H, W) in [-1, 1]; image k starts from the noise of seed k, as in
    `inference.sample`. Raises UserError if they are not finite.
    """
    pipeline = DDPMPipeline(unet, DDPMScheduler(**scheduler.config))  # it sets the timesteps
    pipeline.set_progress_bar_config(desc="sampling", disable=None, leave=False)
    rngs = [torch.Generator().manual_seed(k) for k in range(n)]
    steps = min(steps, scheduler.config.num_train_timesteps)
    images = pipeline(n, rngs, steps, output_type="np").images  # (n, H, W, C) in [0, 1]
    images = torch.from_numpy(images).permute(0, 3, 1, 2)
    if not images.isfinite().all():
        raise UserError("the samples are not finite")
    return 2 * images - 1


@cli.one_line_errors
def main(argv=None, unet_class=make_unet, loss_of=ddpm_loss):
    """Train a U-Net, or another unet_class(sample_size=..., in_channels=..., channels=...).

    loss_of is as for `train`.
    """
    parser = cli.make_parser(__doc__)
    add_training_flags(parser, STEPS, BATCH_SIZE, LEARNING_RATE, CHANNELS)
    add_bf16_flag(parser)
    args, dataset = parse_with_dataset(parser, argv)
    validation = dataset.load("validation")[0][:NUM_VALIDATION_IMAGES]

    torch.manual_seed(args.seed)
    scheduler = DDPMScheduler(**SCHEDULE)  # sampling reads it from the checkpoints
    in_channels, size, _ = dataset.info["shape"]
    unet = unet_class(sample_size=size, in_channels=in_channels, channels=args.channels)
    unet.to(args.device)
    unguided_samples(unet, scheduler, n=1, steps=1)  # fail before the training, not after it
    checkpoint, folder = args.models / "ddpm_unet.pth", output_folder(args.models)
    samples = folder / "sample_ddpm_output.png"

    def save_samples(path):
        images = unguided_samples(unet, scheduler, NUM_SAMPLES, SAMPLING_STEPS)
        save_picture(path, grid_image(as_displayed(images, dataset.info), COLUMNS))

    def validate():
        if run.step < run.steps:
            save_samples(folder / "previews" / f"step_{run.step:06d}.png")
        return {"validation_loss": validation_loss(unet, scheduler, validation)}

    with Run(checkpoint, unet, dataset, SCHEDULE, **run_settings(args)) as run:
        train(unet, scheduler, run, args.lr, validate, loss_of, args.bf16)
        run.save_checkpoint()
        save_samples(samples)
    print(f"saved {checkpoint} and {samples} after {run.seconds():.0f} s")


if __name__ == "__main__":
    main()
