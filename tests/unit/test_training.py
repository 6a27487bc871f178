"""Training: what the loops minimize, what they write, and runs that are interrupted."""

import itertools
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import ROOT
from diffusers import DDPMScheduler
from diffusers.configuration_utils import FrozenDict
from diffusers.training_utils import EMAModel
from PIL import Image
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

import data
import train_classifier
import train_ddpm
from classifier import Classifier
from diffusion import SCHEDULE, load_ddpm, make_unet
from evaluation import classifier_free, judge
from inference import gradient, guided, load_models, sample
from support import pictures, training
from support.files import MODELS, load_checkpoint, output_folder, save_checkpoint
from support.pictures import from_uint8
from support.training import Run

SCRIPTS = {
    "classifier": train_classifier,
    "ddpm_unet": train_ddpm,
    "judge": judge,
    "classifier_free": classifier_free,
}
SCHEDULER = DDPMScheduler(**SCHEDULE)
LABELS = torch.arange(64) % 2
PIXELS = (64 + 127 * LABELS).to(torch.uint8).view(-1, 1, 1, 1).expand(64, 1, 28, 28)  # gray
IMAGES = from_uint8(PIXELS)
SPLITS = dict.fromkeys(("train", "validation"), (PIXELS, LABELS))


def make_run(folder, network, steps=3, batch_size=16, labels=LABELS):
    """A `Run` on gray images."""
    dataset = SimpleNamespace(info={"name": "gray"}, splits={"train": (PIXELS, labels)})
    return Run(folder / "w.pth", network, dataset, None, steps, batch_size)


class Multiple(nn.Linear):
    """A U-Net whose output is `weight * x_t`; it remembers its inputs."""

    device = torch.device("cpu")

    def __init__(self, weight=0.3, num_class_embeds=None):
        super().__init__(1, 1, bias=False)
        self.config = FrozenDict(num_class_embeds=num_class_embeds)
        self.weight.data.fill_(weight)
        self.inputs = []

    def forward(self, *inputs):
        self.inputs.append(inputs)
        return SimpleNamespace(sample=self.weight * inputs[0])


# --- what the loops minimize ---


@pytest.fixture
def noised(monkeypatch):
    """What was given to `scheduler.add_noise`, and what it returned: (x_0, eps, t, x_t)."""
    seen, add_noise = [], DDPMScheduler.add_noise

    def spy(scheduler, x_0, eps, t):
        seen.append((x_0, eps, t, add_noise(scheduler, x_0, eps, t)))
        return seen[-1][3]

    monkeypatch.setattr(DDPMScheduler, "add_noise", spy)
    return seen


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
def test_the_loss_of_the_unet_is_that_of_algorithm_1(noised, prediction_type):
    """The mean squared error of the target, for Gaussian noise and uniform timesteps."""
    unet, x_0 = Multiple(), torch.rand(20_000, 1, 4, 4)
    scheduler = DDPMScheduler(**SCHEDULE | {"prediction_type": prediction_type})
    loss = train_ddpm.ddpm_loss(unet, scheduler, x_0, None)
    [(clean, eps, t, x_t)], [inputs] = noised, unet.inputs
    abar_t = scheduler.alphas_cumprod[t].view(-1, 1, 1, 1)
    v = abar_t.sqrt() * eps - (1 - abar_t).sqrt() * x_0  # Salimans & Ho 2022
    target = {"epsilon": eps, "v_prediction": v, "sample": x_0}[prediction_type]
    assert loss.item() == pytest.approx((0.3 * x_t - target).square().mean().item())
    assert torch.equal(clean, x_0) and inputs[0] is x_t and inputs[1] is t and len(inputs) == 2
    assert abs(eps.mean()) < 0.01 and abs(eps.std() - 1) < 0.01
    counts = t.bincount()
    assert len(counts) == 1000 and counts.min() > 3 and counts.max() < 45


def test_the_classifier_free_network_drops_a_tenth_of_its_labels():
    unet, y = Multiple(num_class_embeds=3), torch.arange(2000) % 2
    classifier_free.classifier_free_loss(unet, SCHEDULER, torch.zeros(2000, 1, 4, 4), y)
    labels = unet.inputs[0][2]
    kept = labels != 2  # the last label means none
    assert torch.equal(labels[kept], y[kept])
    assert 0.08 < 1 - kept.float().mean() < 0.12


@pytest.mark.parametrize("size", [1, 100])
def test_the_classifier_minimizes_the_cross_entropy_of_noisy_images(
    tmp_path, noised, monkeypatch, size
):
    """One step of gradient descent by hand; a larger gradient is clipped to the norm 1."""

    class OfMeanAndT(nn.Linear):
        config = {}

        def forward(self, x_t, t):
            return super().forward(size * torch.stack([x_t.mean(dim=(1, 2, 3)), t / 1000], dim=1))

    monkeypatch.setattr(torch.optim, "AdamW", lambda p, *_, **__: torch.optim.SGD(p, 0.1))
    monkeypatch.setattr(train_classifier, "WARMUP_STEPS", 0)
    network = OfMeanAndT(2, 2)
    before = [p.detach().clone().requires_grad_() for p in network.parameters()]
    run = make_run(tmp_path, network, steps=1)
    train_classifier.train(network, SCHEDULER, run, 0.1, lambda: {"training": network.training})
    assert run.history[0]["training"] is False
    [(x_0, _, t, x_t)] = noised
    y = (x_0[:, 0, 0, 0] > 0).long()
    logits = torch.func.functional_call(network, dict(zip(("weight", "bias"), before)), (x_t, t))
    loss = F.cross_entropy(logits, y)
    grads = torch.autograd.grad(loss, before)
    norm = torch.cat([grad.flatten() for grad in grads]).norm().item()
    assert (norm > 1) == (size > 1) and run.losses[0].item() == pytest.approx(loss.item())
    for after, p, grad in zip(network.parameters(), before, grads):
        torch.testing.assert_close(after, p - 0.1 * grad / max(norm, 1))
    assert len(t.unique()) > 10


def test_the_judge_learns_from_augmented_images(tmp_path):
    """It tells left from right bars, which it sees rotated and shifted."""
    bars = torch.zeros(64, 1, 28, 28, dtype=torch.uint8)
    bars[LABELS == 0, :, 4:24, 4:8] = bars[LABELS == 1, :, 4:24, 20:24] = 255
    dataset = SimpleNamespace(info={}, splits=dict.fromkeys(SPLITS, (bars, LABELS)))
    seen, network = [], judge.Judge(num_classes=2)
    network.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    run = Run(tmp_path / "w.pth", network, dataset, None, 40, 16)
    judge.train(network, dataset, run, 1e-3)
    assert judge.accuracy_of(network, bars, LABELS) == 1
    original = torch.cdist(seen[0].flatten(1), from_uint8(bars).flatten(1)).amin(dim=1)
    assert original.mean() > 1
    assert 0.5 < (seen[0] + 1).sum() / (from_uint8(bars[:16]) + 1).sum() < 1.5


def test_the_checkpoint_and_validations_have_the_averaged_weights(tmp_path, monkeypatch):
    """Training continues with the unaveraged weights. An epoch shows every image once."""
    own, averaged, shown = [], [], []  # kernels of the U-Net; labels
    unet = make_unet(channels=8)

    def validate():
        averaged.append(unet.conv_in.weight.detach().clone())
        assert not unet.training
        return {}

    def loss_of(unet, scheduler, x_0, y):
        assert unet.training
        own.append(unet.conv_in.weight.detach().clone())
        shown.append(y)
        return train_ddpm.ddpm_loss(unet, scheduler, x_0, y)

    monkeypatch.setattr(training, "MIN_VALIDATE_EVERY", 4)
    monkeypatch.setattr(training, "LOSS_STEPS", 3)
    run = make_run(tmp_path, unet, steps=6, labels=torch.arange(64))
    train_ddpm.train(unet, SCHEDULER, run, 1e-3, validate, loss_of)
    by_hand = EMAModel([nn.Parameter(own[0])], decay=0.998)
    for kernel in own[1:5]:  # after each of the first four steps
        by_hand.step([nn.Parameter(kernel)])
    torch.testing.assert_close(averaged[0], by_hand.shadow_params[0])
    kept = unet.conv_in.weight
    assert torch.equal(kept, averaged[1]) and not torch.equal(kept, averaged[0])
    assert [entry["step"] for entry in run.history] == [4, 6]
    recent = [torch.stack(run.losses[k - 3 : k]).mean().item() for k in (4, 6)]
    assert [entry["loss"] for entry in run.history] == pytest.approx(recent)
    assert torch.cat(shown[:4]).sort().values.tolist() == list(range(64))
    assert not torch.equal(torch.cat(shown[4:]), torch.cat(shown[:2]))


# --- what a validation says, and what the figures show ---


class Sure(nn.Linear):
    """A classifier that predicts 0 with p = .7; from t = 500 on, 1 with p = .6."""

    def forward(self, x_t, t):
        p = torch.where(t < 500, 0.7, 0.4)
        return torch.stack([p, 1 - p], dim=1).log()


def test_the_classifier_is_validated_over_all_timesteps():
    images, labels = IMAGES[:60], torch.zeros(60, dtype=torch.long)
    found = train_classifier.accuracy_and_confidence(Sure(1, 1), SCHEDULER, images, labels)
    assert found == pytest.approx((0.5, 0.65))
    figure = train_classifier.plot_accuracy(Sure(1, 1), SCHEDULER, images, labels, 2)
    curve, chance = figure.axes[0].lines
    expected = {t: float(t < 500) for t in [*range(0, 1000, 100), 999]}
    assert dict(zip(curve.get_xdata(), curve.get_ydata())) == expected
    assert set(chance.get_ydata()) == {0.5}


def test_the_unet_is_validated_over_all_timesteps_with_the_same_noise(noised):
    losses = [train_ddpm.validation_loss(Multiple(0), SCHEDULER, IMAGES, 10) for _ in range(2)]
    (_, eps, t, _), (_, same, _, _) = noised
    assert losses == pytest.approx([eps.square().mean().item()] * 2) and torch.equal(eps, same)
    assert sorted(t.tolist()) == [1000 * k // 64 for k in range(64)] != t.tolist()
    assert len(eps.flatten(1).unique(dim=0)) == 64


def test_the_loss_curve_has_each_mean_at_its_last_step():
    run = SimpleNamespace(step=250, losses=list(torch.arange(1.0, 251)))
    run.history = [{"step": 200, "validation_loss": 7}, {"step": 250, "validation_loss": 8}]
    curve, points = train_ddpm.plot_losses(run).axes[0].lines
    x, y = map(list, curve.get_data())
    assert x == list(range(2, 251, 2)) and y == [k - 0.5 for k in x]  # the mean of k - 1 and k
    assert [list(data) for data in points.get_data()] == [[200, 250], [7, 8]]


# --- whole runs ---

FILES = {
    "classifier": {"classifier.pth", "results/classifier_accuracy.png"},
    "ddpm_unet": {"ddpm_unet.pth", "sample_ddpm_output.png", "previews/step_000003.png"}
    | {"results/ddpm_loss.png"},
    "judge": {"judge.pth"},
    "classifier_free": {"classifier_free.pth"},
}


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
        patch.setattr(training, "MIN_VALIDATE_EVERY", 1)
        yield few_images


@pytest.fixture(scope="module")
def tiny(tmp_path_factory, short):
    """A folder in which all networks were trained."""
    folder = tmp_path_factory.mktemp("trial")
    for name in SCRIPTS:
        train(name, folder)
    return folder


@pytest.mark.xfail(strict=True, reason="the networks are being trained with this code")
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


def test_the_networks_are_validated_on_the_validation_images(tiny, short):
    """The numbers in the checkpoint are those of the weights that are saved."""
    images, labels = short.load("validation")
    classifier, info = load_checkpoint(tiny / "classifier.pth", Classifier)
    found = train_classifier.accuracy_and_confidence(classifier, SCHEDULER, images, labels)
    saved = [info["training"][f"validation_{key}"] for key in ("accuracy", "confidence")]
    assert saved == pytest.approx(found)
    ddpm = load_ddpm(tiny / "ddpm_unet.pth")
    found = train_ddpm.validation_loss(ddpm.unet, SCHEDULER, images)
    assert ddpm.info["training"]["validation_loss"] == pytest.approx(found)
    network, info = judge.load_judge(tiny / "judge.pth")
    for split in ("validation", "test"):
        found = judge.accuracy_of(network, *short.splits[split])
        assert info["training"][f"{split}_accuracy"] == found


def test_the_sample_grid_is_unguided_sampling_with_the_seeds_0_1_2(tiny):
    """diffusers' pipeline and our loop agree; the picture shows these samples."""
    ddpm = load_ddpm(tiny / "ddpm_unet.pth")
    theirs = train_ddpm.unguided_samples(ddpm.unet, ddpm.scheduler, 10, 2)
    torch.testing.assert_close(theirs, sample(ddpm, None, range(10), steps=2), atol=1e-4, rtol=0)
    grid = pictures.grid_image(pictures.ink_on_paper(theirs), 10)
    assert np.array_equal(np.asarray(grid), np.asarray(Image.open(tiny / "sample_ddpm_output.png")))


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_flag_of_a_training_has_an_effect(tmp_path, short, name, monkeypatch):
    """The learning rate rises to --lr and falls to 0; the batches, the seed, and the width."""
    groups, sizes, seeds, devices = [], [], set(), set()

    def hook(optimizer, *_):
        groups.append(dict(optimizer.param_groups[0]))
        seeds.add(torch.initial_seed())

    def spy(images):
        sizes.append(len(images))
        return from_uint8(images)

    monkeypatch.setattr(training, "from_uint8", spy)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)  # it stays on the CPU
    monkeypatch.setattr(nn.Module, "to", lambda network, to: devices.add(to) or network)
    handle = register_optimizer_step_pre_hook(hook)
    flags = ["--steps", 8, "--batch-size", 6, "--lr", 1e-4, "--seed", 3, "--device", "mps"]
    train(name, tmp_path, *flags, *([] if name == "judge" else ["--channels", 24]))
    handle.remove()
    rates = [group["lr"] for group in groups]
    assert len(rates) == 8 and max(rates) == 1e-4 and rates[-1] < 0.5e-4 and sizes == [6] * 8
    assert (groups[0]["weight_decay"] == 0) == (name in ("ddpm_unet", "classifier_free"))
    assert seeds == {3} and "mps" in devices
    trained = torch.load(tmp_path / f"{name}.pth")
    assert name == "judge" or 24 in {len(value) for value in trained["state_dict"].values()}
    flags = {"steps": 8, "batch_size": 6, "lr": 1e-4, "seed": 3}
    assert trained["training"].items() >= flags.items()


@pytest.mark.parametrize("network", [Classifier(8), make_unet(channels=8, num_class_embeds=11)])
def test_every_parameter_is_trained(network):
    """For example, every block sees t."""
    inputs = torch.randn(2, 1, 28, 28), torch.tensor([300, 700]), torch.tensor([3, 5])
    if isinstance(network, Classifier):
        nn.init.normal_(network.linear.weight)
        network.log_p(*inputs).sum().backward()
    else:
        network(*inputs).sample.square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in network.parameters())


def test_a_checkpoint_keeps_the_clipping_of_its_schedule(tiny, tmp_path):
    content = torch.load(tiny / "ddpm_unet.pth")
    content["schedule"]["clip_sample"] = False
    torch.save(content, tmp_path / "u.pth")
    x_t = 9 * torch.ones(1, 1, 28, 28)
    paths = tmp_path / "u.pth", tiny / "ddpm_unet.pth"
    free, clipped = (load_ddpm(path).x_0(x_t, 999).abs().max() for path in paths)
    assert free > 1 == clipped


def test_pictures_of_the_shipped_models_go_to_the_repository(tmp_path):
    assert output_folder(Path("models")) == output_folder(MODELS) == ROOT
    assert output_folder(tmp_path) == tmp_path


@pytest.mark.usefixtures("short")
def test_the_unet_can_be_trained_with_another_loss(tmp_path):
    seen = []

    def loss_of(unet, scheduler, x_0, y):
        seen.append((x_0.shape, y.shape))
        return train_ddpm.ddpm_loss(unet, scheduler, x_0, y).abs()

    flags = ["--models", str(tmp_path), "--steps", "2", "--batch-size", "8", "--channels", "8"]
    train_ddpm.main(flags, loss_of=loss_of)
    assert seen == [((8, 1, 28, 28), (8,))] * 2


@pytest.mark.usefixtures("short")
def test_another_schedule_needs_no_code_changes(tmp_path, monkeypatch):
    """As examples/README.md says: both scripts, and guided sampling, follow `SCHEDULE`.

    It has fewer timesteps than there are sampling steps.
    """
    other = {"prediction_type": "v_prediction", "beta_schedule": "squaredcos_cap_v2"}
    for key, value in (other | {"num_train_timesteps": 12}).items():
        monkeypatch.setitem(SCHEDULE, key, value)
    monkeypatch.setattr(train_ddpm, "SAMPLING_STEPS", 50)
    for name in ("classifier", "ddpm_unet"):
        train(name, tmp_path, "--channels", "8")
    ddpm, classifier = load_models(tmp_path)
    assert ddpm.scheduler.config.items() >= other.items() and len(ddpm.abar) == 13
    images = sample(ddpm, [3], [0], guided(ddpm, gradient(classifier.log_p), 1), steps=3)
    assert not torch.equal(images, sample(ddpm, None, [0], steps=3))


# --- interruptions ---


def interrupted(function, number):
    """The function, but Ctrl-C comes before its call of this number."""
    calls = itertools.count(1)

    def wrapped(*args, **settings):
        if next(calls) == number:
            raise KeyboardInterrupt
        return function(*args, **settings)

    return wrapped


def contents(folder):
    """What the files in a folder hold: weights, settings without the seconds, pixels."""
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
    """In the middle of an epoch, during a validation, and when the results are written.

    The files are then those of a run that was not interrupted, and no others.
    """
    monkeypatch.setattr(training, "SAVE_SECONDS", 0)  # after every step
    state, flags = tmp_path / f"{name}.state.pth", []
    torch.manual_seed(1)  # --seed decides, not this
    places = (
        (torch.optim.AdamW, "step", 2, 1),
        (Run, "record", 1, 2),
        (Run, "save_checkpoint", 1, 6),
    )
    for owner, function, number, saved in places:
        with monkeypatch.context() as patch, pytest.raises(SystemExit) as end:
            patch.setattr(owner, function, interrupted(getattr(owner, function), number))
            train(name, tmp_path, *flags)
        error = capsys.readouterr().err
        assert end.value.code == 130 and error.count("\n") == 1
        assert f"--resume continues after step {saved}\n" in error
        left = torch.load(state)
        assert left["step"] == saved
        torch.save(left | {"seconds": 1000 + left["seconds"]}, state)
        flags = ["--resume"]
    train(name, tmp_path, *flags)
    assert torch.load(tmp_path / f"{name}.pth")["training"]["seconds"] > 3000
    once, resumed = contents(tiny), contents(tmp_path)
    assert resumed == {path: once[path] for path in FILES[name]}
    assert set(once) == set.union(*FILES.values())


@pytest.mark.usefixtures("short")
def test_a_state_is_finite_and_resumed_only_by_the_run_that_it_belongs_to(
    tmp_path, monkeypatch, fails
):
    state = tmp_path / "classifier.state.pth"

    def error(*flags):
        flags = ["--models", tmp_path, "--steps", 6, "--batch-size", 8, *flags]
        return fails(train_classifier.main, *flags)

    assert "--batch-size 25 exceeds" in error("--batch-size", 25)
    assert "start without --resume" in error("--resume")
    monkeypatch.setattr(training, "SAVE_SECONDS", 0)
    assert "not finite" in error("--lr", "1e9")
    assert "pass --resume or delete it" in error()
    assert "other settings: {'lr': 1000000000.0}" in error("--resume")
    assert "{'seed': 0}" in error("--resume", "--lr", "1e9", "--seed", "3")
    state.write_bytes(state.read_bytes()[:1000])
    assert "delete it" in error("--resume", "--lr", "1e9")


# --- folders ---


def test_a_folder_that_cannot_be_written_is_refused_before_the_training(
    fails, tmp_path, monkeypatch
):
    monkeypatch.setattr(data, "Dataset", None)  # is not reached
    (tmp_path / "file").write_text("before")
    for path in (tmp_path / "file", tmp_path / "file" / "trial"):
        assert f"cannot write {path}" in fails(train_classifier.main, "--models", path)
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write everywhere
    assert f"cannot write {tmp_path}" in fails(train_classifier.main, "--models", tmp_path)


def foreign(file, network, schedule=SCHEDULE, **info):
    """A function that saves such a checkpoint to a folder."""
    return lambda folder, ours: save_checkpoint(folder / file, network, schedule, ours | info, {})


COSINE, UNET = {"beta_schedule": "squaredcos_cap_v2"}, make_unet(channels=8)
FOREIGN = {
    "not a checkpoint": lambda folder, _: (folder / "classifier.pth").write_bytes(b"anything"),
    "someone else's": lambda folder, _: torch.save({"epoch": 5}, folder / "classifier.pth"),
    "another class": foreign("classifier.pth", judge.Judge()),
    "other images": foreign("classifier.pth", Classifier(), name="shapes"),
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


def test_a_neighbor_that_adds_the_same_noise_does_not_matter(tmp_path, short):
    schedule = SCHEDULE | {"prediction_type": "v_prediction", "clip_sample": False}
    foreign("ddpm_unet.pth", UNET, schedule)(tmp_path, short.info)
    train("classifier", tmp_path)
    load_models(tmp_path)
