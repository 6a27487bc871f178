"""Runs on torch's `meta` device, which has no data, to detect hidden transfers and syncs.

Mixing in a tensor from another device, or reading a value back, raises an error.
"""

from functools import partial

import pytest
import torch
from diffusers import DDPMScheduler
from test_training import GRAY, make_run

import train_classifier
import train_ddpm
from classifier import Classifier
from diffusion import DDPM, SCHEDULE, make_unet
from evaluation import judge
from evaluation.classifier_free import classifier_free, classifier_free_loss
from examples.samplers import written_out
from inference import SAMPLERS, gradient, growing_scale, guided, reverse, trajectory
from support.training import Run

META = torch.device("meta")
SHAPE = (1, 28, 28)
SCHEDULER = DDPMScheduler(**SCHEDULE)


def meta_ddpm(num_class_embeds=None, **schedule):
    unet = make_unet(28, 1, 8, num_class_embeds).requires_grad_(False).to(META)
    return DDPM(unet, DDPMScheduler(**SCHEDULE | schedule))


UNGUIDED, V, LABELED = meta_ddpm(), meta_ddpm(prediction_type="v_prediction"), meta_ddpm(11)
LOG_P = Classifier(8).eval().requires_grad_(False).to(META).log_p


def of_x_0(x_t, t, y):
    return UNGUIDED.x_0(x_t, t).sum(dim=(1, 2, 3))


PREDICTS = {
    "unguided": UNGUIDED,
    "guided": guided(UNGUIDED, gradient(LOG_P), growing_scale(UNGUIDED)),
    "guided v": guided(V, gradient(LOG_P), 5),
    "guide of x_0": guided(UNGUIDED, gradient(of_x_0), 1),
    "classifier-free": classifier_free(LABELED),
}
CASES = [(name, "ddpm", reverse) for name in PREDICTS]
CASES += [("guided", sampler, reverse) for sampler in list(SAMPLERS)[1:]]
CASES += [("guided", "ddpm", partial(written_out, order=2))]


@pytest.mark.parametrize("name, sampler, loop", CASES)
def test_the_sampling_loop_reads_nothing_back(name, sampler, loop):
    """`scheduler.step` may synchronize; diffusers' current schedulers do not."""
    steps = trajectory(UNGUIDED, [3, 1], [0, 1], PREDICTS[name], sampler, 3, loop)
    for _, x_t, x_0 in steps:
        assert x_t.is_meta and x_0.is_meta and x_0.shape == (2, *SHAPE)


@pytest.mark.parametrize("name", ["classifier", "ddpm", "judge", "classifier-free"])
def test_a_training_step_reads_nothing_back(name, tmp_path, monkeypatch):
    """Apart from what `Run` does now and then: validate, and save the state."""
    monkeypatch.setattr(Run, "save", lambda run: None)
    monkeypatch.setattr(Run, "validates", False)
    network = {
        "classifier": lambda: Classifier(8, num_classes=2),
        "judge": lambda: judge.Judge(num_classes=2),
        "ddpm": lambda: make_unet(SHAPE, 8),
        "classifier-free": lambda: make_unet(SHAPE, 8, 3),
    }[name]().to(META)
    run = make_run(tmp_path, network, steps=2)
    if name == "classifier":
        train_classifier.train(network, SCHEDULER, run, None)
    elif name == "judge":
        judge.train(network, GRAY, run)
    elif name == "ddpm":
        train_ddpm.train(network, SCHEDULER, run, None)
    else:
        train_ddpm.train(network, SCHEDULER, run, None, classifier_free_loss)
    assert len(run.losses) == 2 and all(loss.is_meta for loss in run.losses)
