"""The house: imports run one way, importing does nothing, and every fault can be made."""

import re
import subprocess
import sys

from break_the_method import read_faults
from conftest import ROOT

LAYERS = [  # a file imports from its own layer or from those above
    ["support"],
    ["classifier", "diffusion", "mnist"],
    ["guidance"],
    ["inference"],
    ["train_classifier", "train_ddpm"],
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


def test_support_knows_neither_timesteps_nor_digits():
    words = re.compile(r"timesteps?\b|\bdigits?\b|abar|alphas_cumprod|mnist", re.I)
    for path in (ROOT / "support").glob("[!_]*.py"):
        assert not words.findall(path.read_text()), path


def test_every_fault_can_be_made():
    for fault, name, text, _ in read_faults():
        assert (ROOT / name).read_text().count(text) == 1, fault


def test_importing_does_nothing():
    command = [sys.executable, "-W", "ignore", "-c", f"import {', '.join(MODULES)}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout == "", done.stderr
