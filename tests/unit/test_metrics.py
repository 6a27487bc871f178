"""The metrics against scipy and scikit-learn, and their intervals against fresh samples."""

import numpy as np
import pytest
import scipy.linalg
import scipy.stats
import torch
from sklearn.neighbors import NearestNeighbors

from evaluation import metrics
from evaluation.metrics import METRICS, Readings, Scores, balanced_parts, frechet_distance
from evaluation.metrics import metrics_of, wilson_interval
from support import UserError


def readings_of(features):
    """The readings of a judge that is always right, for three digits."""
    labels = torch.arange(len(features)) % 3
    images = (255 * torch.rand(len(features), 1, 1, 1)).byte()
    return Readings(images, features, labels, labels)


def test_the_frechet_distance_matches_its_formula():
    rng = np.random.default_rng(0)
    real = rng.normal(size=(300, 5)) @ rng.normal(size=(5, 5))
    fake = rng.normal(size=(400, 5)) @ rng.normal(size=(5, 5)) + 0.5
    s_1, s_2 = np.cov(real, rowvar=False), np.cov(fake, rowvar=False)
    root = scipy.linalg.sqrtm(s_1 @ s_2).real
    shift = np.square(real.mean(axis=0) - fake.mean(axis=0)).sum()
    expected = shift + np.trace(s_1 + s_2 - 2 * root)
    ours = frechet_distance(torch.from_numpy(real).float(), torch.from_numpy(fake).float())
    assert ours == pytest.approx(expected, rel=1e-3)


def on_manifold(points, manifold):
    """The fraction of points on the manifold with k = 3, computed with scikit-learn."""
    radius = NearestNeighbors(n_neighbors=4).fit(manifold).kneighbors(manifold)[0][:, -1]
    distance = np.linalg.norm(points[:, None] - manifold[None], axis=2)
    return (distance <= radius).any(axis=1).mean()


def test_precision_and_recall_match_scikit_learn():
    """Samples in the middle of the real images have high precision and low recall."""
    rng = np.random.default_rng(2)
    real, narrow = rng.normal(size=(300, 2)), 0.1 * rng.normal(size=(200, 2))
    row = Scores(*(readings_of(torch.from_numpy(x)) for x in (narrow, real))).row()
    precision, recall = on_manifold(narrow, real), on_manifold(real, narrow)
    assert precision > 0.9 and recall < 0.3
    assert row["precision"] == pytest.approx(precision) and row["recall"] == pytest.approx(recall)


def test_the_interval_of_a_proportion_matches_scipy():
    for k, n in ((97, 100), (0, 20), (20, 20), (4983, 5000)):
        theirs = scipy.stats.binomtest(k, n).proportion_ci(0.95, method="wilson")
        assert wilson_interval(k, n) == pytest.approx((theirs.low, theirs.high), abs=1e-5)


def test_intervals_match_the_spread_over_fresh_samples(monkeypatch):
    """They may be up to 50% wider. Also for changes on the same noise, which vary much less."""
    monkeypatch.setattr(metrics, "NUM_HALVES", 200)
    values, widths, names = [], [], ("frechet", "precision", "recall")
    for k in range(100):
        noise, real = torch.randn(400, 5), readings_of(torch.randn(150, 5))
        draws = [readings_of(noise + 0.3), readings_of(1.2 * noise + 0.3)]
        value, other = (metrics_of(seen, real, names) for seen in draws)
        changes = [other[name] - value[name] for name in names]
        values.append(torch.tensor([*value.values(), *changes]))
        if k < 4:
            first, this = (Scores(seen, real) for seen in draws)
            row = first.row() | this.changes_from(first)
            columns = [*names, *(f"{name}_change" for name in names)]
            widths.append([row[f"{name}_high"] - row[f"{name}_low"] for name in columns])
    ratio = np.mean(widths, axis=0) / (2 * 1.96 * torch.stack(values).std(dim=0).numpy())
    assert (ratio > 0.75).all() and (ratio < 1.5).all()


def test_the_change_in_accuracy_is_paired(monkeypatch):
    """The second row misclassifies the same images as the first one, and 30 more."""
    monkeypatch.setattr(metrics, "NUM_HALVES", 1_000)
    real, samples = readings_of(torch.randn(50, 4)), readings_of(torch.randn(300, 4))

    def misread(number):
        prediction = samples.labels.clone()
        prediction[:number] = 9
        return Scores(samples._replace(prediction=prediction), real, ["accuracy"])

    first, this = misread(150), misread(180)
    row = this.row() | this.changes_from(first)
    assert row["accuracy"] == pytest.approx(0.4) and row["accuracy_change"] == pytest.approx(-0.1)
    width = row["accuracy_change_high"] - row["accuracy_change_low"]
    assert width == pytest.approx(2 * 1.96 * (0.1 * 0.9 / 300) ** 0.5, rel=0.1)


def test_the_class_frechet_distance_counts_wrong_digits_by_themselves():
    """Two of three classes are exchanged, so the distance of all images is 0."""
    real = readings_of(torch.randn(300, 2))
    real = real._replace(features=real.features + 5 * real.labels[:, None])
    exchanged = real._replace(labels=torch.tensor([0, 2, 1])[real.labels])
    for samples, distance in ((real, 0), (exchanged, (0 + 50 + 50) / 3)):
        values = metrics_of(samples, real, ["frechet", "class_frechet"])
        assert values["frechet"] == pytest.approx(0, abs=1e-3)
        assert values["class_frechet"] == pytest.approx(distance, abs=0.2 * distance + 1e-3)


def test_balanced_parts_are_disjoint_and_class_balanced():
    labels = torch.tensor([0] * 9 + [1] * 20 + [2] * 7)[torch.randperm(36)]
    parts = balanced_parts(labels, 2, 3)
    assert parts.shape == (2, 3, 3) and len(parts.unique()) == 18
    assert (labels[parts] == torch.arange(3).view(1, 3, 1)).all()
    assert torch.equal(parts, balanced_parts(labels, 2, 3))
    assert not torch.equal(parts, parts.sort(dim=2).values)  # not the first ones
    with pytest.raises(UserError, match="too few real images"):
        balanced_parts(labels, 2, 4)


def test_halves_are_balanced_and_the_real_ones_do_not_depend_on_the_samples(monkeypatch):
    """So that changes between rows are paired, whatever their n."""
    monkeypatch.setattr(metrics, "NUM_HALVES", 3)
    seen = []
    monkeypatch.setitem(METRICS, "seen", (lambda *halves: seen.append(halves) or 0.0, 1))
    real = readings_of(torch.randn(60, 4))
    for n in (30, 90):
        Scores(readings_of(torch.randn(n, 4)), real, ["seen"])
    for (samples, of_real), (_, again) in zip(seen[1:4], seen[5:]):  # after the whole ones
        assert torch.bincount(samples.labels).tolist() == [len(samples.labels) // 3] * 3
        assert torch.bincount(of_real.labels).tolist() == [10] * 3
        assert torch.equal(of_real.features, again.features)
    assert not torch.equal(seen[1][1].features, seen[2][1].features)
