"""SIGKILL at random moments: `python -m pytest -m slow -n 0 tests/test_kill.py`, some minutes.

After each kill, what was there before must still be there, whole. A training that is killed and
resumed until it ends must end in the weights of one that was never stopped, bit for bit.
"""

import random
import subprocess
import sys
import time

import pytest
import torch
from conftest import ROOT

pytestmark = pytest.mark.slow
KILLS = 20
SCRIPTS = {"classifier": "train_classifier", "ddpm_unet": "train_ddpm"}


def run(script, flags, seconds=None):
    """Run a script in a new process, and kill it after that time; True if it ended by itself.

    A training saves its state after each step here, so that kills hit the saving too.
    """
    settings = "training.SAVE_EVERY, mnist.NUM_VALIDATION = 1, 200"
    code = f"import sys, mnist, {script}; from support import training; {settings}; "
    code += f"{script}.main(sys.argv[1:])"
    command = [sys.executable, "-c", code, *map(str, flags)]
    try:  # after the time is up, subprocess.run sends SIGKILL
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        return False
    assert done.returncode == 0, done.stderr
    return True


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_training_that_is_killed_loses_nothing(tmp_path, name):
    rng, kills, ends = random.Random(name), 0, 0
    flags = ["--models", tmp_path, "--steps", 60, "--batch-size", 8]
    weights, state = tmp_path / f"{name}.pth", tmp_path / f"{name}.state.pth"
    start = time.monotonic()
    assert run(SCRIPTS[name], flags)
    whole, expected, step = time.monotonic() - start, torch.load(weights)["state_dict"], 0
    while kills < KILLS or not ends:
        patience = rng.uniform(0.3, 1.1) * whole if kills < KILLS else None
        resume = ["--resume"] if state.exists() else []
        ended = run(SCRIPTS[name], [*flags, *resume], patience)
        kills, ends = kills + (not ended), ends + ended
        for key, value in torch.load(weights)["state_dict"].items():
            assert torch.equal(value, expected[key])
        assert not (ended and state.exists())
        now = torch.load(state)["step"] if state.exists() else 0  # the file is whole
        assert now >= step or now == 0
        step = now


def test_inference_that_is_killed_leaves_what_was_there(tmp_path):
    rng = random.Random(0)
    png, npz, gif = outputs = [tmp_path / name for name in ("o.png", "o.npz", "o.gif")]
    flags = ["--num-samples", 100, "--steps", 4, "--output", png, "--npz", npz, "--gif", gif]
    start = time.monotonic()
    assert run("inference", flags)
    whole, expected = time.monotonic() - start, [path.read_bytes() for path in outputs]
    for _ in range(KILLS):
        run("inference", flags, rng.uniform(0.5, 1.1) * whole)
        assert [path.read_bytes() for path in outputs] == expected
