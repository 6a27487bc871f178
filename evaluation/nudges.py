"""The nudge of a guide, compared with what it should be.

With s = 1, guidance shifts the predicted image by (1 - abar_t) / sqrt(abar_t) grad log p(y | x_t),
the nudge. By Bayes' rule, this should be E[x_0 | x_t, y] - E[x_0 | x_t], which can be computed if
we assume that there are no images but those in the training set: the *exact nudge*.
"""

import numpy as np
import torch

from diffusion import exact_x_0, noised_for_validation, sampling_times, snr
from evaluation.metrics import with_interval
from support.streams import generator

MEASURED = 17  # of 20 evenly spaced timesteps; at the last ones, there is almost no nudge


def nudge(ddpm, grad, x_t, t, y):
    """The shift of the predicted image for s = 1: (B, C, H, W)."""
    return (1 - ddpm.abar[t]) / ddpm.abar[t].sqrt() * grad(x_t, t, y)


def exact_nudge(ddpm, x_t, t, y, images, labels):
    """E[x_0 | x_t, y] - E[x_0 | x_t] over images (N, C, H, W) with labels (N,): (B, C, H, W)."""
    shift = -exact_x_0(x_t, ddpm.abar[t], images)
    for label in y.unique():
        shift[y == label] += exact_x_0(x_t[y == label], ddpm.abar[t], images[labels == label])
    return shift


def compare(ours, exact):
    """Compare nudges (B, C, H, W) with the exact ones: name -> number.

    nudge, exact: the norms. ratio: r, exact / nudge. cosine: c, between the two. Three scales:
    least_squares: r c, which minimizes the distance to the exact nudge. ratio, which equals its
    norm. component: r / c, whose component in the direction of the exact nudge equals it. All are
    medians over the images, with 95% confidence intervals from order statistics. best_factor: the
    one factor for all images that minimizes the squared distance to the exact nudges.
    """
    a, b = ours.flatten(1), exact.flatten(1)
    r, c = b.norm(dim=1) / a.norm(dim=1), torch.cosine_similarity(a, b)
    values = {"nudge": a.norm(dim=1), "exact": b.norm(dim=1), "ratio": r, "cosine": c}
    # without a component in the direction of the exact nudge, the scale should be large
    values |= {"least_squares": r * c, "component": r / c.clamp(min=1e-3)}
    row, half = {"n": len(a)}, 0.98 / len(a) ** 0.5
    for name, value in values.items():
        low, high = value.quantile(max(0.5 - half, 0)), value.quantile(min(0.5 + half, 1))
        row |= with_interval(name, value.median().item(), low.item(), high.item())
    return row | {"best_factor": ((a * b).sum() / a.square().sum()).item()}


def measured_nudges(ddpm, grad, dataset, n=1_000, right=False):
    """Compare the nudges on noised validation images, pushed toward a random wrong label.

    Yields t and the columns of `compare`, for decreasing t. With right=True, the images are pushed
    toward their own labels.
    """
    x_0, y = (part[:n] for part in dataset.load("validation"))
    if not right:
        K = len(dataset.info["classes"])
        y = (y + torch.randint(1, K, y.shape, generator=generator(0, "validation"))) % K
    images, labels = dataset.load("train")
    for t in sampling_times(len(ddpm.abar) - 1, 20)[:MEASURED]:
        x_t, _, _ = noised_for_validation(ddpm.scheduler, x_0, torch.full_like(y, t))
        yield t, compared(ddpm, grad, x_t, t, y, images, labels)


def compared(ddpm, grad, x_t, t, y, images, labels):
    """`compare` for noisy images x_t (B, C, H, W), pushed toward y (B,)."""
    return compare(nudge(ddpm, grad, x_t, t, y), exact_nudge(ddpm, x_t, t, y, images, labels))


def measured_scale(rows, name):
    """A function of t that interpolates the column `name` of rows, t -> columns."""
    times = sorted(rows)
    values = [float(rows[t][name]) for t in times]
    return lambda t: float(np.interp(t, times, values))


def fitted_scale(ddpm, rows, name):
    """a and b of the a + b SNR with the least relative squared error in the first 3/4 of all t."""
    times = [t for t in rows if t >= (len(ddpm.abar) - 1) / 4]
    s = torch.tensor([float(rows[t][name]) for t in times])
    terms = torch.stack([torch.ones_like(s), snr(ddpm.abar[times])], dim=1) / s[:, None]
    return torch.linalg.lstsq(terms, torch.ones(len(s), 1)).solution[:, 0].tolist()
