"""The experiments of the report, and the tables of the pages."""

import re
from types import SimpleNamespace

import pytest
import torch
from conftest import fake_ddpm

import evaluation.measure
from diffusion import snr
from evaluation import report
from evaluation.tables import read_rows, with_tables
from support.files import MODELS, ROOT, sha256

SEEDS = {"quality": 0, "scales": 2, "transfer": 2, "runs": 3, "classifier_free": 4}
NETWORKS = ("ddpm_unet.pth", "classifier.pth")
DDPM = fake_ddpm(lambda x_t, t: torch.zeros_like(x_t))
LABELED = fake_ddpm(lambda x_t, t, y: 1e-5 * (y < 10) * torch.ones_like(x_t), num_class_embeds=11)


@pytest.fixture
def experiment(monkeypatch, tmp_path):
    """Run an experiment with these networks, but measure nothing: the arguments of `measure`.

    A hash is the path of the file instead.
    """
    classifier, calls = SimpleNamespace(log_p=lambda x_t, t, y: 1e-5 * x_t.sum(dim=(1, 2, 3))), []
    monkeypatch.setattr(evaluation.measure, "load_models", lambda *_: (DDPM, classifier))
    monkeypatch.setattr(evaluation.measure, "load_ddpm", lambda *_: LABELED)
    monkeypatch.setattr(evaluation.measure, "sample", lambda *a, **b: (a, b))
    monkeypatch.setattr(evaluation.measure, "sha256", str)
    monkeypatch.setattr(report, "Dataset", str)  # Fashion-MNIST is not included
    monkeypatch.setattr(report, "load_judge", str)

    def measure(rows, n=2_000, split="validation", **settings):
        calls.append({"rows": rows, "n": n, "split": split, **settings})
        names = ["real images", *rows]
        return {name: {"frechet": k / 40, "accuracy": k / 99} for k, name in enumerate(names, 1)}

    def run(name):
        report.EXPERIMENTS[name](tmp_path / f"{name}.csv")
        return calls

    monkeypatch.setattr(report, "measure", measure)
    return run


def scale_of(name, t):
    if constant := re.search(r"(?:s = |scale of )([\d.]+)$", name):
        return float(constant[1])
    b = re.search(r"1 \+ ([\d.]+) SNR", name) or (0, 12)
    return 1 + float(b[1]) * snr(DDPM.abar[max(t, 400) if "constant below" in name else t]).item()


@pytest.mark.parametrize("name", SEEDS)
def test_each_row_has_the_scale_of_its_name(experiment, name):
    """And the settings and networks of its columns. Only quality uses test images."""
    x_t, y, split = torch.zeros(1, 1, 28, 28), torch.tensor([3]), "validation"
    n, settings = 2_000, {"sampler": "sde-dpmsolver++", "steps": 20}
    if name == "quality":
        split, n, settings = "test", 4_300, {"sampler": "ddpm", "steps": 50}
    calls = experiment(name)
    folders = {"runs": report.RUNS, "transfer": [report.FASHION]}.get(name, [MODELS])
    assert len(calls) == len(folders)
    for call, folder in zip(calls, folders):
        assert (call["split"], call["n"], call["seed"]) == (split, n, SEEDS[name])
        hashes = {f"sha256 of {network}": str(folder / network) for network in NETWORKS}
        assert (settings | hashes).items() <= call["columns"].items()
        for row, draw in call["rows"].items():
            if row.endswith("unguided"):
                assert draw(y, [0]) == (((DDPM, None, [0]), settings), None)
                continue
            (ddpm, *given), options = draw(y, [0])
            predict = options.pop("predict")
            assert given == [y, [0]] and options == settings
            for t in (100, 399, 400, 900):
                shift = predict(x_t, t, y) - ddpm(x_t, t, y) if ddpm is DDPM else predict(x_t, t, y)
                unit = -1e-5 * (1 - ddpm.abar[t]).sqrt() if ddpm is DDPM else 1e-5
                assert shift.mean() / unit == pytest.approx(scale_of(row, t), rel=0.01)


@pytest.mark.parametrize("name", SEEDS)
def test_the_stored_tables_are_those_of_the_experiments(experiment, name):
    for call in experiment(name):
        stored = read_rows(ROOT / "results" / call["path"].name)
        stored = [row for row in stored if not row["images"].startswith("real ")]
        assert [row["images"] for row in stored] == [*call["rows"]]
        included = call["path"].stem not in ("transfer", "runs_1", "runs_2")
        for key, value in call["columns"].items():
            if included or "sha256" not in key:
                expected = sha256(value) if "sha256" in key else str(value)
                assert {row[key] for row in stored} == {expected}


def test_the_pages_change_only_on_request_and_if_nothing_failed(fails, monkeypatch, tmp_path):
    header = "images,frechet,recall_change,recall_change_low,recall_change_high\n"
    (tmp_path / "x_0.csv").write_text(f"{header}real images,1.5,-,-,-\na,1.75,-,-,-\n")
    (tmp_path / "x_1.csv").write_text(f"{header}b,2.25,0.25,-0.125,0.625\n")
    columns = "images recall_change recall_change= frechet="
    form = f"<!-- table x_*.csv: {columns} -->\n| a |\n| - |\n{{}}\nEnd\n"
    before = form.format("| b | |\n| a | 1 |\n| ± at most | |\n")
    pages, bad = (tmp_path / "1.md", tmp_path / "2.md"), before.replace("| a | 1", "| c | 1")
    monkeypatch.setattr(report, "PAGES", pages)
    monkeypatch.setattr(report, "with_tables", lambda text: with_tables(text, tmp_path))
    monkeypatch.setitem(report.EXPERIMENTS, "scales", lambda path: None)
    monkeypatch.setitem(report.EXPERIMENTS, "quality", lambda path: 1 / 0)
    for page, text in zip(pages, (before, bad)):
        page.write_text(text)
    report.main(["scales"])
    with pytest.raises(ZeroDivisionError):
        report.main(["quality", "tables"])
    assert "'c'" in fails(report.main, "tables")
    assert [page.read_text() for page in pages] == [before, bad]
    pages[1].write_text(before)
    report.main(["scales", "tables"])
    rows = "| b | +0.250 [-0.125, +0.625] | +0.250 | 2.25 |", "| a |  |  | 1.75 |"
    after = form.format("\n".join([*rows, "| ± at most | 0.375 | 0.375 | 0.000 |\n"]))
    assert [page.read_text() for page in pages] == [after, after]
