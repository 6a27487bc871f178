"""The classifier-free guidance baseline, trained for as many steps as the unconditional U-Net.

    python -m evaluation.classifier_free

Ho & Salimans 2022, arXiv 2207.12598: the U-Net also takes the label, which is dropped with
probability 0.1. Everything else is as in train_ddpm.py. Writes models/classifier_free.pth; with
--models DIR, it goes to DIR.
"""

from functools import partial

import torch

from data import Dataset, add_dataset_flags
from diffusion import CHANNELS, eps_from_x_0, make_unet, x_0_from_eps
from support import cli
from support.training import add_training_flags, training_settings
from train_ddpm import BATCH_SIZE, LEARNING_RATE, STEPS, ddpm_loss, train

DROPPED = 0.1  # fraction of labels that are dropped, p_uncond in the paper
SCALE = 1.25  # chosen by the rule in results/README.md


def classifier_free(ddpm, scale=SCALE):
    """Classifier-free guidance: a function (x_t, t, y) -> the guided noise, for `sample`.

    Equation (6) of the paper with w = s - 1, for a `DDPM` whose last label means "none". The
    predicted x_0 is clipped afterward. The scale s is a number or a function of t.
    """

    def predict(x_t, t, y):
        s, abar_t = scale(t) if callable(scale) else scale, ddpm.abar[t]
        none = torch.full_like(y, ddpm.unet.config.num_class_embeds - 1)
        eps, eps_y = (ddpm.unet_eps(x_t, t, labels) for labels in (none, y))
        x_0 = ddpm.clip(x_0_from_eps(x_t, eps + s * (eps_y - eps), abar_t))
        return eps_from_x_0(x_t, x_0, abar_t)

    return predict


def classifier_free_loss(unet, scheduler, x_0, y):
    """The DDPM loss, with some labels dropped: Algorithm 1 of the paper."""
    dropped = (torch.rand(len(y)) < DROPPED).to(y.device)
    y = y.masked_fill(dropped, unet.config.num_class_embeds - 1)
    return ddpm_loss(partial(unet, class_labels=y), scheduler, x_0)


@cli.one_line_errors
def main(argv=None):
    parser = cli.make_parser(__doc__)
    add_training_flags(parser, STEPS, BATCH_SIZE, LEARNING_RATE, CHANNELS, bf16=True)
    add_dataset_flags(parser)
    args = parser.parse_args(argv)
    dataset = Dataset(args.dataset, args.size)
    print(dataset)

    torch.manual_seed(args.seed)
    num_labels = len(dataset.info["classes"]) + 1  # the last one means "none"
    in_channels, size, _ = dataset.info["shape"]
    unet = make_unet(size, in_channels, args.channels, num_labels).to(args.device)
    checkpoint, settings = args.models / "classifier_free.pth", training_settings(args, dataset)
    state = train(unet, dataset, checkpoint, loss_of=classifier_free_loss, **settings)
    state.finish()
    print(f"saved {checkpoint} after {state.seconds():.0f} s")


if __name__ == "__main__":
    main()
