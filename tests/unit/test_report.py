"""The experiments of the report, the stored tables, and the tables in the READMEs."""

from itertools import islice

import pytest
import torch

from evaluation import report
from evaluation.measure import settings_of
from inference import guided, trajectory
from support.files import MODELS, ROOT, as_number, as_text, read_rows, sha256


def test_the_stored_rows_are_those_of_the_experiments(monkeypatch, tmp_path):
    """With the same settings. Only `quality` uses test images, and no setting is chosen with them.

    The rows that the pages show are among them.
    """
    seeds, names, made = {}, {}, []

    def stored(rows, n=2_000, split="validation", seed=1, path=None, **dataset_and_judge):
        assert (split, seed) != ("validation", 0)
        table = {row["images"]: row for row in read_rows(ROOT / "results" / path.name)}
        for name, row in rows.items():
            for key, value in settings_of(row, range(n), split, seed).items():
                assert table[name][key] == as_text(value)
        seeds[path.name], names[path.name] = (split, seed), set(table)
        assert set(rows) == {name for name in table if "real" not in name}
        made.extend(rows.values())
        return {name: {k: as_number(v) for k, v in row.items()} for name, row in table.items()}

    monkeypatch.setattr(report, "measure", stored)
    monkeypatch.setattr(report, "RUNS", dict.fromkeys(report.RUNS, MODELS))
    monkeypatch.setattr(report, "Dataset", str)  # Fashion-MNIST is not included
    for name, make in report.EXPERIMENTS.items():
        if name not in ("nudges", "real_or_generated"):  # they measure no samples
            make(tmp_path / f"{name}.csv")
    assert (tmp_path / "tuning.png").exists()
    assert [name for name, (split, _) in seeds.items() if split == "test"] == ["quality.csv"]
    assert seeds.pop("tuning.csv") not in seeds.values()
    images = made[-1](torch.tensor([3]), [0])  # of the last experiment
    assert images.shape == (1, 1, 28, 28)
    names["nudges.csv"] = {row["images"] for row in read_rows(ROOT / "results" / "nudges.csv")}
    for page in report.PAGES:
        for found in report.TABLE.finditer(page.read_text()):
            shown = {line.split("|")[1].strip() for line in found["rows"].splitlines()}
            assert shown <= names[found["file"]]


def test_the_figure_draws_a_curve_for_each_method_and_run():
    stored = {row["images"]: row for row in read_rows(ROOT / "results" / "tuning.csv")}
    table = {name: {k: as_number(v) for k, v in row.items()} for name, row in stored.items()}
    lines = {line.get_label(): line for line in report.tuning_figure(table).axes[0].lines}
    assert len(lines) == 7  # with the real images
    points = [table[f"classifier-free, s = {s}, run 2"] for s in (1, 1.1, 1.25, 1.5, 1.75, 2)]
    frechet, accuracy = lines["classifier-free, run 2"].get_data()
    assert list(accuracy) == [100 * row["accuracy"] for row in points]
    assert list(frechet)[:4] == [row["frechet"] for row in points][:4]


def test_pushes_of_equal_size_change_the_next_image_equally():
    networks, y, sizes = report.Networks(0), torch.arange(10), {}
    ddpm, scales = networks.ddpm, report.scales_of_equal_size(networks, n=10)
    unguided = list(islice(trajectory(ddpm, y, range(10), None, "ddim", 20), 14))
    for number in (0, 6, 12):  # t = 999, 699, 399
        t, _, _ = unguided[number]
        predict = guided(ddpm, networks.grad, lambda u, t=t: scales[t] if u == t else 0)
        pushed = trajectory(ddpm, y, range(10), predict, "ddim", 20)
        change = next(islice(pushed, number + 1, None))[1] - unguided[number + 1][1]
        sizes[t] = change.flatten(1).norm(dim=1).mean().item()
    assert scales[699] == 50
    for size in sizes.values():
        assert size == pytest.approx(sizes[699], rel=1e-3)


def test_the_tables_were_measured_with_the_included_networks():
    hashes = {path.name: sha256(path) for path in MODELS.glob("*.pth")}
    checked = 0
    for name in set(report.EXPERIMENTS) - {"nudges", "transfer", "real_or_generated"}:
        for row in read_rows(ROOT / "results" / f"{name}.csv"):
            assert row["sha256 of judge"] == hashes["judge.pth"]
            if row.get("run") == "0":
                words = row["networks"].split()
                assert all(hashes[key] == value for key, value in zip(words[::2], words[1::2]))
                checked += 1
    assert checked > 25
    for row in read_rows(ROOT / "results" / "nudges.csv"):
        included = row["images"].endswith(("labels", "wrong", "images"))
        assert (row["sha256 of network"] == hashes[row["network"]]) == included


def test_a_page_names_its_rows_and_gets_the_other_cells_from_the_csv_file(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "ROOT", tmp_path)
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "x.csv").write_text("a,b,c\n1,2,3\n4,5,6\n7,8,9\n")
    page = (
        "Before.\n<!-- table x.csv: a c -->\n| A | C |\n| - | - |\n| 7 | |\n| 1 | 0 |\n\nAfter.\n"
    )
    expected = page.replace("| 7 | |", "| 7 | 9 |").replace("| 1 | 0 |", "| 1 | 3 |")
    assert report.with_tables(page) == expected
