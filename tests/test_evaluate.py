"""The measures see what they should."""

import math

import pytest
import torch
from conftest import ROOT

import evaluate
import inference
from diffusion import generator, load_checkpoint
from evaluate import (
    Judge,
    balanced_subset,
    frechet_distance,
    judge_images,
    measure,
    precision_recall,
    random_affine,
    wilson_interval,
)
from mnist import load_mnist


@pytest.fixture(scope="module")
def judge():
    return load_checkpoint(ROOT / "models" / "judge.pth", Judge, "evaluate.py --train-judge")[0]


@pytest.fixture(scope="module")
def real_features(judge):
    return judge_images(judge, load_mnist("validation")[0])[0]


@pytest.fixture(scope="module")
def real():
    return balanced_subset(*load_mnist("train"), 2_000)


@pytest.fixture(scope="module")
def scores(judge, real, real_features):
    return measure(judge, *real, real_features)


def test_wilson_interval():
    assert wilson_interval(97, 100) == pytest.approx((0.9155, 0.9897), abs=1e-4)
    assert wilson_interval(100, 100)[1] == pytest.approx(1)


def test_frechet_distance_of_known_gaussians():
    """|mu_1 - mu_2|^2 + tr(S_1 + S_2 - 2 sqrt(S_1 S_2)): a shift of 3 in one of 4 dimensions, and twice the spread."""
    x = torch.randn(200_000, 4, dtype=torch.float64)
    shift = torch.tensor([3.0, 0, 0, 0])
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-6)
    assert frechet_distance(x, 2 * x + shift) == pytest.approx(9 + 4, rel=0.02)


def test_precision_and_recall_of_known_clouds():
    real, near, far = torch.randn(500, 2), torch.randn(500, 2), torch.randn(500, 2) + 100
    assert min(precision_recall(real, near)) > 0.9 and max(precision_recall(real, far)) == 0
    narrow = precision_recall(real, near * 0.1)
    assert narrow[0] > 0.9 and narrow[1] < 0.3


def test_halves_of_the_real_data_come_near_the_stated_floor(judge, real_features):
    """Other training images than the floor's, at the same n, against the same validation images."""
    rows = evaluate.read_rows(ROOT / "results" / "scales.csv")
    floor = float(next(row for row in rows if row["variant"] == "real images")["frechet"])
    images, labels = load_mnist("train")
    for half in torch.randperm(len(labels), generator=generator(7)).chunk(2):
        again = measure(judge, *balanced_subset(images[half], labels[half], 2_000), real_features)
        assert float(again["frechet"]) == pytest.approx(floor, rel=0.2)


def test_shuffled_labels_fall_to_chance(judge, real, real_features):
    images, labels = real
    shuffled = labels[torch.randperm(len(labels), generator=generator(0))]
    row = measure(judge, images, shuffled, real_features)
    assert float(row["accuracy_low"]) <= 0.1 <= float(row["accuracy_high"])


@pytest.mark.parametrize("spoil", ["blurred", "noised"])
def test_spoiled_digits_score_worse(judge, real, real_features, scores, spoil):
    images, labels = real
    if spoil == "blurred":
        images = torch.nn.functional.avg_pool2d(images, 5, stride=1, padding=2, count_include_pad=False)
    else:
        images = (images + 0.5 * torch.randn(images.shape, generator=generator(1))).clamp(-1, 1)
    row = measure(judge, images, labels, real_features)
    assert float(row["frechet"]) > 5 * float(scores["frechet"])
    assert float(row["precision"]) < float(scores["precision"])


def test_ten_images_a_hundred_times_have_no_recall(judge, real, real_features):
    images, labels = balanced_subset(*real, 10)
    row = measure(judge, images.repeat(100, 1, 1, 1), labels.repeat(100), real_features)
    assert float(row["accuracy"]) == 1 and float(row["recall"]) < 0.1


def test_random_affine_moves_digits_and_keeps_their_range():
    images, _ = load_mnist("validation")
    moved = random_affine(images[:50], generator(0))
    assert moved.shape == (50, 1, 28, 28) and moved.min() >= -1 and moved.max() <= 1
    assert (moved - images[:50]).abs().mean() > 0.05
    still = random_affine(images[:50], generator(0), degrees=0, scale=0, shear=0, shift=0)
    torch.testing.assert_close(still, images[:50], atol=1e-4, rtol=0)


def test_a_sweep_goes_on_where_it_stopped(tmp_path, monkeypatch):
    measured = []

    class Bench(evaluate.Bench):
        def __init__(self):
            self.hashes, self.seed, self.split = {"ddpm_unet": "a", "classifier": "b", "judge": "c"}, 0, "validation"

        def row(self, settings):
            if len(measured) == 2:
                raise KeyboardInterrupt
            measured.append(settings["guidance_scale"])
            return {**settings, "accuracy": "1", **self.hashes}

    monkeypatch.setattr(evaluate, "print_row", lambda row: None)
    bench, path = Bench(), tmp_path / "sweep.csv"
    wanted = [bench.settings(20, guidance_scale=float(scale)) for scale in (0, 1, 2)]
    with pytest.raises(KeyboardInterrupt):
        bench.fill(path, wanted)
    assert [row["guidance_scale"] for row in evaluate.read_rows(path)] == ["0", "1"]
    measured.clear()
    bench.fill(path, wanted)
    assert measured == ["2"] and [row["guidance_scale"] for row in evaluate.read_rows(path)] == ["0", "1", "2"]
    bench.hashes["ddpm_unet"] = "other weights"
    measured.clear()
    bench.fill(path, wanted[:2])
    assert measured == ["0", "1"] and len(evaluate.read_rows(path)) == 2


def test_a_row_is_drawn_by_its_settings(monkeypatch):
    """The limit at high noise and, for the variants that clip after the tilt, the sampler's clipping reach the sampler."""
    drawn = {}
    monkeypatch.setattr(evaluate, "draw_samples", lambda *args, **how: drawn.update(how, args=args[4:]))
    bench = evaluate.Bench.__new__(evaluate.Bench)
    bench.seed, bench.split, bench.unet, bench.classifier, bench.device = 5, "validation", None, None, "cpu"
    for name in evaluate.VARIANTS:
        drawn.clear()
        bench.draw(bench.settings(20, variant=name, sampler="ddpm", steps=7, guidance_scale=3.0, early_scale=math.inf))
        assert drawn["args"] == (3.0, "ddpm", 7, 5, "cpu") and drawn["early_scale"] == math.inf
        assert drawn.get("sampler_clips", False) == (name in ("ADM Algorithm 1", "clip after the tilt"))
    bench.draw(bench.settings(20))
    assert drawn["early_scale"] == inference.EARLY_SCALE and drawn["args"][0] == inference.GUIDANCE_SCALE


@pytest.mark.parametrize("sampler_clips", [False, True])
def test_the_sampler_clips_when_told_to_and_at_scale_0(monkeypatch, unet, classifier, sampler_clips):
    asked = []
    make_sampler = inference.make_sampler
    monkeypatch.setattr(inference, "make_sampler", lambda *args, clip: asked.append(clip) or make_sampler(*args, clip=clip))
    for scale in (0, 1):
        inference.draw_samples(unet, classifier, *inference.make_labels([3], 1), scale, steps=1, sampler_clips=sampler_clips)
    assert asked == [True, sampler_clips]
