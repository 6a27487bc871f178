"""Trainings: their random streams, what the loops train, and a training that stops and goes on."""

import json
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import torch
import torch.nn.functional as F
from conftest import abar
from diffusers import DDPMScheduler
from diffusers.training_utils import EMAModel
from PIL import Image
from torch import nn

import inference
import mnist
import train_classifier
import train_ddpm
from diffusion import SCHEDULE, make_unet, training_target
from classifier import load_classifier
from evaluation import judge, rivals
from evaluation.judge import Judge
from support import training
from support.errors import UserError
from support.files import MODELS, save_checkpoint
from support.streams import PURPOSES, batch_indices, generator
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
SCHEDULER = DDPMScheduler(**SCHEDULE)
FLAGS = {"steps": 3, "batch_size": 16, "seed": 0, "lr": 0.1, "resume": False, "max_t": 999}
FLAGS["device"] = torch.device("cpu")


@pytest.fixture
def by_sgd(monkeypatch):
    """The optimizer is plain gradient descent at a constant rate."""

    def constant(optimizer, *steps):
        return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1)

    monkeypatch.setattr(torch.optim, "AdamW", lambda p, lr, *_, **__: torch.optim.SGD(p, lr))
    monkeypatch.setattr(train_ddpm, "get_linear_schedule_with_warmup", constant)
    monkeypatch.setattr(train_classifier, "get_cosine_schedule_with_warmup", constant)


def batch_by_hand(purpose, step, max_t=999):
    """What a step trains on: x_t, t, eps, y and the rest of the stream."""
    rng, index = generator(0, purpose, step), batch_indices(64, 16, 0, step)
    t = torch.randint(max_t + 1, (16,), generator=rng)
    eps = torch.randn(16, 1, 28, 28, generator=rng)
    return abar(t).sqrt() * IMAGES[index] + (1 - abar(t)).sqrt() * eps, t, eps, LABELS[index], rng


class Multiple(nn.Linear):
    """A U-Net whose output is a x_t."""

    device, config = torch.device("cpu"), SimpleNamespace(num_class_embeds=3)

    def __init__(self):
        super().__init__(1, 1, bias=False)
        self.told = []

    def forward(self, x_t, t, labels=None):
        self.told.append(labels)
        return SimpleNamespace(sample=self.weight * x_t)


@pytest.mark.usefixtures("by_sgd")
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_the_unet_is_trained_to_predict_what_its_scheduler_says(tmp_path, prediction_type):
    """Three steps of gradient descent by hand; a v is that of diffusers."""
    network = Multiple()
    scheduler = DDPMScheduler(**SCHEDULE | {"prediction_type": prediction_type})
    a = network.weight.item()
    flags, averaged = SimpleNamespace(**FLAGS), []

    def validate(run):
        averaged.append(network.weight.item())
        run.record(validation=0.0)

    run = train_ddpm.train(flags, GRAY, tmp_path / "w.pth", network, scheduler, validate)
    for step in range(3):
        x_t, t, eps, _, _ = batch_by_hand("U-Net", step)
        x_0 = IMAGES[batch_indices(64, 16, 0, step)]
        error = a * x_t - training_target(scheduler, x_0, eps, t)
        assert run.losses[step] == pytest.approx(error.square().mean().item())  # L_simple
        a -= 0.1 * (2 * error * x_t).mean().clamp(-1, 1).item()
    assert network.told == [None] * 3
    assert averaged == [network.weight.item()] and network.weight.item() != pytest.approx(a)


@pytest.mark.usefixtures("by_sgd")
def test_the_classifier_is_trained_on_noised_images_up_to_max_t(tmp_path):
    """A step of gradient descent by hand."""

    class OfMeanAndT(nn.Linear):
        def forward(self, x_t, t):
            return super().forward(torch.stack([x_t.mean(dim=(1, 2, 3)), t / 1000], dim=1))

    network = OfMeanAndT(2, 2)
    x_t, t, _, y, _ = batch_by_hand("classifier", 0, max_t=500)
    loss = F.cross_entropy(network(x_t, t), y)
    grads = torch.autograd.grad(loss, list(network.parameters()))
    expected = [p - 0.1 * grad for p, grad in zip(network.parameters(), grads)]  # not clipped
    flags = SimpleNamespace(**FLAGS | {"max_t": 500, "steps": 1})
    where = GRAY, tmp_path / "w.pth"
    run = train_classifier.train(flags, *where, network, SCHEDULER, Run.record)
    assert run.losses[0] == pytest.approx(loss.item())
    for parameter, wanted in zip(network.parameters(), expected):
        torch.testing.assert_close(parameter, wanted)


def test_the_rival_drops_a_tenth_of_its_labels():
    """And keeps the others, as they are; it learns the noise of its batch."""
    network, kept = Multiple(), []
    for step in range(100):
        x_t, _, eps, y, _ = batch_by_hand("U-Net", step)
        x_0, rng = IMAGES[batch_indices(64, 16, 0, step)], generator(0, "U-Net", step)
        loss = rivals.classifier_free_loss(network, SCHEDULER, x_0, y, rng)
        error = network.weight * x_t - eps
        assert loss.item() == pytest.approx(error.square().mean().item())
        told = network.told[-1]
        kept.append(told != 2)  # the last label means none
        assert torch.equal(told[kept[-1]], y[kept[-1]])
    assert 0.07 < 1 - torch.cat(kept).float().mean() < 0.13


def test_the_judge_learns_from_augmented_images(tmp_path):
    """A bar is turned and shifted, and stays a bar."""
    images = torch.full((64, 1, 28, 28), -1.0)
    images[:, :, 4:24, 12:16] = 1
    bars = SimpleNamespace(info={}, load=lambda split: (images, LABELS))
    bars.splits = {"validation": (torch.zeros(2, 1, 28, 28, dtype=torch.uint8), LABELS[:2])}
    network, seen = judge.Judge(num_classes=2), []
    network.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    judge.train(SimpleNamespace(**FLAGS | {"lr": 1e-3}), bars, tmp_path / "w.pth", network)
    moved = (seen[0] - images[:16]).abs().mean()
    assert 0.02 < moved < 0.5 and 0.5 < (seen[0] + 1).sum() / (images[:16] + 1).sum() < 1.5


def test_the_classifier_reports_accuracy_and_confidence():
    """This one says 0, with p = 0.7; every second image is a 0."""

    class Sure(nn.Linear):
        def forward(self, x_t, t):
            return torch.tensor([0.7, 0.3]).log().expand(len(x_t), 2)

    found = train_classifier.accuracy_by_band(Sure(1, 1), SCHEDULER, IMAGES[:60], LABELS[:60])
    accuracy, confidence = (values["t 0-999"] for values in found)
    assert (accuracy, confidence) == pytest.approx((0.5, 0.7))


def test_no_two_purposes_share_a_random_stream():
    assert len(set(PURPOSES.values())) == len(PURPOSES)


def test_validations_and_the_checkpoint_see_the_average_of_all_steps(tmp_path, monkeypatch):
    """And the training goes on with its own weights."""
    own, averaged = [], []  # kernels of the U-Net
    unet = make_unet((1, 28, 28), channels=8)
    unet.register_forward_pre_hook(lambda *_: own.append(unet.conv_in.weight.detach().clone()))

    def validate(run):
        averaged.append(unet.conv_in.weight.detach().clone())
        assert not unet.training
        run.record()

    monkeypatch.setattr(training, "MIN_VALIDATE_EVERY", 4)
    flags = SimpleNamespace(**FLAGS | {"steps": 6})
    run = train_ddpm.train(flags, GRAY, tmp_path / "w.pth", unet, SCHEDULER, validate)
    by_hand = EMAModel([nn.Parameter(own[0])], decay=train_ddpm.EMA_DECAY)
    for kernel in own[1:5]:  # after each of the first four steps
        by_hand.step([nn.Parameter(kernel)])
    torch.testing.assert_close(averaged[0], by_hand.shadow_params[0])
    kept = unet.conv_in.weight
    assert torch.equal(kept, averaged[1]) and not torch.equal(kept, averaged[0])
    assert [entry["step"] for entry in run.history] == [4, 6]
    assert run.history[0]["loss"] == pytest.approx(sum(run.losses[:4]) / 4)


def test_every_parameter_is_trained(tmp_path):
    """Of the U-Net, the rival and the guide."""
    unet, rival = make_unet((1, 28, 28), 8), make_unet((1, 28, 28), 8, num_class_embeds=3)
    classifier = train_classifier.Classifier(8, num_classes=2)
    flags, where = SimpleNamespace(**FLAGS | {"lr": 1e-3}), (GRAY, tmp_path / "w.pth")
    networks = unet, rival, classifier
    before = [[p.clone() for p in network.parameters()] for network in networks]
    train_ddpm.train(flags, *where, unet, SCHEDULER, Run.record)
    loss = rivals.classifier_free_loss
    train_ddpm.train(flags, *where, rival, SCHEDULER, Run.record, loss)
    train_classifier.train(flags, *where, classifier, SCHEDULER, Run.record)
    for network, old in zip(networks, before):
        assert not any(map(torch.equal, old, network.parameters()))
        assert all(p.grad.any() for p in network.parameters())  # not by weight decay alone


# --- whole trainings ---


def train(name, folder, *flags):
    """Train a network for six steps: its checkpoint."""
    SCRIPTS[name].main(["--models", str(folder), "--steps", "6", "--batch-size", "8", *flags])
    return torch.load(folder / f"{name}.pth", weights_only=True)


@pytest.fixture(scope="module")
def fewer_steps():
    """Unguided samples of a training are drawn in two steps."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_ddpm, "SAMPLING_STEPS", 2)
        yield


@pytest.fixture(scope="module")
def tiny(tmp_path_factory, few_images, fewer_steps):
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
        patch.setattr(Run, "record", Mock(side_effect=KeyboardInterrupt))  # it is called at the end
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
    nan = "the loss is not finite at step 3: use a lower --lr"
    assert nan in error("--lr", "1e9")
    assert f"{state} is of a training that was stopped, or still runs: use --resume" in error()
    assert f"{state} was made with other flags" in error("--resume")
    state.write_bytes(state.read_bytes()[:1000])
    assert f"{state} is damaged" in error("--resume", "--lr", "1e9")


@pytest.mark.parametrize("content", [b"anything", {"state_dict": {}, "epoch": 5}, "judge", "link"])
def test_somebody_else_s_file_is_not_replaced(fails, tmp_path, content):
    """Nor a network of another class, nor one behind a link."""
    path = tmp_path / "classifier.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content == "judge":
        judge = Judge()
        save_checkpoint(path, judge, None, mnist.Dataset().info, {})
    elif content == "link":
        path.symlink_to(MODELS / "classifier.pth")
    else:
        torch.save(content, path)
    before = path.read_bytes()
    error = fails(train_classifier.main, "--models", tmp_path, "--steps", 1)
    assert str(path) in error and "move it, or name another folder with --models" in error
    assert path.read_bytes() == before


# --- other schedules and sizes ---


@pytest.mark.usefixtures("few_images", "fewer_steps")
def test_a_state_of_another_schedule_is_not_continued(tmp_path, monkeypatch, fails, capsys):
    monkeypatch.setattr(training, "SAVE_EVERY", 4)
    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(Run, "record", Mock(side_effect=KeyboardInterrupt))
        train("ddpm_unet", tmp_path, "--channels", "8")
    capsys.readouterr()
    flags = ["--models", tmp_path, "--steps", 6, "--batch-size", 8, "--channels", 8, "--resume"]
    monkeypatch.setattr(train_ddpm, "SCHEDULE", SCHEDULE | {"prediction_type": "v_prediction"})
    assert "was made with other flags" in fails(train_ddpm.main, *flags)


@pytest.mark.usefixtures("few_images", "fewer_steps")
def test_cosine_and_v_by_two_words(tmp_path, monkeypatch):
    """Of the schedule: both trainings and guided sampling follow."""
    cosine = {"beta_schedule": "squaredcos_cap_v2", "prediction_type": "v_prediction"}
    for module in (train_ddpm, train_classifier):
        monkeypatch.setattr(module, "SCHEDULE", SCHEDULE | cosine)
    for name in ("classifier", "ddpm_unet"):
        train(name, tmp_path, "--channels", "8")
    ddpm, classifier = inference.load_models(tmp_path)
    assert ddpm.scheduler.alphas_cumprod[999] < 1e-8
    assert ddpm.scheduler.config.prediction_type == "v_prediction"
    assert ddpm.unet.config.block_out_channels[0] == classifier.config["channels"] == 8
    inference.main(["--models", str(tmp_path), "--steps", "3", "--window", "0-990"])


@pytest.mark.usefixtures("few_images", "fewer_steps")
def test_a_loss_and_a_guide_of_your_own(tmp_path):
    """Without an edit. And a prediction type that nothing knows is not trained."""

    def no_loss(unet, scheduler, x_0, y, rng):
        return 0 * unet(x_0, torch.zeros(len(x_0), dtype=torch.long)).sample.mean()

    class Own(train_classifier.Classifier):
        def log_p(self, x_t, t, y):
            return 0 * super().log_p(x_t, t, y)

    flags = ["--models", str(tmp_path), "--steps", "6", "--batch-size", "8", "--channels", "8"]
    train_ddpm.main(flags, loss_of=no_loss)
    trained = torch.load(tmp_path / "ddpm_unet.pth", weights_only=True)["training"]
    assert trained["loss"] == 0 and trained["loss_of"] == "no_loss"
    train_classifier.main(flags, network=Own)
    own = load_classifier(tmp_path / "classifier.pth", network=Own)
    assert not own.log_p(torch.zeros(2, 1, 28, 28), torch.zeros(2), torch.zeros(2).long()).any()
    with pytest.raises(UserError, match="prediction_type is 'sample'"):
        training_target(DDPMScheduler(**SCHEDULE | {"prediction_type": "sample"}), None, None, None)


@pytest.mark.usefixtures("few_images", "fewer_steps")
def test_400_timesteps(tmp_path, monkeypatch):
    """The bands of the validation are those of the schedule."""
    for module in (train_ddpm, train_classifier):
        monkeypatch.setattr(module, "SCHEDULE", SCHEDULE | {"num_train_timesteps": 400})
    monkeypatch.setattr(train_classifier, "MAX_T", 399)
    accuracy = train("classifier", tmp_path, "--max-t", "399")["training"]["accuracy"]
    assert list(accuracy)[::4] == ["t 0-399", "t 200-399"]
    train("ddpm_unet", tmp_path, "--channels", "8")
    inference.main(["--models", str(tmp_path), "--steps", "3"])


@pytest.mark.usefixtures("few_images")
def test_a_network_of_another_schedule_is_never_replaced(tiny, fails, monkeypatch):
    checkpoint = tiny / "ddpm_unet.pth"
    before = checkpoint.read_bytes()
    monkeypatch.setattr(train_ddpm, "SCHEDULE", SCHEDULE | {"prediction_type": "v_prediction"})
    error = fails(train_ddpm.main, "--models", tiny, "--steps", 1)
    assert f"{checkpoint} was trained with 1000 linear betas" in error and "v_prediction" in error
    assert "name another folder with --models" in error and checkpoint.read_bytes() == before
    cosine = SCHEDULE | {"beta_schedule": "squaredcos_cap_v2"}  # the others would not fit to it
    monkeypatch.setattr(train_classifier, "SCHEDULE", cosine)
    assert "squaredcos_cap_v2" in fails(train_classifier.main, "--models", tiny, "--steps", 1)
