"""A second device without a GPU: torch's `meta` knows shapes, and no values.

A tensor on another device, or a value that is read back, raises there.
"""

import inspect
from types import SimpleNamespace

import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler
from test_training import FLAGS, GRAY

import train_classifier
import train_ddpm
from classifier import Classifier
from diffusion import SCHEDULE, make_unet
from evaluation import judge, rivals
from evaluation.exact import Exact
from evaluation.methods import METHODS
from inference import SAMPLERS, Guided, Unguided, draw, growing_scale
from support.training import Run

META = torch.device("meta")
SHAPE = (1, 28, 28)


def meta_ddpm(num_class_embeds=None, **schedule):
    unet = make_unet(SHAPE, 8, num_class_embeds).eval().requires_grad_(False).to(META)
    return DDPMPipeline(unet, DDPMScheduler(**SCHEDULE | schedule))


NETWORKS = {
    "ddpm": meta_ddpm(),
    "rival": meta_ddpm(11),
    "log_p": Classifier(8).eval().requires_grad_(False).to(META).log_p,
    "exact": Exact(torch.zeros(5, *SHAPE), torch.arange(5), DDPMScheduler(**SCHEDULE), META),
    "scale": growing_scale(DDPMScheduler(**SCHEDULE)),
}


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_reverse_loop_reads_nothing_back(sampler):
    ddpm, log_p, scale = (NETWORKS[name] for name in ("ddpm", "log_p", "scale"))
    of_v = meta_ddpm(prediction_type="v_prediction")
    for method in (Unguided(ddpm), Guided(ddpm, log_p, scale), Guided(of_v, log_p, 5)):
        images = [x_t for _, x_t, _ in draw(method, [3, 1], [0, 1], sampler, steps=3)]
        assert len(images) == 3 and images[-1].shape == (2, *SHAPE) and images[-1].is_meta


@pytest.mark.parametrize("name", METHODS)
def test_no_method_reads_anything_back(name):
    takes = inspect.signature(METHODS[name]).parameters
    method = METHODS[name](**{key: NETWORKS[key] for key in takes})
    for _, x_t, _ in draw(method, [3, 1], [0, 1], steps=3):
        assert x_t.is_meta


def test_a_value_read_back_would_raise():
    """So the tests above can fail."""

    def reads(x_t, t, y):
        return x_t.sum(dim=(1, 2, 3)) * x_t.max().item()

    def strays(x_t, t, y):
        return (x_t * torch.ones(28)).sum(dim=(1, 2, 3))

    for log_p in (reads, strays):
        with pytest.raises((RuntimeError, NotImplementedError), match="(?i)meta"):
            list(draw(Guided(NETWORKS["ddpm"], log_p, 1), [3], [0], steps=2))


@pytest.mark.parametrize("script", [train_classifier, train_ddpm, judge, rivals])
def test_a_training_step_reads_nothing_back(script, tmp_path, monkeypatch):
    """All but the losses, which `Run` reads now and then, and the bar shows."""

    monkeypatch.setattr(Run, "recent_loss", lambda run, steps: 0.0)
    monkeypatch.setattr(Run, "validates", False)
    flags = SimpleNamespace(**FLAGS | {"device": META, "steps": 2})
    where = flags, GRAY, tmp_path / "w.pth"
    adamw = torch.optim.AdamW  # its fused form does not know meta
    monkeypatch.setattr(torch.optim, "AdamW", lambda *a, fused, **kw: adamw(*a, **kw))
    scheduler = DDPMScheduler(**SCHEDULE)
    if script is train_classifier:
        run = script.train(*where, Classifier(8, num_classes=2).to(META), scheduler, None)
    elif script is judge:
        run = script.train(*where, judge.Judge(num_classes=2).to(META))
    elif script is rivals:
        unet, loss = make_unet(SHAPE, 8, 3).to(META), rivals.classifier_free_loss
        run = train_ddpm.train(*where, unet, scheduler, None, loss)
    else:
        run = script.train(*where, make_unet(SHAPE, 8).to(META), scheduler, None)
    assert len(run.losses) == 2 and all(loss.is_meta for loss in run.losses)
