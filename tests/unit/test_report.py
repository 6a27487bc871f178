"""The experiments of the report, and the tables in the READMEs."""

from unittest.mock import Mock

import torch

from data import Dataset
from evaluation import report
from evaluation.measure import read_rows
from support.files import MODELS, ROOT


def test_the_stored_tables_are_those_of_the_experiments(monkeypatch, tmp_path):
    """The same rows, settings, and networks. Only `quality` uses test images."""
    calls = {}

    def called(rows, n=2_000, split="validation", seed=1, path=None, columns=None, **others):
        stored = read_rows(ROOT / "results" / path.name)
        assert [r["images"] for r in stored if not r["images"].startswith("real")] == list(rows)
        for row in stored:
            assert (row["split"], row["seed"]) == (split, f"{seed}")
            for key, value in columns.items():
                assert row[key] == f"{value}" or path.stem == "transfer" or "uniform" in key
        calls[path.stem] = split, seed, n
        return {row["images"]: dict.fromkeys(row, 0.0) for row in stored}

    monkeypatch.setattr(report, "measure", called)
    monkeypatch.setattr(report, "FASHION", MODELS)
    monkeypatch.setattr(report, "UNIFORM", MODELS)
    monkeypatch.setattr(report, "Dataset", str)  # Fashion-MNIST is not included
    for name in ("scales", "transfer", "middle", "classifier_free", "quality"):
        report.EXPERIMENTS[name](tmp_path / f"{name}.csv")
    assert [name for name, (split, *_) in calls.items() if split == "test"] == ["quality"]
    chosen = calls.pop("classifier_free"), calls.pop("middle")
    assert not {seed for _, seed, _ in chosen} & {seed for _, seed, _ in calls.values()}
    for page in report.PAGES:  # every table can be filled in
        assert report.with_tables(page.read_text()) == page.read_text()


def test_the_answer_says_which_images_are_generated(monkeypatch, tmp_path, capsys):
    """And so does README.md."""
    save = Mock()
    monkeypatch.setattr(report, "save_labeled_grid", save)
    report.real_or_generated(tmp_path / "x.csv")
    _, rows, labels = save.call_args.args
    real, y = Dataset().load("validation")
    answer = ""
    for k in range(10):
        first = real[y == k][0]
        [generated] = [name for name, images in rows if not torch.equal(images[k], first)]
        answer += generated
    assert labels == [*"0123456789"] and f"generated: {answer}" in capsys.readouterr().out
    assert f"From 0 to 9: {answer}." in (ROOT / "README.md").read_text()


def test_guidance_starts_where_the_sheet_says(monkeypatch, tmp_path):
    """With the same noise for all: a 7 without guidance, and what a late start cannot change."""
    save = Mock()
    monkeypatch.setattr(report, "save_labeled_grid", save)
    report.starts(tmp_path / "x.csv")
    _, rows, labels = save.call_args.args
    assert labels == [*map(str, range(1, 21)), "none"] and [name for name, _ in rows] == [
        *"0123456789"
    ]
    images = torch.stack([row for _, row in rows])
    assert len(images[:, -1].unique(dim=0)) == 1 and len(images[:, 0].unique(dim=0)) == 10
    ddpm, classifier = report.load_models()
    [alone] = report.guided_rows(
        ddpm, classifier, [("", lambda t: report.growing_scale(ddpm)(t) * (t < 500))], **report.FAST
    ).values()
    torch.testing.assert_close(alone(torch.tensor([3]), [0])[0], images[3, 10], atol=1e-3, rtol=0)


def test_a_page_names_its_rows_and_gets_the_other_cells_from_the_csv_file(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "ROOT", tmp_path)
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "x.csv").write_text("a,b,c\n1,2,3\n4,5,6\n7,8,9\n")
    page = (
        "Before.\n<!-- table x.csv: a c -->\n| A | C |\n| - | - |\n| 7 | |\n| 1 | 0 |\n\nAfter.\n"
    )
    expected = page.replace("| 7 | |", "| 7 | 9 |").replace("| 1 | 0 |", "| 1 | 3 |")
    assert report.with_tables(page) == expected
