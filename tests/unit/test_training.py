"""Training: what the loops minimize, what they write, and runs that are interrupted."""

import copy
import itertools
import signal
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import fake_ddpm
from diffusers import DDPMScheduler
from diffusers.training_utils import EMAModel
from PIL import Image
from torch import nn
from torch.nn.utils import clip_grad_norm_
from torch.optim.optimizer import register_optimizer_step_pre_hook

import train_classifier
import train_ddpm
from classifier import Classifier
from data import from_uint8
from diffusion import SCHEDULE, load_ddpm, make_unet, noised_for_validation, training_target
from evaluation import classifier_free, judge
from inference import gradient, guided, load_models, sample
from support import pictures, training
from support.cli import UserError
from support.files import MODELS, load_checkpoint, save_checkpoint
from support.training import TrainingState

SCRIPTS = {"classifier": train_classifier, "ddpm_unet": train_ddpm, "judge": judge}
SCRIPTS["classifier_free"] = classifier_free
UNETS = "ddpm_unet", "classifier_free"  # the included ones are trained with --bf16
SCHEDULER = DDPMScheduler(**SCHEDULE)
LABELS = torch.arange(64) % 2
PIXELS = (64 + 127 * LABELS).to(torch.uint8).view(-1, 1, 1, 1).expand(64, 1, 28, 28)  # gray
IMAGES = from_uint8(PIXELS)


def gray(labels=LABELS):
    """A dataset of gray images."""
    split = PIXELS, labels
    return SimpleNamespace(info={}, splits={"train": split}, load=lambda _: (IMAGES, labels))


def test_the_loss_of_the_unet_is_that_of_algorithm_1():
    """Timesteps, then noise are drawn: this order makes the included weights."""
    unet, x_0 = Mock(side_effect=lambda x_t, t: 0.3 * x_t), torch.rand(64, 1, 4, 4)
    scheduler = DDPMScheduler(**SCHEDULE | {"prediction_type": "v_prediction"})
    torch.manual_seed(1)
    loss = train_ddpm.ddpm_loss(fake_ddpm(unet).unet, scheduler, x_0)
    torch.manual_seed(1)
    t, eps = torch.randint(1000, (64,)), torch.randn(64, 1, 4, 4)
    x_t, target = scheduler.add_noise(x_0, eps, t), training_target(scheduler, x_0, eps, t)
    assert loss.item() == pytest.approx((0.3 * x_t - target).square().mean().item())
    assert torch.equal(unet.call_args.args[1], t)


def test_the_classifier_free_network_drops_a_tenth_of_its_labels():
    output, y = Mock(side_effect=lambda x_t, t, class_labels: x_t), torch.arange(2000) % 2
    unet = fake_ddpm(output, num_class_embeds=3).unet
    classifier_free.classifier_free_loss(unet, SCHEDULER, torch.zeros(2000, 1, 4, 4), y)
    labels = output.call_args.kwargs["class_labels"]
    kept = labels != 2  # the last label means none
    assert torch.equal(labels[kept], y[kept])
    assert 0.08 < 1 - kept.float().mean() < 0.12


def test_the_classifier_minimizes_the_cross_entropy_of_noisy_images(tmp_path, monkeypatch):
    """One step of gradient descent by hand. The gradient is clipped to the norm 1."""

    class OfMeanAndT(nn.Linear):
        config = {}

        def forward(self, x_t, t):
            return super().forward(torch.stack([100 * x_t.mean(dim=(1, 2, 3)), t / 10], dim=1))

    network = OfMeanAndT(2, 2)
    by_hand = copy.deepcopy(network)
    monkeypatch.setattr(torch.optim, "AdamW", lambda p, *_, **__: torch.optim.SGD(p, 0.1))
    monkeypatch.setattr(train_classifier, "validate", lambda c, *_: {"training": c.training})
    torch.manual_seed(1)
    state = train_classifier.train(network, gray(), tmp_path / "w.pth", 1, 16, 0.1)
    assert state.metrics["training"] is False
    torch.manual_seed(1)
    index, t = torch.randperm(64)[:16], torch.randint(1000, (16,))
    x_t = SCHEDULER.add_noise(IMAGES[index], torch.randn(16, 1, 28, 28), t)
    loss = F.cross_entropy(by_hand(x_t, t), LABELS[index])
    loss.backward()
    assert clip_grad_norm_(by_hand.parameters(), 1) > 1
    assert state.metrics["loss"] == pytest.approx(loss.item())
    torch.optim.SGD(by_hand.parameters(), 0.1).step()
    torch.testing.assert_close(network.state_dict(), by_hand.state_dict())


def test_the_checkpoint_and_validations_have_the_averaged_weights(tmp_path, monkeypatch):
    """Training continues with the unaveraged weights. An epoch shows every image once."""
    own, averaged, shown, unet = [], [], [], make_unet(channels=8)

    def validate(unet, step):
        averaged.append(unet.conv_in.weight.detach().clone())
        validated.append((step, unet.training))
        return {}

    def loss_of(unet, scheduler, x_0, y):
        own.append(unet.conv_in.weight.detach().clone())
        shown.append(y)
        assert unet.training
        return train_ddpm.ddpm_loss(unet, scheduler, x_0)

    validated, settings = [], {"loss_of": loss_of, "validate": validate}
    monkeypatch.setattr(training, "VALIDATE_EVERY", 4)
    train_ddpm.train(unet, gray(torch.arange(64)), tmp_path / "w.pth", 6, 16, 1e-3, **settings)
    by_hand = EMAModel([nn.Parameter(own[0])], decay=train_ddpm.EMA_DECAY)
    for kernel in own[1:5]:  # after each of the first four steps
        by_hand.step([nn.Parameter(kernel)])
    torch.testing.assert_close(averaged[0], by_hand.shadow_params[0])
    assert torch.equal(unet.conv_in.weight, averaged[1]) and not unet.training
    assert validated == [(4, False), (6, False)]
    assert torch.cat(shown[:4]).sort().values.tolist() == list(range(64))
    assert not torch.equal(torch.cat(shown[4:]), torch.cat(shown[:2]))


def test_validations_are_over_all_timesteps():
    x_t, t, eps = noised_for_validation(SCHEDULER, IMAGES)
    unet = fake_ddpm(lambda x_t, t: 0.3 * x_t).unet
    loss = train_ddpm.validation_loss(unet, SCHEDULER, IMAGES, 10)
    assert loss == pytest.approx((0.3 * x_t - eps).square().mean().item())
    network = Classifier(8, num_classes=2).requires_grad_(False)
    p = network(x_t, t).softmax(dim=1)
    found = train_classifier.validate(network, SCHEDULER, IMAGES, LABELS, batch_size=10)
    expected = (p.argmax(dim=1) == LABELS).float().mean().item(), p.amax(dim=1).mean().item()
    assert (*found.values(),) == pytest.approx(expected)


def train(name, folder, *flags):
    """Train a network for six steps."""
    flags = ["--models", folder, "--steps", 6, "--batch-size", 8, *flags]
    SCRIPTS[name].main([str(word) for word in flags])


@pytest.fixture(scope="module")
def short(few_images):
    """An epoch has three batches of 8, after which the run is validated; sampling has two steps."""
    sizes = {"train": 24, "validation": 50, "test": 50}
    for split, (images, labels) in few_images.splits.items():
        few_images.splits[split] = images[: sizes[split]], labels[: sizes[split]]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_ddpm, "NUM_SAMPLES", 10)
        patch.setattr(train_ddpm, "SAMPLING_STEPS", 2)
        patch.setattr(training, "VALIDATE_EVERY", 1)
        yield few_images


@pytest.fixture(scope="module")
def tiny(tmp_path_factory, short):
    folder = tmp_path_factory.mktemp("trial")
    for name in SCRIPTS:
        train(name, folder)
    return folder


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_shipped_checkpoint_was_written_by_this_code_with_its_defaults(tiny, name):
    shipped, trained = (torch.load(folder / f"{name}.pth") for folder in (MODELS, tiny))
    assert shipped.keys() == trained.keys()
    assert shipped["training"].keys() == trained["training"].keys()
    for key in ("network", "config", "schedule", "dataset"):
        assert shipped[key] == trained[key]
    for key, value in shipped["state_dict"].items():
        assert value.shape == trained["state_dict"][key].shape
    script, training = SCRIPTS[name], shipped["training"]
    sizes = script if hasattr(script, "BATCH_SIZE") else train_ddpm
    assert (training["steps"], training["seed"]) == (script.STEPS, 0)
    assert (training["batch_size"], training["lr"]) == (sizes.BATCH_SIZE, sizes.LEARNING_RATE)
    assert training.get("bf16", False) == (name in UNETS)


def test_the_networks_are_validated_on_the_validation_images(tiny, short):
    images, labels = short.load("validation")
    classifier = load_checkpoint(tiny / "classifier.pth", Classifier)
    found = train_classifier.validate(classifier, SCHEDULER, images, labels)
    saved = classifier.checkpoint["training"]
    assert {key: saved[key] for key in found} == pytest.approx(found)
    unet = load_ddpm(tiny / "ddpm_unet.pth").unet
    found = train_ddpm.validation_loss(unet, SCHEDULER, images)
    assert unet.checkpoint["training"]["validation_loss"] == pytest.approx(found)
    network = judge.load_judge(tiny / "judge.pth")
    for split in ("validation", "test"):
        found = judge.judge_images(network, *short.splits[split])
        right = (found.prediction == found.labels).float().mean()
        assert network.checkpoint["training"][f"{split}_accuracy"] == right


def test_the_sample_grid_is_unguided_sampling_with_the_seeds_0_1_2(tiny):
    """diffusers' pipeline and our loop agree; the picture shows these samples."""
    ddpm = load_ddpm(tiny / "ddpm_unet.pth")
    theirs = train_ddpm.unguided_samples(ddpm.unet)
    torch.testing.assert_close(theirs, sample(ddpm, None, range(10), steps=2), atol=1e-4, rtol=0)
    grid = pictures.grid_image(pictures.ink_on_paper(theirs), 10)
    assert np.array_equal(np.asarray(grid), np.asarray(Image.open(tiny / "sample_ddpm_output.png")))


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_flag_of_a_training_has_an_effect(tmp_path, short, name, monkeypatch):
    rates, shown, devices, mse_loss = [], [], [], Mock(wraps=F.mse_loss)
    monkeypatch.setattr(F, "mse_loss", mse_loss)
    loop = train_ddpm if name in UNETS else SCRIPTS[name]
    monkeypatch.setattr(loop, "from_uint8", lambda x: shown.append(x) or from_uint8(x))
    monkeypatch.setattr(nn.Module, "to", lambda network, to: devices.append(to) or network)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)  # it stays on the CPU
    monkeypatch.setattr(loop, "MAX_GRAD_NORM", 1e-3, raising=False)  # the judge has none

    def before_a_step(optimizer, *_):
        [group] = optimizer.param_groups
        rates.append(group["lr"])
        norm = torch.cat([weight.grad.flatten() for weight in group["params"]]).norm()
        assert name == "judge" or norm < 1.1e-3

    handle = register_optimizer_step_pre_hook(before_a_step)
    flags = ["--steps", 8, "--batch-size", 6, "--lr", 1e-4, "--seed", 3, "--device", "mps"]
    flags += [] if name == "judge" else ["--channels", 24]
    train(name, tmp_path, *flags, *(["--bf16"] if name in UNETS else []))
    handle.remove()
    dtypes = [call.args[0].dtype for call in mse_loss.call_args_list]
    assert dtypes == ([torch.bfloat16] * 8 if name in UNETS else [])
    assert len(rates) == 8 and max(rates) == 1e-4 and rates[-1] < 0.5e-4
    epochs = torch.cat([batch for batch in shown if len(batch) == 6]).chunk(2)
    assert len(epochs[0]) == 24 and not torch.equal(*epochs)  # shuffled again
    assert torch.equal(*(epoch.flatten(1).sum(dim=1).sort().values for epoch in epochs))
    assert torch.initial_seed() == 3 and "mps" in devices
    trained = torch.load(tmp_path / f"{name}.pth")
    assert name == "judge" or 24 in {len(value) for value in trained["state_dict"].values()}
    flags = {"steps": 8, "batch_size": 6, "lr": 1e-4, "seed": 3}
    assert trained["training"].items() >= flags.items()


def test_another_schedule_needs_no_code_changes(tmp_path, short, monkeypatch):
    """As examples/README.md says. Here, there are fewer timesteps than sampling steps."""
    other = {"prediction_type": "v_prediction", "beta_schedule": "squaredcos_cap_v2"}
    for key, value in (other | {"num_train_timesteps": 12}).items():
        monkeypatch.setitem(SCHEDULE, key, value)
    monkeypatch.setattr(train_ddpm, "SAMPLING_STEPS", 50)
    train("ddpm_unet", tmp_path, "--channels", "8")
    train("classifier", tmp_path, "--channels", "8")
    ddpm, classifier = load_models(tmp_path)
    assert ddpm.scheduler.config.items() >= other.items() and ddpm.T == 12
    images = sample(ddpm, [3], [0], guided(ddpm, gradient(classifier.log_p), 1), steps=3)
    assert not torch.equal(images, sample(ddpm, None, [0], steps=3))


def interrupted(function, number):
    """The function, but Ctrl-C comes before its call of this number."""
    calls = itertools.count(1)

    def wrapped(*args, **settings):
        if next(calls) == number:
            raise KeyboardInterrupt
        return function(*args, **settings)

    return wrapped


def contents(folder):
    """Weights, settings without the seconds, and pixels of the files in a folder."""
    found = {}
    for path in folder.rglob("*.*"):
        if path.suffix == ".png":
            content = np.asarray(Image.open(path)).tobytes()
        else:
            content = torch.load(path)
            content["training"].pop("seconds")
            weights = content["state_dict"].items()
            content["state_dict"] = {key: value.numpy().tobytes() for key, value in weights}
        found[str(path.relative_to(folder))] = content
    return found


@pytest.mark.parametrize("name", SCRIPTS)
def test_an_interrupted_run_resumes_bit_for_bit(tiny, tmp_path, name, monkeypatch, capsys):
    """In both epochs, during a validation, and when the results are written."""
    monkeypatch.setattr(training, "SAVE_SECONDS", 0)  # after every step
    state, flags = tmp_path / f"{name}.state.pth", []
    torch.manual_seed(1)  # --seed decides, not this
    step, report = (torch.optim.AdamW, "step"), (TrainingState, "report")
    places = (*step, 2), (*report, 1), (*step, 3), (training, "save_checkpoint", 1)
    for (owner, function, number), saved in zip(places, (1, 2, 4, 6)):
        with monkeypatch.context() as patch, pytest.raises(SystemExit) as end:
            patch.setattr(owner, function, interrupted(getattr(owner, function), number))
            train(name, tmp_path, *flags)
        assert end.value.code == 130 and capsys.readouterr().err.count("\n") == 1
        left = torch.load(state)
        assert left["step"] == saved
        torch.save(left | {"seconds": 1000 + left["seconds"]}, state)
        flags = ["--resume"]
    train(name, tmp_path, *flags)
    assert torch.load(tmp_path / f"{name}.pth")["training"]["seconds"] > 4000
    once, resumed = contents(tiny), contents(tmp_path)
    assert resumed == {path: once[path] for path in resumed}
    assert len(resumed) == (3 if name == "ddpm_unet" else 1)


def test_ctrl_c_saves_the_state_of_a_complete_step(tiny, tmp_path, monkeypatch, capsys):
    """The first one; and one line says how to go on."""
    step = torch.optim.AdamW.step
    with monkeypatch.context() as patch, pytest.raises(SystemExit) as end:
        patch.setattr(
            torch.optim.AdamW, "step", lambda *a: signal.raise_signal(signal.SIGINT) or step(*a)
        )
        train("classifier", tmp_path)
    assert end.value.code == 130 and "--resume" in capsys.readouterr().err
    assert torch.load(tmp_path / "classifier.state.pth")["step"] == 1
    train("classifier", tmp_path, "--resume")
    once, resumed = contents(tiny), contents(tmp_path)
    assert resumed == {path: once[path] for path in resumed}


def test_the_state_is_saved_now_and_then(tmp_path, short, monkeypatch):
    """Here, the clock advances by ten seconds whenever it is read."""
    clock, saved, save = itertools.count(0, 10), [], TrainingState.save
    monkeypatch.setattr(training.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(TrainingState, "save", lambda s: saved.append(s.step) or save(s))
    train("classifier", tmp_path, "--steps", 20)
    assert 3 < len(saved) < 10 and saved[-1] == 20


def test_a_state_is_finite_and_resumed_only_by_its_own_run(tmp_path, short, monkeypatch, fails):
    monkeypatch.setattr(training, "SAVE_SECONDS", 0)
    state = tmp_path / "classifier.state.pth"

    def error(flags=""):
        flags = f"--models {tmp_path} --steps 6 --batch-size 8 {flags}"
        return fails(train_classifier.main, *flags.split())

    assert "missing" in error("--resume")
    assert "at most 24," in error("--batch-size 25")
    assert "at most 24," in fails(judge.main, "--models", tmp_path, "--batch-size", 25)
    assert "not finite" in error("--lr 1e9")
    assert torch.load(state)["losses"].isfinite().all()
    assert "interrupted" in error()
    assert "{'lr': 1000000000.0}" in error("--resume")
    assert "{'seed': 0}" in error("--resume --lr 1e9 --seed 3")
    assert "{'dataset': " in error("--resume --lr 1e9 --dataset fashion-mnist")
    state.write_bytes(state.read_bytes()[:1000])
    assert "corrupted" in error("--resume --lr 1e9")


def foreign(file, network, schedule=SCHEDULE, **info):
    return lambda folder, ours: save_checkpoint(folder / file, network, schedule, ours | info, {})


COSINE, UNET = {"beta_schedule": "squaredcos_cap_v2"}, make_unet(channels=8)
FOREIGN = {
    "not a checkpoint": lambda folder, _: torch.save({}, folder / "classifier.pth"),
    "a neighbor of another schedule": foreign("ddpm_unet.pth", UNET, SCHEDULE | COSINE),
    "a neighbor of other images": foreign("judge.pth", judge.Judge(), None, name="shapes"),
}


@pytest.mark.parametrize("what", FOREIGN)
def test_an_unrelated_checkpoint_is_not_overwritten(fails, tmp_path, short, what):
    FOREIGN[what](tmp_path, short.info)
    before = {file: file.read_bytes() for file in tmp_path.iterdir()}
    flags = "--models", tmp_path, "--steps", 1, "--batch-size", 8
    assert str(tmp_path) in fails(train_classifier.main, *flags)
    assert {file: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_nor_is_one_with_a_name_of_its_own(tmp_path, short):
    save_checkpoint(tmp_path / "mine.pth", Classifier(8), SCHEDULE, {"name": "shapes"}, {})
    with pytest.raises(UserError, match="mine.pth"):
        train_classifier.train(Classifier(8), short, tmp_path / "mine.pth", 1, 8)
