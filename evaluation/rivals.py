"""What a sensible user would take instead: classifier-free guidance, trained in the same time.

    python -m evaluation.rivals
    python -m evaluation.rivals --steps 100 --models trial    # a short trial elsewhere
    python -m evaluation.rivals --resume                      # continue after Ctrl-C

Classifier-free guidance (Ho & Salimans 2022, arXiv 2207.12598): our U-Net also takes the digit, and
has the time of both our trainings. Batches, optimizers, EMA, precision, loss and learning rates are
those of train_ddpm.py. `python evaluate.py --variant classifier_free --scale-growth 0` measures it
at a constant scale.

Writes models/rival_classifier_free.pth; with --models DIR, to DIR.
"""

if __name__ == "__main__" and not __package__:
    raise SystemExit("run this as `python -m evaluation.rivals`, in the top folder")

from pathlib import Path

import torch
from diffusers import UNet2DModel
from diffusers.training_utils import EMAModel

import train_ddpm
from diffusion import SCHEDULE, UNET_CONFIG, clipped_noise
from mnist import add_data_flags, training_data
from support import cli
from support.cli import MODELS, require
from support.files import load_checkpoint, prepare_outputs, save_checkpoint
from support.training import Run, pick_precision

CHECKPOINT = "rival_classifier_free.pth"
STEPS = 6_600
DROPPED = 0.1  # the share of labels that are dropped, p_uncond of the paper


def classifier_free(unet, log_p, x_t, t, y, w):
    """eps_hat of classifier-free guidance, (6) of the paper: (B, 1, 28, 28).

    (1 + w) eps(x_t, t, y) - w eps(x_t, t, no label). At scale w = 0 it is eps of the digit alone,
    and still takes both calls.

    Args:
        unet: see `load_rival`. log_p: a guide, not used. x_t: (B, 1, 28, 28). t: () or (B,).
        y: (B,), digits.
    """
    no_label = torch.full_like(y, unet.config.num_class_embeds - 1)
    two_x_t, two_t = torch.cat([x_t, x_t]), t.expand(len(y)).repeat(2)
    with torch.no_grad():
        eps_of_both = unet(two_x_t, two_t, torch.cat([y, no_label])).sample
    eps, eps_free = eps_of_both.chunk(2)
    return clipped_noise(x_t, t, eps + w * (eps - eps_free))


def load_rival(folder=MODELS, device="cpu"):
    """The U-Net of classifier-free guidance, of a folder, in eval mode. Raises UserError."""
    path = Path(folder, CHECKPOINT)
    unet = load_checkpoint(path, UNet2DModel, SCHEDULE, "-m evaluation.rivals", device)
    require(unet.config.num_class_embeds is not None, f"{path} holds a U-Net that takes no label")
    return unet


@cli.one_line_errors
def main(argv=None):
    parser = cli.ArgumentParser(__doc__)
    cli.add_training_flags(parser, STEPS, train_ddpm.BATCH_SIZE, train_ddpm.LEARNING_RATE)
    cli.add_precision_flag(parser)
    add_data_flags(parser)
    args = parser.parse_args(argv)
    device = cli.pick_device(args.device)
    checkpoint = args.models / CHECKPOINT
    prepare_outputs(checkpoint)
    dataset = training_data(args)
    no_label = len(dataset.info["classes"])
    print(f"reads {args.dataset}; device: {device}", flush=True)

    torch.manual_seed(args.seed)  # for the initial weights
    unet = UNet2DModel(**UNET_CONFIG, num_class_embeds=no_label + 1).to(device)
    ema = EMAModel(unet.parameters(), decay=train_ddpm.EMA_DECAY, foreach=True)
    optimizers, lr_schedulers = train_ddpm.make_optimizers(unet, args.lr, args.steps)

    def predict(x_t, t, y, rng):
        """Algorithm 1 of the paper: some labels are dropped."""
        dropped = torch.rand(len(y), generator=rng) < DROPPED
        return unet(x_t, t, y.masked_fill(dropped.to(y.device), no_label)).sample

    def validate(run):
        loss = run.recent_loss()
        run.log(f"loss {loss:.4f}")
        return {"loss": loss}

    parts = {"network": unet, "ema": ema, **optimizers, **lr_schedulers}
    precision = pick_precision(args.precision, device)
    run = Run("U-Net", checkpoint, args, dataset, parts, validate, precision=precision)
    with run:
        ema.to(device)
        train_ddpm.train(run, unet, predict, ema, optimizers, lr_schedulers)
        ema.copy_to(unet.parameters())
        save_checkpoint(checkpoint, unet, SCHEDULE, dataset.info, run.summary())
    print(f"{checkpoint}: {args.steps} steps in {run.elapsed():.0f} s")


if __name__ == "__main__":
    main()
