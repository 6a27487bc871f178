"""What a sensible user would take instead: classifier-free guidance, trained in the same time.

    python -m evaluation.rivals
    python -m evaluation.rivals --steps 100 --models trial    # a short trial in another folder

Ho & Salimans 2022, arXiv 2207.12598: our U-Net also takes the digit, and is trained for as many
steps as take the time of both our trainings. All else is as in train_ddpm.py. `python evaluate.py
--method guided classifier_free` compares the two.

Writes models/rival_classifier_free.pth; with --models DIR, to DIR.
"""

import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler, UNet2DModel

from diffusion import SCHEDULE, check_folder, clipped_noise, make_unet, schedule_of
from diffusion import training_target
from inference import Method
from mnist import training_data
from support import cli
from support.files import save_checkpoint
from support.training import Run
from train_ddpm import add_unet_flags, train

STEPS = 18_000
DROPPED = 0.1  # the share of labels that are dropped, p_uncond of the paper


class ClassifierFree(Method):
    """Classifier-free guidance, (6) of the paper, whose w is s - 1.

    eps(x_t, t, no label) + s (eps(x_t, t, y) - eps(x_t, t, no label)). As in ADM (14), the scale 0
    is unguided, and 1 is Bayes' rule; these take one call of the U-Net. The rival is the
    DDPMPipeline of a U-Net that takes labels, whose last one means no label.
    """

    labelled = True
    default_scale = 1.25, 0.0  # w and g of `growing_scale`: constant, chosen on validation

    def __init__(self, rival, scale):  # a table gives it what its arguments name
        super().__init__(rival, scale)

    def __call__(self, x_t, t, y):
        return clipped_noise(x_t, self.guided_eps(x_t, t, y), self.abar[t], self.limit)

    @torch.no_grad()
    def guided_eps(self, x_t, t, y):
        """(6) of the paper, not clipped: as x_t."""
        s = self.scale(t)
        if s == 1:
            return self.eps(x_t, t, y)
        eps = self.eps(x_t, t, self.no_label(y))
        if s == 0:
            return eps
        return eps + s * (self.eps(x_t, t, y) - eps)

    def no_label(self, y):
        """The last label for each of y (B,): (B,)."""
        return torch.full_like(y, self.ddpm.unet.config.num_class_embeds - 1)


def classifier_free_loss(unet, scheduler, x_0, y, rng):
    """The loss of a batch, as `train_ddpm.ddpm_loss`: Algorithm 1 of the paper.

    The U-Net is given the labels y (B,), of which some are dropped.
    """
    t = torch.randint(scheduler.config.num_train_timesteps, (len(x_0),), generator=rng)  # (B,)
    eps = torch.randn(x_0.shape, generator=rng)
    x_t = scheduler.add_noise(x_0, eps, t)
    target = training_target(scheduler, x_0, eps, t)
    dropped = torch.rand(len(y), generator=rng) < DROPPED
    y = y.masked_fill(dropped, unet.config.num_class_embeds - 1)
    x_t, t, y = x_t.to(unet.device), t.to(unet.device), y.to(unet.device)
    return F.mse_loss(unet(x_t, t, y).sample, target.to(unet.device))


@cli.one_line_errors
def main(argv=None):
    parser = cli.ArgumentParser(__doc__)
    add_unet_flags(parser, STEPS)
    args = parser.parse_args(argv)
    checkpoint = args.models / "rival_classifier_free.pth"
    scheduler = DDPMScheduler(**SCHEDULE)
    check_folder(args.models, checkpoint, scheduler)
    dataset = training_data(args, UNet2DModel, checkpoint)

    torch.manual_seed(args.seed)  # for the initial weights
    num_labels = len(dataset.info["classes"]) + 1  # the last one means no label
    unet = make_unet(dataset.info["shape"], args.channels, num_labels).to(args.device)
    run = train(args, dataset, checkpoint, unet, scheduler, Run.record, classifier_free_loss)
    save_checkpoint(checkpoint, unet, schedule_of(scheduler), dataset.info, run.summary())
    run.remove_state()
    print(f"{checkpoint}: {args.steps} steps in {run.elapsed():.0f} s")


if __name__ == "__main__":
    main()
