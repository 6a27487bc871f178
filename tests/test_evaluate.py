"""The measures see what they should."""

import math

import pytest
import torch
from conftest import ROOT

import inference
from evaluation import bench as benches
from evaluation.bench import Bench
from evaluation.judge import judge_images, random_affine
from evaluation.measures import (
    balanced_subset,
    frechet_distance,
    measure,
    precision_recall,
    wilson_interval,
)
from evaluation.variants import variants
from mnist import load_mnist
from support.files import read_rows
from support.streams import generator


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
    """|mu_1 - mu_2|^2 + tr(S_1 + S_2 - 2 sqrt(S_1 S_2)): a shift of 3, and twice the spread."""
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
    rows = read_rows(ROOT / "results" / "scales.csv")
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
        images = torch.nn.functional.avg_pool2d(
            images, 5, stride=1, padding=2, count_include_pad=False
        )
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

    class Counting(Bench):
        def __init__(self):
            self.hashes = {"ddpm_unet": "a", "classifier": "b", "judge": "c"}
            self.seed, self.split = 0, "validation"

        def row(self, settings):
            if len(measured) == 2:
                raise KeyboardInterrupt
            measured.append(settings["guidance_scale"])
            return {**settings, "accuracy": "1", **self.hashes}

    def scales_in_table():
        return [row["guidance_scale"] for row in read_rows(path)]

    monkeypatch.setattr(benches, "print_row", lambda row: None)
    bench, path = Counting(), tmp_path / "sweep.csv"
    wanted = [bench.settings(20, guidance_scale=float(scale)) for scale in (0, 1, 2)]
    with pytest.raises(KeyboardInterrupt):
        bench.fill(path, wanted)
    assert scales_in_table() == ["0", "1"]
    measured.clear()
    bench.fill(path, wanted)
    assert measured == ["2"] and scales_in_table() == ["0", "1", "2"]
    bench.hashes["ddpm_unet"] = "other weights"
    measured.clear()
    bench.fill(path, wanted[:2])
    assert measured == ["0", "1"] and len(read_rows(path)) == 2


def test_a_row_is_drawn_by_its_settings(monkeypatch, unet, classifier):
    """Variant, scales, sampler, steps and seed reach the sampling; it clips at scale 0 only."""
    drawn = {}

    def sample_with(predict_noise, new_sampler, y, seed):
        drawn.update(scheduler=new_sampler(), seed=seed, y=y)
        x_t = torch.randn(2, 1, 28, 28, generator=generator(0))
        drawn["eps_hat"] = predict_noise(x_t, torch.tensor(399), torch.tensor([3, 4]))
        return torch.zeros(len(y), 1, 28, 28)

    monkeypatch.setattr(inference, "sample_with", sample_with)
    bench = Bench.__new__(Bench)
    bench.unet, bench.classifier, bench.device = unet, classifier, "cpu"
    bench.seed, bench.split = 5, "validation"
    x_t, t = torch.randn(2, 1, 28, 28, generator=generator(0)), torch.tensor(399)
    for name, form in variants(5).items():
        scales = {"guidance_scale": 3.0, "early_scale": math.inf}
        bench.draw(bench.settings(20, variant=name, sampler="ddpm", steps=5, **scales))
        assert drawn["seed"] == 5 and torch.bincount(drawn["y"]).tolist() == [2] * 10
        assert len(drawn["scheduler"].timesteps) == 5 and not drawn["scheduler"].config.clip_sample
        expected = form(unet, classifier.log_p, x_t, t, torch.tensor([3, 4]), 3.0)
        assert torch.equal(drawn["eps_hat"], expected)
    bench.draw(bench.settings(20))
    default = inference.noise_predictor(unet, classifier.log_p, inference.GUIDANCE_SCALE)
    assert torch.equal(drawn["eps_hat"], default(x_t, t, torch.tensor([3, 4])))
    bench.draw(bench.settings(20, guidance_scale=0.0, sampler="ddpm"))
    assert drawn["scheduler"].config.clip_sample


@pytest.mark.parametrize("name, clips", [("ddpm", "clip_sample"), ("ddim", "thresholding")])
def test_the_sampler_clips_at_scale_0_only(monkeypatch, unet, classifier, name, clips):
    made = []
    sample_with = inference.sample_with

    def spy(predict_noise, new_sampler, *rest):
        made.append(new_sampler())
        return sample_with(predict_noise, new_sampler, *rest)

    monkeypatch.setattr(inference, "sample_with", spy)
    for scale in (0, 1):
        settings = {"guidance_scale": scale, "sampler": name, "steps": 1}
        inference.sample(unet, classifier.log_p, torch.tensor([3]), **settings)
    assert [scheduler.config[clips] for scheduler in made] == [True, False]
