"""Imports go in one direction."""

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


def test_imports_go_in_one_direction():
    """Step 2 needs neither step 3 nor the classifier."""
    for path in [*ROOT.glob("*.py"), *ROOT.glob("[a-s]*/*.py")]:  # without tests/
        own = LAYER_OF[path.relative_to(ROOT).parts[0].removesuffix(".py")]
        for name in re.findall(r"^\s*(?:from|import) (\w+)", path.read_text(), re.M):
            assert LAYER_OF.get(name, 0) <= own, f"{path} imports {name}"
    code = 'import sys, train_ddpm; assert not {"inference", "classifier"} & set(sys.modules)'
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
