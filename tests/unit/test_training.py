"""Trainings: their random streams, what the loops train, and a training that stops and goes on."""

from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import torch
import torch.nn.functional as F
from conftest import ROOT
from diffusers.training_utils import EMAModel
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

import mnist
import train_classifier
import train_ddpm
from diffusion import abar, make_unet
from evaluation import judge, rivals
from support import training
from support.files import sha256
from support.streams import batch_indices, generator
from support.training import Run

SCRIPTS = {  # the network that each makes
    "classifier": train_classifier,
    "ddpm_unet": train_ddpm,
    "judge": judge,
    "rival_classifier_free": rivals,
}

# --- random streams ---


def test_an_epoch_shows_each_image_once():
    orders = [torch.cat([batch_indices(103, 10, 0, 10 * k + i) for i in range(10)]) for k in (0, 1)]
    assert [len(order.unique()) for order in orders] == [100, 100]
    assert not torch.equal(*orders)


# --- what the loops train ---

LABELS = torch.arange(64) % 2
IMAGES = (LABELS - 0.5).view(-1, 1, 1, 1).expand(64, 1, 28, 28)  # gray: -.5 or .5


GRAY = SimpleNamespace(info={"name": "gray"}, load=lambda split: (IMAGES, LABELS))


def arguments(steps, lr):
    """The flags of a training."""
    flags = {"batch_size": 16, "seed": 0, "resume": False, "precision": "float32"}
    return SimpleNamespace(**flags, steps=steps, lr=lr, device=torch.device("cpu"))


def new_run(purpose, folder, steps, network, ema=None):
    """A training by plain gradient descent."""
    sgd = torch.optim.SGD(network.parameters(), lr=0.1)
    return Run(
        purpose,
        folder / "w.pth",
        arguments(steps, lr=0.1),
        GRAY,
        network=network,
        optimizers=[sgd],
        lr_schedulers=[LambdaLR(sgd, lambda step: 1)],
        validate=lambda run: {},
        ema=ema,
        precision="float32",
    )


def batch_by_hand(purpose, step, max_t=999):
    """What a step trains on: x_t, t, eps and y."""
    rng, index = generator(0, purpose, step), batch_indices(64, 16, 0, step)
    t = torch.randint(max_t + 1, (16,), generator=rng)
    eps = torch.randn(16, 1, 28, 28, generator=rng)
    return abar(t).sqrt() * IMAGES[index] + (1 - abar(t)).sqrt() * eps, t, eps, LABELS[index]


def test_the_unet_is_trained_to_predict_eps(tmp_path):
    """A step of SGD by hand, for eps_theta = a x_t."""
    network, averaged = nn.Linear(1, 1, bias=False), []
    a = network.weight.item()
    ema = Mock(step=lambda parameters: averaged.extend(p.item() for p in parameters))

    def predict(x_t, t, y, rng):
        return network.weight * x_t

    with new_run("U-Net", tmp_path, 3, network, ema) as run:
        train_ddpm.train(run, predict, torch.device("cpu"))
    for step in range(3):
        x_t, t, eps, _ = batch_by_hand("U-Net", step)
        error = a * x_t - eps
        grad = (2 * error * x_t).mean().item()
        assert run.losses[step] == pytest.approx(error.square().mean().item())  # L_simple
        a -= 0.1 * max(-1, min(1, grad))  # clipped
        assert averaged[step] == pytest.approx(a, abs=1e-5)  # the EMA sees the weights of each step
    assert network.weight.item() == averaged[-1] and len(averaged) == 3


@pytest.mark.parametrize("max_t", [999, 0])
def test_the_classifier_is_trained_on_noised_images(tmp_path, max_t):
    seen = []

    class OfTheMean(nn.Linear):
        def forward(self, x_t, t):
            seen.append((x_t, t))
            return super().forward(x_t.mean(dim=(2, 3)))

    network = OfTheMean(1, 2)
    x_t, t, _, y = batch_by_hand("classifier", 0, max_t)
    first_loss = F.cross_entropy(network(x_t, t), y).item()
    seen.clear()
    with new_run("classifier", tmp_path, 3, network) as run:
        train_classifier.train(run, network, max_t)
    for step, (x_t, t) in enumerate(seen):
        expected_x_t, expected_t, _, _ = batch_by_hand("classifier", step, max_t)
        torch.testing.assert_close(x_t, expected_x_t)
        assert torch.equal(t, expected_t) and (t.max() == 0) == (max_t == 0)
    assert len(seen) == len(run.losses) == run.lr_schedulers[0].last_epoch == 3
    assert run.losses[0] == pytest.approx(first_loss)


def test_validations_and_the_checkpoint_see_the_average_of_all_steps(tmp_path, monkeypatch):
    """And the training goes on with its own weights."""
    own, averaged, kept = [], [], []  # kernels of the U-Net
    unet, first = make_unet((1, 28, 28)), "conv_in.weight"

    def look_at(kernels, network):
        kernels.append(network.state_dict()[first].clone())
        return {}

    def predict(x_t, t, y, rng):
        look_at(own, unet)
        return unet(x_t, t).sample

    monkeypatch.setattr(training, "MIN_VALIDATE_EVERY", 4)
    monkeypatch.setattr(train_ddpm, "save_checkpoint", lambda path, unet, *_: look_at(kept, unet))
    flags, path = arguments(6, lr=0.01), tmp_path / "w.pth"
    validate = lambda run: look_at(averaged, unet)  # noqa: E731
    run = train_ddpm.train_unet(flags, GRAY, path, unet, predict, validate)
    by_hand = EMAModel([nn.Parameter(own[0])], decay=train_ddpm.EMA_DECAY)
    for kernel in own[1:5]:  # after each of the first four steps
        by_hand.step([nn.Parameter(kernel)])
    torch.testing.assert_close(averaged[0], by_hand.shadow_params[0])
    assert torch.equal(kept[0], averaged[1]) and not torch.equal(kept[0], averaged[0])
    assert [entry["step"] for entry in run.history] == [4, 6]
    assert run.history[0]["loss"] == pytest.approx(sum(run.losses[:4]) / 4)


# --- whole trainings ---


def shipped():
    """The SHA-256 of each file that a script could damage."""
    patterns = ("*.png", "models/*", "results/*", "previews/*")
    return {path: sha256(path) for pattern in patterns for path in ROOT.glob(pattern)}


def train(name, folder, *flags):
    """Train a network for six steps, on the first 200 images of each split: its checkpoint."""
    load = mnist.Dataset.load
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mnist.Dataset, "load", lambda *args: [part[:200] for part in load(*args)])
        flags = ["--steps", "6", "--batch-size", "8", *flags]
        SCRIPTS[name].main(["--models", str(folder), *flags])
    return torch.load(folder / f"{name}.pth", weights_only=True)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A folder in which all networks were trained; nothing that ships is touched."""
    folder, before = tmp_path_factory.mktemp("trial"), shipped()
    for name in SCRIPTS:
        train(name, folder)
    assert shipped() == before
    return folder


def test_the_trainings_write_their_files_and_nothing_else(tiny):
    others = {"previews", "results", "sample_ddpm_output.png"}
    networks = {f"{name}.pth" for name in SCRIPTS}
    assert {path.name for path in tiny.iterdir()} == others | networks
    assert (tiny / "previews" / "step_000006.png").exists()
    figures = {path.name for path in (tiny / "results").iterdir()}
    assert figures == {"classifier_accuracy.png", "ddpm_loss.png"}


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_training_that_is_stopped_goes_on_bit_for_bit(tiny, tmp_path, name, monkeypatch, capsys):
    """In the last step, when the state of the fourth is saved; at the end nothing differs."""
    monkeypatch.setattr(training, "SAVE_EVERY", 4)
    with monkeypatch.context() as patch, pytest.raises(SystemExit) as end:
        patch.setattr(Run, "log", Mock(side_effect=KeyboardInterrupt))  # it is called at the end
        train(name, tmp_path)
    error = capsys.readouterr().err
    state = tmp_path / f"{name}.state.pth"
    assert end.value.code == 130 and f"{state} is kept: the same command with --resume" in error
    assert not (tmp_path / f"{name}.pth").exists() and state.exists()

    resumed, once = train(name, tmp_path, "--resume"), torch.load(tiny / f"{name}.pth")
    for key, value in once.pop("state_dict").items():
        assert torch.equal(resumed["state_dict"][key], value), key
    assert resumed["training"].pop("seconds") > 0 and once["training"].pop("seconds") > 0
    assert resumed["training"] == once["training"]  # also the mean loss, and the validation
    assert not list(tmp_path.glob("*state*")) and not list(tmp_path.glob(".*"))
    assert capsys.readouterr().err == ""  # no progress bar where stderr is no terminal


def test_a_state_is_kept_after_an_error_and_continued_only_if_it_fits(tmp_path, monkeypatch, fails):
    monkeypatch.setattr(training, "SAVE_EVERY", 1)
    state = tmp_path / "classifier.state.pth"

    def error(*flags):
        return fails(train_classifier.main, "--models", tmp_path, "--steps", 6, *flags)

    assert "--batch-size 60000: there are 55000 images" in error("--batch-size", 60_000)
    assert f"--resume: there is no {state}" in error("--resume")
    nan = f"the loss is nan at step 2: delete {state} if it is there, and start with a lower --lr"
    assert nan in error("--lr", "1e30")
    assert "continue it with --resume, or delete it" in error()
    assert f"{state} was made with other flags" in error("--resume")
    torch.save(torch.load(state) | {"parts": {}}, state)
    assert f"{state} is damaged: delete it" in error("--resume", "--lr", "1e30")
