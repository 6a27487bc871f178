"""The measures against independent implementations: torchmetrics, scipy, scikit-learn."""

import warnings

import numpy as np
import pytest
import scipy.linalg
import scipy.stats
import torch
from sklearn.neighbors import NearestNeighbors
from torchmetrics.functional.classification import multiclass_calibration_error

from evaluation import measures
from evaluation.measures import (
    MEASURES,
    Measured,
    Seen,
    balanced_parts,
    covered,
    frechet_distance,
    mcnemar,
    measure,
    over_halves,
    precision_recall,
    random_half,
    see,
    wilson_interval,
    with_interval,
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


def test_a_row_has_every_measure_and_its_interval():
    images = torch.rand(200, 1, 28, 28)
    shown = torch.arange(200) % 8
    images[:, 0, 0, 0] = shown / 10
    labels = shown.clone()
    labels[:30] = (shown[:30] + 1) % 8  # 30 of 200 are wrong
    real = seen_of(torch.rand(300, 4))
    seen = see(FirstPixels(), images, labels)
    assert torch.equal(seen.prediction, shown) and torch.equal(seen.labels, labels)
    assert torch.equal(see(FirstPixels(), images).labels, shown)
    row, features = Measured(seen, real).row(), images.flatten(1)[:, :4]
    low, high = wilson_interval(170, 200)
    correct = shown == labels
    per_digit = " ".join(f"{correct[labels == y].float().mean():.3f}" for y in range(8))
    expected = {"accuracy": "0.8500", "accuracy_low": f"{low:.4f}", "accuracy_high": f"{high:.4f}"}
    expected["accuracy_per_digit"] = per_digit
    values = frechet_distance(real.features, features), *precision_recall(real.features, features)
    errors = over_halves(seen, real).std(dim=0)
    for k, (name, value) in enumerate(zip(MEASURES, (*values, *measure(seen, real)[3:].tolist()))):
        most = 1 if name in ("precision", "recall") else 9
        expected |= with_interval(name, value, errors[k].item(), 0, most)
    assert row == expected and row["precision"] != row["recall"]
    assert with_interval("x", 1, 0.5) == {"x": "1.0000", "x_low": "0.0200", "x_high": "1.9800"}
    assert with_interval("x", 0.5, 0.5, 0, 1) == {
        "x": "0.5000",
        "x_low": "0.0000",
        "x_high": "1.0000",
    }


# --- intervals: from made-up features, whose true spread is known ---


def seen_of(features, ink=None, num_classes=3):
    """As if the judge had read everything right."""
    labels = torch.arange(len(features)) % num_classes
    return Seen(features, labels, labels, torch.rand(len(features)) if ink is None else ink)


def test_the_standard_error_of_mean_ink_is_that_of_a_mean():
    for n in (100, 400):
        seen = seen_of(torch.randn(n, 4), ink=torch.randn(n))
        error = over_halves(seen, seen_of(torch.randn(60, 4))).std(dim=0)[
            MEASURES.index("boldness")
        ]
        assert error.item() == pytest.approx(seen.ink.std().item() / n**0.5, rel=0.25)


@pytest.mark.parametrize("shift", [0.0, 0.3])
def test_the_interval_of_the_frechet_distance_is_its_spread_over_new_draws(shift, monkeypatch):
    """Of both samples and real images, where all of these are drawn again."""
    monkeypatch.setattr(measures, "precision_recall", lambda *_: (0, 0))
    draws = [
        (seen_of(torch.randn(400, 5) + shift), seen_of(torch.randn(150, 5))) for _ in range(80)
    ]
    true = torch.stack([measure(*draw)[0] for draw in draws]).std()
    stated = torch.stack([over_halves(*draw).std(dim=0)[0] for draw in draws[:4]]).mean()
    assert 0.7 < stated / true < (1.4 if shift else 2.5)


def test_a_random_half_has_half_of_each_class():
    labels = torch.tensor([0] * 10 + [1] * 7 + [3] * 5)[torch.randperm(22)]
    halves = [random_half(labels, torch.manual_seed(seed)) for seed in range(20)]
    for half in halves:
        assert len(half) == len(half.unique()) == 11
        assert all(
            abs((labels[half] == y).sum() - (labels == y).sum() / 2) <= 0.5 for y in (0, 1, 3)
        )
    assert len(torch.cat(halves).unique()) == 22  # each image is in some half, and not in all
    assert torch.bincount(torch.cat(halves)).max() < 20
    assert torch.equal(halves[0], random_half(labels, torch.manual_seed(0)))


def test_the_change_between_samples_of_the_same_noise_is_known_better():
    """It is the difference of both rows; its interval is narrower than without the pairing."""
    real, noise = seen_of(torch.randn(200, 4)), torch.randn(300, 4)
    default, this, unpaired = (
        Measured(seen_of(features), real)
        for features in (noise, 1.02 * noise + 0.1, 1.02 * torch.randn(300, 4) + 0.1)
    )
    row = this.changes_from(default)
    assert tuple(row) == measures.CHANGES
    for k, name in enumerate(("frechet", "precision", "recall")):
        change = this.values[k] - default.values[k]
        assert float(row[f"{name}_change"]) == pytest.approx(change.item(), abs=1e-4)
    widths = [
        float(r["frechet_change_high"]) - float(r["frechet_change_low"])
        for r in (row, unpaired.changes_from(default))
    ]
    assert 0 < widths[0] < 0.7 * widths[1]
    same = default.changes_from(default)
    assert same["frechet_change_low"] == same["frechet_change_high"] == "0.0000"


def test_changes_count_which_of_both_is_right():
    real, labels = seen_of(torch.randn(50, 4)), torch.arange(40) % 2
    default, this = (
        Measured(
            Seen(torch.randn(40, 4), labels.where(torch.arange(40) >= n, 9), labels, labels * 1.0),
            real,
        )
        for n in (2, 8)  # the first ones are wrong
    )
    row = this.changes_from(default)
    shown = [row[name] for name in ("only_default_right", "only_this_right", "mcnemar_p")]
    assert shown == ["6", "0", f"{2 * 0.5**6:.4f}"]
    assert default.changes_from(this)["only_this_right"] == "6"


@pytest.mark.parametrize("this, default, p", [
    (0, 0, 1), (0, 1, 1), (0, 6, 2 / 64), (6, 0, 2 / 64), (3, 3, 1), (1, 5, 2 * 7 / 64),
    (10, 0, 2 / 1024),
])  # fmt: skip
def test_mcnemar_is_twice_the_tail_of_fair_coins(this, default, p):
    assert mcnemar(this, default) == pytest.approx(p)


def test_boldness_is_the_mean_pixel_and_its_spread_is_within_a_digit():
    grey = torch.tensor([-0.6, 0.2]).repeat(20)  # .2 and .6 of ink
    images = grey.view(-1, 1, 1, 1).expand(-1, 1, 28, 28).clone()
    images[:, 0, 0, 0] = torch.arange(40) % 2 / 10  # the digit
    still, real = see(FirstPixels(), images), seen_of(torch.rand(50, 4))
    still.prediction[0] = 7  # a single one tells nothing of its spread, nor is it warned of
    with warnings.catch_warnings(action="error"):
        boldness, spread = measure(still, real)[3:].tolist()
    still.prediction[0] = 0
    assert boldness == pytest.approx(0.4, abs=1e-3) and spread == pytest.approx(0, abs=1e-3)
    moved = still._replace(ink=still.ink + torch.tensor([0.0, 0.1, 0.2, 0.3]).repeat(10))
    expected = (still.ink[:2].mean() + 0.15).item(), (20 / 19) ** 0.5 * 0.1
    assert measure(moved, real)[3:].tolist() == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("num_parts", [1, 2, 3])
def test_balanced_parts_are_disjoint_and_have_equally_many_of_each_class(num_parts):
    labels = torch.tensor([0] * 9 + [1] * 20 + [2] * 7)[torch.randperm(36)]
    parts = balanced_parts(labels, num_parts)
    assert parts.shape == (num_parts, 3, 7 // num_parts)
    assert len(parts.unique()) == parts.numel()
    assert (labels[parts] == torch.arange(3).view(1, 3, 1)).all()
    assert torch.equal(parts, balanced_parts(labels, num_parts))
    assert not torch.equal(parts, parts.sort(dim=2).values)  # not the first ones
