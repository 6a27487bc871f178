"""SIGKILL at random moments: `python -m pytest -m slow`, ten minutes, not part of the plain run.

A training is killed and resumed until it ends, over and over; so is a run of inference.py. After
each kill, what was there before must still be there, whole. Each training that ends must end in the
weights of one that was never stopped, bit for bit.
"""

import random
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import ROOT

pytestmark = pytest.mark.slow
KILLS = 30  # of each training
NEVER_STOPPED = 120  # seconds that a run may take


def start(script, argv, save_every=0):
    """A script in a new process. A training saves after each step, so kills hit the saving too."""
    code = (
        f"import sys, {script}; from support.training import Run; Run.SAVE_EVERY = {save_every}; "
        f"{script}.main(sys.argv[1:])"
    )
    command = [sys.executable, "-W", "ignore", "-c", code, *map(str, argv)]
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


def run_or_kill(process, seconds):
    """Wait; kill it if it is not done by then. True if it ended by itself, and well."""
    try:
        _, error = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.communicate()
        return False
    assert process.returncode == 0, error
    return True


def weights_of(path):
    return torch.load(path, weights_only=True)["state_dict"]


@pytest.mark.parametrize(
    "script, name", [("train_classifier", "classifier"), ("train_ddpm", "ddpm_unet")]
)
def test_a_training_that_is_killed_loses_nothing(tmp_path, script, name):
    rng = random.Random(name)
    flags = ["--models", tmp_path, "--steps", 60, "--batch-size", 8]
    weights, state = tmp_path / f"{name}.pth", tmp_path / f"{name}.state.pth"
    assert run_or_kill(start(script, flags), NEVER_STOPPED)
    expected, before = weights_of(weights), weights.read_bytes()

    kills, kills_that_resumed, finished, step = 0, 0, 0, 0
    while kills < KILLS or not finished:
        resume = ["--resume"] if state.exists() else []
        ended = run_or_kill(
            start(script, [*flags, *resume]), rng.uniform(2, 10) if kills < KILLS else NEVER_STOPPED
        )
        assert all(torch.equal(value, expected[key]) for key, value in weights_of(weights).items())
        if ended:
            finished, step = finished + 1, 0
            assert not state.exists()
            before = weights.read_bytes()
            continue
        kills += 1
        kills_that_resumed += bool(resume)
        if not state.exists():  # killed before the first step was saved, or after all was written
            before, step = weights.read_bytes(), 0
        else:
            now = torch.load(state, weights_only=True)["step"]  # whole
            assert now >= step
            step = now
            assert (
                weights.read_bytes() == before or now == 60
            )  # an unfinished run does not touch what was there
    print(
        f"{script}: {kills} kills, {kills_that_resumed} of resumed runs; "
        f"{finished} runs ended, all in the same weights"
    )


def test_inference_that_is_killed_leaves_what_was_there(tmp_path):
    rng = random.Random(0)
    png, npz = tmp_path / "o.png", tmp_path / "o.npz"
    flags = ["--steps", 4, "--num-samples", 300, "--output", png, "--npz", npz]
    assert run_or_kill(start("inference", flags), NEVER_STOPPED)
    expected = png.read_bytes(), np.load(npz)["arr_0"]
    kills = 0
    while kills < 20:
        kills += not run_or_kill(start("inference", flags), rng.uniform(2, 9))
        assert png.read_bytes() == expected[0] and np.array_equal(
            np.load(npz)["arr_0"], expected[1]
        )
    print(f"inference: {kills} kills")
