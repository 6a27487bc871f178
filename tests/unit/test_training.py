"""Trainings: their random streams, a run that stops and goes on, and what the loops train."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import UNet2DModel
from diffusers.training_utils import EMAModel
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from torchmetrics.functional.classification import multiclass_calibration_error

import train_classifier
import train_ddpm
from diffusion import IMAGE_SHAPE, UNET_CONFIG, abar
from support import training
from support.cli import MAX_SEED, UserError
from support.streams import batch_indices, generator, image_generators
from support.training import Run

# --- random streams ---


def test_the_streams_are_numbered_as_when_the_shipped_networks_were_trained():
    def seed_of(*key):
        return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0])

    for number, purpose in enumerate(("batches", "classifier", "U-Net", "judge")):
        for seed, step in ((0, 0), (3, 2_999), (MAX_SEED, 1)):
            assert generator(seed, purpose, step).initial_seed() == seed_of(seed, number, step)
    seeds = [rng.initial_seed() for rng in image_generators(7, torch.tensor([3, 1, 3]))]
    assert seeds == [seed_of(7, 4, *key) for key in ((3, 0), (1, 0), (3, 1))]
    rng = torch.Generator().manual_seed(seed_of(5, 0, 1))  # epoch 1, which step 3 is in
    assert torch.equal(batch_indices(20, 10, 5, 3), torch.randperm(20, generator=rng)[10:])


def test_an_epoch_shows_each_image_once():
    orders = [torch.cat([batch_indices(103, 10, 0, 10 * k + i) for i in range(10)]) for k in (0, 1)]
    assert [len(order.unique()) for order in orders] == [100, 100]
    assert not torch.equal(*orders)


# --- a run ---


@pytest.fixture
def short_epochs(monkeypatch):
    monkeypatch.setattr(training, "SAVE_EVERY", 2)
    monkeypatch.setattr(training, "MIN_VALIDATE_EVERY", 1)


def train_line(folder, stop=None, resume=False, nan_at=None, **changes):
    """Fit a line to noisy points, with momentum and a falling learning rate; Ctrl-C at step `stop`.

    There are 10 points in batches of 3, so an epoch is 3 steps.
    """
    torch.manual_seed(0)
    network = nn.Linear(4, 1)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    lr_scheduler = LambdaLR(optimizer, lambda step: 0.9**step)
    parts = {"network": network, "optimizer": optimizer, "lr_scheduler": lr_scheduler}
    settings = {"steps": 11, "batch_size": 3, "seed": 0, **changes}
    data = torch.randn(10, 1, 2, 2), torch.arange(10)

    def validate(run):
        return {"bias": network.bias.item()}

    with Run("judge", folder / "line.pth", settings, data, parts, validate, resume) as run:
        for x_0, y, rng in run:
            if run.step == stop:
                raise KeyboardInterrupt
            target = y + torch.randn(len(y), generator=rng)
            loss = (network(x_0.flatten(1))[:, 0] - target).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            lr_scheduler.step()
            run.record(loss * torch.nan if run.step == nan_at else loss)
    return run, network


def test_a_run_that_is_stopped_twice_ends_in_the_same_bits(tmp_path, short_epochs, capsys):
    """The first state is that after step 6, which ends an epoch."""
    whole, whole_network = train_line(tmp_path)
    for stop, resume in ((7, False), (9, True)):
        with pytest.raises(KeyboardInterrupt):
            train_line(tmp_path, stop, resume)
        assert "line.state.pth is kept: the same command with --resume" in capsys.readouterr().err
    run, network = train_line(tmp_path, resume=True)
    assert torch.equal(network.weight, whole_network.weight)
    assert run.losses == whole.losses and len(run.losses) == run.step == 11
    assert run.history == whole.history and not list(tmp_path.iterdir())  # no state is left


def test_a_state_is_kept_after_an_error_and_continued_only_if_it_fits(tmp_path, short_epochs):
    state = tmp_path / "line.state.pth"

    def refused(message, **flags):
        with pytest.raises(UserError, match=message):
            train_line(tmp_path, **flags)

    refused("the loss is nan at step 5: lower --lr", nan_at=5)
    refused("continue it with --resume, or delete it")
    refused("was made with other flags", resume=True, lr=0.2)
    torch.save(torch.load(state, weights_only=True) | {"parts": {}}, state)
    refused("line.state.pth is damaged", resume=True)
    state.write_bytes(state.read_bytes()[:99])
    refused("line.state.pth is damaged", resume=True)
    state.unlink()
    refused("there is no .*line.state.pth", resume=True)
    refused("--batch-size 11: there are 10 images", batch_size=11)


# --- what the loops train ---

LABELS = torch.arange(64) % 2
IMAGES = (LABELS - 0.5).view(-1, 1, 1, 1).expand(64, *IMAGE_SHAPE)  # gray: -.5 or .5


def new_run(purpose, folder, **settings):
    settings = {"batch_size": 16, "seed": 0, "precision": "float32", **settings}
    return Run(purpose, folder / "w.pth", settings, (IMAGES, LABELS), {}, lambda run: {}, False)


def batch_by_hand(purpose, step, max_t=999):
    """What a step trains on: x_t, t, eps and y."""
    rng, index = generator(0, purpose, step), batch_indices(64, 16, 0, step)
    t = torch.randint(max_t + 1, (16,), generator=rng)
    eps = torch.randn(16, *IMAGE_SHAPE, generator=rng)
    return abar(t).sqrt() * IMAGES[index] + (1 - abar(t)).sqrt() * eps, t, eps, LABELS[index]


def test_the_unet_is_trained_to_predict_eps(tmp_path):
    """A step of SGD by hand, for eps_theta = a x_t."""
    network, averaged = nn.Linear(1, 1, bias=False), []
    network.device = torch.device("cpu")
    a = network.weight.item()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    ema = SimpleNamespace(step=lambda parameters: averaged.extend(p.item() for p in parameters))

    def predict(x_t, t, y, rng):
        return network.weight * x_t

    with new_run("U-Net", tmp_path, steps=1) as run:
        train_ddpm.train(run, network, predict, ema, [optimizer], [])
    x_t, t, eps, _ = batch_by_hand("U-Net", 0)
    error = a * x_t - eps
    grad = (2 * error * x_t).mean().item()
    clipped = max(-1, min(1, grad))
    assert network.weight.item() == pytest.approx(a - 0.1 * clipped, abs=1e-5)
    assert averaged == [network.weight.item()]  # the EMA sees the new weights
    assert run.losses == pytest.approx([error.square().mean().item()])  # L_simple


@pytest.mark.parametrize("max_t", [999, 0])
def test_the_classifier_is_trained_on_noised_images(tmp_path, max_t):
    seen = []

    class OfTheMean(nn.Linear):
        def forward(self, x_t, t):
            seen.append((x_t, t))
            return super().forward(x_t.mean(dim=(2, 3)))

    network = OfTheMean(1, 2)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    lr_scheduler = LambdaLR(optimizer, lambda step: 1)
    with new_run("classifier", tmp_path, steps=3) as run:
        train_classifier.train(run, network, optimizer, lr_scheduler, max_t)
    for step, (x_t, t) in enumerate(seen):
        expected_x_t, expected_t, _, _ = batch_by_hand("classifier", step, max_t)
        torch.testing.assert_close(x_t, expected_x_t)
        assert torch.equal(t, expected_t) and (t.max() == 0) == (max_t == 0)
    assert len(seen) == len(run.losses) == lr_scheduler.last_epoch == 3


def test_the_end_of_an_epoch_measures_the_ema_and_leaves_the_weights(tmp_path, monkeypatch):
    network, seen = UNet2DModel(**UNET_CONFIG).train(), []
    ema = EMAModel(network.parameters(), decay=0.5)
    for parameter, shadow in zip(network.parameters(), ema.shadow_params):
        nn.init.constant_(parameter, 1)
        shadow.fill_(2)

    def look(unet, images):
        seen.append({p.mean().item() for p in unet.parameters()})
        return 0.5

    monkeypatch.setattr(train_ddpm, "validation_loss", look)
    monkeypatch.setattr(train_ddpm, "sample", lambda *_, **__: torch.zeros(40, *IMAGE_SHAPE))
    run = new_run("U-Net", tmp_path, steps=9)
    run.losses, run.validate_every, run.step = [9.0, 1.0, 2.0], 2, 3
    entry = train_ddpm.validate(run, network, ema, IMAGES, tmp_path)
    look(network, None)
    assert seen == [{2}, {1}] and entry == {"loss": 1.5, "validation_loss": 0.5}
    assert (tmp_path / "step_000003.png").exists()


def test_the_calibration_error_is_that_of_torchmetrics():
    probabilities, labels = torch.randn(500, 10).mul(2).softmax(dim=1), torch.randint(10, (500,))
    expected = multiclass_calibration_error(probabilities, labels, 10, n_bins=15, norm="l1")
    error = train_classifier.calibration_error(probabilities, labels)
    assert error == pytest.approx(expected.item(), abs=1e-5) and error > 0.1
