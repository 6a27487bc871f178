"""Both losses fall only for the right target; EMA is applied and restored."""

import json
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from diffusers.training_utils import EMAModel
from torch import nn

import train_classifier
import train_ddpm
from diffusion import ALPHAS_CUMPROD, IMAGE_SHAPE, abar, make_unet, stratified_timesteps
from evaluation import judge as judging
from mnist import Dataset
from support.errors import UserError
from support.streams import generator
from support.training import Run

ZEROS = torch.zeros(64, *IMAGE_SHAPE)


class Scaled(nn.Module):
    """eps_theta = weight * x_t. For x_0 = 0, x_t = sqrt(1 - abar_t) eps."""

    device = torch.device("cpu")

    def __init__(self):
        super().__init__()
        self.weight, self.seen = nn.Parameter(torch.zeros(())), []

    def forward(self, x_t, t):
        self.seen.append((x_t, t))
        low_precision = torch.is_autocast_enabled("cpu")
        self.dtype = torch.get_autocast_dtype("cpu") if low_precision else torch.float32
        return SimpleNamespace(sample=self.weight * x_t)


def new_run(steps=40, batch_size=16, images=ZEROS, **settings):
    settings = {"steps": steps, "batch_size": batch_size, "seed": 0, **settings}
    return Run("test", settings, {}, len(images), lambda run: {})


def train_scaled(weights, precision="float32", **settings):
    network, run = Scaled(), new_run(precision=precision, **settings)
    ema = EMAModel(network.parameters(), decay=0.5)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.2)
    train_ddpm.train(run, network, ema, [optimizer], ZEROS, weights)
    return network, ema, run


def test_the_unet_learns_the_noise_and_its_loss_falls():
    """The best weight minimises w_t (weight sqrt(1 - abar_t) - 1)^2 over t: it is near 1."""
    weights = torch.ones(1000)
    network, _, run = train_scaled(weights)
    root = (1 - ALPHAS_CUMPROD).sqrt()
    assert network.weight.item() == pytest.approx(
        (root.sum() / root.square().sum()).item(), abs=0.05
    )
    assert run.losses[0] == pytest.approx(1, abs=0.05)  # eps itself, as the network predicts 0
    assert sum(run.losses[-5:]) / 5 < 0.1


def test_the_loss_is_weighted_by_t():
    """With weight on t < 100 only, where sqrt(1 - abar_t) is small, the best weight is larger."""
    weights = torch.zeros(1000)
    weights[:100] = 10
    network, _, run = train_scaled(weights, steps=150)
    root = (1 - ALPHAS_CUMPROD[:100]).sqrt()
    best = (root.sum() / root.square().sum()).item()
    assert best > 3 and network.weight.item() == pytest.approx(best, rel=0.2)
    assert run.losses[0] == pytest.approx(1, abs=0.05)  # what is recorded is L_simple, unweighted


def test_the_unet_sees_images_noised_to_its_t():
    network, _, _ = train_scaled(torch.ones(1000), steps=5)
    for step, (x_t, t) in enumerate(network.seen):
        rng = generator(0, "U-Net", step)
        assert torch.equal(t, stratified_timesteps(16, rng))
        eps = torch.randn(16, *IMAGE_SHAPE, generator=rng)
        torch.testing.assert_close(x_t, (1 - abar(t)).sqrt() * eps)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_layers_compute_in_the_precision_that_was_asked_for(precision):
    network, _, _ = train_scaled(torch.ones(1000), precision, steps=1)
    assert network.dtype == getattr(torch, precision) and network.weight.dtype == torch.float32


def test_the_ema_follows_the_weights():
    network, ema, run = train_scaled(torch.ones(1000), steps=30)
    assert ema.optimization_step == 30 and run.step == 30
    assert ema.shadow_params[0].item() == pytest.approx(network.weight.item(), abs=0.05)
    assert ema.shadow_params[0].item() != network.weight.item()


def test_the_gradient_is_clipped_and_each_optimizer_steps():
    network, run = Scaled(), new_run(steps=1, precision="float32")
    optimizers = [torch.optim.SGD(network.parameters(), lr=1.0) for _ in range(2)]
    ema = EMAModel(network.parameters(), decay=0.5)
    train_ddpm.train(run, network, ema, optimizers, ZEROS, torch.full((1000,), 1e6))
    assert network.weight.item() == pytest.approx(2, abs=1e-3)  # a norm of 1, twice


def test_measure_epoch_measures_the_ema_and_restores_the_weights(tmp_path, monkeypatch, capsys):
    network = make_unet()
    ema = EMAModel(network.parameters(), decay=0.5)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(0.01)
        for shadow in ema.shadow_params:
            shadow.fill_(0.02)
    seen = []

    def look(unet):
        values = {round(p.mean().item(), 4) for p in unet.parameters()}
        seen.append((values, unet.training))

    def fake_loss(unet, images):
        look(unet)
        assert images is ZEROS
        return 0.25

    def fake_sample(unet, log_p, y, **settings):
        look(unet)
        assert log_p is None and torch.bincount(y).tolist() == [4] * 10
        assert settings == {"guidance_scale": 0, "sampler": "ddim", "steps": 20}
        return torch.zeros(len(y), *IMAGE_SHAPE)

    monkeypatch.setattr(train_ddpm, "validation_loss", fake_loss)
    monkeypatch.setattr(train_ddpm.inference, "sample", fake_sample)
    run = new_run()
    run.losses, run.steps_per_epoch, run.step = [9.0, 1.0, 2.0], 2, 2
    network.train()
    entry = train_ddpm.measure_epoch(run, network, ema, ZEROS, tmp_path)
    assert seen == [({0.02}, False)] * 2
    assert entry == {"loss": 1.5, "validation_loss": 0.25}
    assert {round(p.mean().item(), 4) for p in network.parameters()} == {0.01}
    assert network.training
    picture = Image.open(tmp_path / "step_000003.png")
    assert picture.size == (4 * 30 + 2, 10 * 30 + 2)
    assert json.loads(picture.info["provenance"]) == {"step": 3, **entry}
    assert "loss 1.5000  validation 0.2500" in capsys.readouterr().out


def test_the_ema_is_what_is_kept(tmp_path, monkeypatch):
    def fake_train(run, network, ema, *_):
        with torch.no_grad():
            for parameter, shadow in zip(network.parameters(), ema.shadow_params):
                parameter.fill_(0.01)
                shadow.fill_(0.02)
        run.history.append({"step": 1, "loss": 1.0, "validation_loss": 1.0})

    images = torch.zeros(100, *IMAGE_SHAPE), torch.zeros(100, dtype=torch.long)
    monkeypatch.setattr(Dataset, "load", lambda *_: images)
    monkeypatch.setattr(train_ddpm, "train", fake_train)
    monkeypatch.setattr(train_ddpm.inference, "main", lambda argv: None)
    train_ddpm.main(["--models", str(tmp_path), "--steps", "1"])
    kept = torch.load(tmp_path / "ddpm_unet.pth", weights_only=True)["state_dict"]
    assert all((value == 0.02).all() for value in kept.values())


def test_the_validation_loss_is_l_simple_and_repeats_itself():
    """Of a network that predicts 0 it is |eps|^2; weights multiply the loss of their t."""
    network = Scaled()
    loss = train_ddpm.validation_loss(network, ZEROS, batch_size=10)
    assert loss == pytest.approx(1, abs=0.03)
    assert loss == train_ddpm.validation_loss(network, ZEROS, batch_size=10)
    assert loss == pytest.approx(train_ddpm.validation_loss(network, ZEROS, batch_size=64))
    doubled = train_ddpm.validation_loss(network, ZEROS, torch.full((1000,), 2.0))
    assert doubled == pytest.approx(2 * loss)
    early = (torch.arange(1000) < 500).float()
    assert train_ddpm.validation_loss(network, ZEROS, early) == pytest.approx(loss / 2, rel=0.1)
    with torch.no_grad():
        network.weight.fill_(1.0)
    assert train_ddpm.validation_loss(network, ZEROS) < 0.15  # near the noise, as x_0 = 0


# --- the classifier ---


class Means(nn.Module):
    """Logits from the mean pixel: weight * mean for class 1, and 0 for class 0."""

    def __init__(self):
        super().__init__()
        self.weight, self.seen = nn.Parameter(torch.zeros(())), []

    def forward(self, x_t, t):
        self.seen.append((x_t.detach(), t))
        score = self.weight * x_t.mean(dim=(1, 2, 3))
        return torch.stack([torch.zeros_like(score), score], dim=1)


def train_means(steps=20, **settings):
    labels = torch.arange(64) % 2
    images = (2.0 * labels - 1).view(-1, 1, 1, 1).expand(64, *IMAGE_SHAPE) * 0.5
    network, run = Means(), new_run(steps=steps, images=images)
    optimizer = torch.optim.SGD(network.parameters(), lr=5.0)
    train_classifier.train(run, network, optimizer, images, labels, **settings)
    return network, run, images


def test_the_classifier_learns_the_labels_and_its_loss_falls():
    network, run, _ = train_means()
    assert network.weight.item() > 1  # bright images are class 1
    assert run.losses[0] == pytest.approx(0.6931, abs=1e-3)
    assert sum(run.losses[-5:]) / 5 < 0.6


def test_the_classifier_sees_images_noised_to_its_t():
    network, _, _ = train_means(steps=5)
    for step, (x_t, t) in enumerate(network.seen):
        rng = generator(0, "classifier", step)
        assert torch.equal(t, stratified_timesteps(16, rng))
        eps = torch.randn(16, *IMAGE_SHAPE, generator=rng)
        clean = (x_t - (1 - abar(t)).sqrt() * eps) / abar(t).sqrt()
        torch.testing.assert_close(
            clean.abs()[t < 500].mean(), torch.tensor(0.5), atol=1e-3, rtol=0
        )
        assert set(t.tolist()) != {0}


def test_the_classifier_takes_another_draw_of_t_and_smoothed_labels():
    network, run, _ = train_means(steps=3, draw_t=lambda n, rng: torch.full((n,), 7))
    assert all((t == 7).all() for _, t in network.seen)
    _, smoothed, _ = train_means(smoothing=0.5)
    _, plain, _ = train_means()
    assert smoothed.losses[-1] > plain.losses[-1]


def test_the_gradient_of_the_classifier_is_clipped():
    """Images of 1,000 at t = 0 make a gradient of 500; the weight moves by lr * 1."""
    labels = torch.arange(64) % 2
    images = (2.0 * labels - 1).view(-1, 1, 1, 1).expand(64, *IMAGE_SHAPE) * 1000
    network, run = Means(), new_run(steps=1, images=images)
    optimizer = torch.optim.SGD(network.parameters(), lr=5.0)
    zero = lambda n, rng: torch.zeros(n, dtype=torch.long)  # noqa: E731
    train_classifier.train(run, network, optimizer, images, labels, draw_t=zero)
    assert network.weight.item() == pytest.approx(5, abs=1e-2)


# --- the judge ---


class MeansOfClean(Means):
    def forward(self, x_0):
        return super().forward(x_0, None)


def test_the_judge_learns_the_labels_of_clean_images():
    labels = torch.arange(64) % 2
    images = (2.0 * labels - 1).view(-1, 1, 1, 1).expand(64, *IMAGE_SHAPE) * 0.5
    network, run = MeansOfClean(), new_run(steps=10, images=images)
    ema = SimpleNamespace(updates=0)

    def update_parameters(_):
        ema.updates += 1

    ema.update_parameters = update_parameters
    optimizer = torch.optim.SGD(network.parameters(), lr=5.0)
    judging.train(run, network, ema, optimizer, images, labels)
    assert network.weight.item() > 1 and ema.updates == 10
    x_0, _ = network.seen[0]
    assert set(x_0[:, :, 14, 14].sign().flatten().tolist()) == {-1.0, 1.0}
    assert x_0.min() >= -1 and (x_0[:, :, 14, 14].abs() - 0.5).abs().max() < 1e-3


# --- the run ---


def test_a_gradient_that_is_not_finite_stops_before_the_weights_move():
    run = new_run()
    run.record(torch.tensor(0.5), torch.tensor(2.0))
    assert run.losses == [0.5]
    with pytest.raises(UserError, match="gradient is inf at step 0"):
        run.record(torch.tensor(0.5), torch.tensor(float("inf")))
    with pytest.raises(UserError, match="loss is nan"):
        run.record(torch.tensor(float("nan")), torch.tensor(1.0))
    assert run.losses == [0.5]


def test_a_run_steps_schedules_and_ends_epochs(monkeypatch):
    network = nn.Linear(1, 1)
    optimizer = torch.optim.SGD(network.parameters(), lr=1.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5**step)
    settings, ends, rates = {"steps": 7, "batch_size": 2, "seed": 0}, [], []

    def end_epoch(run):
        ends.append(run.step + 1)
        return {"mean": 1.0}

    monkeypatch.setattr(Run, "MIN_STEPS", 2)
    run = Run("test", settings, {"schedule": schedule}, 6, end_epoch)  # epochs of 3 steps
    for step in run:
        assert step == run.step == len(run.losses)
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        run.record(torch.tensor(1.0), torch.tensor(1.0))
    assert ends == [3, 6, 7] and run.step == 7
    assert rates == [0.5**k for k in range(7)]
    assert run.history == [{"step": step, "mean": 1.0} for step in ends]
