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
from data import Dataset, add_dataset_flags, from_uint8
from diffusion import SCHEDULE, noised_for_validation
from support import cli
from support.training import FUSED_ADAMW, TrainingState, add_training_flags, training_settings

STEPS = 6_000
BATCH_SIZE = 128
LEARNING_RATE = 2e-3
WARMUP_STEPS = 200
WEIGHT_DECAY = 0.05
MAX_GRAD_NORM = 1.0


def train(
    classifier, dataset, checkpoint, steps=STEPS, batch_size=BATCH_SIZE, lr=LEARNING_RATE,
    resume=False, **settings
):  # fmt: skip
    """Minimize the cross-entropy on noised images; on return, the classifier is in eval mode.

    The classifier is (x_t, t) -> logits, checkpoint its Path, lr the peak learning rate; settings
    are more plain values for the checkpoint, such as the seed. Returns the `TrainingState`, whose
    `finish` writes the checkpoint.
    """
    validation = dataset.load("validation")
    device = next(classifier.parameters()).device
    scheduler = DDPMScheduler(**SCHEDULE)

    optimizer = torch.optim.AdamW(
        classifier.parameters(), lr, weight_decay=WEIGHT_DECAY, fused=device.type in FUSED_ADAMW
    )
    warmup = min(WARMUP_STEPS, steps // 2)
    lr_scheduler = get_cosine_schedule_with_warmup(optimizer, warmup, steps)
    settings |= {"steps": steps, "batch_size": batch_size, "lr": lr}
    state = TrainingState(
        checkpoint, dataset, SCHEDULE, settings, resume,
        network=classifier, optimizer=optimizer, lr_scheduler=lr_scheduler,
    )  # fmt: skip

    classifier.train()
    for images, y in state.batches():
        x_0 = from_uint8(images)  # (B, C, H, W) in [-1, 1]
        t = torch.randint(scheduler.config.num_train_timesteps, (len(x_0),))  # (B,)
        eps = torch.randn(x_0.shape)
        x_t = scheduler.add_noise(x_0, eps, t)  # DDPM (4)
        logits = classifier(x_t.to(device), t.to(device))  # (B, K)
        loss = F.cross_entropy(logits, y.to(device))

        optimizer.zero_grad()
        loss.backward()
        clip_grad_norm_(classifier.parameters(), MAX_GRAD_NORM)
        optimizer.step()
        lr_scheduler.step()

        if state.count(loss):
            state.report(validate(classifier.eval(), scheduler, *validation))
            classifier.train()
    classifier.eval()
    return state


@torch.no_grad()
def validate(classifier, scheduler, images, labels, batch_size=500):
    """Accuracy and mean confidence on images, noised as `noised_for_validation` does it: a dict."""
    device = next(classifier.parameters()).device
    x_t, t, _ = noised_for_validation(scheduler, images)
    probabilities = []
    for part in torch.arange(len(images)).split(batch_size):
        logits = classifier(x_t[part].to(device), t[part].to(device))
        probabilities.append(logits.softmax(dim=1).cpu())
    confidence, prediction = torch.cat(probabilities).max(dim=1)
    accuracy = (prediction == labels).float().mean().item()
    return {"validation_accuracy": accuracy, "validation_confidence": confidence.mean().item()}


@cli.one_line_errors
def main(argv=None):
    parser = cli.make_parser(__doc__)
    add_training_flags(parser, STEPS, BATCH_SIZE, LEARNING_RATE, CHANNELS)
    add_dataset_flags(parser)
    args = parser.parse_args(argv)
    dataset = Dataset(args.dataset, args.size)
    print(dataset)

    torch.manual_seed(args.seed)
    num_classes, image_shape = len(dataset.info["classes"]), dataset.info["shape"]
    classifier = Classifier(args.channels, num_classes=num_classes, image_shape=image_shape)
    classifier.to(args.device)
    checkpoint = args.models / "classifier.pth"
    state = train(classifier, dataset, checkpoint, **training_settings(args, dataset))
    state.finish()
    print(f"saved {checkpoint} after {state.seconds():.0f} s")


if __name__ == "__main__":
    main()
