"""Guides that never ship as the default: what a guide loses without noise, or with t in raw form.

    python -m evaluation.guides clean
    python -m evaluation.guides raw_t
    python -m evaluation.guides raw_t --steps 300 --models trial    # a short trial elsewhere
    python -m evaluation.guides clean --resume                      # continue after Ctrl-C

Each is trained as train_classifier.py trains the guide: as many images, the same optimizer. The
controls use them. Writes models/guide_clean.pth or guide_raw_t.pth; with --models DIR, to DIR.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import clip_grad_norm_

from classifier import Classifier
from inference import AGREED
from mnist import add_data_flags
from support import cli
from support.checkpoints import MODELS, load_checkpoint
from support.streams import batch_indices
from train_classifier import BATCH_SIZE, LEARNING_RATE, STEPS, fit, train


class CleanClassifier(Classifier):
    """The network of the guide, smaller, for clean images: it knows no t, its t is always 0."""

    def __init__(self, channels=16, embedding_dim=32, num_classes=10):
        super().__init__(channels, embedding_dim, num_classes)

    def forward(self, x_0, t):
        """x_0: (B, 1, 28, 28) in [-1, 1]. t: (B,), ignored. Returns logits (B, C)."""
        return super().forward(x_0, torch.zeros_like(t))


class RawTClassifier(nn.Module):
    """Two convolutions with max-pooling, and t as it is, 0 .. 999, beside the last features.

    Its logits are W h(x_t) + t w + b: t only shifts each class, whatever the image shows.
    """

    def __init__(self, channels=16, num_features=32, num_classes=10):
        super().__init__()
        self.config = {"channels": channels, "num_features": num_features}
        self.config["num_classes"] = num_classes
        self.features = nn.Sequential(
            nn.Conv2d(1, channels, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(channels, 2 * channels, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(), nn.Linear(2 * channels * 7 * 7, num_features), nn.ReLU(),
        )  # fmt: skip
        self.linear = nn.Linear(num_features + 1, num_classes)

    def forward(self, x_t, t):
        """x_t: (B, 1, 28, 28). t: (B,). Returns logits (B, C)."""
        return self.linear(torch.cat([self.features(x_t), t[:, None].float()], dim=1))

    log_p = Classifier.log_p


def train_clean(run, classifier, optimizer, images, labels):
    """As `train`, without noise: images (N, 1, 28, 28), labels (N,)."""
    device = next(classifier.parameters()).device
    batch_size, seed = run.settings["batch_size"], run.settings["seed"]
    for step in run:
        index = batch_indices(len(images), batch_size, seed, step)
        x_0, y = images[index].to(device), labels[index].to(device)  # (B, 1, 28, 28), (B,)
        loss = F.cross_entropy(classifier(x_0, torch.zeros_like(y)), y)
        optimizer.zero_grad()
        loss.backward()
        run.record(loss, clip_grad_norm_(classifier.parameters(), 1.0))
        optimizer.step()


GUIDES = {
    "clean": (CleanClassifier, train_clean),
    "raw_t": (RawTClassifier, train),
}


def load_guide(name, folder=MODELS, device="cpu"):
    """One of `GUIDES` from a folder, in eval mode. Raises UserError."""
    path, made_by = guide_path(name, folder), f"-m evaluation.guides {name}"
    return load_checkpoint(path, GUIDES[name][0], **AGREED, made_by=made_by, device=device)


def guide_path(name, folder=MODELS):
    """The checkpoint of one of `GUIDES`."""
    return Path(folder, f"guide_{name}.pth")


@cli.one_line_errors
def main(argv=None):
    parser = cli.ArgumentParser(__doc__)
    parser.add_argument("guide", choices=GUIDES, help="trained on clean images; with raw t")
    cli.add_training_flags(parser, STEPS, BATCH_SIZE, LEARNING_RATE)
    add_data_flags(parser)
    args = parser.parse_args(argv)
    network, train_it = GUIDES[args.guide]
    made_by = f"-m evaluation.guides {args.guide}"
    run, *_ = fit(args, f"guide_{args.guide}", network, made_by, train_it, 3e-4)
    run.done()
    print(f"{guide_path(args.guide, args.models)}: {args.steps} steps in {run.elapsed():.0f} s")


if __name__ == "__main__":
    main()
