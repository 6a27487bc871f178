"""SIGKILL at random moments: `python -m pytest -m slow -n 0 tests/test_kill.py`, some minutes.

A training that is killed and resumed until it ends must end in the weights of one that was never
stopped, bit for bit, and its files must be whole after each kill.
"""

import random
import subprocess
import sys
import time

import pytest
import torch
from conftest import ROOT

KILLS = 20
# the state is saved after each step here, so that kills hit the saving too
CODE = """
import sys, mnist, {name}
from support import training
training.SAVE_EVERY, mnist.NUM_VALIDATION = 1, 200
{name}.main(sys.argv[1:])
"""


def run(name, flags, seconds=None):
    """Run a script in a new process, and kill it after that time; True if it ended by itself."""
    command = [sys.executable, "-c", CODE.format(name=name), *map(str, flags)]
    try:  # after the time is up, subprocess.run sends SIGKILL
        subprocess.run(command, cwd=ROOT, capture_output=True, timeout=seconds, check=True)
    except subprocess.TimeoutExpired:
        return False
    return True


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, made", [("train_classifier", "classifier"), ("train_ddpm", "ddpm_unet")]
)
def test_a_training_that_is_killed_loses_nothing(tmp_path, name, made):
    rng, kills, ends, step = random.Random(name), 0, 0, 0
    flags = ["--steps", 60, "--batch-size", 8, "--models"]
    weights, state = tmp_path / f"{made}.pth", tmp_path / f"{made}.state.pth"
    start = time.monotonic()
    assert run(name, [*flags, tmp_path / "whole"])
    whole = time.monotonic() - start
    expected = torch.load(tmp_path / "whole" / weights.name)["state_dict"]
    while kills < KILLS or not ends:
        patience = rng.uniform(0.3, 1.1) * whole if kills < KILLS else None
        resume = ["--resume"] if state.exists() else []
        ended = run(name, [*flags, tmp_path, *resume], patience)
        kills, ends = kills + (not ended), ends + ended
        now = torch.load(state)["step"] if state.exists() else 0  # the file is whole
        assert now >= step or weights.exists()  # a state goes when the weights are there
        if weights.exists():
            for key, value in torch.load(weights)["state_dict"].items():
                assert torch.equal(value, expected[key])
        if now == 0:  # the next run begins at the first step
            weights.unlink(missing_ok=True)
        step = now
