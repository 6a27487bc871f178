"""The house: imports run one way, importing does nothing, and every fault can be made."""

import ast
import re
import subprocess
import sys

from break_the_method import read_faults
from conftest import ROOT

LAYERS = {  # a file imports from its own layer or from lower ones
    "support": 0,
    "classifier": 1,
    "diffusion": 1,
    "mnist": 1,
    "inference": 2,
    "train_classifier": 3,
    "train_ddpm": 3,
    "evaluation": 4,
    "evaluate": 5,
    "examples": 5,
    "docs": 5,
}
FILES = sorted([*ROOT.glob("*.py"), *(p for name in LAYERS for p in (ROOT / name).glob("*.py"))])
MODULES = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in FILES}


def imported(path):
    """The modules of this repository that a file imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        yield from (name for name in names if name in MODULES)


def test_imports_run_one_way():
    for name, path in MODULES.items():
        for target in imported(path):
            layer, own = LAYERS[target.split(".")[0]], LAYERS[name.split(".")[0]]
            assert layer <= own, f"{name} imports {target}"


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
