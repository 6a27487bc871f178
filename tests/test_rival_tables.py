"""The table of rivals, what they cost, and the curves of more training and more calls."""

import itertools
import json
import shutil

import pytest
import torch
from conftest import ROOT
from PIL import Image

from benchmarks import costs, curves, rivals
from evaluation.figures import NAMES
from evaluation.tables import FAMILIES
from support.files import sha256
from support.tables import read_rows


def test_a_folder_without_rivals_gets_the_rows_that_its_networks_allow(tmp_path):
    for name in ("ddpm_unet.pth", "classifier.pth"):
        shutil.copy(ROOT / "models" / name, tmp_path / name)
    bench = rivals.Bench(tmp_path, rivals.Dataset(), "test", 0, "cpu", judge_in=ROOT / "models")
    methods = [row["method"] for row in rivals.rows_of(tmp_path, bench)]
    assert methods == ["ours", "ours, 10 calls", "ours, 5 calls", "ours, unguided", "constant s"]


@pytest.mark.parametrize("method, trainings", [
    ("ours", ["U-Net", "classifier"]), ("ours, unguided", ["U-Net"]),
    ("classifier-free", ["classifier_free"]), ("notebook guidance", ["U-Net", "classifier"]),
    ("course U-Net, unguided", ["course"]), ("course U-Net, our guide", ["course", "classifier"]),
    ("notebook U-Net", ["notebook U-Net"]),
])  # fmt: skip
def test_the_minutes_of_a_method_are_those_of_its_trainings(method, trainings):
    assert costs.trained(method) == trainings and set(trainings) <= set(costs.NUM_STEPS)


def test_a_step_is_timed_from_start_to_end_and_the_first_is_not_counted(monkeypatch):
    ticks = iter([0, 100, 100, 103, 103, 104, 104, 109])
    monkeypatch.setattr(costs.time, "perf_counter", lambda: next(ticks))
    run = costs.TimedSteps(64, steps=3)
    assert list(run) == [0, 1, 2, 3] and run.median() == 3


def test_the_scales_of_the_rivals_are_the_best_on_the_validation_set():
    rows = read_rows(ROOT / "results" / "scales.csv")
    methods = {"g = 0 (ADM)": "constant s", "classifier-free": "classifier-free",
               "usual notebook": "notebook guidance"}  # fmt: skip
    for family, method in methods.items():
        shared, scales = FAMILIES[family]
        name = shared.get("variant", "ADM Algorithm 2")
        of = [r for r in rows if r["variant"] == name and r["scale_growth"] == "0"
              and float(r["guidance_scale"]) in scales]  # fmt: skip
        best = min(of, key=lambda row: float(row["frechet"]))
        assert len(of) == len(scales)
        assert float(best["guidance_scale"]) == rivals.METHODS[method]["guidance_scale"], family


@pytest.mark.parametrize("main", [rivals.main, curves.main])
def test_folders_of_one_name_are_refused(fails, main):
    assert "have the same name" in fails(main, "models", "elsewhere/models")


@pytest.mark.parametrize("main", [rivals.main, curves.main, costs.main])
def test_a_wrong_flag_measures_nothing(fails, main):
    assert "unrecognized arguments: --rounds" in fails(main, "--rounds", "1")


def test_costs_that_cannot_be_written_are_not_measured(fails, monkeypatch, tmp_path):
    monkeypatch.setattr(costs, "OUTPUT", tmp_path / "none" / "costs.csv")
    assert "does not exist; create it" in fails(costs.main)


def test_an_unwritable_table_is_refused_before_its_first_row(tmp_path, monkeypatch, fails):
    monkeypatch.setattr(rivals.Bench, "row", lambda *_: pytest.fail("a row was measured"))
    line = fails(rivals.main, "--output", tmp_path / "none" / "rivals.csv")
    assert "none does not exist; create it" in line


def test_every_rival_has_its_costs():
    timed = {row["method"] for row in read_rows(ROOT / "results" / "costs.csv")}
    measured = {row["method"] for row in read_rows(ROOT / "results" / "rivals.csv")}
    assert timed - measured == {"notebook U-Net"} and measured - timed == {"real images"}


@pytest.fixture
def quarter(tmp_path):
    """A folder of the shipped networks, that says that they took a quarter of the steps."""
    folder = tmp_path / "quarter"
    folder.mkdir()
    for name in curves.TRAININGS:
        checkpoint = torch.load(ROOT / "models" / name, weights_only=True)
        checkpoint["training"]["steps"] //= 4
        torch.save(checkpoint, folder / name)
    return folder


def test_minutes_are_in_proportion_to_the_steps(quarter):
    assert curves.minutes_of(ROOT / "models") == 19.5
    assert curves.minutes_of(quarter) == pytest.approx(19.5 / 4, abs=0.01)


def test_what_the_report_says_of_more_training_and_calls():
    """Only less of them is told apart from the default; real digits are better (estimates)."""
    _, others, *rows = read_rows(ROOT / "results" / "curves.csv")
    apart = {}
    for row in rows:
        assert float(row["frechet"]) > float(others["frechet"])
        assert float(row["precision"]) < float(others["precision"])
        if row["mcnemar_p"] == "-":  # the default itself
            continue
        told = {"accuracy"} if float(row["mcnemar_p"]) < 0.05 else set()
        for name in ("frechet", "precision", "recall"):
            low, high = (float(row[f"{name}_change_{end}"]) for end in ("low", "high"))
            told |= set() if low <= 0 <= high else {name}
        apart[row["folder"], row["steps"]] = told
    more = [key for key in apart if key[0] in ("models", "double", "triple") and int(key[1]) >= 20]
    assert len(more) == 6 and not any(apart[key] for key in more)
    assert apart["half", "20"] == {"frechet"}
    assert apart["quarter", "20"] == {"accuracy", "frechet", "precision"}


def test_the_curves_have_each_training_and_each_number_of_calls(quarter, monkeypatch):
    """The measuring is replaced; a measure is the number of its row."""
    numbers = itertools.count()
    ends = [f"{name}{end}" for name in NAMES for end in ("", "_low", "_high")]
    monkeypatch.setattr(rivals.Bench, "row", lambda self, row: {
        **row, "drawn_by": str(self.models), "compared": str(self.compared.models),
        **dict.fromkeys(ends, str(next(numbers)))
    })  # fmt: skip
    curves.main([str(quarter), "--output", str(quarter)])
    rows = read_rows(quarter / "curves.csv")
    assert [row["variant"] for row in rows[:2]] == [
        "other half of the test set",
        "validation images",
    ]
    drawn = [(row["folder"], row["training_minutes"], row["steps"]) for row in rows[2:]]
    ours = [("models", "19.5", calls) for calls in ("20", "5", "10", "50", "100")]
    assert drawn == [*ours, *(("quarter", "4.88", calls) for calls in ("20", "10", "100"))]
    for row in rows[2:]:
        folder = ROOT / "models" if row["folder"] == "models" else quarter
        assert row["compared"] == str(ROOT / "models")
        assert row["drawn_by"] == str(folder) and row["seed"] == "0" and row["n"] == "1000"
        assert row["ddpm_unet"] == sha256(folder / "ddpm_unet.pth")
    info = json.loads(Image.open(quarter / "curves.png").info["provenance"])
    assert info["weights"]["ddpm_unet.pth"] == sha256(ROOT / "models" / "ddpm_unet.pth")
