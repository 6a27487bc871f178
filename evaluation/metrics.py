"""Metrics of samples, with confidence intervals. Each of `METRICS` is a column of every table."""

import math

import torch

from evaluation.judge import Judged
from support.seeds import generator

METRICS = {  # name -> function of samples and real images (both `Judged`) that returns a number
    "accuracy": lambda samples, _: (samples.prediction == samples.labels).double().mean(),
    "doubtful": lambda samples, _: (samples.confidence < DOUBTFUL).double().mean(),
    "frechet": lambda samples, real: frechet_distance(real.features, samples.features),
    "class_frechet": lambda samples, real: class_frechet(samples, real),
    "precision": lambda samples, real: fraction_near(samples.features, real.features),
    "recall": lambda samples, real: fraction_near(real.features, samples.features),
    "mean_intensity": lambda samples, _: samples.images.double().mean() / 255,
}
PROPORTIONS = ("accuracy", "doubtful")  # of independent images
DOUBTFUL = 0.8  # the confidence of the judge below which an image is doubtful
NUM_NEIGHBORS = 3  # k of precision and recall, Kynkäänniemi et al. 2019
NUM_HALVES = 250  # estimates a standard deviation to within 4.5%
Z = 1.96  # standard errors on each side of a 95% interval


def scores_of(samples, real, names=tuple(METRICS)):
    """Metrics of samples against real images, both `Judged`: name -> (1 + NUM_HALVES,).

    The first number is of all images, the others of random halves of both, the same at every call.
    Their standard deviation estimates the standard error: the delete-half jackknife (Shao & Wu
    1989). A bootstrap would repeat images; neighbors at distance 0 distort precision and recall.
    """
    numbers = [[METRICS[name](samples, real) for name in names]]
    for k in range(NUM_HALVES):
        halves = [random_half(whole, generator(0, "halves", k)) for whole in (samples, real)]
        numbers.append([METRICS[name](*halves) for name in names])
    return dict(zip(names, torch.tensor(numbers, dtype=torch.float64).T))


def with_intervals(scores, n=None):
    """Scores of n samples as columns with 95% confidence intervals: name, name_low, name_high."""
    row = {}
    for name, numbers in scores.items():
        value, half_width = numbers[0].item(), Z * numbers[1:].std().item()
        low, high = value - half_width, value + half_width
        if name in PROPORTIONS:
            low, high = wilson_interval(value, n)
        row |= {name: value, f"{name}_low": low, f"{name}_high": high}
    return row


def random_half(images, rng):
    """A random half of the images, or of those of each class if they have target classes."""
    order = torch.randperm(len(images.images), generator=rng)
    if images.labels is not None:
        order = order[images.labels[order].argsort(stable=True)]  # random within each class
    return Judged(*(None if part is None else part[order[::2]] for part in images))


def wilson_interval(p, n):
    """The 95% confidence interval of a proportion p of n (Wilson 1927): low, high."""
    center, scale = p + Z**2 / (2 * n), 1 + Z**2 / n
    half = Z * math.sqrt(p * (1 - p) / n + Z**2 / (4 * n**2))
    return max((center - half) / scale, 0.0), min((center + half) / scale, 1.0)


def frechet_distance(real, fake):
    """|mu_1 - mu_2|^2 + tr(S_1 + S_2 - 2 (S_1 S_2)^(1/2)) of features (N, D) and (M, D).

    Heusel et al. 2017. With S_2 = L L^T, L^T S_1 L is symmetric and has the eigenvalues of S_1 S_2.
    """
    real, fake = real.double(), fake.double()
    shift = (real.mean(dim=0) - fake.mean(dim=0)).square().sum()
    s_1, s_2 = real.T.cov(), fake.T.cov()
    values, vectors = torch.linalg.eigh(s_2)
    root = vectors * values.clamp(min=0).sqrt()  # L
    eigenvalues = torch.linalg.eigvalsh(root.T @ s_1 @ root)
    return shift + s_1.trace() + s_2.trace() - 2 * eigenvalues.clamp(min=0).sqrt().sum()


def class_frechet(samples, real):
    """The mean over the classes of the Fréchet distance: "intra-FID" (Miyato & Koyama 2018)."""
    classes = [(real.labels == k, samples.labels == k) for k in real.labels.unique()]
    distances = [frechet_distance(real.features[a], samples.features[b]) for a, b in classes]
    return sum(distances) / len(distances)


def fraction_near(points, others):
    """The fraction of points (N, D) that are near others (M, D), "on their manifold".

    Near: at least as close to one of the others as that one's own k-th nearest neighbor.
    """
    distances = (torch.cdist(part, others) for part in others.split(500))
    k = NUM_NEIGHBORS + 1  # each point is its own nearest neighbor
    radius = torch.cat([d.topk(k, largest=False).values[:, -1] for d in distances])  # (M,)
    distances = (torch.cdist(part, others) for part in points.split(500))
    return torch.cat([(d <= radius).any(dim=1) for d in distances]).double().mean()


def balanced_parts(images, labels, num_parts, num_classes):
    """Split images (N, ...) and labels (N,) into disjoint random parts: a list of both.

    All have equally many images of each class, in turn.
    """
    order = torch.randperm(len(labels), generator=generator(0, "real images"))
    by_class = [order[labels[order] == y] for y in range(num_classes)]
    size = min(map(len, by_class)) // num_parts
    index = torch.stack([of_y[: num_parts * size] for of_y in by_class], dim=1).flatten()
    return [(images[part], labels[part]) for part in index.tensor_split(num_parts)]
