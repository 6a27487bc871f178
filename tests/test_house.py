"""Imports go in one direction, and importing a module does nothing."""

import re
import subprocess
import sys

from conftest import ROOT

LAYERS = [  # a file imports from its own layer or from those above
    ["support"],
    ["classifier", "diffusion", "data"],
    ["train_classifier", "train_ddpm", "inference"],
    ["evaluation"],
    ["examples", "docs", "course"],
]
LAYER_OF = {name: number for number, names in enumerate(LAYERS) for name in names}


def output_of(*command):
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def test_imports_go_in_one_direction_and_do_nothing():
    """Step 2 needs neither step 3 nor the classifier."""
    paths = [p for p in output_of("git", "ls-files", "*.py").split() if not p.startswith("tests/")]
    for path in paths:
        own = LAYER_OF[path.removesuffix(".py").split("/")[0]]
        for name in re.findall(r"^\s*(?:from|import) (\w+)", (ROOT / path).read_text(), re.M):
            assert LAYER_OF.get(name, 0) <= own, f"{path} imports {name}"
    code = 'import sys, train_ddpm; assert not {"inference", "classifier"} & set(sys.modules)'
    modules = ", ".join(path.removesuffix(".py").replace("/", ".") for path in paths)
    assert output_of(sys.executable, "-W", "ignore", "-c", f"{code}; import {modules}") == ""
