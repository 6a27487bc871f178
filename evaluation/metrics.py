"""Metrics of samples, with confidence intervals and changes between rows.

To add a metric, add it to `METRICS`; it becomes a column of every table.
"""

import math
from typing import NamedTuple

import torch

from evaluation.judge import judge_images
from support import UserError
from support.streams import generator

METRICS = {  # name -> function of samples and real images (both `Readings`); upper bound
    "accuracy": (lambda seen, _: (seen.prediction == seen.labels).double().mean().item(), 1),
    "frechet": (lambda samples, real: frechet_distance(real.features, samples.features), math.inf),
    "class_frechet": (lambda samples, real: class_frechet(samples, real), math.inf),
    "precision": (lambda samples, real: on_manifold(samples.features, real.features), 1),
    "recall": (lambda samples, real: on_manifold(real.features, samples.features), 1),
    "mean_intensity": (lambda samples, real: samples.images.float().mean().item() / 255, 1),
}
NUM_NEIGHBORS = 3  # k of precision and recall, Kynkäänniemi et al. 2019
NUM_HALVES = 250  # estimates a standard deviation to within 4.5%
Z = 1.96  # standard errors on each side of a 95% interval
CHUNK = 500  # points per distance matrix


class Readings(NamedTuple):
    """Images with the judge's features and predictions."""

    images: torch.Tensor  # (N, C, H, W), uint8
    features: torch.Tensor  # (N, D)
    prediction: torch.Tensor  # (N,)
    labels: torch.Tensor  # (N,), the target classes


def readings(judge, images, labels):
    """The `Readings` of uint8 images (N, C, H, W); labels (N,) default to the predictions."""
    features, prediction = judge_images(judge, images)
    return Readings(images, features, prediction, prediction if labels is None else labels)


class Scores:
    """The metrics of samples against real images, both `Readings`.

    Intervals come from random halves of both, the same at every call. Their standard deviation
    estimates the standard error: the delete-half jackknife (Shao & Wu 1989). A bootstrap would
    repeat images, and neighbors at distance 0 distort precision and recall. On ten disjoint pairs
    of real sets, the standard error of the Fréchet distance was right (0.017 and 0.017), and that
    of the class-wise distance 50% too large (0.065 instead of 0.044).
    """

    def __init__(self, samples, real, names=tuple(METRICS)):
        self.n, self.values = len(samples.labels), metrics_of(samples, real, names)
        halves = []
        for k in range(NUM_HALVES):
            both = (random_half(whole, generator(0, "halves", k)) for whole in (samples, real))
            halves.append(metrics_of(*both, names))
        self.halves = {
            name: torch.tensor([half[name] for half in halves], dtype=torch.float64)
            for name in names
        }

    def row(self):
        """All metrics with their 95% confidence intervals: name -> number."""
        row = {}
        for name, value in self.values.items():
            half_width = Z * self.halves[name].std().item()
            low, high = max(value - half_width, 0), min(value + half_width, METRICS[name][1])
            if name == "accuracy":
                low, high = wilson_interval(round(value * self.n), self.n)
            row |= with_interval(name, value, low, high)
        return row

    def changes_from(self, first):
        """Compare with the scores of another row that uses the same noise: name -> number.

        The change in each metric, with an interval from the same halves for both rows.
        """
        row = {}
        for name in self.values:
            change = self.values[name] - first.values[name]
            half_width = Z * (self.halves[name] - first.halves[name]).std().item()
            row |= with_interval(f"{name}_change", change, change - half_width, change + half_width)
        return row


def metrics_of(samples, real, names):
    """The metrics with these names: name -> number."""
    return {name: METRICS[name][0](samples, real) for name in names}


def with_interval(name, value, low, high):
    """A value and its interval as three columns."""
    return {name: value, f"{name}_low": low, f"{name}_high": high}


def random_half(whole, rng):
    """The `Readings` of a random half of the images of each class."""
    order = torch.randperm(len(whole.labels), generator=rng)
    by_class = order[whole.labels[order].argsort(stable=True)]  # random within each class
    return Readings(*(values[by_class[::2]] for values in whole))


def wilson_interval(correct, n):
    """The 95% confidence interval of a proportion (Wilson 1927): low, high."""
    p, z = correct / n, Z
    center = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return max(center - half, 0.0), min(center + half, 1.0)


def frechet_distance(real, fake):
    """The Fréchet distance (Heusel et al. 2017) between features (N, D) and (M, D).

    |mu_1 - mu_2|^2 + tr(S_1 + S_2 - 2 (S_1 S_2)^(1/2)). With S_2 = L L^T, the eigenvalues of
    S_1 S_2 are those of the symmetric matrix L^T S_1 L.
    """
    real, fake = real.double(), fake.double()
    shift = (real.mean(dim=0) - fake.mean(dim=0)).square().sum()
    s_1, s_2 = real.T.cov(), fake.T.cov()
    values, vectors = torch.linalg.eigh(s_2)
    root = vectors * values.clamp(min=0).sqrt()  # L
    eigenvalues = torch.linalg.eigvalsh(root.T @ s_1 @ root)
    return (shift + s_1.trace() + s_2.trace() - 2 * eigenvalues.clamp(min=0).sqrt().sum()).item()


def class_frechet(samples, real):
    """The mean over the classes of the Fréchet distance between samples and real images of a class.

    "Intra-FID" (Miyato & Koyama 2018). Samples that are not the target class increase it.
    """
    classes = [(samples.labels == k, real.labels == k) for k in real.labels.unique()]
    distances = [frechet_distance(real.features[b], samples.features[a]) for a, b in classes]
    return sum(distances) / len(distances)


def on_manifold(points, manifold):
    """The fraction of points (N, D) on the manifold of points (M, D).

    A point is on the manifold if it is at least as close to some manifold point as that point's own
    k-th nearest neighbor.
    """
    k = NUM_NEIGHBORS + 1  # each point is its own nearest neighbor
    parts = manifold.split(CHUNK)
    nearest = [torch.cdist(part, manifold).topk(k, largest=False).values for part in parts]
    radius = torch.cat(nearest)[:, -1]  # (M,)
    parts = points.split(CHUNK)
    inside = [(torch.cdist(part, manifold) <= radius).any(dim=1) for part in parts]
    return torch.cat(inside).float().mean().item()


def balanced_parts(labels, num_parts, num_classes):
    """Split labels (N,) into random parts, M images per class: indices (num_parts, K, M).

    The parts are disjoint, and M is as large as the smallest class allows. Raises UserError if M
    is 0.
    """
    order = torch.randperm(len(labels), generator=generator(0, "real images"))
    by_class = [order[labels[order] == y] for y in range(num_classes)]
    size = min(map(len, by_class)) // num_parts
    if size == 0:
        raise UserError("too few real images: each class needs at least one image per part")
    return torch.stack([index[: num_parts * size].view(num_parts, size) for index in by_class], 1)
