"""What is measured of samples: accuracy, Fréchet distance, precision and recall."""

import math

import torch
from torch import nn

from evaluation.judge import judge_images
from support.streams import generator

try:
    from torchmetrics.image.fid import FrechetInceptionDistance
except ModuleNotFoundError:  # evaluate.py reports it
    FrechetInceptionDistance = None

ACCURACY = ("accuracy", "accuracy_low", "accuracy_high", "accuracy_per_digit")
NUM_NEIGHBOURS = 3  # k of precision and recall, Kynkäänniemi et al. 2019


def measure(judge, images, labels, real_features, device="cpu"):
    """All measures of images (N, 1, 28, 28) that should show `labels` (N,): a dict of strings.

    If `labels` is None, each measure of accuracy is "-".
    """
    features, prediction = judge_images(judge, images, device)
    unknown = dict.fromkeys(ACCURACY, "-") if labels is None else {}
    labels = prediction if labels is None else labels
    correct = prediction == labels
    low, high = wilson_interval(correct.sum().item(), len(labels))
    precision, recall = precision_recall(real_features, features)
    by_digit = [correct[labels == y] for y in range(int(labels.max()) + 1)]
    return {
        "accuracy": f"{correct.float().mean():.4f}",
        "accuracy_low": f"{low:.4f}",
        "accuracy_high": f"{high:.4f}",
        "frechet": f"{frechet_distance(real_features, features):.4f}",
        "precision": f"{precision:.4f}",
        "recall": f"{recall:.4f}",
        "accuracy_per_digit": " ".join(
            f"{part.float().mean():.3f}" if len(part) else "-" for part in by_digit
        ),
    } | unknown


def wilson_interval(correct, n, z=1.96):
    """The 95 % interval of a share (Wilson 1927): low and high."""
    share = correct / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(centre - half, 0.0), min(centre + half, 1.0)


def frechet_distance(real, fake):
    """Fréchet distance (Heusel et al. 2017) between two sets of features, (N, D) each."""
    identity = nn.Identity().eval()  # torchmetrics expects a feature network; these are features
    identity.num_features = real.shape[1]
    metric = FrechetInceptionDistance(feature=identity)
    metric.update(real.double(), real=True)
    metric.update(fake.double(), real=False)
    return metric.compute().item()


def precision_recall(real, fake):
    """Precision and recall (Kynkäänniemi et al. 2019) of features (N, D) and (M, D).

    Precision is the share of samples on the manifold of real images, recall the share of real
    images on the manifold of samples.
    """
    return covered(fake, real), covered(real, fake)


def covered(points, manifold, k=NUM_NEIGHBOURS, chunk=1_000):
    """The share of points (N, D) that lie on the manifold of points (M, D).

    That is, nearer to one of these than its k-th nearest neighbour among them.
    """
    parts = manifold.split(chunk)
    # k + 1, since the nearest point to each one is itself
    radius = torch.cat([torch.cdist(part, manifold).kthvalue(k + 1, dim=1)[0] for part in parts])
    inside = [(torch.cdist(part, manifold) <= radius).any(dim=1) for part in points.split(chunk)]
    return torch.cat(inside).float().mean().item()


def balanced_subset(images, labels, n, seed=0):
    """n random images (or all, if these are fewer), equally many of each class, and labels."""
    order, classes = torch.randperm(len(labels), generator=generator(seed)), labels.unique()
    index = torch.cat([order[labels[order] == y][: n // len(classes)] for y in classes])
    return images[index], labels[index]
