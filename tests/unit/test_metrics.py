"""The metrics against scipy and numpy, and their intervals against fresh samples."""

import numpy as np
import pytest
import scipy.linalg
import scipy.stats
import torch

from data import Dataset, from_uint8
from evaluation import metrics
from evaluation.judge import Judged, judge_images, load_judge
from evaluation.metrics import METRICS, balanced_parts, scores_of, with_intervals


def judged(features, **others):
    """What a judge that is always right says about three classes in turn."""
    labels = torch.arange(len(features)) % 3
    images = (255 * torch.rand(len(features), 1, 1, 1)).byte()
    return Judged(images, labels, features, labels, torch.ones(len(features)))._replace(**others)


def values(samples, real, *names):
    return [float(METRICS[name](samples, real)) for name in names]


def test_the_frechet_distance_matches_its_formula():
    rng = np.random.default_rng(0)
    real = rng.normal(size=(300, 5)) @ rng.normal(size=(5, 5))
    fake = rng.normal(size=(400, 5)) @ rng.normal(size=(5, 5)) + 0.5
    s_1, s_2 = np.cov(real, rowvar=False), np.cov(fake, rowvar=False)
    shift = np.square(real.mean(axis=0) - fake.mean(axis=0)).sum()
    expected = shift + np.trace(s_1 + s_2 - 2 * scipy.linalg.sqrtm(s_1 @ s_2).real)
    [ours] = values(*(judged(torch.from_numpy(x).float()) for x in (fake, real)), "frechet")
    assert ours == pytest.approx(expected, rel=1e-3)


def test_the_class_wise_distance_counts_wrong_digits():
    """Two of three classes are exchanged, so the distance of all images is 0."""
    real = judged(torch.randn(300, 2) + 5 * (torch.arange(300) % 3)[:, None])
    exchanged = real._replace(labels=torch.tensor([0, 2, 1])[real.labels])
    overall, class_wise = values(exchanged, real, "frechet", "class_frechet")
    assert overall == pytest.approx(0, abs=1e-3)
    assert class_wise == pytest.approx((0 + 50 + 50) / 3, rel=0.2)


def test_precision_and_recall_count_the_points_within_the_third_neighbor():
    real, narrow = torch.randn(600, 2).numpy(), 0.1 * torch.randn(700, 2).numpy()

    def near(points, others):
        radius = np.sort(np.linalg.norm(others[:, None] - others, axis=2), axis=1)[:, 3]
        return (np.linalg.norm(points[:, None] - others, axis=2) <= radius).any(axis=1).mean()

    found = values(*(judged(torch.tensor(x)) for x in (narrow, real)), "precision", "recall")
    assert found == pytest.approx([near(narrow, real), near(real, narrow)], abs=2e-3)
    assert found[0] > 0.9 and found[1] < 0.3


def test_what_the_judge_sees():
    """Images that are two digits at once, so it is often in doubt."""
    judge, (x, _) = load_judge(), Dataset().splits["test"]
    images = (x[:501].float() + x[501:1002].float()).clamp(max=255).byte()
    seen, p = judge_images(judge, images), judge(from_uint8(images)).softmax(dim=1)
    torch.testing.assert_close(judge.linear(seen.features).softmax(dim=1), p)
    torch.testing.assert_close((seen.confidence, seen.prediction), tuple(p.max(dim=1)))
    expected = (p.amax(dim=1) < 0.8).double().mean().item(), images.double().mean().item() / 255
    assert values(seen, None, "doubtful", "mean_intensity") == pytest.approx(expected)


def test_intervals_of_proportions_match_scipy(monkeypatch):
    monkeypatch.setattr(metrics, "NUM_HALVES", 2)
    for k, n in ((97, 100), (0, 20), (20, 20)):
        wrong, real = torch.arange(n) >= k, judged(torch.randn(30, 2))
        samples = judged(torch.randn(n, 2), confidence=1 - 0.5 * wrong)
        samples = samples._replace(prediction=samples.labels + wrong)
        row = with_intervals(scores_of(samples, real, ["accuracy", "doubtful"]), n)
        for name, number in (("accuracy", k), ("doubtful", n - k)):
            theirs = scipy.stats.binomtest(number, n).proportion_ci(0.95, method="wilson")
            ours = row[name], row[f"{name}_low"], row[f"{name}_high"]
            assert ours == pytest.approx((number / n, theirs.low, theirs.high), abs=1e-5)


def test_intervals_match_the_spread_over_fresh_samples(monkeypatch):
    """They may be wider, by up to 75%. Changes on the same noise vary much less."""
    monkeypatch.setattr(metrics, "NUM_HALVES", 80)
    seen, widths, names = [], [], ["frechet", "precision", "recall"]
    for k in range(80):
        noise, real = torch.randn(240, 5), judged(torch.randn(120, 5))
        pair = judged(noise + 0.3), judged(1.2 * noise + 0.3)
        first, second = (np.array(values(samples, real, *names)) for samples in pair)
        seen.append([*first, *(second - first)])
        if k < 3:
            a, b = (scores_of(samples, real, names) for samples in pair)
            scores = a | {f"{name} change": b[name] - a[name] for name in names}
            row = with_intervals(scores)
            widths.append([row[f"{key}_high"] - row[f"{key}_low"] for key in scores])
    ratio = np.mean(widths, axis=0) / (2 * 1.96 * np.std(seen, axis=0))
    assert (ratio > 0.85).all() and (ratio < 1.75).all()


def test_halves_are_balanced_and_those_of_real_images_do_not_depend_on_the_samples(monkeypatch):
    """So changes are paired, whatever n. Without target classes, the classes vary."""
    seen, real = [], judged(torch.randn(60, 4))
    monkeypatch.setattr(metrics, "NUM_HALVES", 3)
    monkeypatch.setitem(METRICS, "seen", lambda *halves: seen.append(halves) or 0.0)
    for samples in (judged(torch.randn(30, 4)), judged(torch.randn(90, 4), labels=None)):
        scores_of(samples, real, ["seen"])
    labeled, unlabeled = seen[1:4], seen[5:]  # without those of all images
    assert not torch.equal(labeled[0][1].features, labeled[1][1].features)
    for (samples, half), (_, again) in zip(labeled, unlabeled):
        assert samples.labels.bincount().tolist() == [5] * 3
        assert half.labels.bincount().tolist() == [10] * 3
        assert torch.equal(half.features, again.features) and len(half.features.unique()) == 120
    assert len({tuple(half.prediction.bincount().tolist()) for half, _ in unlabeled}) > 1


def test_balanced_parts_are_disjoint_random_and_class_balanced():
    numbers, labels = torch.arange(100), torch.tensor([0] * 23 + [1] * 56 + [2] * 21)
    parts, again = (balanced_parts(numbers, labels, 2, 3) for _ in range(2))
    index = torch.cat([part for part, _ in parts])
    assert len(parts) == 2 and len(index.unique()) == 60 and torch.equal(parts[1][0], again[1][0])
    for part, of_part in parts:
        assert (labels[part] == of_part).all() and of_part.tolist() == [0, 1, 2] * 10
    assert index[labels[index] == 1].max() > 50  # not the first ones
