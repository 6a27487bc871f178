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

from data import Dataset, add_dataset_flags, from_uint8
from support import cli
from support.files import MODELS, load_checkpoint
from support.pictures import to_uint8
from support.training import FUSED_ADAMW, TrainingState, add_training_flags, training_settings

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
    """Load a judge; see `load_checkpoint`."""
    return load_checkpoint(path, Judge, device)


@torch.no_grad()
def judge_images(judge, images, labels=None):
    """Uint8 images (N, C, H, W) with their target classes (N,), if any, and what the judge sees."""
    device = judge.linear.weight.device
    features = torch.cat([judge.features(from_uint8(x).to(device)) for x in images.split(500)])
    confidence, prediction = judge.linear(features).softmax(dim=1).cpu().max(dim=1)
    return Judged(images, labels, features.cpu(), prediction, confidence)


def read_digits(images):
    """The digits (N,) that the included judge sees in images (N, 1, 28, 28) in [-1, 1]."""
    return judge_images(load_judge(), to_uint8(images)).prediction


def train(judge, dataset, checkpoint, steps, batch_size, lr, resume=False, **settings):
    """Minimize the cross-entropy on augmented images; see train_classifier.py for the arguments."""
    device = judge.linear.weight.device
    weights, fused = judge.parameters(), device.type in FUSED_ADAMW
    optimizer = torch.optim.AdamW(weights, lr, weight_decay=WEIGHT_DECAY, fused=fused)
    lr_scheduler = get_cosine_schedule_with_warmup(optimizer, steps // 20, steps)
    settings |= {"steps": steps, "batch_size": batch_size, "lr": lr}
    parts = {"network": judge, "optimizer": optimizer, "lr_scheduler": lr_scheduler}
    state = TrainingState(checkpoint, dataset, None, settings, resume, **parts)
    for images, y in state.batches():
        logits = judge(AUGMENT(from_uint8(images)).to(device))
        loss = F.cross_entropy(logits, y.to(device), label_smoothing=LABEL_SMOOTHING)

        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        lr_scheduler.step()
        if state.count(loss):
            accuracies = {}
            for split in "validation", "test":
                judged = judge_images(judge.eval(), *dataset.splits[split])
                right = judged.prediction == judged.labels
                accuracies[f"{split}_accuracy"] = right.float().mean().item()
            state.report(accuracies)
            judge.train()
    judge.eval()
    return state


@cli.one_line_errors
def main(argv=None):
    parser = cli.make_parser(__doc__)
    add_training_flags(parser, STEPS, BATCH_SIZE, LEARNING_RATE)
    add_dataset_flags(parser)
    args = parser.parse_args(argv)
    dataset = Dataset(args.dataset, args.size)
    print(dataset)

    torch.manual_seed(args.seed)
    num_classes, image_shape = len(dataset.info["classes"]), dataset.info["shape"]
    judge = Judge(num_classes=num_classes, image_shape=image_shape).to(args.device)
    checkpoint = args.models / "judge.pth"
    state = train(judge, dataset, checkpoint, **training_settings(args, dataset))
    state.finish()
    print(f"saved {checkpoint} after {state.seconds():.0f} s")


if __name__ == "__main__":
    main()
