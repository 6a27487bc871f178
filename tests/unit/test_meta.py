"""Runs on torch's `meta` device, which has no data, to detect hidden transfers and syncs.

Mixing in a tensor from another device, or reading a value back, raises an error.
"""

from functools import partial
from types import SimpleNamespace

import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler
from test_training import FLAGS, GRAY

import train_classifier
import train_ddpm
from classifier import Classifier
from diffusion import SCHEDULE, make_unet
from evaluation import judge
from evaluation.classifier_free import ClassifierFree, classifier_free_loss
from evaluation.methods import WithGradient, implied_gradient, with_norm_of
from inference import SAMPLERS, Guided, NoisePredictor, gradient, growing_scale, trajectory
from support.training import Run

META = torch.device("meta")
SHAPE = (1, 28, 28)
SCHEDULER = DDPMScheduler(**SCHEDULE)


def meta_ddpm(num_class_embeds=None, **schedule):
    unet = make_unet(SHAPE, 8, num_class_embeds).eval().requires_grad_(False).to(META)
    return DDPMPipeline(unet, DDPMScheduler(**SCHEDULE | schedule))


DDPM = meta_ddpm()
LOG_P = Classifier(8).eval().requires_grad_(False).to(META).log_p
FREE = ClassifierFree(meta_ddpm(11))
HYBRID = with_norm_of(partial(gradient, LOG_P), implied_gradient(FREE))
METHODS = {
    "unguided": NoisePredictor(DDPM),
    "guided": Guided(DDPM, LOG_P, growing_scale(SCHEDULER)),
    "guided v": Guided(meta_ddpm(prediction_type="v_prediction"), LOG_P, 5),
    "classifier-free": FREE,
    "ours, implied norm": WithGradient(NoisePredictor(DDPM), HYBRID),
}


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("method", METHODS)
def test_the_sampling_loop_reads_nothing_back(sampler, method):
    for _, x_t, _ in trajectory(METHODS[method], [3, 1], [0, 1], sampler, steps=3):
        assert x_t.is_meta and x_t.shape == (2, *SHAPE)


def test_reading_a_value_back_raises():
    """This shows that the other tests in this file can fail."""

    def reads(x_t, t, y):
        return x_t.sum(dim=(1, 2, 3)) * x_t.max().item()

    def on_the_cpu(x_t, t, y):
        return (x_t * torch.ones(28)).sum(dim=(1, 2, 3))

    for log_p in (reads, on_the_cpu):
        with pytest.raises((RuntimeError, NotImplementedError), match="(?i)meta"):
            list(trajectory(Guided(DDPM, log_p, 1), [3], [0], steps=2))


@pytest.mark.parametrize("name", ["classifier", "ddpm", "judge", "classifier-free"])
def test_a_training_step_reads_nothing_back(name, tmp_path, monkeypatch):
    """Apart from the losses, which `Run` reads periodically."""
    monkeypatch.setattr(Run, "mean_loss", lambda run, steps: 0.0)
    monkeypatch.setattr(Run, "validates", False)
    flags = SimpleNamespace(**FLAGS | {"device": META, "steps": 2})
    where = flags, GRAY, tmp_path / "w.pth"
    adamw = torch.optim.AdamW  # its fused form does not run on meta
    monkeypatch.setattr(torch.optim, "AdamW", lambda *a, fused, **kw: adamw(*a, **kw))
    if name == "classifier":
        network = Classifier(8, num_classes=2).to(META)
        run = train_classifier.train(*where, network, SCHEDULER, None)
    elif name == "judge":
        run = judge.train(*where, judge.Judge(num_classes=2).to(META))
    elif name == "ddpm":
        run = train_ddpm.train(*where, make_unet(SHAPE, 8).to(META), SCHEDULER, None)
    else:
        unet = make_unet(SHAPE, 8, 3).to(META)
        run = train_ddpm.train(*where, unet, SCHEDULER, None, classifier_free_loss)
    assert len(run.losses) == 2 and all(loss.is_meta for loss in run.losses)
