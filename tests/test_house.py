"""The house: imports run one way, importing does nothing, and lines have 100 columns."""

import re
import subprocess
import sys

from conftest import ROOT

LAYERS = [  # a file imports from its own layer or from those above
    ["support"],
    ["classifier", "diffusion", "mnist"],
    ["train_classifier", "train_ddpm", "inference"],
    ["evaluation"],
    ["evaluate", "examples", "docs", "course"],
]
LAYER_OF = {name: number for number, names in enumerate(LAYERS) for name in names}
FILES = sorted([*ROOT.glob("*.py"), *(p for name in LAYER_OF for p in (ROOT / name).glob("*.py"))])
MODULES = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in FILES}


def test_imports_run_one_way():
    for module, path in MODULES.items():
        own = LAYER_OF[module.split(".")[0]]
        for name in re.findall(r"^\s*(?:from|import) (\w+)", path.read_text(), re.M):
            assert LAYER_OF.get(name, 0) <= own, f"{module} imports {name}"


def test_importing_does_nothing():
    command = [sys.executable, "-W", "ignore", "-c", f"import {', '.join(MODULES)}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout == "", done.stderr


def test_lines_have_100_columns_at_most():
    for path in [*FILES, *(ROOT / "tests").rglob("*.py")]:
        assert all(len(line) <= 100 for line in path.read_text().splitlines()), path
