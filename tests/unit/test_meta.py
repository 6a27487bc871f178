"""Runs on torch's `meta` device, which has no data, to detect hidden transfers and syncs.

Mixing in a tensor from another device, or reading a value back, raises an error.
"""

from contextlib import nullcontext
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from conftest import IMAGE_SHAPE
from diffusers import DDPMScheduler
from diffusers.training_utils import EMAModel

import train_classifier
import train_ddpm
from classifier import Classifier
from diffusion import DDPM, SCHEDULE, make_unet
from examples.samplers import written_out
from inference import SAMPLERS, gradient, growing_scale, guided, reverse, trajectory
from support.training import TrainingState

META = torch.device("meta")
UNET = make_unet(channels=8).requires_grad_(False).to(META)
V_DDPM = DDPM(UNET, DDPMScheduler(**SCHEDULE | {"prediction_type": "v_prediction"}))
LOG_P = Classifier(8).eval().requires_grad_(False).to(META).log_p
LOOPS = [(sampler, reverse) for sampler in SAMPLERS] + [("ddpm", partial(written_out, order=2))]


@pytest.mark.parametrize("sampler, loop", LOOPS)
def test_the_sampling_loop_reads_nothing_back(sampler, loop):
    """`scheduler.step` may synchronize; diffusers' current schedulers do not."""
    predict = guided(V_DDPM, gradient(LOG_P), growing_scale(V_DDPM))
    for _, x_t, x_0 in trajectory(V_DDPM, [3, 1], [0, 1], predict, sampler, 3, loop):
        assert x_t.is_meta and x_0.is_meta and x_0.shape == (2, *IMAGE_SHAPE)


@pytest.mark.parametrize("step", [train_classifier, train_ddpm])
def test_a_training_step_reads_nothing_back(step, tmp_path, monkeypatch):
    """Apart from what is done now and then: validate, and save the state."""
    monkeypatch.setattr(TrainingState, "save", lambda state: None)
    monkeypatch.setattr(TrainingState, "report", lambda *_: None)
    monkeypatch.setattr(train_classifier, "validate", lambda *_: {})
    for name in ("store", "restore"):
        monkeypatch.setattr(EMAModel, name, lambda *_: None)
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # not for "meta"
    pixels = torch.zeros(8, *IMAGE_SHAPE, dtype=torch.uint8)
    split = pixels, torch.arange(8)
    dataset = SimpleNamespace(info={}, splits={"train": split}, load=lambda _: split)
    network = (Classifier(8) if step is train_classifier else make_unet(channels=8)).to(META)
    state = step.train(network, dataset, tmp_path / "w.pth", steps=2, batch_size=4)
    assert len(state.losses) == 2 and all(loss.is_meta for loss in state.losses)
