"""Step 2: train the U-Net, without labels, to predict the noise.

    python train_ddpm.py --bf16                        # as the included network was trained
    python train_ddpm.py --steps 300 --models trial    # a short trial in another folder
    python train_ddpm.py --bf16 --resume               # after an interruption

Algorithm 1 of Ho et al. 2020 ("DDPM", arXiv 2006.11239). Like the authors' code, it keeps an
exponential moving average (EMA) of the weights.

Writes models/ddpm_unet.pth, sample_ddpm_output.png, and, at every validation except the last,
unguided samples to previews/. With --models DIR, all are in DIR.
"""

import torch
import torch.nn.functional as F
from diffusers import DDPMPipeline, DDPMScheduler
from diffusers.optimization import get_linear_schedule_with_warmup
from diffusers.training_utils import EMAModel
from torch.nn.utils import clip_grad_norm_

from data import Dataset, add_dataset_flags, from_uint8
from diffusion import CHANNELS, SCHEDULE, make_unet, noised_for_validation, training_target
from support import cli
from support.files import output_folder, write_files
from support.pictures import as_displayed, grid_image, png
from support.training import FUSED_ADAMW, TrainingState, add_training_flags, training_settings

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


def ddpm_loss(unet, scheduler, x_0, y=None):
    """The simplified loss on images x_0 (B, C, H, W), DDPM (14). The labels y are ignored."""
    t = torch.randint(scheduler.config.num_train_timesteps, (len(x_0),)).to(x_0.device)  # (B,)
    eps = torch.randn(x_0.shape).to(x_0.device)  # drawn on the CPU, whatever the device
    x_t = scheduler.add_noise(x_0, eps, t)  # DDPM (4)
    target = training_target(scheduler, x_0, eps, t)  # eps, by default
    return F.mse_loss(unet(x_t, t).sample, target)


def train(
    unet, dataset, checkpoint, steps=STEPS, batch_size=BATCH_SIZE, lr=LEARNING_RATE, bf16=False,
    resume=False, loss_of=ddpm_loss, validate=None, **settings
):  # fmt: skip
    """DDPM Algorithm 1. On return, the U-Net holds the averaged weights, in eval mode.

    Args:
        unet: a `ModelMixin` with (x_t, t) -> output with `.sample`.
        dataset: a `Dataset`. checkpoint: Path of the checkpoint. lr: the peak learning rate.
        bf16: use bfloat16 autocast for the loss; the weights stay float32.
        resume: continue from the saved state.
        loss_of: (unet, scheduler, x_0, y) -> loss; must draw from torch's CPU generator.
        validate: (unet, step) -> dict of metrics, called with the averaged weights.
        settings: more plain values for the checkpoint, such as the seed.

    Returns the `TrainingState`, whose `finish` writes the checkpoint.
    """
    scheduler = DDPMScheduler(**SCHEDULE)

    optimizer = torch.optim.AdamW(
        unet.parameters(), lr, ADAM_BETAS, weight_decay=0.0, fused=unet.device.type in FUSED_ADAMW
    )
    warmup = min(WARMUP_STEPS, steps // 2)
    lr_scheduler = get_linear_schedule_with_warmup(optimizer, warmup, steps)
    ema = EMAModel(unet.parameters(), decay=EMA_DECAY, foreach=True)
    settings |= {"steps": steps, "batch_size": batch_size, "lr": lr, "bf16": bf16}
    state = TrainingState(
        checkpoint, dataset, SCHEDULE, settings, resume,
        network=unet, optimizer=optimizer, lr_scheduler=lr_scheduler, ema=ema,
    )  # fmt: skip

    unet.train()
    for images, y in state.batches():
        x_0 = from_uint8(images)  # (B, C, H, W) in [-1, 1]
        with torch.autocast(unet.device.type, torch.bfloat16, enabled=bf16):
            loss = loss_of(unet, scheduler, x_0.to(unet.device), y.to(unet.device))

        optimizer.zero_grad()
        loss.backward()
        clip_grad_norm_(unet.parameters(), MAX_GRAD_NORM)
        optimizer.step()
        lr_scheduler.step()
        ema.step(unet.parameters())

        if state.count(loss):
            ema.store(unet.parameters())
            ema.copy_to(unet.parameters())
            state.report(validate(unet.eval(), state.step) if validate else {})
            unet.train()
            ema.restore(unet.parameters())
    ema.copy_to(unet.parameters())
    unet.eval()
    return state


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
def unguided_samples(unet):
    """Samples (N, C, H, W) in [-1, 1] from diffusers' DDPMPipeline, with the seeds 0 to N - 1."""
    pipeline = DDPMPipeline(unet, DDPMScheduler(**SCHEDULE))
    pipeline.set_progress_bar_config(desc="sampling", disable=None, leave=False)
    rngs = [torch.Generator().manual_seed(k) for k in range(NUM_SAMPLES)]
    steps = min(SAMPLING_STEPS, pipeline.scheduler.config.num_train_timesteps)
    images = pipeline(NUM_SAMPLES, rngs, steps, output_type="np").images  # (N, H, W, C) in [0, 1]
    return 2 * torch.from_numpy(images).permute(0, 3, 1, 2) - 1


@cli.one_line_errors
def main(argv=None):
    parser = cli.make_parser(__doc__)
    add_training_flags(parser, STEPS, BATCH_SIZE, LEARNING_RATE, CHANNELS, bf16=True)
    add_dataset_flags(parser)
    args = parser.parse_args(argv)
    dataset = Dataset(args.dataset, args.size)
    print(dataset)

    torch.manual_seed(args.seed)
    in_channels, size, _ = dataset.info["shape"]
    unet = make_unet(size, in_channels, args.channels).to(args.device)
    checkpoint, folder = args.models / "ddpm_unet.pth", output_folder(args.models)
    samples = folder / "sample_ddpm_output.png"
    scheduler = DDPMScheduler(**SCHEDULE)
    validation_images = dataset.load("validation")[0][:NUM_VALIDATION_IMAGES]

    def save_samples(path):
        images = as_displayed(unguided_samples(unet), dataset.info)
        write_files({path: png(grid_image(images, COLUMNS))})

    def validate(unet, step):
        if step < args.steps:
            save_samples(folder / "previews" / f"step_{step:06d}.png")
        return {"validation_loss": validation_loss(unet, scheduler, validation_images)}

    state = train(unet, dataset, checkpoint, validate=validate, **training_settings(args, dataset))
    save_samples(samples)
    state.finish()
    print(f"saved {checkpoint} and {samples} after {state.seconds():.0f} s")


if __name__ == "__main__":
    main()
