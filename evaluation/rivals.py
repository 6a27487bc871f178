"""What a sensible user would take instead, trained in the same time on the same CPU.

    python -m evaluation.rivals classifier_free
    python -m evaluation.rivals course
    python -m evaluation.rivals course --steps 100 --models trial    # a short trial elsewhere
    python -m evaluation.rivals course --resume                      # continue after Ctrl-C

"classifier_free" is classifier-free guidance (Ho & Salimans 2022, arXiv 2207.12598): our U-Net also
takes the digit, and has the time of both our trainings. "course" is the U-Net of diffusers' course
for MNIST, which predicts eps, by AdamW and L_simple, in the time of train_ddpm.py. Batches, EMA,
precision and learning rate schedule are those of train_ddpm.py. `python -m benchmarks.rivals`
measures them.

Writes models/rival_classifier_free.pth or rival_course.pth; with --models DIR, to DIR.
"""

import argparse
from pathlib import Path

import torch
from diffusers import DDIMScheduler, UNet2DModel
from diffusers.optimization import get_linear_schedule_with_warmup
from diffusers.training_utils import EMAModel
from torch.nn.utils import clip_grad_norm_

import train_ddpm
from diffusion import SCHEDULE, UNet, add_noise, clipped_noise, make_unet, simple_loss
from diffusion import stratified_timesteps
from inference import AGREED
from mnist import add_data_flags, open_dataset
from support import cli
from support.checkpoints import MODELS, load_checkpoint, save_checkpoint
from support.errors import require
from support.streams import batch_indices, generator
from support.training import Run, keep_memory, pick_precision

DROPPED = 0.1  # the share of labels that are dropped, p_uncond of the paper
SECONDS = {"classifier_free": 3.0e-3, "course": 10.4e-3}  # per image, two cores, float32
DIFFUSERS_DDIM = "diffusers' DDIM"  # a sampler beside diffusion.SAMPLERS
COURSE_CONFIG = {
    "sample_size": 28,
    "in_channels": 1,
    "out_channels": 1,
    "block_out_channels": (32, 64, 64),
    "layers_per_block": 2,
    "down_block_types": ("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
}


def free_noise(unet, _, x_t, t, y, guidance_scale):
    """eps_hat of classifier-free guidance, (6) of the paper: (B, 1, 28, 28).

    (1 + w) eps(x_t, t, y) - w eps(x_t, t, no label). At scale w = 0 it is eps of the digit alone,
    and still takes both calls.

    Args:
        unet: of "classifier_free". _: a guide, not used. x_t: (B, 1, 28, 28). t: () or (B,).
        y: (B,), digits.
    """
    both = torch.cat([y, torch.full_like(y, unet.config.num_class_embeds - 1)])
    two_t = t.expand(len(y)).repeat(2)
    with torch.no_grad():
        eps, eps_free = unet(x_t.repeat(2, 1, 1, 1), two_t, both).sample.chunk(2)
    return clipped_noise(x_t, t, eps + guidance_scale * (eps - eps_free))


def train_free(run, unet, ema, optimizers, images, labels):
    """`train_ddpm.train` with labels (N,), of which some are dropped: Algorithm 1 of the paper."""
    batch_size, seed = run.settings["batch_size"], run.settings["seed"]
    weights, no_label = train_ddpm.loss_weights(), unet.config.num_class_embeds - 1
    bfloat16 = run.settings["precision"] == "bfloat16"
    for step in run:
        rng = generator(seed, "U-Net", step)
        index = batch_indices(len(images), batch_size, seed, step)
        x_0, y = images[index], labels[index]  # (B, 1, 28, 28), (B,)
        t = stratified_timesteps(batch_size, rng)  # (B,)
        eps = torch.randn(x_0.shape, generator=rng)
        y = y.where(torch.rand(batch_size, generator=rng) >= DROPPED, no_label)
        x_t = add_noise(x_0, eps, t)  # DDPM (4)
        with torch.autocast(unet.device.type, torch.bfloat16, enabled=bfloat16):
            eps_theta = unet(x_t.to(unet.device), t.to(unet.device), y.to(unet.device)).sample
        loss = simple_loss(eps_theta, eps.to(unet.device))  # DDPM (14), (B,)
        unet.zero_grad()
        (weights[t].to(unet.device) * loss).mean().backward()
        run.record(loss.mean(), clip_grad_norm_(unet.parameters(), 1.0))
        for optimizer in optimizers:
            optimizer.step()
        ema.step(unet.parameters())


class CourseUNet(UNet2DModel):
    """diffusers' U-Net as its course configures it: its layers predict eps."""


def course_sampler(steps, device="cpu"):
    """DDIM as diffusers sets it up: timesteps down to 0, and the predicted x_0 clipped."""
    scheduler = DDIMScheduler(**SCHEDULE)
    scheduler.set_timesteps(steps, device=device)
    return scheduler


def train_course(run, unet, ema, optimizers, images, labels):
    """`train_ddpm.train` with L_simple as it is; the labels are not used."""
    train_ddpm.train(run, unet, ema, optimizers, images, torch.ones_like(train_ddpm.loss_weights()))


RIVALS = {
    "classifier_free": {
        "network": UNet,
        "make": lambda num_classes: make_unet(num_class_embeds=num_classes + 1),
        "train": train_free,
        "optimizers": train_ddpm.make_optimizers,
        "lr": train_ddpm.LEARNING_RATE,
        "steps": 7_100,
    },
    "course": {
        "network": CourseUNet,
        "make": lambda num_classes: CourseUNet(**COURSE_CONFIG),
        "train": train_course,
        "optimizers": lambda unet, lr: [torch.optim.AdamW(unet.parameters(), lr)],
        "lr": 1e-3,
        "steps": 1_800,
    },
}


def load_rival(name, folder=MODELS, device="cpu"):
    """One of `RIVALS` from a folder, in eval mode. Raises UserError."""
    path, made_by = rival_path(name, folder), f"-m evaluation.rivals {name}"
    unet = load_checkpoint(path, RIVALS[name]["network"], **AGREED, made_by=made_by, device=device)
    labelled = unet.config.num_class_embeds is not None
    takes = f"{path} holds a U-Net that takes {'a' if labelled else 'no'} label"
    require(labelled == (name == "classifier_free"), f"{takes}: make it with `python {made_by}`")
    return unet


def rival_path(name, folder=MODELS):
    """The checkpoint of one of `RIVALS`."""
    return Path(folder, f"rival_{name}.pth")


def measure_epoch(run):
    """The mean loss of as many steps as an epoch has: a dict for the history."""
    recent = run.losses[-run.steps_per_epoch :]
    loss = sum(recent) / len(recent)
    run.log(f"loss {loss:.4f}")
    return {"loss": loss}


@cli.one_line_errors
def main(argv=None):
    parser = cli.ArgumentParser(__doc__)
    parser.add_argument("rival", choices=RIVALS)
    unset = argparse.SUPPRESS  # the defaults depend on the rival
    cli.add_training_flags(parser, unset, train_ddpm.BATCH_SIZE, unset)
    add_data_flags(parser)
    cli.add_precision_flag(parser)
    args = parser.parse_args(argv)
    rival = RIVALS[args.rival]
    args.steps, args.lr = (getattr(args, name, rival[name]) for name in ("steps", "lr"))
    device = cli.pick_device(args.device)
    keep_memory()
    dataset = open_dataset(args)
    images, labels = dataset.load("train")
    path = rival_path(args.rival, args.models)
    state = path.with_suffix(".state.pth")

    torch.manual_seed(args.seed)  # for the initial weights
    unet = rival["make"](len(dataset.info["classes"])).to(device)
    ema = EMAModel(unet.parameters(), decay=train_ddpm.EMA_DECAY, foreach=True)
    settings = cli.training_settings(args, dataset.info)
    settings["precision"] = pick_precision(args.precision, device)
    parts, warmup = {"network": unet, "ema": ema}, min(train_ddpm.WARMUP_STEPS, args.steps // 2)
    optimizers = rival["optimizers"](unet, args.lr)
    for k, optimizer in enumerate(optimizers):
        lr_scheduler = get_linear_schedule_with_warmup(optimizer, warmup, args.steps)
        parts |= {f"optimizer_{k}": optimizer, f"optimizer_{k}_lr": lr_scheduler}

    run = Run(args.rival, settings, parts, len(images), measure_epoch)
    run.keep_state(state, args.resume, f"-m evaluation.rivals {args.rival}", path)
    cli.say_start(args.dataset, device, args.steps * args.batch_size * SECONDS[args.rival])
    ema.to(device)
    rival["train"](run, unet, ema, optimizers, images, labels)
    ema.copy_to(unet.parameters())
    summary = {**settings, "seconds": run.elapsed(), **run.history[-1]}
    save_checkpoint(path, unet, SCHEDULE, dataset.info, args.seed, summary)
    run.done()
    print(f"{path}: {args.steps} steps in {run.elapsed():.0f} s")


if __name__ == "__main__":
    main()
