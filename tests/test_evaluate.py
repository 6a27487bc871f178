"""The measures see what they should."""

import math
import shutil
from types import SimpleNamespace

import matplotlib.pyplot as plt
import pytest
import torch
from conftest import ROOT

import evaluate
import inference
from evaluation.bench import Bench
from evaluation import figures, measures, tables
from evaluation.judge import random_affine
from evaluation.measures import (
    accuracy,
    balanced_parts,
    frechet_distance,
    measure,
    precision_recall,
    see,
    wilson_interval,
)
from evaluation.tables import final_table
from evaluation.variants import variants
from mnist import MNIST_INFO, load_mnist
from support.tables import read_rows
from support.errors import UserError


FRECHET, PRECISION, RECALL = range(3)


@pytest.fixture(scope="module")
def real(judge):
    return see(judge, *load_mnist("validation"))


@pytest.fixture(scope="module")
def digits():
    """2,000 training images, of each digit as many, and their labels."""
    images, labels = load_mnist("train")
    index = balanced_parts(labels, 1)[0, :, :200].flatten()
    return images[index], labels[index]


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


def test_shuffled_labels_fall_to_chance(judge, digits):
    images, labels = digits
    row = accuracy(see(judge, images, labels[torch.randperm(len(labels))]))
    assert float(row["accuracy_low"]) <= 0.1 <= float(row["accuracy_high"])


def test_spoiled_digits_score_worse(judge, real, digits):
    images, _ = digits
    pool = {"stride": 1, "padding": 2, "count_include_pad": False}
    blurred = torch.nn.functional.avg_pool2d(images, 5, **pool)
    noised = (images + 0.5 * torch.randn(images.shape)).clamp(-1, 1)
    scores, *spoiled = (measure(see(judge, x), real) for x in (images, blurred, noised))
    for row in spoiled:
        assert row[FRECHET] > 5 * scores[FRECHET] and row[PRECISION] < scores[PRECISION]


def test_ten_images_a_hundred_times_have_no_recall(judge, real, digits):
    ten, labels = (values[::200].repeat(100, *[1] * (values.ndim - 1)) for values in digits)
    seen = see(judge, ten, labels)
    assert float(accuracy(seen)["accuracy"]) == 1 and measure(seen, real)[RECALL] < 0.1


def test_random_affine_moves_digits_and_keeps_their_range():
    images, _ = load_mnist("validation")
    moved = random_affine(images[:50], torch.manual_seed(0))
    assert moved.shape == (50, 1, 28, 28) and moved.min() >= -1 and moved.max() <= 1
    assert (moved - images[:50]).abs().mean() > 0.05
    still = random_affine(images[:50], torch.manual_seed(0), degrees=0, scale=0, shear=0, shift=0)
    torch.testing.assert_close(still, images[:50], atol=1e-4, rtol=0)


class Counting(Bench):
    """Measures nothing: a row is its settings; the third one is interrupted."""

    def __init__(self, resume=False, stop_after=math.inf, hashes=("a", "b", "c")):
        self.made_from = dict(zip(("ddpm_unet", "classifier", "judge"), hashes))
        self.seed, self.split, self.resume = 0, "validation", resume
        self.classes, self.networks = MNIST_INFO["classes"], {}
        self.unet = self.classifier = None
        self.floors = {"other half": torch.zeros(10, 3), "validation images": torch.zeros(10, 1)}
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


@pytest.mark.parametrize("argv, usual, name", [
    ([], 0, "final_4300.csv"), (["--n", "30"], 0, "final_30.csv"),
    (["--sweep", "scales"], 1, "scales.csv"),
])  # fmt: skip
@pytest.mark.parametrize("seed", [None, 0, 1, 2])
def test_only_the_usual_seed_writes_where_the_shipped_results_are(
    monkeypatch, argv, usual, name, seed
):
    """The folder that is asked for, with the measuring itself replaced."""
    asked = []
    monkeypatch.setattr(
        evaluate, "Bench", lambda *args: SimpleNamespace(seed=args[3], split=args[2])
    )
    final = lambda bench, n, path, *_: asked.append((bench.seed, bench.split, path))  # noqa: E731
    sweep = lambda bench, folder: final(bench, None, folder / "scales.csv")  # noqa: E731
    monkeypatch.setattr(evaluate, "final_table", final)
    monkeypatch.setattr(evaluate, "copies", lambda *_: None)
    monkeypatch.setattr(evaluate, "make_folders", lambda *_: None)
    monkeypatch.setattr(evaluate, "check_writable", lambda *_: None)
    monkeypatch.setitem(evaluate.SWEEPS, "scales", sweep)
    evaluate.main([*argv, *([] if seed is None else ["--seed", str(seed)])])
    seed = usual if seed is None else seed
    folder = ROOT / "results" / (f"seed{seed}" if seed != usual else "")
    assert asked == [(seed, "validation" if usual else "test", folder / name)]


def test_the_final_table_measures_real_images_and_three_settings():
    bench = Counting()
    rows = []
    bench.fill = lambda path, settings: rows.extend(settings)
    final_table(bench, 20, None)
    assert [row["variant"] for row in rows] == [*bench.floors] + 3 * ["ADM Algorithm 2"]
    assert [row["guidance_scale"] for row in rows] == ["-", "-", "1", "0", "1"]
    assert [row["scale_growth"] for row in rows] == ["-", "-", "24", "24", "24"]
    assert [row["steps"] for row in rows] == ["-", "-", "20", "20", "10"]
    assert [row["n"] for row in rows] == ["20", "10", "20", "20", "20"]  # or all that there are
    assert {row["against"] for row in rows} == {"validation"}


def fewer(split):
    images, labels = load_mnist(split)
    return images[:1_000], labels[:1_000]


@pytest.fixture(scope="module")
def bench(with_rivals):
    """A bench over the shipped weights, rivals that are untrained, and fewer real images."""
    dataset = SimpleNamespace(info=MNIST_INFO, load=fewer)
    return Bench(with_rivals, dataset, "test", 5, torch.device("cpu"))


def test_a_row_is_drawn_by_its_settings(monkeypatch, bench):
    """Variant, scales, sampler, steps and seed reach the sampling; it clips at scale 0 only."""
    drawn, x_t = {}, torch.randn(2, 1, 28, 28)
    t, y = torch.tensor(399), torch.tensor([3, 4])

    def sample_with(predict_noise, new_sampler, y, seed):
        drawn.update(scheduler=new_sampler(), seed=seed, y=y)
        drawn["eps_hat"] = predict_noise(x_t, t, torch.tensor([3, 4]))
        return torch.zeros(len(y), 1, 28, 28)

    monkeypatch.setattr(inference, "sample_with", sample_with)
    for name, form in variants(5).items():
        scales = {"guidance_scale": 3.0, "scale_growth": 2.0}
        bench.draw(bench.settings(20, variant=name, sampler="ddpm", steps=5, **scales))
        assert drawn["seed"] == 5 and torch.bincount(drawn["y"]).tolist() == [2] * 10
        assert len(drawn["scheduler"].timesteps) == 5 and not drawn["scheduler"].config.clip_sample
        unet, guide, _ = bench.networks_of(name)
        expected = form(unet, guide.log_p, x_t, t, y, inference.scale_at(t, 3.0, 2.0))
        assert torch.equal(drawn["eps_hat"], expected)
    bench.draw(bench.settings(20))
    default = inference.noise_predictor(bench.unet, bench.classifier.log_p, 1.0, 24.0)
    assert torch.equal(drawn["eps_hat"], default(x_t, t, y))
    bench.draw(bench.settings(20, guidance_scale=0.0, sampler="ddpm"))
    assert drawn["scheduler"].config.clip_sample


def test_real_images_have_rows_of_their_own(bench):
    """Half of the test images are what is measured against; no image is on both sides."""
    test, validation = (fewer(split)[0] for split in ("test", "validation"))
    half, others = bench.floor_settings(30), bench.floor_settings(100_000)
    assert [row["n"] for row in half] == ["30", "30"]
    most = [len(bench.real_images), len(bench.draw(others[1])[0])]
    assert [int(row["n"]) for row in others] == most and most[0] > 400
    pixels = {image.numpy().tobytes() for image in bench.real_images}
    for settings, source in zip(others, (test, validation)):
        images, y = bench.draw(settings)
        assert len(set(torch.bincount(y).tolist())) == 1 and len(images) == len(y)
        assert (see(bench.judge, images).prediction == y).float().mean() > 0.97
        found = {image.numpy().tobytes() for image in images}
        assert found <= {image.numpy().tobytes() for image in source} and not found & pixels
    assert torch.bincount(bench.real.labels).tolist() == [most[0] // 10] * 10
    row = bench.row(half[0])
    assert row["frechet_change"] == row["mcnemar_p"] == "-" and float(row["accuracy"]) > 0.9
    assert row["ddpm_unet"] == bench.made_from["ddpm_unet"]


def test_the_judge_may_lie_in_another_folder(bench, with_rivals, tmp_path):
    dataset = SimpleNamespace(info=MNIST_INFO, load=fewer)
    shutil.copytree(with_rivals, tmp_path / "m")
    (tmp_path / "m" / "judge.pth").unlink()
    settings = (dataset, "validation", 1, torch.device("cpu"))
    other = Bench(tmp_path / "m", *settings, judge_in=with_rivals)
    assert other.made_from == bench.made_from and len(other.floors) == 1
    with pytest.raises(UserError, match="judge.pth is missing"):
        Bench(tmp_path / "m", *settings)


@pytest.mark.parametrize("labels", [torch.arange(100) % 9, torch.tensor([*range(10)] * 2)])
def test_too_few_real_images_are_one_line(with_rivals, monkeypatch, labels):
    monkeypatch.setattr(measures, "NUM_LEAST", 11)
    load = lambda split: (torch.zeros(len(labels), 1, 28, 28), labels)  # noqa: E731
    dataset = SimpleNamespace(info=MNIST_INFO, load=load)
    with pytest.raises(UserError, match="the validation images are too few"):
        Bench(with_rivals, dataset, "validation", 0, torch.device("cpu"))


@pytest.fixture
def bench_of_noise(bench, monkeypatch):
    """It takes noise for samples, 20 of them, and fewer halves."""
    noise = lambda _, __, y, *___: torch.randn(len(y), 1, 28, 28)  # noqa: E731
    monkeypatch.setattr(inference, "sample_with", noise)
    monkeypatch.setattr(tables, "NUM_SWEEP", 20)
    monkeypatch.setattr(measures, "NUM_HALVES", 3)
    monkeypatch.setattr(bench, "real", bench.real.part(slice(0, None, 4)))
    monkeypatch.setattr(bench, "floors", dict([*bench.floors.items()][:1]))
    monkeypatch.setattr(bench, "defaults", {})
    return bench


@pytest.mark.parametrize("sweep, rows, figures", [
    ("scales", 27, ["scales.png", "scales_grid.png"]), ("samplers", 10, ["samplers.png"]),
    ("windows", 20, ["windows.png"]), ("controls", 17, ["controls_grid.png"]),
])  # fmt: skip
def test_a_sweep_writes_its_table_and_figures(bench_of_noise, tmp_path, sweep, rows, figures):
    evaluate.SWEEPS[sweep](bench_of_noise, tmp_path)
    written = read_rows(tmp_path / f"{sweep}.csv")
    assert len(written) == len({str(row) for row in written}) == rows
    assert sum(row["mcnemar_p"] == "-" for row in written) == 2  # real images, the default
    assert {path.name for path in tmp_path.glob("*.png")} == set(figures)


def test_the_curves_of_the_families_have_all_their_scales(bench_of_noise, tmp_path, monkeypatch):
    """Also where there are fewer real images than samples."""
    drawn = {}
    floors = {name: images[:, :1] for name, images in bench_of_noise.floors.items()}
    monkeypatch.setattr(bench_of_noise, "floors", floors)
    monkeypatch.setattr(
        figures, "save_figure", lambda path, figure, _: drawn.setdefault(path.name, figure)
    )
    evaluate.SWEEPS["scales"](bench_of_noise, tmp_path)
    for ax in drawn["scales.png"].axes:
        lengths = [len(curve.lines[0].get_xdata()) for curve in ax.containers]
        assert lengths == [len(scales) for _, scales in tables.FAMILIES.values()]
    plt.close("all")


def test_the_label_changes_the_loss_from_our_unguided_one(bench, tmp_path, monkeypatch):
    """Of U-Nets whose losses are known: that of eps, and more by (y / 9)^2."""
    monkeypatch.setattr(tables, "GUIDE_BANDS", ((0, 1000),))
    monkeypatch.setattr(figures, "plot_guide", lambda *_: None)
    free = lambda x_t, t, y: SimpleNamespace(  # noqa: E731
        sample=torch.ones_like(x_t) * y.view(-1, 1, 1, 1) / 9
    )
    nothing = lambda x_t, _: SimpleNamespace(sample=torch.zeros_like(x_t))  # noqa: E731
    monkeypatch.setattr(bench, "unet", nothing)
    monkeypatch.setattr(bench, "networks", {"classifier-free": (free, None, {"ddpm_unet": "f"})})
    tables.sweep_guide(bench, tmp_path)
    row, *_ = read_rows(tmp_path / "guide.csv")
    _, labels = bench.dataset.load(bench.split)
    expected = (labels / 9).square().mean().item()
    assert float(row["change_by_label"]) == pytest.approx(expected, abs=0.01)
    assert row["classifier_free"] == "f" and float(row["loss_unguided"]) == pytest.approx(
        1, abs=0.01
    )


def test_copies_are_the_samples_nearest_to_training_images(bench_of_noise, tmp_path, monkeypatch):
    shown, make_grid = [], figures.make_grid
    monkeypatch.setattr(
        figures, "make_grid", lambda *a, **k: shown.append(a[0]) or make_grid(*a, **k)
    )
    tables.copies(bench_of_noise, 20, tmp_path)
    ours, train = shown[0][:5], fewer("train")[0]
    distances = figures.nearest_distances(bench_of_noise.default(20)[0], train)[0]
    torch.testing.assert_close(
        (ours - shown[0][5:]).flatten(1).norm(dim=1), distances.sort().values[:5]
    )
    samples, real = read_rows(tmp_path / "copies.csv")
    assert (samples["images"], samples["n"]) == ("samples", "20")
    assert (real["images"], real["n"]) == ("test images", str(len(bench_of_noise.real_images)))
    assert float(samples["nearest"]) > float(real["quantile_0.9"])  # noise is no digit
    assert (tmp_path / "copies.png").exists()


def test_nearest_distances_are_euclidean():
    train, images = torch.randn(50, 1, 28, 28), torch.randn(9, 1, 28, 28)
    images[4] = train[31] + 0.01
    distance, nearest = figures.nearest_distances(images, train, chunk=4)
    exact = (images[:, None] - train).square().sum(dim=(2, 3, 4)).sqrt()
    torch.testing.assert_close(distance, exact.min(dim=1).values, atol=1e-2, rtol=1e-3)
    assert torch.equal(nearest, exact.argmin(dim=1)) and nearest[4] == 31
    assert distance[4].item() == pytest.approx(0.28, abs=0.02)
