"""What is measured of samples, each with its interval, and whether two settings differ."""

import math
from typing import NamedTuple

import torch
from torch import nn

from evaluation.judge import judge_images
from support.streams import generator

try:
    from scipy.stats import binomtest
    from torchmetrics.image.fid import FrechetInceptionDistance
except ModuleNotFoundError:  # evaluate.py reports it
    FrechetInceptionDistance = None

MEASURES = ("frechet", "precision", "recall", "boldness", "boldness_spread")
NUM_CHANGES = 3  # of these, how far a row differs from the default is told too
NUM_NEIGHBOURS = 3  # k of precision and recall, Kynkäänniemi et al. 2019
NUM_HALVES = 50
NUM_LEAST = 2 * (NUM_NEIGHBOURS + 1)  # images of a set: its halves have neighbours enough
Z = 1.96  # standard errors in half of a 95 % interval
CHANGES = (
    "only_default_right", "only_this_right", "mcnemar_p",
    *(f"{name}_change{end}" for name in MEASURES[:NUM_CHANGES] for end in ("", "_low", "_high")),
)  # fmt: skip


class Seen(NamedTuple):
    """Images as the judge sees them."""

    features: torch.Tensor  # (N, D)
    prediction: torch.Tensor  # (N,)
    labels: torch.Tensor  # (N,), what they should show
    ink: torch.Tensor  # (N,), the mean pixel, 0 .. 1

    def part(self, index):
        return Seen(*(values[index] for values in self))


def see(judge, images, labels=None, device="cpu"):
    """Images (N, 1, 28, 28), with labels (N,) or with those that the judge predicts: `Seen`."""
    features, prediction = judge_images(judge, images, device)
    labels = prediction if labels is None else labels
    return Seen(features, prediction, labels, images.mean(dim=(1, 2, 3)) / 2 + 0.5)


def accuracy(seen):
    """The share that the judge reads as its label, with its 95 % interval: a dict of strings."""
    correct = seen.prediction == seen.labels
    low, high = wilson_interval(correct.sum().item(), len(correct))
    parts = [correct[seen.labels == y].float() for y in range(int(seen.labels.max()) + 1)]
    return {
        "accuracy": f"{correct.float().mean():.4f}",
        "accuracy_low": f"{low:.4f}",
        "accuracy_high": f"{high:.4f}",
        "accuracy_per_digit": " ".join(
            f"{part.mean():.3f}" if len(part) else "-" for part in parts
        ),
    }


def measure(seen, real):
    """All `MEASURES` of samples against real images, both `Seen`: float64 (5,).

    Boldness is the mean pixel. Its spread is the standard deviation within a digit.
    """
    of_digit = [seen.ink[seen.prediction == y] for y in seen.prediction.unique()]
    variances = [ink.var().item() for ink in of_digit if len(ink) > 1]
    spread = torch.tensor(variances).mean().sqrt()  # NaN if there is a single image of each
    precision, recall = precision_recall(real.features, seen.features)
    frechet = frechet_distance(real.features, seen.features)
    values = frechet, precision, recall, seen.ink.mean(), spread
    return torch.tensor(values, dtype=torch.float64)


def over_halves(seen, real):
    """All `MEASURES` of random halves of both, the same at every call: float64 (NUM_HALVES, 5).

    Their standard deviation is the standard error of the measures of the whole: the delete-half
    jackknife (Shao & Wu 1989). A bootstrap would draw images twice; their neighbours at distance 0
    distort precision and recall.
    """
    rows = []
    for k in range(NUM_HALVES):
        rng = generator(0, "halves", k)
        rows.append(measure(*(part.part(random_half(part.labels, rng)) for part in (seen, real))))
    return torch.stack(rows)


def random_half(labels, rng):
    """The indices of a random half of each class of labels (N,)."""
    order = torch.randperm(len(labels), generator=rng)
    return order[labels[order].argsort(stable=True)][::2]


class Measured:
    """Samples, measured against real images, both `Seen`."""

    def __init__(self, seen, real):
        self.correct = seen.prediction == seen.labels
        self.accuracy = accuracy(seen)
        self.values, self.halves = measure(seen, real), over_halves(seen, real)

    def row(self):
        """All measures and their 95 % intervals: a dict of strings."""
        row, errors = dict(self.accuracy), self.halves.std(dim=0).tolist()
        for name, value, error in zip(MEASURES, self.values.tolist(), errors):
            most = 1 if name in ("precision", "recall") else math.inf
            row |= with_interval(name, value, error, 0, most)
        return row

    def changes_from(self, default):
        """How far samples are from those of `default`, drawn from the same noise: by `CHANGES`.

        In how many images only one of both is right, with the p of McNemar's exact test; and the
        difference of other measures, whose interval is over the same halves.
        """
        this, other = self.correct, default.correct
        only_this, only_default = int((this & ~other).sum()), int((other & ~this).sum())
        counts = only_default, only_this, f"{mcnemar(only_this, only_default):.4f}"
        row = dict(zip(CHANGES, map(str, counts)))
        errors = (self.halves - default.halves).std(dim=0).tolist()
        for k, name in enumerate(MEASURES[:NUM_CHANGES]):
            change = (self.values - default.values)[k].item()
            row |= with_interval(f"{name}_change", change, errors[k])
        return row


def with_interval(name, value, error, least=-math.inf, most=math.inf):
    """A value and its 95 % interval, from its standard error: a dict of strings."""
    low, high = max(value - Z * error, least), min(value + Z * error, most)
    return {name: f"{value:.4f}", f"{name}_low": f"{low:.4f}", f"{name}_high": f"{high:.4f}"}


def mcnemar(only_this, only_default):
    """p of McNemar's exact test (1947), by how often one setting is right and the other is not."""
    total = only_this + only_default
    return binomtest(only_this, total).pvalue if total else 1.0


def wilson_interval(correct, n):
    """The 95 % interval of a share (Wilson 1927): low and high."""
    share, z = correct / n, Z
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


def shuffled_classes(labels, classes):
    """The indices of each of these classes among labels (N,), in random order: a list."""
    order = torch.randperm(len(labels), generator=generator(0, "subset"))
    return [order[labels[order] == y] for y in classes]


def balanced_parts(labels, num_parts):
    """Disjoint random parts of labels (N,): indices (num_parts, C, M), equally many of each class.

    M is as large as the smallest class allows.
    """
    of_class = shuffled_classes(labels, labels.unique())
    size = min(map(len, of_class)) // num_parts
    return torch.stack([index[: num_parts * size].view(num_parts, size) for index in of_class], 1)
