"""Step 1: train the classifier on MNIST digits with DDPM noise.

    python train_classifier.py
    python train_classifier.py --steps 300 --models trial    # a short trial in another folder
    python train_classifier.py --resume                      # after an interruption

Minimizes the cross-entropy on noisy images x_t, DDPM (4), with t uniform over all timesteps. At
high noise levels no classifier can be accurate, but it should not be overconfident: validation
reports the mean confidence next to the accuracy, and the two should agree.

Writes models/classifier.pth; with --models DIR, it goes to DIR.
"""

import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler
from diffusers.optimization import get_cosine_schedule_with_warmup
from torch.nn.utils import clip_grad_norm_

from classifier import CHANNELS, Classifier
from data import parse_with_dataset
from diffusion import SCHEDULE, noised_for_validation
from support import cli
from support.training import FUSED, Run, add_training_flags, run_settings

STEPS = 6_000
BATCH_SIZE = 128
LEARNING_RATE = 2e-3
WARMUP_STEPS = 200
WEIGHT_DECAY = 0.05
MAX_GRAD_NORM = 1.0


def train(classifier, scheduler, run, lr, validate):
    """Minimize the cross-entropy on noised images.

    Args:
        classifier: (x_t, t) -> logits.
        scheduler: a DDPMScheduler, which adds the noise.
        run: a `Run`, which makes the batches, shows a progress bar, and saves the state.
        lr: the peak learning rate.
        validate: called with the classifier in eval mode; returns a dict of numbers for the log.
    """
    device = next(classifier.parameters()).device
    optimizer = torch.optim.AdamW(
        classifier.parameters(), lr, weight_decay=WEIGHT_DECAY, fused=device.type in FUSED
    )
    warmup = min(WARMUP_STEPS, run.steps // 2)
    lr_scheduler = get_cosine_schedule_with_warmup(optimizer, warmup, run.steps)

    for x_0, y in run.batches(optimizer=optimizer, lr_scheduler=lr_scheduler):
        t = torch.randint(scheduler.config.num_train_timesteps, (len(x_0),))  # (B,)
        eps = torch.randn_like(x_0)  # (B, C, H, W)
        x_t = scheduler.add_noise(x_0, eps, t)  # DDPM (4)

        logits = classifier(x_t.to(device), t.to(device))  # (B, K)
        loss = F.cross_entropy(logits, y.to(device))

        optimizer.zero_grad()
        loss.backward()
        clip_grad_norm_(classifier.parameters(), MAX_GRAD_NORM)
        optimizer.step()
        lr_scheduler.step()

        run.log(loss)
        if run.validates:
            classifier.eval()
            run.record(**validate())
            classifier.train()
    classifier.eval()


@torch.no_grad()
def accuracy_and_confidence(classifier, scheduler, images, labels, batch_size=500):
    """Accuracy and mean confidence on images, noised as `noised_for_validation` does it."""
    device = next(classifier.parameters()).device
    x_t, t, _ = noised_for_validation(scheduler, images)
    probabilities = []
    for part in torch.arange(len(images)).split(batch_size):
        logits = classifier(x_t[part].to(device), t[part].to(device))
        probabilities.append(logits.softmax(dim=1).cpu())
    confidence, prediction = torch.cat(probabilities).max(dim=1)
    accuracy = (prediction == labels).float().mean().item()
    return accuracy, confidence.mean().item()


@cli.one_line_errors
def main(argv=None, classifier_class=Classifier):
    """Train Classifier, or another classifier_class(channels, num_classes=..., image_shape=...)."""
    parser = cli.make_parser(__doc__)
    add_training_flags(parser, STEPS, BATCH_SIZE, LEARNING_RATE, CHANNELS)
    args, dataset = parse_with_dataset(parser, argv)
    images, labels = dataset.load("validation")
    num_classes, image_shape = len(dataset.info["classes"]), dataset.info["shape"]

    torch.manual_seed(args.seed)
    scheduler = DDPMScheduler(**SCHEDULE)  # sampling reads it from the checkpoints
    classifier = classifier_class(args.channels, num_classes=num_classes, image_shape=image_shape)
    classifier.to(args.device)
    checkpoint = args.models / "classifier.pth"

    def validate():
        numbers = accuracy_and_confidence(classifier, scheduler, images, labels)
        return dict(zip(("validation_accuracy", "validation_confidence"), numbers))

    with Run(checkpoint, classifier, dataset, SCHEDULE, **run_settings(args)) as run:
        train(classifier, scheduler, run, args.lr, validate)
        run.save_checkpoint()
    print(f"saved {checkpoint} after {run.seconds():.0f} s")


if __name__ == "__main__":
    main()
