"""The measures against independent implementations: torchmetrics, scipy, scikit-learn."""

import numpy as np
import pytest
import scipy.linalg
import scipy.stats
import torch
from sklearn.neighbors import NearestNeighbors
from torchmetrics.functional.classification import multiclass_calibration_error

from evaluation.measures import (
    balanced_subset,
    covered,
    frechet_distance,
    measure,
    precision_recall,
    wilson_interval,
)
from train_classifier import calibration_error, validation_timesteps


@pytest.mark.parametrize("correct, n", [(97, 100), (0, 20), (20, 20), (1234, 5000), (4983, 5000)])
def test_wilson_interval_is_that_of_scipy(correct, n):
    theirs = scipy.stats.binomtest(correct, n).proportion_ci(0.95, method="wilson")
    assert wilson_interval(correct, n) == pytest.approx((theirs.low, theirs.high), abs=1e-5)


def test_frechet_distance_is_that_of_its_formula():
    rng = np.random.default_rng(0)
    real = rng.normal(size=(300, 5)) @ rng.normal(size=(5, 5))
    fake = rng.normal(size=(400, 5)) @ rng.normal(size=(5, 5)) + 0.5
    s_1, s_2 = np.cov(real, rowvar=False), np.cov(fake, rowvar=False)
    root = scipy.linalg.sqrtm(s_1 @ s_2).real
    shift = np.square(real.mean(axis=0) - fake.mean(axis=0)).sum()
    expected = shift + np.trace(s_1 + s_2 - 2 * root)
    ours = frechet_distance(torch.from_numpy(real).float(), torch.from_numpy(fake).float())
    assert ours == pytest.approx(expected, rel=1e-3)


def share_covered(points, manifold, k):
    """By scikit-learn: the share of points within the k-th neighbour's distance of a manifold's."""
    radius = NearestNeighbors(n_neighbors=k + 1).fit(manifold).kneighbors(manifold)[0][:, -1]
    distance = np.linalg.norm(points[:, None] - manifold[None], axis=2)
    return (distance <= radius).any(axis=1).mean()


@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize("chunk", [7, 1_000])
def test_coverage_is_that_of_scikit_learn(k, chunk):
    rng = np.random.default_rng(1)
    points, manifold = rng.normal(size=(60, 3)), 0.7 * rng.normal(size=(50, 3)) + 0.3
    ours = covered(torch.from_numpy(points), torch.from_numpy(manifold), k=k, chunk=chunk)
    assert 0.1 < ours < 0.95 and ours == pytest.approx(share_covered(points, manifold, k))


def test_precision_and_recall_are_not_exchanged():
    rng = np.random.default_rng(2)
    real, narrow = rng.normal(size=(300, 2)), 0.1 * rng.normal(size=(300, 2))
    precision, recall = precision_recall(torch.from_numpy(real), torch.from_numpy(narrow))
    assert precision == pytest.approx(share_covered(narrow, real, 3)) and precision > 0.9
    assert recall == pytest.approx(share_covered(real, narrow, 3)) and recall < 0.3


@pytest.mark.parametrize("num_bins", [1, 10, 15])
def test_calibration_error_is_that_of_torchmetrics(num_bins):
    rng = torch.Generator().manual_seed(0)
    probabilities = torch.randn(500, 10, generator=rng).mul(2).softmax(dim=1)
    labels = torch.randint(10, (500,), generator=rng)
    labels[:300] = probabilities[:300].argmax(dim=1)
    theirs = multiclass_calibration_error(probabilities, labels, 10, n_bins=num_bins, norm="l1")
    assert calibration_error(probabilities, labels, num_bins) == pytest.approx(
        theirs.item(), abs=1e-5
    )


def test_calibration_error_has_15_bins():
    rng = torch.Generator().manual_seed(1)
    probabilities = torch.randn(500, 10, generator=rng).softmax(dim=1)
    labels = torch.randint(10, (500,), generator=rng)
    theirs = multiclass_calibration_error(probabilities, labels, 10, n_bins=15, norm="l1")
    assert calibration_error(probabilities, labels) == pytest.approx(theirs.item(), abs=1e-5)


def test_a_point_at_the_very_distance_of_the_neighbour_is_covered():
    line = torch.arange(5.0)[:, None]
    points = torch.tensor([[-1.0], [5.0], [-1.1], [5.1]])
    assert covered(points, line, k=1) == 0.5


def test_calibration_error_adds_up_within_a_bin_first():
    """Right half of the time at a confidence of .5: the gaps of a bin cancel."""
    probabilities = torch.tensor([[0.5, 0.3, 0.2]]).repeat(100, 1)
    labels = torch.tensor([0, 1]).repeat(50)
    assert calibration_error(probabilities, labels) == pytest.approx(0, abs=1e-6)
    sure = torch.tensor([[1.0, 0.0]]).repeat(4, 1)
    assert calibration_error(sure, torch.tensor([0, 0, 0, 1])) == pytest.approx(0.25)


@pytest.mark.parametrize("n", [1000, 5000])
def test_the_timesteps_of_validation_are_uniform(n):
    t = validation_timesteps(n)
    assert torch.equal(torch.bincount(t, minlength=1000), torch.full((1000,), n // 1000))
    assert torch.equal(t, validation_timesteps(n)) and not torch.equal(t, t.sort().values)


class FirstPixels:
    """A judge that reads its features, and the digit, from the first pixels."""

    def features(self, x_0):
        return x_0.flatten(1)[:, :4]

    def linear(self, features):
        return 10 * torch.eye(10)[(features[:, 0] * 10).round().long()]


def test_measure_reports_every_measure():
    rng = torch.Generator().manual_seed(0)
    images = torch.rand(200, 1, 28, 28, generator=rng)
    shown = torch.arange(200) % 8
    images[:, 0, 0, 0] = shown / 10
    labels = shown.clone()
    labels[:30] = (shown[:30] + 1) % 8  # 30 of 200 are wrong
    real = torch.rand(300, 4, generator=rng)
    row = measure(FirstPixels(), images, labels, real)
    low, high = wilson_interval(170, 200)
    features = images.flatten(1)[:, :4]
    precision, recall = precision_recall(real, features)
    assert row == {
        "accuracy": "0.8500",
        "accuracy_low": f"{low:.4f}",
        "accuracy_high": f"{high:.4f}",
        "frechet": f"{frechet_distance(real, features):.4f}",
        "precision": f"{precision:.4f}",
        "recall": f"{recall:.4f}",
        "accuracy_per_digit": row["accuracy_per_digit"],
    }
    per_digit = row["accuracy_per_digit"].split()
    correct = shown == labels
    expected = [f"{correct[labels == y].float().mean():.3f}" for y in range(8)]
    assert per_digit == expected and precision != recall


def test_a_balanced_subset_has_equally_many_of_each_digit():
    labels = torch.arange(1000) % 10
    images = torch.arange(1000.0).view(-1, 1, 1, 1)
    subset, digits = balanced_subset(images, labels, 200)
    assert torch.bincount(digits).tolist() == [20] * 10
    index = subset.flatten().long()
    assert torch.equal(labels[index], digits) and len(index.unique()) == 200
    assert torch.equal(index, balanced_subset(images, labels, 200)[0].flatten().long())
    assert not torch.equal(index, balanced_subset(images, labels, 200, seed=1)[0].flatten().long())
    assert index.max() > 500  # not the first ones
