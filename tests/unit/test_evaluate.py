"""evaluate.py through its main, with few real images; and the other scripts that measure."""

import shutil
from itertools import product
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from conftest import ROOT, Evil, abar
from diffusers import DDPMScheduler
from PIL import Image

import evaluate
import inference
import mnist
from classifier import Classifier, load_classifier
from diffusion import SCHEDULE
from evaluation import lengths, measures, rows, train_on_samples
from evaluation.exact import Exact
from evaluation.measures import COMPARED
from evaluation.methods import METHODS
from evaluation.report import read_rows
from evaluation.rows import SETTINGS
from inference import Unguided, growing_scale
from support.files import save_checkpoint, sha256
from support.pictures import save_npz
from support.streams import image_seeds

TINY = ["--n", "100", "--steps", "2"]
WEIGHTS = {path.stem: path for path in ROOT.glob("models/*.pth")}


@pytest.fixture(scope="module", autouse=True)
def faster(few_images):
    """The judge reads the real images once, and intervals are those of two halves."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measures, "NUM_HALVES", 2)
        yield


@pytest.fixture
def asked(monkeypatch):
    """The calls of `sample`: a list, to which each row adds. It draws noise."""

    def noise(method, y, seeds, sampler, steps):
        return torch.rand(len(y), 1, 28, 28) * 2 - 1

    monkeypatch.setattr(rows, "sample", Mock(side_effect=noise))
    return rows.sample.call_args_list


@pytest.fixture
def refused(fails):
    """evaluate.py with these flags fails in one line."""
    return lambda *flags: fails(evaluate.main, *TINY, *flags)


def run(path, *flags):
    """The rows of the table that evaluate.py writes."""
    evaluate.main([*TINY, "--csv", str(path), *map(str, flags)])
    return read_rows(path)


def column(table, name):
    return [row[name] for row in table]


# --- rows by settings ---


def test_a_row_for_each_combination_in_the_order_of_the_flags(asked, tmp_path):
    """Its settings reach `sample`. Of 105 images there are equally many of each digit: 100."""
    flags = ["--method", "without_root", "--sampler", "ddim", "--steps", 5, 3, "--seed", 3]
    flags += ["--guidance-scale", 2, 0.5, "--growth", 7, "--n", 105, "--split", "test"]
    real, validation, *table = run(tmp_path / "x.csv", *flags, "--window", "0-500")
    assert real["images"] == "other half of the test set" and real["n"] == "100"
    assert validation["images"] == "validation images" and validation["against"] == "test"
    assert real["method"] == "-" and column(table, "images") == ["samples"] * 4
    scheduler = DDPMScheduler(**SCHEDULE)
    for row, call, (scale, steps) in zip(table, asked, product((2, 0.5), (5, 3)), strict=True):
        settings = " ".join(row[name] for name in (*SETTINGS[1:], "n", "seed"))
        assert settings == f"without_root classifier {scale} 7 0-500 ddim {steps} 100 3"
        method, y, seeds, sampler, num_steps = call.args
        wanted = growing_scale(scheduler, scale, 7, (0, 500))
        assert [method.scale(t) for t in (500, 499, 0)] == [wanted(t) for t in (500, 499, 0)]
        assert isinstance(method, METHODS["without_root"])
        assert (sampler, num_steps) == (inference.SAMPLERS["ddim"], steps)
        assert seeds == image_seeds(3, y.tolist()) and torch.bincount(y).tolist() == [10] * 10


def test_each_method_has_its_own_scale_and_what_it_does_not_take_is_not_used(asked, tmp_path):
    """By default; a scale that is asked for is everybody's, and constant, as in inference.py."""
    methods = ["--method", "guided", "unguided", "classifier_free"]
    _, *table = run(tmp_path / "x.csv", *methods)
    wanted = ["classifier 1 24", "- - -", "- 1.25 0"]
    names = ("guide", "guidance_scale", "growth")
    assert [" ".join(row[name] for name in names) for row in table] == wanted
    guided, unguided, free = (call.args[0] for call in asked)
    assert guided.scale(249) == pytest.approx(27, rel=0.02) and free.scale(0) == 1.25
    assert type(unguided) is Unguided and column(table, "sha256 of guide")[1:] == ["-", "-"]
    assert table[2]["sha256 of rival"] == sha256(WEIGHTS["rival_classifier_free"])
    assert table[2]["sha256 of ddpm"] == "-" and free.ddpm.unet.config.num_class_embeds == 11
    _, *table = run(tmp_path / "y.csv", *methods, "--guidance-scale", 3)
    assert column(table, "guidance_scale") == ["3", "-", "3"] and asked[-3].args[0].scale(0) == 3


def test_every_method_of_a_table_can_be_made(asked, tmp_path):
    _, *table = run(tmp_path / "x.csv", "--method", *METHODS)
    assert column(table, "method") == list(METHODS)
    assert [type(call.args[0]) for call in asked] == list(METHODS.values())


def test_a_row_names_the_files_that_made_it(asked, refused, tmp_path, few_images):
    """Of several folders and guides; and these are the networks that `sample` is given."""
    other = shutil.copytree(ROOT / "models", tmp_path / "other")
    untrained, own = other / "classifier.pth", tmp_path / "own.py"
    save_checkpoint(untrained, Classifier(), SCHEDULE, few_images.info, {"seed": 0})
    own.write_text("def log_p(x_t, t, y):\n    return x_t.sum(dim=(1, 2, 3))")
    guides = ["classifier", f"{own}:log_p", untrained]
    table = run(tmp_path / "x.csv", "--models", "models", other, "--guide", *guides)[1:]
    made_by = [WEIGHTS["classifier"], own, untrained, untrained, own, untrained]
    assert column(table, "models") == ["models"] * 3 + [str(other)] * 3
    assert column(table, "sha256 of guide") == [sha256(path) for path in made_by]
    assert column(table, "sha256 of ddpm") == [sha256(WEIGHTS["ddpm_unet"])] * 6
    assert column(table, "sha256 of judge") == [sha256(WEIGHTS["judge"])] * 6

    inputs = torch.randn(2, 1, 28, 28), torch.tensor([5, 300]), torch.tensor([3, 4])
    by_shipped, by_own, by_untrained, by_other = (c.args[0].log_p(*inputs) for c in asked[:4])
    assert torch.equal(by_shipped, load_classifier(WEIGHTS["classifier"]).log_p(*inputs))
    assert torch.equal(by_untrained, load_classifier(untrained).log_p(*inputs))
    assert torch.equal(by_other, by_untrained)
    assert torch.equal(by_own, inputs[0].sum(dim=(1, 2, 3)))

    assert "does not define 'other'" in refused("--guide", f"{own}:other")
    assert "there is no such file" in refused("--guide", "none.py:log_p")
    for flag in ("--method", "--sampler"):
        assert "write FILE.py:NAME, or a name of --help" in refused(flag, "none")
    assert "write classifier, exact, FILE.pth or" in refused("--guide", "own.py")
    missing = refused("--guide", "models/typo.pth")
    assert "models/typo.pth is missing: check its name" in missing and "git" not in missing


OWN_FILE = """
from inference import Guided, first_order

class Doubled(Guided):
    def __init__(self, ddpm, log_p, scale):
        super().__init__(ddpm, log_p, lambda t: 2 * scale(t))

def five(t):
    return 5

def made(classifier, ddpm):
    return lambda x_t, t, y: classifier.log_p(x_t, t, y) + len(ddpm.scheduler.alphas_cumprod)

def heun(predict_noise, abar, x_t, times, noise):
    yield times[-1], x_t, x_t
"""


def test_method_scale_and_sampler_may_be_your_own(asked, tmp_path):
    """In a FILE.py, which is hashed and run once."""
    own = tmp_path / "own.py"
    own.write_text(OWN_FILE)
    flags = ["--method", f"{own}:Doubled", "--guidance-scale", 3]
    _, row = run(tmp_path / "x.csv", *flags, "--sampler", f"{own}:heun")
    assert row["sha256 of method"] == row["sha256 of sampler"] == sha256(own)
    method, _, _, sampler, _ = asked[-1].args
    assert method.scale(0) == 6 and sampler.__name__ == "heun"
    _, row = run(tmp_path / "y.csv", "--guidance-scale", f"{own}:five", "--guide", "exact")
    assert row["sha256 of scale"] == sha256(own) and "sha256 of guide" not in row
    assert (row["guidance_scale"], row["growth"]) == (f"{own}:five", "-")
    assert asked[-1].args[0].scale(0) == 5
    run(tmp_path / "z.csv", "--guide", f"{own}:made")  # is given the networks of --models
    inputs = torch.randn(2, 1, 28, 28), torch.tensor([5, 300]), torch.tensor([3, 4])
    shipped = load_classifier(WEIGHTS["classifier"]).log_p(*inputs)
    torch.testing.assert_close(asked[-1].args[0].log_p(*inputs), shipped + 1000)


def test_what_a_file_of_your_own_cannot_have_is_refused(refused, tmp_path):
    """Before a row is measured: arguments of other names; a growth beside a scale of your own."""
    own = tmp_path / "own.py"
    own.write_text(
        "def five(t):\n    return 5\n\nclass Extra:\n    def __init__(self, ddpm, x): ..."
    )
    known = "a method takes ddpm or rival, log_p, exact, scale; a guide's maker ddpm, classifier"
    assert f"missing a required argument: 'x'; {known}" in refused("--method", f"{own}:Extra")
    assert known in refused("--method", f"{own}:five")
    said = f"--guidance-scale {own}:five knows no --growth and no --window"
    assert said in refused("--guidance-scale", f"{own}:five", "--growth", 24)
    said = "--window 0-10: no step is in it, the times are [999, 499]"
    assert said in refused("--window", "0-10", "--steps", 2)


def test_two_files_may_have_neighbours_of_the_same_name(tmp_path):
    found = []
    for number in (1, 2):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "neighbour.py").write_text(f"NUMBER = {number}")
        (folder / "own.py").write_text("from neighbour import NUMBER")
        found.append(rows.run_file(folder / "own.py")["NUMBER"])
    assert found == [1, 2]


def test_a_guide_of_other_betas_is_refused_before_a_row_is_measured(refused, tmp_path, few_images):
    guide, csv = tmp_path / "cosine.pth", tmp_path / "x.csv"
    schedule = SCHEDULE | {"beta_schedule": "squaredcos_cap_v2"}
    save_checkpoint(guide, Classifier(), schedule, few_images.info, {"seed": 0})
    said = "the guide was trained with 1000 squaredcos_cap_v2 betas, but the U-Net with 1000 linear"
    assert said in refused("--guide", "classifier", guide, "--csv", csv) and not csv.exists()


def test_a_guide_of_another_data_set_is_refused(refused, tmp_path, few_images):
    guide, info = tmp_path / "shapes.pth", {**few_images.info, "name": "shapes"}
    save_checkpoint(guide, Classifier(), SCHEDULE, info, {"seed": 0})
    assert f"{guide} was trained on shapes (1x28x28; classes 0, 1" in refused("--guide", guide)


# --- the table ---

SCALES = ["--guidance-scale", "1", "0", "5"]


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    """The table of three scales, without an interruption."""
    path = tmp_path_factory.mktemp("three") / "x.csv"
    run(path, *SCALES)
    return path


def test_changes_are_from_the_first_row_that_is_drawn(three):
    floor, first, *others = read_rows(three)
    assert float(floor["precision"]) < 1  # it would be 1 for the images of the reference
    assert first["frechet_change"] == first["mcnemar_p"] == "-"
    for row in others:
        for name in COMPARED:
            change = float(row[name]) - float(first[name])
            assert float(row[f"{name}_change"]) == pytest.approx(change, abs=2e-4)
        gained = int(row["only_this_right"]) - int(row["only_first_right"])
        assert gained == round(100 * (float(row["accuracy"]) - float(first["accuracy"])))


def test_a_table_is_not_overwritten(refused, three):
    text = three.read_text()
    assert f"{three} exists: name another file" in refused("--csv", three)
    assert three.read_text() == text


def test_rows_are_written_as_they_are_measured(tmp_path, monkeypatch, capsys):
    """Ctrl-C at the third of four rows leaves three; what is printed names its settings."""
    path = tmp_path / "x.csv"
    with monkeypatch.context() as patch, pytest.raises(SystemExit) as end:
        patch.setattr(evaluate, "described", Mock(side_effect=["", "", KeyboardInterrupt]))
        run(path, *SCALES)
    assert end.value.code == 130 and column(read_rows(path), "guidance_scale") == ["-", "1", "0"]
    run(tmp_path / "y.csv", "--guidance-scale", 0)
    printed = capsys.readouterr().out
    assert "method guided, guide classifier, guidance_scale 0, growth 0, sampler ddpm" in printed
    assert "boldness_spread 0." in printed  # all measures are shown


# --- anybody's samples ---


def test_samples_of_files_score_as_the_row_that_draws_them(tmp_path):
    """Without labels there is no accuracy; with wrong ones, nearly nothing is right."""
    npz, npy, folder, wrong = (tmp_path / name for name in ("x.npz", "x.npy", "png", "wrong.npz"))
    flags = ["--digits", "all", "--num-samples", "10", "--seed", "3", "--steps", "2"]
    inference.main([*flags, "--npz", str(npz), "--output", str(tmp_path / "o.png")])
    images, labels = np.load(npz).values()
    np.save(npy, images)
    folder.mkdir()
    for k, image in enumerate(images[..., 0]):
        Image.fromarray(image).save(folder / f"{k:03}.png")
    np.savez(wrong, images, (labels + 1) % 10)
    files = [npz, npy, folder, wrong]
    flags = ["--seed", 3, "--models", "models", "--samples", *files]
    _, drawn, *table = run(tmp_path / "x.csv", *flags)
    by_npz, by_npy, by_folder, by_wrong = table
    assert column(table, "images") == [str(path) for path in files]
    assert column(table, "sha256 of images") == [by_npz["sha256 of images"]] * 4
    assert column(table, "frechet") == [drawn["frechet"]] * 4
    assert by_npz["accuracy"] == drawn["accuracy"]
    assert by_npy["accuracy"] == by_folder["accuracy"] == by_npy["accuracy_low"] == "-"
    assert float(by_npz["accuracy"]) > 0.8 and float(by_wrong["accuracy"]) < 0.2


def test_a_wrong_file_of_samples(refused, tmp_path, monkeypatch):
    """One line says what is read. No code in the file is run, and no table begins."""
    monkeypatch.chdir(tmp_path)
    read = "what is read is 100 or more uint8 images (N, 28, 28, 1): arr_0 of an .npz"
    gray, labels = np.full((100, 28, 28), 7, np.uint8), np.arange(100) % 10
    for arrays in (
        {"arr_0": gray / 255},
        {"arr_0": gray[:99]},
        {"images": gray},
        {"arr_0": gray, "arr_1": np.array([Evil()] * 100)},
        {"arr_0": gray, "arr_1": labels + 1},
        {"arr_0": gray // 7},
    ):
        np.savez("x.npz", **arrays)
        assert read in refused("--samples", "x.npz", "--csv", "x.csv")
    Path("x.npz").write_bytes(b"anything")
    assert "it is damaged; what is read is" in refused("--samples", "x.npz", "--csv", "x.csv")
    assert not Path("made").exists() and not Path("x.csv").exists()


# --- the other scripts ---


def test_training_on_samples_tells_good_from_wrong(tmp_path, monkeypatch, fails, few_images):
    """Real images as samples are as good as real images; with wrong labels, useless.

    What is asked for twice is measured once.
    """
    for name, value in {"SEEDS": (0,), "STEPS": 60, "WARMUP_STEPS": 5, "BATCH_SIZE": 32}.items():
        monkeypatch.setattr(train_on_samples, name, value)
    files = ("right.npz", "wrong.npz", "x.csv", "y.csv")
    right, wrong, table, other = (str(tmp_path / name) for name in files)
    images, labels = few_images.load("train")
    save_npz(right, images, labels)
    save_npz(wrong, images, (labels + 1) % 10)
    flags = ["--samples", right, wrong, right, "--csv", table]
    train_on_samples.main(flags)
    rows = read_rows(table)
    of_real, of_right, of_wrong = (float(row["accuracy"]) for row in rows)
    assert min(of_real, of_right) > 0.6 and of_wrong < 0.2
    assert float(rows[1]["confirmed"]) > 0.9 and float(rows[2]["confirmed"]) < 0.1
    assert "exists: name another file" in fails(train_on_samples.main, *flags)
    np.savez(right, np.full((100, 28, 28), 7, np.uint8))
    assert "has no labels" in fails(train_on_samples.main, "--samples", right, "--csv", other)
    assert not Path(other).exists()  # nothing was trained


def test_training_on_samples_is_tested_on_the_real_images_of_the_split(monkeypatch, few_images):
    """And not on those that it trains on."""
    seen = []

    def trained_on(images, labels, num_classes, seed):
        return lambda part: seen.append(part) or torch.zeros(len(part), 10)

    monkeypatch.setattr(train_on_samples, "trained_on", trained_on)
    monkeypatch.setattr(train_on_samples, "SEEDS", (0,))
    monkeypatch.setattr(train_on_samples, "sample_rows", lambda args, dataset: [])
    for split in ("validation", "test"):
        seen.clear()
        train_on_samples.main(["--split", split])
        assert torch.equal(torch.cat(seen), few_images.load(split)[0])


@pytest.mark.parametrize("t", [100, 500, 900])
def test_the_exact_networks_are_bayes_rule_over_the_training_images(t):
    """In float64, with the densities of DDPM (4) written out."""
    images, labels = torch.randn(30, 1, 4, 4), torch.arange(30) % 3
    y, x_t, times = torch.tensor([0, 1, 2, 2]), torch.randn(4, 1, 4, 4), torch.full((4,), t)
    a = abar(t).double()
    error = x_t[:, None].double() - a.sqrt() * images.double()  # (4, 30, 1, 4, 4)
    p = (-error.square().sum(dim=(2, 3, 4)) / (2 * (1 - a))).softmax(dim=1)  # of each x_0
    log_p = torch.stack([p[k, labels == y[k]].sum() for k in range(4)]).log().float()
    mean = (p @ images.flatten(1).double()).view(4, 1, 4, 4).float()
    exact = Exact(images, labels, DDPMScheduler(**SCHEDULE))
    torch.testing.assert_close(exact.log_p(x_t, times, y), log_p, atol=1e-3, rtol=0)
    torch.testing.assert_close(exact.denoised(x_t, times), mean, atol=1e-3, rtol=0)


def test_lengths_are_compared_apart_for_samples_that_end_right_and_wrong(tmp_path, monkeypatch):
    """The exact guide is that of the training images. Here, the first eight end right."""
    asked = []

    def few(split):
        asked.append(split)
        images, labels = mnist.load_mnist(split)
        return images[:500], labels[:500]

    def eight_right(judge, images):
        y = torch.arange(10).repeat_interleave(2)
        return None, torch.where(torch.arange(20) < 8, y, (y + 1) % 10)

    (tmp_path / "results").mkdir()
    settings = {"load_mnist": few, "judge_images": eight_right, "ROOT": tmp_path}
    for name, value in (settings | {"N": 20, "BATCH_SIZE": 12, "STEPS": 3}).items():
        monkeypatch.setattr(lengths, name, value)
    lengths.main([])
    rows = read_rows(tmp_path / "results" / "lengths.csv")
    assert asked == ["train"]
    found = [(row["t"], row["ends"], row["n"]) for row in rows]
    ends = ("wrong", "12"), ("right", "8")
    assert found == [(t, end, n) for t in ("666", "332") for end, n in ends]


def test_the_fitted_growth_is_that_of_the_ratios():
    snrs = [0.01, 0.1, 1.0, 10.0]
    assert lengths.fitted_growth(snrs, [1 + 6 * x for x in snrs]) == pytest.approx(6, abs=0.1)
