"""Fine-tune the classifier so that guidance with s = 1 removes more of the U-Net's error.

    python -m evaluation.fine_tuned --steps 300 --models runs/fine_tuned_300

The loss is the cross-entropy plus the error of the guided noise, as a fraction of the error
without guidance: denoising likelihood score matching, Chao et al. 2022, arXiv 2203.14206. It starts
from models/classifier.pth.

Writes classifier.pth to the folder.
"""

import torch
import torch.nn.functional as F

from data import Dataset
from diffusion import SCHEDULE
from inference import load_models
from support import cli
from support.training import Run, add_training_flags, settings_of

STEPS, BATCH_SIZE, LEARNING_RATE = 300, 128, 2e-4


def guided_loss(ddpm, classifier, x_0, y):
    """The loss on a batch of images x_0 (B, C, H, W)."""
    t = torch.randint(ddpm.scheduler.config.num_train_timesteps, (len(x_0),))
    eps = torch.randn_like(x_0)
    x_t = ddpm.scheduler.add_noise(x_0, eps, t).requires_grad_()
    logits = classifier(x_t, t)
    log_p_y = -F.cross_entropy(logits, y, reduction="none")  # (B,)
    [grad] = torch.autograd.grad(log_p_y.sum(), x_t, create_graph=True)
    with torch.no_grad():
        r = ddpm.eps(x_t, t) - eps
    root = (1 - ddpm.abar[t]).sqrt().view(-1, 1, 1, 1)
    error = (r - root * grad).square().mean() / r.square().mean()  # ADM (14)
    return error - log_p_y.mean()


@cli.one_line_errors
def main(argv=None):
    parser = cli.ArgumentParser(__doc__)
    add_training_flags(parser, STEPS, BATCH_SIZE, LEARNING_RATE)
    args = parser.parse_args(argv)
    ddpm, classifier = load_models()
    torch.manual_seed(args.seed)
    checkpoint = args.models / "classifier.pth"
    run = Run(checkpoint, Dataset(), args.resume, dict(SCHEDULE), **settings_of(args))
    classifier.requires_grad_()
    optimizer = torch.optim.AdamW(classifier.parameters(), args.lr, weight_decay=0.0)
    run.start(classifier, optimizer=optimizer)
    for x_0, y in run.batches():
        loss = guided_loss(ddpm, classifier, x_0, y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        run.losses.append(loss.detach().clone())
    classifier.eval()
    run.save_checkpoint()
    print(f"saved {checkpoint} after {run.elapsed():.0f} s")


if __name__ == "__main__":
    main()
