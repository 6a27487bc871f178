"""Runs on torch's `meta` device, which has no data, to detect hidden transfers and syncs.

Mixing in a tensor from another device, or reading a value back, raises an error.
"""

import pytest
import torch
from diffusers import DDPMScheduler
from test_training import GRAY, SETTINGS

import train_classifier
import train_ddpm
from classifier import Classifier
from diffusion import DDPM, SCHEDULE, make_unet
from evaluation import judge
from evaluation.classifier_free import classifier_free, classifier_free_loss
from evaluation.methods import implied_gradient, with_norm_of
from examples.samplers import written_out
from inference import SAMPLERS, gradient, growing_scale, guided, reverse, trajectory
from support.training import Run

META = torch.device("meta")
SHAPE = (1, 28, 28)
SCHEDULER = DDPMScheduler(**SCHEDULE)


def meta_ddpm(num_class_embeds=None, **schedule):
    unet = make_unet(SHAPE, 8, num_class_embeds).requires_grad_(False).to(META)
    return DDPM(unet, DDPMScheduler(**SCHEDULE | schedule))


UNGUIDED, V, LABELED = meta_ddpm(), meta_ddpm(prediction_type="v_prediction"), meta_ddpm(11)
LOG_P = Classifier(8).eval().requires_grad_(False).to(META).log_p


def of_x_0(x_t, t, y):
    return UNGUIDED.x_0(x_t, t).sum(dim=(1, 2, 3))


HYBRID = with_norm_of(gradient(LOG_P), implied_gradient(LABELED))
EPS_HATS = {
    "unguided": UNGUIDED,
    "guided": guided(UNGUIDED, gradient(LOG_P), growing_scale(UNGUIDED)),
    "guided v": guided(V, gradient(LOG_P), 5),
    "guide of x_0": guided(UNGUIDED, gradient(of_x_0), 1),
    "classifier-free": classifier_free(LABELED),
    "ours, implied norm": guided(UNGUIDED, HYBRID, 1),
}


@pytest.mark.parametrize("loop", [reverse, written_out])
@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("name", EPS_HATS)
def test_the_sampling_loop_reads_nothing_back(sampler, name, loop):
    """`scheduler.step` may synchronize; diffusers' current schedulers do not."""
    steps = trajectory(UNGUIDED, [3, 1], [0, 1], EPS_HATS[name], sampler, 3, loop)
    for _, x_t, x_0 in steps:
        assert x_t.is_meta and x_0.is_meta and x_0.shape == (2, *SHAPE)


def test_reading_a_value_back_raises():
    """This shows that the other tests in this file can fail."""

    def reads(x_t, t, y):
        return x_t.sum(dim=(1, 2, 3)) * x_t.max().item()

    def on_the_cpu(x_t, t, y):
        return (x_t * torch.ones(28)).sum(dim=(1, 2, 3))

    for log_p in (reads, on_the_cpu):
        with pytest.raises((RuntimeError, NotImplementedError), match="(?i)meta"):
            eps_hat = guided(UNGUIDED, gradient(log_p), 1)
            list(trajectory(UNGUIDED, [3], [0], eps_hat, steps=2))


@pytest.mark.parametrize("name", ["classifier", "ddpm", "judge", "classifier-free"])
def test_a_training_step_reads_nothing_back(name, tmp_path, monkeypatch):
    """Apart from the losses, which `Run` reads periodically."""
    monkeypatch.setattr(Run, "mean_loss", lambda run, steps: 0.0)
    monkeypatch.setattr(Run, "validates", False)
    run = Run(tmp_path / "w.pth", GRAY, **SETTINGS | {"steps": 2})
    adamw = torch.optim.AdamW  # its fused form does not run on meta
    monkeypatch.setattr(torch.optim, "AdamW", lambda *a, fused, **kw: adamw(*a, **kw))
    if name == "classifier":
        train_classifier.train(Classifier(8, num_classes=2).to(META), SCHEDULER, run, None)
    elif name == "judge":
        judge.train(judge.Judge(num_classes=2).to(META), GRAY, run)
    elif name == "ddpm":
        train_ddpm.train(make_unet(SHAPE, 8).to(META), SCHEDULER, run, None)
    else:
        unet = make_unet(SHAPE, 8, 3).to(META)
        train_ddpm.train(unet, SCHEDULER, run, None, classifier_free_loss)
    assert len(run.losses) == 2 and all(loss.is_meta for loss in run.losses)
