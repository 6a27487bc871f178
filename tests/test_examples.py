"""The scripts of examples/: they draw into a folder of their own, and what ships stays."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

from examples import ambigram, inpainting, not_a_digit, two_digits
from support.files import sha256
from support.tables import read_rows

FILES = {
    ambigram: ["ambigrams.csv", "ambigrams.png", "ambigram.png"],
    two_digits: ["two_digits.png"],
    inpainting: ["inpainting.png"],
    not_a_digit: ["not_a_1.png"],
}


@pytest.mark.parametrize("script, names", FILES.items(), ids=lambda x: getattr(x, "__name__", ""))
def test_an_example_draws_into_a_folder(tmp_path, capsys, script, names):
    shipped = {path: sha256(path) for path in (ROOT / "results").iterdir() if path.is_file()}
    n = 1 if script is ambigram else 2
    script.main(["--n", str(n), "--folder", str(tmp_path)])
    assert {path.name for path in tmp_path.iterdir()} == set(names)
    for name in (name for name in names if name.endswith(".png")):
        picture = Image.open(tmp_path / name)
        made_from = json.loads(picture.info["provenance"])
        assert made_from["weights"]["ddpm_unet.pth"] == sha256(ROOT / "models" / "ddpm_unet.pth")
        assert made_from["settings"]["n"] == n
        assert np.asarray(picture.convert("L")).std() > 10  # not blank
    assert "] of " in capsys.readouterr().out
    assert shipped == {path: sha256(path) for path in shipped}
    if script is ambigram:
        rows = read_rows(tmp_path / "ambigrams.csv")
        assert [row["pair"] for row in rows] == [f"{a}/{b}" for a in range(10) for b in range(10)]
        assert all(row["right"] in "01" for row in rows) and sum(int(r["right"]) for r in rows) > 20


@pytest.mark.parametrize("script", FILES, ids=lambda script: script.__name__)
@pytest.mark.parametrize(
    "flags, says",
    [
        (["--n", "0"], "--n"),
        (["--n", "many"], "--n"),
        (["--folder", "missing"], "missing"),
        (["--folder", "README.md"], "README.md"),
        (["--other"], "--other"),
    ],
)
def test_a_bad_flag_of_an_example_is_one_line(fails, script, flags, says):
    assert says in fails(script.main, *flags)


@pytest.mark.parametrize("pair", [["3"], ["3", "10"], ["3", "-1"], ["3", "x"]])
def test_a_bad_pair_is_one_line(fails, pair):
    assert "--pair" in fails(two_digits.main, "--pair", *pair)


def test_an_example_runs_from_any_folder(tmp_path):
    command = [sys.executable, ROOT / "examples" / "two_digits.py", "--n", "1", "--folder", "."]
    environment = {name: text for name, text in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "two_digits.png").exists()


def test_the_table_of_ambigrams_is_whole():
    rows = read_rows(ROOT / "results" / "ambigrams.csv")
    assert len({row["pair"] for row in rows}) == len(rows) == 100
    assert all(0 <= int(row["right"]) <= int(row["n"]) == 10 for row in rows)
