"""The layout of the repository: imports run one way, files stay short, importing does nothing."""

import ast
import re
import subprocess
import sys

import pytest
from conftest import ROOT

from support.streams import PURPOSES

TOP_LEVEL = (
    "classifier.py",
    "diffusion.py",
    "mnist.py",
    "train_classifier.py",
    "train_ddpm.py",
    "inference.py",
    "evaluate.py",
)
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
    "examples": 6,
    "benchmarks": 6,
}
SOURCES = [*ROOT.glob("*.py"), *(path for name in LAYERS for path in (ROOT / name).glob("*.py"))]


def module_of(path):
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported(path):
    """The modules that a file imports, with their dots."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def functions(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef):
            yield node


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_one_way(path):
    for name in imported(path):
        layer = LAYERS.get(name.split(".")[0])
        assert layer is None or layer <= LAYERS[module_of(path)], f"{path} imports {name}"


def test_no_import_circles():
    """Depth first over the files: none is reached from itself."""
    files = {".".join(p.relative_to(ROOT).with_suffix("").parts): p for p in SOURCES}
    done = set()

    def visit(name, above):
        assert name not in above, f"a circle: {' -> '.join([*above, name])}"
        if name not in done:
            for target in imported(files[name]):
                module = target if target in files else target.rpartition(".")[0]
                if module in files:
                    visit(module, [*above, name])
            done.add(name)

    for name in files:
        visit(name, [])


def test_support_knows_neither_timesteps_nor_digits():
    words = re.compile(r"timestep|digit|abar|alphas_cumprod|NUM_CLASSES|mnist\b(?!/)", re.I)
    for path in (ROOT / "support").glob("*.py"):
        text = path.read_text().replace(
            '"""Plumbing that knows neither timesteps nor digits."""', ""
        )
        text = text.replace("MNIST/raw/*.gz", "")
        assert not words.findall(text), path


def test_lines_are_short_and_the_top_level_is_small():
    lengths = {name: len((ROOT / name).read_text().splitlines()) for name in TOP_LEVEL}
    assert {path.name for path in ROOT.glob("*.py")} == set(TOP_LEVEL)
    assert sum(lengths.values()) <= 1_000 and lengths["inference.py"] <= 180, lengths
    for path in [*SOURCES, *(ROOT / "tests").glob("*.py")]:
        assert max(map(len, path.read_text().splitlines() or [""])) <= 100, path


def test_the_method_stands_at_the_top_of_inference():
    """The reverse loop within 50 lines after the constants, the guidance equation within 70."""
    lines = (ROOT / "inference.py").read_text().splitlines()
    start = next(k for k, line in enumerate(lines) if line.startswith("def "))
    loop = next(k for k, line in enumerate(lines) if "for t in scheduler.timesteps" in line)
    equation = next(k for k, line in enumerate(lines) if "# ADM (14)" in line)
    assert loop - start <= 50 and equation - start <= 70


@pytest.mark.parametrize("equation", ["ADM (14)", "DDPM (4)", "DDPM (14)", "DDPM (15)"])
def test_each_equation_is_written_once(equation):
    """By its arithmetic, which stands in no second place."""
    root = r"\(1 - abar\(t\)\)\.sqrt\(\)"
    arithmetic = {
        "ADM (14)": root + r" \* grad",
        "DDPM (4)": root + r" \* eps$",
        "DDPM (14)": r"\.square\(\)\.mean\(dim=\(1, 2, 3\)\)",
        "DDPM (15)": root + r" \* eps\) / abar\(t\)\.sqrt\(\)",
    }[equation]
    found = [re.findall(arithmetic, path.read_text(), re.M) for path in SOURCES]
    assert sum(map(len, found)) == 1


def test_functions_take_seven_parameters_at_most():
    """`sample` takes nine."""
    for path in SOURCES:
        for node in functions(path):
            args = node.args
            names = [a.arg for a in (*args.posonlyargs, *args.args, *args.kwonlyargs)]
            count = len([name for name in names if name not in ("self", "cls")])
            allowed = 9 if node.name == "sample" else 7
            assert count <= allowed, f"{path}: {node.name} takes {count}"


def test_every_random_stream_names_its_purpose():
    """Literally, with all the numbers of its key: no two purposes can share a stream."""
    found = set()
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("generator"):
                _, purpose, *numbers = node.args
                assert purpose.value in PURPOSES and not node.keywords, ast.unparse(node)
                assert len(numbers) == PURPOSES[purpose.value], ast.unparse(node)
                found.add(purpose.value)
    assert found == {*PURPOSES}


def test_importing_does_nothing():
    names = {".".join(p.relative_to(ROOT).with_suffix("").parts) for p in SOURCES}
    names = sorted(name for name in names if not name.endswith("__init__"))
    code = f"import {', '.join(names)}"
    command = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout == "", done.stderr
