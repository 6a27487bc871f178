"""The measures see what they should."""

import math
from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT

import evaluate
import inference
from evaluation.bench import Bench
from evaluation.guides import load_guide
from evaluation.judge import judge_images, random_affine
from evaluation.measures import (
    balanced_subset,
    frechet_distance,
    measure,
    precision_recall,
    wilson_interval,
)
from evaluation import tables
from evaluation.tables import final_table
from evaluation.variants import GUIDE_OF, variants
from mnist import MNIST_INFO, Dataset, load_mnist
from support.tables import read_rows
from support.errors import UserError
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


class Counting(Bench):
    """Measures nothing: a row is its settings; the third one is interrupted."""

    def __init__(self, resume=False, stop_after=math.inf, hashes=("a", "b", "c")):
        self.made_from = dict(zip(("ddpm_unet", "classifier", "judge"), hashes))
        self.seed, self.split, self.resume = 0, "validation", resume
        self.classes = MNIST_INFO["classes"]
        self.stop_after, self.measured = stop_after, []

    def row(self, settings):
        if len(self.measured) == self.stop_after:
            raise KeyboardInterrupt
        self.measured.append(settings["guidance_scale"])
        return {**settings, "accuracy": "1", **self.made_from}


def wanted(bench):
    return [bench.settings(20, guidance_scale=float(scale)) for scale in (0, 1, 2)]


def scales_in(path):
    return [row["guidance_scale"] for row in read_rows(path)]


@pytest.fixture
def interrupted(tmp_path):
    """A table of three rows that was interrupted after two."""
    bench = Counting(stop_after=2)
    with pytest.raises(KeyboardInterrupt):
        bench.fill(tmp_path / "sweep.csv", wanted(bench))
    assert scales_in(tmp_path / "sweep.partial.csv") == ["0", "1"]
    assert not (tmp_path / "sweep.csv").exists()
    return tmp_path / "sweep.csv"


def test_every_row_is_measured_whatever_tables_there_are(tmp_path):
    for path in (tmp_path / "sweep.csv", tmp_path / "sweep.csv", tmp_path / "other.csv"):
        bench = Counting()
        bench.fill(path, wanted(bench))
        assert bench.measured == scales_in(path) == ["0", "1", "2"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["other.csv", "sweep.csv"]


def test_an_interrupted_table_is_measured_again_without_resume(interrupted):
    bench = Counting()
    bench.fill(interrupted, wanted(bench))
    assert bench.measured == scales_in(interrupted) == ["0", "1", "2"]
    assert not interrupted.with_suffix(".partial.csv").exists()


def test_resume_continues_an_interrupted_table_and_says_so(interrupted, capsys):
    bench = Counting(resume=True)
    bench.fill(interrupted, wanted(bench))
    assert "2 of 3 rows are taken from" in capsys.readouterr().out
    assert bench.measured == ["2"] and scales_in(interrupted) == ["0", "1", "2"]
    assert not interrupted.with_suffix(".partial.csv").exists()


def test_resume_refuses_rows_of_other_weights_or_settings(interrupted):
    bench = Counting(resume=True, hashes=("other", "b", "c"))
    with pytest.raises(UserError, match="other settings or weights"):
        bench.fill(interrupted, wanted(bench))
    bench = Counting(resume=True)
    with pytest.raises(UserError, match="other settings or weights"):
        bench.fill(interrupted, wanted(bench)[1:])
    with pytest.raises(UserError, match="there is no"):
        bench.fill(interrupted.with_name("another.csv"), wanted(bench))
    assert scales_in(interrupted.with_suffix(".partial.csv")) == ["0", "1"]


@pytest.mark.parametrize("argv, name", [
    ([], "final_5000.csv"), (["--n", "30"], "final_30.csv"), (["--sweep", "scales"], "scales.csv"),
])  # fmt: skip
@pytest.mark.parametrize("seed", [0, 1])
def test_only_seed_0_writes_where_the_shipped_results_are(monkeypatch, argv, name, seed):
    """The folder that is asked for, with the measuring itself replaced."""
    asked = []
    monkeypatch.setattr(
        evaluate, "Bench", lambda *args: SimpleNamespace(seed=args[3], classes="0123456789")
    )
    monkeypatch.setattr(evaluate, "final_table", lambda bench, n, path, *_: asked.append(path))
    monkeypatch.setattr(evaluate, "draw_nearest", lambda *_: None)
    monkeypatch.setattr(evaluate, "make_folders", lambda *_: None)
    monkeypatch.setattr(evaluate, "check_writable", lambda *_: None)
    sweep = lambda bench, folder: asked.append(folder / "scales.csv")  # noqa: E731
    monkeypatch.setitem(evaluate.SWEEPS, "scales", sweep)
    evaluate.main([*argv, "--seed", str(seed)])
    folder = ROOT / "results" / "seed1" if seed else ROOT / "results"
    assert asked == [folder / name]


def test_the_final_table_measures_its_four_rows():
    bench = Counting()
    rows = []
    bench.fill = lambda path, settings: rows.extend(settings)
    final_table(bench, 20, None)
    assert [row["variant"] for row in rows] == ["real images"] + 3 * ["ADM Algorithm 2"]
    assert [row["guidance_scale"] for row in rows] == ["-", "0", "25", "25"]
    assert [row["steps"] for row in rows] == ["-", "20", "20", "10"]
    assert {row["n"] for row in rows} == {"20"} and {row["against"] for row in rows} == {
        "validation"
    }


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
    bench.seed, bench.split, bench.classes = 5, "validation", MNIST_INFO["classes"]
    bench.models = ROOT / "models"
    x_t, t = torch.randn(2, 1, 28, 28, generator=generator(0)), torch.tensor(399)
    for name, form in variants(5).items():
        scales = {"guidance_scale": 3.0, "early_scale": math.inf}
        bench.draw(bench.settings(20, variant=name, sampler="ddpm", steps=5, **scales))
        assert drawn["seed"] == 5 and torch.bincount(drawn["y"]).tolist() == [2] * 10
        assert len(drawn["scheduler"].timesteps) == 5 and not drawn["scheduler"].config.clip_sample
        guide = load_guide(GUIDE_OF[name]) if name in GUIDE_OF else classifier
        expected = form(unet, guide.log_p, x_t, t, torch.tensor([3, 4]), 3.0)
        assert torch.equal(drawn["eps_hat"], expected)
    bench.draw(bench.settings(20))
    default = inference.noise_predictor(unet, classifier.log_p, inference.GUIDANCE_SCALE)
    assert torch.equal(drawn["eps_hat"], default(x_t, t, torch.tensor([3, 4])))
    bench.draw(bench.settings(20, guidance_scale=0.0, sampler="ddpm"))
    assert drawn["scheduler"].config.clip_sample


@pytest.mark.parametrize("sweep, rows, figures", [
    ("scales", 12, ["scales.png", "scales_grid.png"]), ("samplers", 14, ["samplers.png"]),
    ("controls", 25, ["controls_grid.png"]), ("samplers_long", 7, []),
])  # fmt: skip
def test_a_sweep_writes_its_table_and_figures(bench_of_noise, tmp_path, sweep, rows, figures):
    evaluate.SWEEPS[sweep](bench_of_noise, tmp_path)
    assert len(read_rows(tmp_path / f"{sweep}.csv")) == rows
    assert {path.name for path in tmp_path.glob("*.png")} == set(figures)


@pytest.fixture(scope="module")
def bench_of_noise():
    """A bench over the shipped weights that takes noise for samples, 20 of them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            inference, "sample_with", lambda _, __, y, *___: torch.randn(len(y), 1, 28, 28)
        )
        patch.setattr(tables, "NUM_SWEEP", 20)
        patch.setattr(tables, "NUM_LONG", 20)
        patch.setattr(tables.control_settings, "__defaults__", (20,))
        bench = Bench(ROOT / "models", Dataset(), "validation", 0, torch.device("cpu"))
        bench.real_features = bench.real_features[:500]
        yield bench
