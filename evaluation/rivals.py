"""What a sensible user would take instead: classifier-free guidance, trained in the same time.

    python -m evaluation.rivals
    python -m evaluation.rivals --steps 100 --models trial    # a short trial elsewhere
    python -m evaluation.rivals --resume                      # continue after Ctrl-C

Classifier-free guidance (Ho & Salimans 2022, arXiv 2207.12598): our U-Net also takes the digit, and
has the time of both our trainings. All else is as in train_ddpm.py. `python evaluate.py --variant
classifier_free` measures it, at a constant scale.

Writes models/rival_classifier_free.pth; with --models DIR, to DIR.
"""

from pathlib import Path

import torch
from diffusers import UNet2DModel

import train_ddpm
from diffusion import SCHEDULE, clipped_noise, make_unet
from mnist import add_data_flags, training_data
from support import cli
from support.cli import MODELS, require
from support.files import load_checkpoint

CHECKPOINT = "rival_classifier_free.pth"
STEPS = 6_600
DROPPED = 0.1  # the share of labels that are dropped, p_uncond of the paper


def classifier_free(unet, log_p, x_t, t, y, s):
    """eps_hat of classifier-free guidance: (B, C, H, W), a variant of `guided_noise`.

    eps(x_t, t, no label) + s (eps(x_t, t, y) - eps(x_t, t, no label)): (6) of the paper, whose w is
    s - 1. As in ADM (14), the scale 0 is unguided, and 1 is Bayes' rule; these take one call.

    Args:
        unet: see `load_rival`. log_p: not used. x_t: (B, C, H, W). t: () or (B,). y: (B,), digits.
    """
    no_label = torch.full_like(y, unet.config.num_class_embeds - 1)
    if s == 0:
        eps_hat = unet(x_t, t, no_label).sample
    elif s == 1:
        eps_hat = unet(x_t, t, y).sample
    else:
        eps = unet(x_t, t, no_label).sample
        eps_hat = eps + s * (unet(x_t, t, y).sample - eps)
    return clipped_noise(x_t, t, eps_hat)


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
    checkpoint = args.models / CHECKPOINT
    dataset = training_data(args, checkpoint)
    no_label = len(dataset.info["classes"])

    torch.manual_seed(args.seed)  # for the initial weights
    unet = make_unet(dataset.info["shape"], num_class_embeds=no_label + 1)

    def predict(x_t, t, y, rng):
        """Algorithm 1 of the paper: some labels are dropped."""
        dropped = torch.rand(len(y), generator=rng) < DROPPED
        return unet(x_t, t, y.masked_fill(dropped.to(y.device), no_label)).sample

    def validate(run):
        run.log(f"loss {run.recent_loss():.4f}")
        return {}

    run = train_ddpm.train_unet(args, dataset, checkpoint, unet, predict, validate)
    print(f"{checkpoint}: {args.steps} steps in {run.elapsed():.0f} s")


if __name__ == "__main__":
    main()
