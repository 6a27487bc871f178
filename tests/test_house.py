"""Imports go in one direction, and importing a module does nothing."""

import re
import subprocess
import sys
from pathlib import Path

from conftest import ROOT

LAYERS = [  # a file imports from its own layer or from those above
    ["support"],
    ["classifier", "diffusion", "data"],
    ["train_classifier", "train_ddpm", "inference"],
    ["evaluation"],
    ["examples", "docs", "course"],
]
LAYER_OF = {name: number for number, names in enumerate(LAYERS) for name in names}


def modules():
    """The tracked Python files: module name -> path."""
    listed = subprocess.run(["git", "ls-files", "*.py"], cwd=ROOT, capture_output=True, text=True)
    paths = [Path(line) for line in listed.stdout.splitlines() if not line.startswith("tests/")]
    return {
        ".".join(path.with_suffix("").parts): ROOT / path
        for path in paths
        if (ROOT / path).exists() and path.name != "__main__.py"
    }


def test_imports_go_in_one_direction():
    for module, path in modules().items():
        own = LAYER_OF[module.split(".")[0]]
        for name in re.findall(r"^\s*(?:from|import) (\w+)", path.read_text(), re.M):
            assert LAYER_OF.get(name, 0) <= own, f"{module} imports {name}"


def test_importing_does_nothing():
    """Step 2 needs neither step 3 nor the classifier."""
    script = f"""
import sys, train_ddpm
assert not {{"inference", "classifier"}} & set(sys.modules)
import {", ".join(modules())}
"""
    command = [sys.executable, "-W", "ignore", "-c", script]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout == "", done.stderr
