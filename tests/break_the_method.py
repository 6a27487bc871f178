"""Break the method on purpose, one fault at a time: the fast tests must fail for each.

    python tests/break_the_method.py

The faults are in faults.txt: a name, a file, the text that goes (-) and what comes instead (+).
Works on a copy of the repository; half a minute per fault at most.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def read_faults():
    """All faults: name, file, text, replacement."""
    for block in (ROOT / "tests" / "faults.txt").read_text().split("\n\n"):
        fault, name, *lines = block.splitlines()
        text = "\n".join(line[2:] for line in lines if line[0] == "-")
        replacement = "\n".join(line[2:] for line in lines if line[0] == "+")
        yield fault, name, text, replacement


def first_failure(name, text, replacement):
    """The first of the fast tests that fails where `text` of a file is replaced, or None."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, "copy")
        shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".*", "__pycache__"))
        source = (copy / name).read_text()
        (copy / name).write_text(source.replace(text, replacement))
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-n", "0", "tests/unit"]
        done = subprocess.run(command, cwd=copy, capture_output=True, text=True)
    if done.returncode == 0:
        return None
    lines = done.stdout.splitlines()
    return next(line for line in lines if line.startswith(("FAILED", "ERROR"))).split(" - ")[0]


def main():
    faults, misfits = list(read_faults()), 0
    for fault, name, text, _ in faults:
        count = (ROOT / name).read_text().count(text)
        if count != 1:
            print(f"{fault}: {name} holds its text {count} times")
            misfits += 1
    if misfits:
        return misfits
    failure = first_failure("LICENSE", "MIT License", "MIT License")
    assert failure is None, f"without a fault: {failure}"
    survivors = 0
    for fault, *change in faults:
        failure = first_failure(*change)
        print(f"{fault}: {failure or 'SURVIVES'}", flush=True)
        survivors += failure is None
    print(f"{len(faults) - survivors} of {len(faults)} faults are noticed")
    return survivors


if __name__ == "__main__":
    sys.exit(main())
