"""What a sensible user would take instead: classifier-free guidance, trained in the same time.

    python -m evaluation.rivals
    python -m evaluation.rivals --steps 100 --models trial    # a short trial in another folder

Classifier-free guidance (Ho & Salimans 2022, arXiv 2207.12598): our U-Net also takes the digit, and
has the time of both our trainings. All else is as in train_ddpm.py. `python evaluate.py --variant
classifier_free` measures it, at a constant scale.

Writes models/rival_classifier_free.pth; with --models DIR, to DIR.
"""

import functools
from pathlib import Path

import torch

import train_ddpm
from diffusion import clipped_noise, load_unet, make_unet
from mnist import training_data
from support import cli
from support.files import MODELS

CHECKPOINT = "rival_classifier_free.pth"
STEPS = 6_600
DROPPED = 0.1  # the share of labels that are dropped, p_uncond of the paper


def classifier_free(unet, log_p, x_t, t, y, s):
    """eps_hat of classifier-free guidance: (B, C, H, W), a variant of `guided_noise`.

    eps(x_t, t, no label) + s (eps(x_t, t, y) - eps(x_t, t, no label)): (6) of the paper, whose w is
    s - 1. As in ADM (14), the scale 0 is unguided, and 1 is Bayes' rule; these take one call. The
    U-Net is that of `load_rival`, and log_p is not used. The scale is meant to be constant:
    give `sample` a number.
    """
    if s == 1:
        return clipped_noise(x_t, t, unet(x_t, t, y).sample)
    eps = without_label(unet, x_t, t).sample
    if s != 0:
        eps = eps + s * (unet(x_t, t, y).sample - eps)
    return clipped_noise(x_t, t, eps)


def without_label(unet, x_t, t):
    """What the U-Net gives without a label, which is its last class: `sample` is (B, C, H, W)."""
    no_label = torch.full((len(x_t),), unet.config.num_class_embeds - 1, device=x_t.device)
    return unet(x_t, t, no_label)


@functools.cache
def load_rival(folder=MODELS, device="cpu"):
    """The U-Net of classifier-free guidance, of a folder, in eval mode. Raises UserError."""
    return load_unet(Path(folder, CHECKPOINT), device, "-m evaluation.rivals")


@cli.one_line_errors
def main(argv=None):
    args = train_ddpm.parse_args(__doc__, STEPS, argv)
    checkpoint = args.models / CHECKPOINT
    dataset = training_data(args, checkpoint)
    no_label = len(dataset.info["classes"])

    torch.manual_seed(args.seed)  # for the initial weights
    unet = make_unet(dataset.info["shape"], num_class_embeds=no_label + 1)

    def told(y, rng):
        """Algorithm 1 of the paper: some labels are dropped."""
        dropped = torch.rand(len(y), generator=rng) < DROPPED
        return y.masked_fill(dropped.to(y.device), no_label)

    def validate(run):
        run.log(f"loss {run.recent_loss():.4f}")
        return {}

    run = train_ddpm.train_unet(args, dataset, checkpoint, unet, validate, told)
    print(f"{checkpoint}: {args.steps} steps in {run.elapsed():.0f} s")


if __name__ == "__main__":
    main()
