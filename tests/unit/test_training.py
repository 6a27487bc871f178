"""Trainings: their random streams, what the loops train, and a training that stops and goes on."""

import json
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import torch
import torch.nn.functional as F
from diffusers.training_utils import EMAModel
from PIL import Image
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

import train_classifier
import train_ddpm
from diffusion import abar, make_unet
from evaluation import judge, rivals
from support import training
from support.streams import batch_indices, generator
from support.training import Run

SCRIPTS = {  # the network that each makes
    "classifier": train_classifier,
    "ddpm_unet": train_ddpm,
    "judge": judge,
    "rival_classifier_free": rivals,
}


def test_an_epoch_shows_each_image_once():
    orders = [torch.cat([batch_indices(103, 10, 0, 10 * k + i) for i in range(10)]) for k in (0, 1)]
    assert [len(order.unique()) for order in orders] == [100, 100]
    assert not torch.equal(*orders)


# --- what the loops train ---

LABELS = torch.arange(64) % 2
IMAGES = (LABELS - 0.5).view(-1, 1, 1, 1).expand(64, 1, 28, 28)  # gray: -.5 or .5
GRAY = SimpleNamespace(info={"name": "gray"}, load=lambda split: (IMAGES, LABELS))
FLAGS = {"batch_size": 16, "seed": 0, "lr": 0.01, "resume": False, "precision": "float32"}
FLAGS["device"] = torch.device("cpu")


def new_run(purpose, folder, network):
    """A training of three steps by plain gradient descent."""
    sgd = torch.optim.SGD(network.parameters(), lr=0.1)
    schedules = [LambdaLR(sgd, lambda step: 1)]
    settings = {"steps": 3, "batch_size": 16, "seed": 0, "precision": "float32"}
    return Run(purpose, folder / "w.pth", settings, GRAY, network, schedules, lambda run: {})


def batch_by_hand(purpose, step, max_t=999):
    """What a step trains on: x_t, t, eps and y."""
    rng, index = generator(0, purpose, step), batch_indices(64, 16, 0, step)
    t = torch.randint(max_t + 1, (16,), generator=rng)
    eps = torch.randn(16, 1, 28, 28, generator=rng)
    return abar(t).sqrt() * IMAGES[index] + (1 - abar(t)).sqrt() * eps, t, eps, LABELS[index]


def test_the_unet_is_trained_to_predict_eps(tmp_path):
    """Three steps of SGD by hand, for eps_theta = a x_t."""

    class Multiple(nn.Linear):
        def forward(self, x_t, t, class_labels):
            assert class_labels is None
            return SimpleNamespace(sample=self.weight * x_t)

    network = Multiple(1, 1, bias=False)
    a = network.weight.item()
    run = new_run("U-Net", tmp_path, network)
    train_ddpm.train(run, network)
    for step in range(3):
        x_t, _, eps, _ = batch_by_hand("U-Net", step)
        error = a * x_t - eps
        assert run.losses[step] == pytest.approx(error.square().mean().item())  # L_simple
        a -= 0.1 * (2 * error * x_t).mean().clamp(-1, 1).item()
    assert network.weight.item() == pytest.approx(a, abs=1e-5)


def test_the_classifier_is_trained_on_noised_images_up_to_max_t(tmp_path):
    class OfMeanAndT(nn.Linear):
        def forward(self, x_t, t):
            return super().forward(torch.stack([x_t.mean(dim=(1, 2, 3)), t / 1000], dim=1))

    network = OfMeanAndT(2, 2)
    x_t, t, _, y = batch_by_hand("classifier", 0, max_t=500)
    loss = F.cross_entropy(network(x_t, t), y).item()
    run = new_run("classifier", tmp_path, network)
    train_classifier.train(run, network, max_t=500)
    assert run.losses[0] == pytest.approx(loss) and run.lr_schedulers[0].last_epoch == 3


def test_validations_and_the_checkpoint_see_the_average_of_all_steps(tmp_path, monkeypatch):
    """And the training goes on with its own weights."""
    own, averaged, kept = [], [], []  # kernels of the U-Net
    unet = make_unet((1, 28, 28))

    def look_at(kernels):
        kernels.append(unet.conv_in.weight.detach().clone())
        return {}

    monkeypatch.setattr(training, "MIN_VALIDATE_EVERY", 4)
    monkeypatch.setattr(train_ddpm, "save_checkpoint", lambda *content: look_at(kept))
    flags, path = SimpleNamespace(**FLAGS, steps=6), tmp_path / "w.pth"

    def told(y, rng):
        look_at(own)

    run = train_ddpm.train_unet(flags, GRAY, path, unet, lambda run: look_at(averaged), told)
    by_hand = EMAModel([nn.Parameter(own[0])], decay=train_ddpm.EMA_DECAY)
    for kernel in own[1:5]:  # after each of the first four steps
        by_hand.step([nn.Parameter(kernel)])
    torch.testing.assert_close(averaged[0], by_hand.shadow_params[0])
    assert torch.equal(kept[0], averaged[1]) and not torch.equal(kept[0], averaged[0])
    assert [entry["step"] for entry in run.history] == [4, 6]
    assert run.history[0]["loss"] == pytest.approx(sum(run.losses[:4]) / 4)


def test_every_parameter_of_the_unet_is_trained():
    """Kernels too, which Muon gets as matrices that share their memory."""
    unet = make_unet((3, 32, 32))
    schedules = train_ddpm.make_lr_schedulers(unet, lr=1e-3, steps=100)
    before = [parameter.clone() for parameter in unet.parameters()]
    for parameter in unet.parameters():
        parameter.grad = torch.randn_like(parameter)
    for schedule in schedules:
        schedule.optimizer.param_groups[0]["lr"] = 1e-3  # it is 0 before the first step
        schedule.optimizer.step()
    assert not any(map(torch.equal, before, unet.parameters()))


# --- whole trainings ---


def train(name, folder, *flags):
    """Train a network for six steps: its checkpoint."""
    SCRIPTS[name].main(["--models", str(folder), "--steps", "6", "--batch-size", "8", *flags])
    return torch.load(folder / f"{name}.pth", weights_only=True)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory, few_images):
    """A folder in which all networks were trained."""
    folder = tmp_path_factory.mktemp("trial")
    for name in SCRIPTS:
        train(name, folder)
    return folder


def test_the_trainings_write_their_files_into_the_folder_of_models(tiny):
    pictures = {"sample_ddpm_output.png", "previews/step_000006.png"}
    pictures |= {"results/classifier_accuracy.png", "results/ddpm_loss.png"}
    found = {str(path.relative_to(tiny)) for path in tiny.rglob("*") if path.is_file()}
    assert found == pictures | {f"{name}.pth" for name in SCRIPTS}
    for name in pictures:
        settings = json.loads(Image.open(tiny / name).info["provenance"])["settings"]
        assert (settings["batch_size"], settings["seed"]) == (8, 0)


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_training_that_is_stopped_goes_on_bit_for_bit(tiny, tmp_path, name, monkeypatch, capsys):
    """In the last step, when the state of the fourth is saved; at the end nothing differs."""
    monkeypatch.setattr(training, "SAVE_EVERY", 4)
    with monkeypatch.context() as patch, pytest.raises(SystemExit) as end:
        patch.setattr(Run, "log", Mock(side_effect=KeyboardInterrupt))  # it is called at the end
        train(name, tmp_path)
    state = tmp_path / f"{name}.state.pth"
    assert end.value.code == 130 and capsys.readouterr().err.endswith(": stopped\n")
    assert not (tmp_path / f"{name}.pth").exists() and state.exists()

    resumed, once = train(name, tmp_path, "--resume"), torch.load(tiny / f"{name}.pth")
    for key, value in once.pop("state_dict").items():
        assert torch.equal(resumed["state_dict"][key], value), key
    assert resumed["training"].pop("seconds") > 0 and once["training"].pop("seconds") > 0
    assert resumed["training"] == once["training"]  # also the mean loss, and the validation
    assert not list(tmp_path.glob("*state*")) and not list(tmp_path.glob(".*"))
    assert capsys.readouterr().err == ""  # no progress bar where stderr is no terminal


@pytest.mark.usefixtures("few_images")
def test_a_state_is_kept_after_an_error_and_continued_only_if_it_fits(tmp_path, monkeypatch, fails):
    monkeypatch.setattr(training, "SAVE_EVERY", 1)
    state = tmp_path / "classifier.state.pth"

    def error(*flags):
        return fails(train_classifier.main, "--models", tmp_path, "--steps", 6, *flags)

    assert "--batch-size 501: there are 500 images" in error("--batch-size", 501)
    assert f"{state} is missing: start without --resume" in error("--resume")
    nan = "the loss is not finite at step 2: start with a lower --lr"
    assert nan in error("--lr", "1e9")
    assert f"{state} is the state of a stopped training: use --resume, or delete it" in error()
    assert f"{state} was made with other flags" in error("--resume")
    state.write_bytes(state.read_bytes()[:1000])
    assert f"{state} is damaged" in error("--resume", "--lr", "1e9")
