"""What is measured of samples, each with its interval, and whether two settings differ."""

import math
from typing import NamedTuple

import torch

from evaluation.judge import judge_images
from mnist import from_uint8
from support.errors import UserError
from support.streams import generator

BOUNDS = {  # of measures, so that no interval leaves them
    "frechet": (0, math.inf),
    "precision": (0, 1),
    "recall": (0, 1),
    "boldness": (0, 1),
    "boldness_spread": (0, math.inf),
}
COMPARED = ("frechet", "precision", "recall")  # the change from the first row is told too
NUM_NEIGHBOURS = 3  # k of precision and recall, Kynkäänniemi et al. 2019
NUM_HALVES = 250  # their standard deviation is known to 4.5 %
Z = 1.96  # standard errors in half of a 95 % interval
CHUNK = 500  # points whose distances to all others are in memory


class Readings(NamedTuple):
    """Images, and what the judge reads in them."""

    images: torch.Tensor  # (N, C, H, W), uint8
    features: torch.Tensor  # (N, D)
    prediction: torch.Tensor  # (N,)
    labels: torch.Tensor  # (N,), what they should show


def readings(judge, images, labels):
    """`Readings` of uint8 images (N, C, H, W); without labels (N,), they are what is read."""
    features, prediction = judge_images(judge, images)
    labels = prediction if labels is None else labels
    return Readings(images, features, prediction, labels)


class Scores:
    """The measures of samples against real images, both `Readings`."""

    def __init__(self, samples, real):
        self.correct = samples.prediction == samples.labels
        self.values = measure(samples, real)
        self.halves = over_halves(samples, real)

    def row(self):
        """All measures and their 95 % intervals: name -> a number."""
        row = accuracy_row(self.correct)
        for name, value in self.values.items():
            half_width = Z * self.halves[name].std().item()
            lowest, highest = BOUNDS[name]
            low, high = max(value - half_width, lowest), min(value + half_width, highest)
            row |= with_interval(name, value, low, high)
        return row

    def changes_from(self, first):
        """How far these scores are from those of other samples of the same noise: name -> number.

        In how many images only one of both is right, and the difference of the measures `COMPARED`,
        whose interval is over the same halves.
        """
        only_this = int((self.correct & ~first.correct).sum())
        only_first = int((first.correct & ~self.correct).sum())
        row = {"only_first_right": only_first, "only_this_right": only_this}
        row["mcnemar_p"] = mcnemar(only_this, only_first)
        for name in COMPARED:
            change = self.values[name] - first.values[name]
            half_width = Z * (self.halves[name] - first.halves[name]).std().item()
            row |= with_interval(f"{name}_change", change, change - half_width, change + half_width)
        return row


def with_interval(name, value, low, high):
    """A value and the ends of its interval."""
    return {name: value, f"{name}_low": low, f"{name}_high": high}


def measure(samples, real):
    """All measures of samples against real images, both `Readings`: name -> a number.

    Precision and recall are those of Kynkäänniemi et al. 2019: the share of samples on the manifold
    of real images, and the share of real images on the manifold of samples. Boldness is the mean
    pixel, from 0 to 1, and its spread the standard deviation within a class, as the judge reads it.
    """
    bold = samples.images.float().mean(dim=(1, 2, 3)) / 255  # (N,)
    of_class = [bold[samples.prediction == y] for y in samples.prediction.unique()]
    variances = [boldness.var().item() for boldness in of_class if len(boldness) > 1]
    return {
        "frechet": frechet_distance(real.features, samples.features),
        "precision": covered(samples.features, real.features),
        "recall": covered(real.features, samples.features),
        "boldness": bold.mean().item(),
        "boldness_spread": torch.tensor(variances).mean().sqrt().item(),  # NaN if there is none
    }


def over_halves(samples, real):
    """`measure` of random halves of both, the same at every call: name -> (NUM_HALVES,).

    Their standard deviation is the standard error of the measures of the whole: the delete-half
    jackknife (Shao & Wu 1989). A bootstrap would draw images twice; their neighbours at distance 0
    distort precision and recall.
    """
    rngs = [generator(0, "halves", k) for k in range(NUM_HALVES)]
    values = [measure(random_half(samples, rng), random_half(real, rng)) for rng in rngs]
    return {
        name: torch.tensor([half[name] for half in values], dtype=torch.float64)
        for name in values[0]
    }


def random_half(whole, rng):
    """A random half of each class, of `Readings`."""
    order = torch.randperm(len(whole.labels), generator=rng)
    by_class = order[whole.labels[order].argsort(stable=True)]  # in random order within a class
    return Readings(*(values[by_class[::2]] for values in whole))


def mcnemar(only_this, only_first):
    """p of McNemar's exact test (1947), by how often only one of two settings is right."""
    total = only_this + only_first
    tail = sum(math.comb(total, k) for k in range(min(only_this, only_first) + 1)) / 2**total
    return min(2 * tail, 1.0)


def wilson_interval(correct, n):
    """The 95 % interval of a share (Wilson 1927): low and high."""
    p, z = correct / n, Z
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return max(centre - half, 0.0), min(centre + half, 1.0)


def accuracy_row(right):
    """The share of a boolean (N,) that is true, and its interval: name -> a number."""
    correct, n = int(right.sum()), len(right)
    return with_interval("accuracy", correct / n, *wilson_interval(correct, n))


def share(right):
    """The share of a boolean (N,) that is true, with its 95 % interval and N, as text."""
    correct, n = int(right.sum()), len(right)
    low, high = wilson_interval(correct, n)
    return f"{correct / n:.3f} [{low:.3f}, {high:.3f}] of {n:,}"


def frechet_distance(real, fake):
    """Fréchet distance (Heusel et al. 2017) between two sets of features, (N, D) and (M, D).

    |mu_1 - mu_2|^2 + tr(S_1 + S_2 - 2 (S_1 S_2)^(1/2)). With S_2 = L L^T, the eigenvalues of
    S_1 S_2 are those of L^T S_1 L, which is symmetric.
    """
    real, fake = real.double(), fake.double()
    shift = (real.mean(dim=0) - fake.mean(dim=0)).square().sum()
    s_1, s_2 = real.T.cov(), fake.T.cov()
    values, vectors = torch.linalg.eigh(s_2)
    root = vectors * values.clamp(min=0).sqrt()  # L
    eigenvalues = torch.linalg.eigvalsh(root.T @ s_1 @ root)
    return (shift + s_1.trace() + s_2.trace() - 2 * eigenvalues.clamp(min=0).sqrt().sum()).item()


def covered(points, manifold):
    """The share of points (N, D) that lie on the manifold of points (M, D).

    That is, nearer to one of these than this one's own k-th nearest neighbour among them.
    """
    k = NUM_NEIGHBOURS + 1  # since the nearest point to each one is itself
    parts = manifold.split(CHUNK)
    nearest = [torch.cdist(part, manifold).topk(k, largest=False).values for part in parts]
    radius = torch.cat(nearest)[:, -1]  # (M,)
    parts = points.split(CHUNK)
    inside = [(torch.cdist(part, manifold) <= radius).any(dim=1) for part in parts]
    return torch.cat(inside).float().mean().item()


def nearest_distances(images, train_images):
    """The distance in [-1, 1] of uint8 images (N, C, H, W) to the nearest training image: (N,)."""
    train = from_uint8(train_images).flatten(1)
    parts = from_uint8(images).flatten(1).split(CHUNK)
    return torch.cat([torch.cdist(part, train).amin(dim=1) for part in parts])


def balanced_parts(labels, num_parts, num_classes):
    """Disjoint random parts of labels (N,): indices (num_parts, K, M), equally many of each class.

    M is as large as the smallest class allows. Raises UserError if a class has no image for a part.
    """
    order = torch.randperm(len(labels), generator=generator(0, "subset"))
    of_class = [order[labels[order] == y] for y in range(num_classes)]
    counts = [len(index) for index in of_class]
    size = min(counts) // num_parts
    if size == 0:
        raise UserError(f"a class has too few images to measure with: there are {counts} of each")
    return torch.stack([index[: num_parts * size].view(num_parts, size) for index in of_class], 1)
