"""The judge: a classifier of clean digits that measures samples and never guides.

    python -m evaluation.judge
    python -m evaluation.judge --steps 300 --models trial    # a short trial in another folder
    python -m evaluation.judge --resume                      # continue after Ctrl-C

Writes models/judge.pth; with --models DIR, DIR/judge.pth. The weights that are kept are those of
the epoch with the best validation accuracy; test accuracy is only reported.
"""

import math
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers.optimization import get_cosine_schedule_with_warmup
from torch import nn
from torch.nn.utils import clip_grad_norm_
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from diffusion import SCHEDULE
from inference import AGREED
from mnist import add_data_flags, open_dataset
from support import cli
from support.checkpoints import MODELS, load_checkpoint, save_checkpoint
from support.streams import batch_indices, generator
from support.training import Run

STEPS = 5_148  # twelve epochs
BATCH_SIZE = 128
LEARNING_RATE = 2e-3
WEIGHT_DECAY = 0.02
LABEL_SMOOTHING = 0.05
EMA_DECAY = 0.999


class Judge(nn.Module):
    """Plain convolutions, BatchNorm, ReLU and max-pooling: built unlike the guide on purpose.

    Args:
        num_features: width of the features before the last layer, in which distances are measured.
        num_classes: C.
    """

    def __init__(self, num_features=128, num_classes=10):
        super().__init__()
        self.config = {"num_features": num_features, "num_classes": num_classes}
        self.convolutions = nn.Sequential(
            *block(1, 32, 5), nn.MaxPool2d(2),
            *block(32, 64, 3), nn.MaxPool2d(2),
            *block(64, 64, 3), *block(64, 128, 3), nn.Flatten(),
        )  # fmt: skip
        self.fully_connected = nn.Sequential(
            nn.Dropout(0.3),
            nn.Linear(128 * 7 * 7, num_features),
            nn.BatchNorm1d(num_features),
            nn.ReLU(),
        )
        self.linear = nn.Linear(num_features, num_classes)

    def features(self, x_0):
        """(B, 1, 28, 28) in [-1, 1] -> (B, num_features)."""
        return self.fully_connected(self.convolutions(x_0))

    def forward(self, x_0):
        """(B, 1, 28, 28) in [-1, 1] -> logits (B, C)."""
        return self.linear(self.features(x_0))


def block(in_channels, out_channels, size):
    """The layers of a convolution with BatchNorm and ReLU."""
    convolution = nn.Conv2d(in_channels, out_channels, size, padding=size // 2, bias=False)
    return convolution, nn.BatchNorm2d(out_channels), nn.ReLU()


def load_judge(folder=MODELS, device="cpu"):
    """The judge of a folder, in eval mode. Raises UserError."""
    path, made_by = Path(folder, "judge.pth"), "-m evaluation.judge"
    return load_checkpoint(path, Judge, **AGREED, made_by=made_by, device=device)


@torch.no_grad()
def judge_images(judge, images, device="cpu", batch_size=500):
    """Features (N, D) and predictions (N,) of images (N, 1, 28, 28) in [-1, 1]; on the CPU."""
    features = torch.cat([judge.features(part.to(device)) for part in images.split(batch_size)])
    return features.cpu(), judge.linear(features).argmax(dim=1).cpu()


def accuracy_of(judge, images, labels, device="cpu"):
    """The share of images whose label the judge predicts."""
    return (judge_images(judge, images, device)[1] == labels).float().mean().item()


def train(run, judge, ema, optimizer, images, labels):
    """Minimise the cross-entropy of randomly transformed images (N, 1, 28, 28), labels (N,)."""
    device = next(judge.parameters()).device
    batch_size, seed = run.settings["batch_size"], run.settings["seed"]
    for step in run:
        torch.manual_seed(seed + step)  # for dropout
        index = batch_indices(len(images), batch_size, seed, step)
        x_0 = random_affine(images[index], generator(seed, "judge", step))
        logits, y = judge(x_0.to(device)), labels[index].to(device)
        loss = F.cross_entropy(logits, y, label_smoothing=LABEL_SMOOTHING)
        optimizer.zero_grad()
        loss.backward()
        run.record(loss, clip_grad_norm_(judge.parameters(), math.inf))  # not clipped
        optimizer.step()
        ema.update_parameters(judge)


def random_affine(images, rng, degrees=12.0, scale=0.12, shear=0.15, shift=0.1):
    """Rotate, scale, shear and shift each image at random: (B, 1, 28, 28) in [-1, 1], to the same.

    Args:
        rng: a generator. degrees, scale, shear, shift: the largest amounts; scale is logarithmic,
            shift a share of the width.
    """
    u = torch.rand(5, len(images), generator=rng) * 2 - 1
    angle, zoom, shear = u[0] * math.radians(degrees), (u[1] * scale).exp(), u[2] * shear
    cos, sin = angle.cos(), angle.sin()
    rows = [
        torch.stack([zoom * cos, zoom * (shear * cos - sin), u[3] * 2 * shift], 1),
        torch.stack([zoom * sin, zoom * (shear * sin + cos), u[4] * 2 * shift], 1),
    ]
    grid = F.affine_grid(torch.stack(rows, dim=1), images.shape, align_corners=False)
    return F.grid_sample(images + 1, grid, align_corners=False) - 1  # the border is background, -1


def measure_epoch(run, ema, best, validation, device):
    """Validate the averaged weights and keep the best so far: a dict for the history."""
    accuracy = accuracy_of(ema.module.eval(), *validation, device)
    if accuracy >= max((entry["validation_accuracy"] for entry in run.history), default=0):
        best.load_state_dict(ema.module.state_dict())
    run.log(f"validation accuracy {accuracy:.4f}")
    return {"validation_accuracy": accuracy}


@cli.one_line_errors
def main(argv=None):
    parser = cli.ArgumentParser(__doc__)
    cli.add_training_flags(parser, STEPS, BATCH_SIZE, LEARNING_RATE)
    add_data_flags(parser)
    args = parser.parse_args(argv)
    device = cli.pick_device(args.device)
    dataset = open_dataset(args)
    (images, labels), validation = dataset.load("train"), dataset.load("validation")
    weights, state = args.models / "judge.pth", args.models / "judge.state.pth"

    torch.manual_seed(args.seed)  # for the initial weights
    num_classes = len(dataset.info["classes"])
    judge, best = (Judge(num_classes=num_classes).to(device) for _ in range(2))
    multi_avg_fn = get_ema_multi_avg_fn(EMA_DECAY)
    ema = AveragedModel(judge, multi_avg_fn=multi_avg_fn, use_buffers=True)
    optimizer = torch.optim.AdamW(
        judge.parameters(), lr=args.lr, weight_decay=WEIGHT_DECAY, fused=True
    )
    lr_scheduler = get_cosine_schedule_with_warmup(optimizer, args.steps // 20, args.steps)
    settings = cli.training_settings(args, dataset.info)
    parts = {"network": judge, "ema": ema, "best": best}
    parts |= {"optimizer": optimizer, "lr_scheduler": lr_scheduler}

    run = Run("judge", settings, parts, len(images),
              lambda run: measure_epoch(run, ema, best, validation, device))  # fmt: skip
    run.keep_state(state, args.resume, "-m evaluation.judge", weights)
    cli.say_start(args.dataset, device, args.steps * args.batch_size * 1.3e-3)
    train(run, judge, ema, optimizer, images, labels)
    chosen = max(reversed(run.history), key=lambda entry: entry["validation_accuracy"])
    test_accuracy = accuracy_of(best.eval(), *dataset.load("test"), device)
    seconds = run.elapsed()
    summary = {**settings, "seconds": seconds, "chosen": chosen, "test_accuracy": test_accuracy}
    save_checkpoint(weights, best, SCHEDULE, dataset.info, args.seed, summary)
    run.done()
    print(f"{weights}: {args.steps} steps in {seconds:.0f} s; step {chosen['step']} is kept: "
          f"validation accuracy {chosen['validation_accuracy']:.4f}, "
          f"test accuracy {test_accuracy:.4f}")  # fmt: skip


if __name__ == "__main__":
    main()
