"""The rivals: classifier-free guidance by its formula, both trainings, and their checkpoints."""

import shutil
from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT
from diffusers.training_utils import EMAModel
from torch import nn

from diffusion import IMAGE_SHAPE, abar, clipped_noise, make_unet, stratified_timesteps
from evaluation import rivals
from evaluation.rivals import RIVALS, free_noise, load_rival, rival_path, train_free
from mnist import Dataset
from support.checkpoints import read_checkpoint
from support.errors import UserError
from support.streams import batch_indices, generator
from support.training import Run

NO_LABEL = 10


class Labelled(nn.Module):
    """eps from x_t, t and y alone, so that each image's own must arrive together."""

    device, config = torch.device("cpu"), SimpleNamespace(num_class_embeds=NO_LABEL + 1)

    def __init__(self):
        super().__init__()
        self.weight, self.seen = nn.Parameter(torch.ones(())), []

    def forward(self, x_t, t, y):
        self.seen.append((x_t, t, y))
        t, y = (values.view(-1, 1, 1, 1) for values in (t, y))
        return SimpleNamespace(sample=self.weight * (0.8 * x_t.sin() + t / 5_000 + y / 50))


@pytest.mark.parametrize("t", [torch.tensor(400), torch.tensor([20, 400, 990])])
@pytest.mark.parametrize("scale", [0, 2.5])
def test_free_noise_is_equation_6(scale, t):
    """(1 + w) eps(y) - w eps(none), clipped as ours is; at w = 0 the eps of the digit."""
    unet, x_t, y = Labelled(), torch.randn(3, *IMAGE_SHAPE), torch.tensor([7, 0, 3])
    eps_y, eps_none = (
        unet(x_t, t.expand(3), label).sample for label in (y, torch.full_like(y, NO_LABEL))
    )
    unet.seen.clear()
    eps_hat = free_noise(unet, None, x_t, t, y, scale)
    expected = clipped_noise(x_t, t, (1 + scale) * eps_y - scale * eps_none)
    torch.testing.assert_close(eps_hat, expected)
    assert not eps_hat.requires_grad
    [(x, _, labels)] = unet.seen  # one call for both
    assert labels.tolist() == [7, 0, 3, *[NO_LABEL] * 3] and torch.equal(x, x_t.repeat(2, 1, 1, 1))


def train_labelled(steps=80, batch_size=32):
    """The labels of 200 images are their brightness."""
    labels = torch.arange(200) % 10
    images = (labels / 5 - 1).view(-1, 1, 1, 1).expand(-1, *IMAGE_SHAPE)
    settings = {"steps": steps, "batch_size": batch_size, "seed": 0, "precision": "float32"}
    network = Labelled()
    run = Run("test", settings, {}, 200, lambda run: {})
    optimizer, ema = torch.optim.SGD(network.parameters(), 0.1), EMAModel(network.parameters(), 0.5)
    train_free(run, network, ema, [optimizer], images, labels)
    return network, ema, labels


def test_a_tenth_of_the_labels_is_dropped_and_the_others_are_those_of_their_images():
    network, ema, labels = train_labelled()
    seen = torch.cat([y for _, _, y in network.seen])
    assert (seen == NO_LABEL).float().mean().item() == pytest.approx(0.1, abs=0.02)
    for step, (x_t, t, y) in enumerate(network.seen):
        rng = generator(0, "U-Net", step)
        assert torch.equal(t, stratified_timesteps(32, rng))
        eps = torch.randn(32, *IMAGE_SHAPE, generator=rng)
        clean = (x_t - (1 - abar(t)).sqrt() * eps) / abar(t).sqrt()
        shown = ((clean.mean(dim=(1, 2, 3)) + 1) * 5).round()
        kept = y != NO_LABEL
        assert torch.equal(shown[kept], y[kept].float())
        assert torch.equal(shown, labels[batch_indices(200, 32, 0, step)].float())
    assert ema.optimization_step == 80 and network.weight.item() != 1


def test_a_labelled_unet_takes_y_and_ours_does_not():
    unet, x_t, t = make_unet(num_class_embeds=11).eval(), torch.randn(2, *IMAGE_SHAPE), 500
    nn.init.normal_(unet.conv_out.weight)
    t = torch.tensor(500)
    with torch.no_grad():
        eps = [unet(x_t, t, torch.tensor([y, NO_LABEL])).sample for y in (3, 4)]
    assert eps[0].shape == x_t.shape and torch.equal(eps[0][1], eps[1][1])
    assert (eps[0][0] - eps[1][0]).abs().max() > 1e-3
    with pytest.raises(ValueError):
        unet(x_t, t)
    assert make_unet().config.num_class_embeds is None


@pytest.fixture
def few_images(monkeypatch):
    images = torch.rand(40, *IMAGE_SHAPE) * 2 - 1, torch.arange(40) % 10
    monkeypatch.setattr(Dataset, "load", lambda *_: images)


def weights_of(path):
    return torch.load(path, weights_only=True)["state_dict"]


@pytest.mark.parametrize("name", RIVALS)
def test_the_command_trains_and_resumes_bit_for_bit(name, tmp_path, few_images, monkeypatch):
    once, again = tmp_path / "once", tmp_path / "again"
    flags = [name, "--steps", "2", "--batch-size", "4", "--models"]
    rivals.main([*flags, str(once)])
    path = rival_path(name, once)
    assert [*once.iterdir()] == [path] and read_checkpoint(path, "?")["training"]["steps"] == 2
    unet = load_rival(name, once)
    assert type(unet) is RIVALS[name]["network"] and not unet.training
    assert unet.config.num_class_embeds == {"classifier_free": 11, "course": None}[name]
    torch.manual_seed(0)
    before = RIVALS[name]["make"](10).state_dict()
    assert any(not torch.equal(value, before[key]) for key, value in weights_of(path).items())

    end_step = Run._end_step

    def stop_after_one(run):
        run.interrupted = run.step == 0  # as Ctrl-C does
        end_step(run)

    monkeypatch.setattr(Run, "_end_step", stop_after_one)
    with pytest.raises(SystemExit):
        rivals.main([*flags, str(again)])
    assert not rival_path(name, again).exists()
    monkeypatch.setattr(Run, "_end_step", end_step)
    rivals.main([*flags, str(again), "--resume"])
    resumed = weights_of(rival_path(name, again))
    assert all(torch.equal(value, resumed[key]) for key, value in weights_of(path).items())


@pytest.mark.parametrize("name", RIVALS)
def test_the_ema_is_what_is_kept(name, tmp_path, few_images, monkeypatch):
    def fake_train(run, unet, ema, *_):
        for shadow in ema.shadow_params:
            shadow.fill_(0.02)
        run.history.append({"loss": 1.0})

    monkeypatch.setitem(RIVALS[name], "train", fake_train)
    rivals.main([name, "--steps", "1", "--batch-size", "4", "--models", str(tmp_path)])
    assert all((value == 0.02).all() for value in weights_of(rival_path(name, tmp_path)).values())


@pytest.mark.parametrize("name", RIVALS)
@pytest.mark.parametrize("foreign", ["judge.pth", "ddpm_unet.pth", None])
def test_a_foreign_checkpoint_is_refused(name, foreign, tmp_path):
    """Our own U-Net too, which takes no label."""
    if foreign:
        shutil.copy(ROOT / "models" / foreign, rival_path(name, tmp_path))
    with pytest.raises(UserError, match=rf"rival_{name}.pth .*python -m evaluation.rivals {name}"):
        load_rival(name, tmp_path)
