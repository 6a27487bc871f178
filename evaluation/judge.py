"""The judge: a classifier of clean digits that evaluates samples and is never used for guidance.

    python -m evaluation.judge

Writes models/judge.pth; with --models DIR, it goes to DIR.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from diffusers.optimization import get_cosine_schedule_with_warmup
from torch import nn
from torchvision.transforms import InterpolationMode, RandomAffine

from data import parse_with_dataset
from support import cli
from support.files import MODELS, load_checkpoint
from support.pictures import from_uint8, to_uint8
from support.training import FUSED, Run, add_training_flags, run_settings

STEPS = 5_148  # twelve epochs
BATCH_SIZE = 128
LEARNING_RATE = 2e-3
WEIGHT_DECAY = 0.02
LABEL_SMOOTHING = 0.05
# rotation, translation, scale, and shear, the same for a whole batch
AUGMENT = RandomAffine(12, (0.1, 0.1), (0.88, 1.13), 8, InterpolationMode.BILINEAR, fill=-1)


class Judge(nn.Module):
    """A CNN with BatchNorm, ReLU, and max pooling, deliberately unlike `Classifier`."""

    def __init__(self, num_features=128, num_classes=10, image_shape=(1, 28, 28)):
        super().__init__()
        self.config = {"num_features": num_features, "num_classes": num_classes}
        self.config["image_shape"] = list(image_shape)
        self.convolutions = nn.Sequential(
            *block(image_shape[0], 32, 5), nn.MaxPool2d(2),
            *block(32, 64, 3), nn.MaxPool2d(2),
            *block(64, 64, 3), *block(64, 128, 3), nn.Flatten(),
        )  # fmt: skip
        self.fully_connected = nn.Sequential(
            nn.Dropout(0.3), nn.Linear(128 * (image_shape[1] // 4) ** 2, num_features),
            nn.BatchNorm1d(num_features), nn.ReLU(),
        )  # fmt: skip
        self.linear = nn.Linear(num_features, num_classes)

    def features(self, x_0):  # (B, C, H, W) in [-1, 1] -> (B, num_features)
        return self.fully_connected(self.convolutions(x_0))

    def forward(self, x_0):  # (B, C, H, W) in [-1, 1] -> logits (B, K)
        return self.linear(self.features(x_0))


def block(in_channels, out_channels, size):
    """A convolution with BatchNorm and ReLU."""
    convolution = nn.Conv2d(in_channels, out_channels, size, padding=size // 2, bias=False)
    return convolution, nn.BatchNorm2d(out_channels), nn.ReLU()


class Judged(NamedTuple):
    """Images, and what the judge says about them."""

    images: torch.Tensor  # (N, C, H, W), uint8
    labels: torch.Tensor | None  # (N,), the target classes
    features: torch.Tensor  # (N, D)
    prediction: torch.Tensor  # (N,)
    confidence: torch.Tensor  # (N,), the probability of the prediction


def load_judge(path=MODELS / "judge.pth", device="cpu"):
    """Load a judge, in eval mode: (judge, info), as from `load_checkpoint`."""
    return load_checkpoint(path, Judge, device)


@torch.no_grad()
def judge_images(judge, images, labels=None):
    """Uint8 images (N, C, H, W) with their target classes (N,), if any, and what the judge sees."""
    device = judge.linear.weight.device
    features = torch.cat([judge.features(from_uint8(x).to(device)) for x in images.split(500)])
    confidence, prediction = judge.linear(features).softmax(dim=1).cpu().max(dim=1)
    return Judged(images, labels, features.cpu(), prediction, confidence)


def accuracy_of(judge, images, labels):
    """The fraction of uint8 images (N, C, H, W) that the judge classifies as labels (N,)."""
    return (judge_images(judge, images).prediction == labels).float().mean().item()


def read_digits(images):
    """The digits (N,) that the included judge sees in images (N, 1, 28, 28) in [-1, 1]."""
    return judge_images(load_judge()[0], to_uint8(images)).prediction


def train(judge, dataset, run, lr):
    """Minimize the cross-entropy on augmented images; see `train_classifier.train`."""
    device = judge.linear.weight.device
    weights, fused = judge.parameters(), device.type in FUSED
    optimizer = torch.optim.AdamW(weights, lr, weight_decay=WEIGHT_DECAY, fused=fused)
    lr_scheduler = get_cosine_schedule_with_warmup(optimizer, run.steps // 20, run.steps)

    for x_0, y in run.batches(optimizer=optimizer, lr_scheduler=lr_scheduler):
        logits = judge(AUGMENT(x_0).to(device))
        loss = F.cross_entropy(logits, y.to(device), label_smoothing=LABEL_SMOOTHING)

        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        lr_scheduler.step()

        run.log(loss)
        if run.validates:
            judge.eval()
            run.record(validation_accuracy=accuracy_of(judge, *dataset.splits["validation"]))
            judge.train()
    judge.eval()


@cli.one_line_errors
def main(argv=None):
    parser = cli.make_parser(__doc__)
    add_training_flags(parser, STEPS, BATCH_SIZE, LEARNING_RATE)
    args, dataset = parse_with_dataset(parser, argv)
    if args.batch_size == 1:
        parser.error("--batch-size must be at least 2, because of BatchNorm")

    torch.manual_seed(args.seed)
    num_classes, image_shape = len(dataset.info["classes"]), dataset.info["shape"]
    judge = Judge(num_classes=num_classes, image_shape=image_shape).to(args.device)
    checkpoint = args.models / "judge.pth"
    with Run(checkpoint, judge, dataset, None, **run_settings(args)) as run:
        train(judge, dataset, run, args.lr)
        test_accuracy = accuracy_of(judge, *dataset.splits["test"])
        run.save_checkpoint(test_accuracy=test_accuracy)
    print(f"saved {checkpoint} after {run.seconds():.0f} s; test accuracy {test_accuracy:.4f}")


if __name__ == "__main__":
    main()
