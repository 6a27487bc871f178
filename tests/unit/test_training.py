"""Training: what the loops minimize, and a run that is interrupted and resumed."""

import itertools
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import ROOT, abar
from diffusers import DDPMScheduler
from diffusers.configuration_utils import FrozenDict
from diffusers.training_utils import EMAModel
from PIL import Image
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

import train_classifier
import train_ddpm
from classifier import Classifier
from diffusion import SCHEDULE, load_ddpm, make_unet, noised_for_validation
from evaluation import classifier_free, judge
from inference import gradient, growing_scale, guided, load_models, sample
from support import training
from support.files import MODELS, load_checkpoint, output_folder, save_checkpoint
from support.pictures import from_uint8
from support.training import Run

SCRIPTS = {
    "classifier": train_classifier,
    "ddpm_unet": train_ddpm,
    "judge": judge,
    "classifier_free": classifier_free,
}

# --- what the loops minimize ---

LABELS = torch.arange(64) % 2
PIXELS = (64 + 127 * LABELS).to(torch.uint8).view(-1, 1, 1, 1).expand(64, 1, 28, 28)  # gray
IMAGES = from_uint8(PIXELS)
GRAY = SimpleNamespace(info={"name": "gray"}, splits={"train": (PIXELS, LABELS)})
SCHEDULER = DDPMScheduler(**SCHEDULE)
SETTINGS = {"steps": 3, "batch_size": 16, "lr": 0.1}


def make_run(folder, network, dataset=GRAY, **settings):
    """A `Run` of three steps."""
    args = SimpleNamespace(**SETTINGS | {"resume": False} | settings)
    return Run(folder / "w.pth", network, dataset, args)


@pytest.fixture
def by_sgd(monkeypatch):
    """Replace AdamW with plain SGD at a constant learning rate."""

    def constant(optimizer, *steps):
        return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1)

    monkeypatch.setattr(torch.optim, "AdamW", lambda p, lr, *_, **__: torch.optim.SGD(p, lr))
    monkeypatch.setattr(train_ddpm, "get_linear_schedule_with_warmup", constant)
    monkeypatch.setattr(train_classifier, "get_cosine_schedule_with_warmup", constant)


def batches_by_hand(steps, timesteps):
    """The training data of each step, from torch's generator: x_t, t, eps, x_0, y."""
    order = torch.randperm(64)
    for step in range(steps):
        index = order[16 * step : 16 * (step + 1)]
        t, eps = timesteps(), torch.randn(16, 1, 28, 28)
        x_0 = IMAGES[index]
        yield abar(t).sqrt() * x_0 + (1 - abar(t)).sqrt() * eps, t, eps, x_0, LABELS[index]


def unet_timesteps():
    return train_ddpm.training_timesteps(16, 1000)


class Multiple(nn.Linear):
    """A U-Net whose output is `weight * x_t`."""

    device, config = torch.device("cpu"), FrozenDict(num_class_embeds=3)

    def __init__(self, weight=0.0):
        super().__init__(1, 1, bias=False)
        self.weight.data.fill_(weight)
        self.labels_seen = []

    def forward(self, x_t, t, labels=None):
        self.labels_seen.append(labels)
        return SimpleNamespace(sample=self.weight * x_t)


def test_half_of_the_timesteps_are_uniform_and_half_are_from_the_middle():
    t = train_ddpm.training_timesteps(1_000_000, 1000)
    middle = (t >= 150) & (t < 550)
    assert middle.float().mean() == pytest.approx(0.5 + 0.5 * 0.4, abs=0.01)
    for part in (t[middle], t[~middle]):  # each value about equally often
        counts = part.bincount()[part.unique()]
        assert len(counts) in (400, 600) and counts.min() > 0.6 * counts.max()


@pytest.mark.usefixtures("by_sgd")
@pytest.mark.parametrize("prediction_type, weight", [("epsilon", -1.0), ("v_prediction", 0.0)])
def test_the_unet_learns_the_target_of_its_scheduler(tmp_path, prediction_type, weight):
    """Three steps of gradient descent by hand, clipped in the first case; v is diffusers' own."""
    network = Multiple(weight)
    scheduler = DDPMScheduler(**SCHEDULE | {"prediction_type": prediction_type})
    averaged, run = [], make_run(tmp_path, network)
    torch.manual_seed(1)
    train_ddpm.train(network, scheduler, run, lambda: averaged.append(network.weight.item()))
    torch.manual_seed(1)
    for step, (x_t, t, eps, x_0, _) in enumerate(batches_by_hand(3, unet_timesteps)):
        target = scheduler.get_velocity(x_0, eps, t) if prediction_type != "epsilon" else eps
        error = weight * x_t - target
        assert run.losses[step].item() == pytest.approx(error.square().mean().item())  # L_simple
        weight -= 0.1 * (2 * error * x_t).mean().clamp(-1, 1).item()
    assert network.labels_seen == [None] * 3
    assert averaged == [network.weight.item()] and network.weight.item() != pytest.approx(weight)


@pytest.mark.parametrize("size", [1, 100])
@pytest.mark.usefixtures("by_sgd")
def test_the_classifier_is_trained_on_noised_images(tmp_path, size):
    """One step of gradient descent by hand; the larger gradient is clipped to the norm 1."""

    class OfMeanAndT(nn.Linear):
        config = {}

        def forward(self, x_t, t):
            return super().forward(size * torch.stack([x_t.mean(dim=(1, 2, 3)), t / 1000], dim=1))

    network = OfMeanAndT(2, 2)
    torch.manual_seed(1)
    x_t, t, _, _, y = next(batches_by_hand(1, lambda: torch.randint(1000, (16,))))
    loss = F.cross_entropy(network(x_t, t), y)
    grads = torch.autograd.grad(loss, list(network.parameters()))
    norm = torch.cat([grad.flatten() for grad in grads]).norm().item()
    assert (norm > 1) == (size > 1)
    expected = [p - 0.1 * g / max(norm, 1) for p, g in zip(network.parameters(), grads)]
    run = make_run(tmp_path, network, steps=1)
    torch.manual_seed(1)
    train_classifier.train(network, SCHEDULER, run, run.record)
    assert run.losses[0].item() == pytest.approx(loss.item())
    for parameter, wanted in zip(network.parameters(), expected):
        torch.testing.assert_close(parameter, wanted)


def test_the_classifier_free_network_drops_a_tenth_of_its_labels():
    """The other labels are unchanged, and the loss is the mean squared error of the noise."""
    network, kept = Multiple(0.3), []
    for step in range(100):
        x_0, y = IMAGES[:16], LABELS[:16]
        torch.manual_seed(step)
        loss = classifier_free.classifier_free_loss(network, SCHEDULER, x_0, y)
        torch.manual_seed(step)
        t, eps = unet_timesteps(), torch.randn_like(x_0)
        error = network.weight * SCHEDULER.add_noise(x_0, eps, t) - eps
        assert loss.item() == pytest.approx(error.square().mean().item())
        told = network.labels_seen[-1]
        kept.append(told != 2)  # the last label means none
        assert torch.equal(told[kept[-1]], y[kept[-1]])
    assert 0.07 < 1 - torch.cat(kept).float().mean() < 0.13


def test_the_judge_learns_from_augmented_images(tmp_path):
    """It tells left from right bars, which it sees rotated and shifted."""
    bars = torch.zeros(64, 1, 28, 28, dtype=torch.uint8)
    bars[LABELS == 0, :, 4:24, 4:8] = bars[LABELS == 1, :, 4:24, 20:24] = 255
    splits = dict.fromkeys(("train", "validation"), (bars, LABELS))
    dataset, seen = SimpleNamespace(info={}, splits=splits), []
    network = judge.Judge(num_classes=2)
    network.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    run = make_run(tmp_path, network, dataset, lr=1e-3, steps=40)
    judge.train(network, dataset, run)
    assert judge.accuracy_of(network, bars, LABELS) == 1
    images = from_uint8(bars)
    original = torch.cdist(seen[0].flatten(1), images.flatten(1)).amin(dim=1)
    assert original.mean() > 1 and 0.5 < (seen[0] + 1).sum() / (images[:16] + 1).sum() < 1.5


def test_the_classifier_reports_accuracy_and_confidence():
    """This classifier predicts 0 with p = 0.7, and every other image is a 0."""

    class Sure(nn.Linear):
        def forward(self, x_t, t):
            return torch.tensor([0.7, 0.3]).log().expand(len(x_t), 2)

    network, few = Sure(1, 1), (IMAGES[:60], LABELS[:60])
    found = train_classifier.accuracy_and_confidence(network, SCHEDULER, *few)
    assert found == pytest.approx({"accuracy": 0.5, "confidence": 0.7})


def test_the_validation_losses_are_over_all_timesteps_and_over_the_middle():
    """This U-Net predicts 0, so the loss is the mean square of the noise."""
    _, t, eps = noised_for_validation(SCHEDULER, IMAGES)
    middle = eps[(t >= 150) & (t < 550)]
    expected = eps.square().mean().item(), middle.square().mean().item()
    found = train_ddpm.validation_losses(Multiple(), SCHEDULER, IMAGES, batch_size=10)
    assert found == pytest.approx(expected)
    assert sorted(t.tolist()) == [1000 * k // 64 for k in range(64)] != t.tolist()
    assert len(eps.flatten(1).unique(dim=0)) == 64


def test_validations_and_the_checkpoint_have_the_averaged_weights(tmp_path, monkeypatch):
    """Training continues with the unaveraged weights. An epoch shows every image once."""
    own, averaged, shown = [], [], []  # kernels of the U-Net; labels
    unet = make_unet((1, 28, 28), channels=8)

    def validate():
        averaged.append(unet.conv_in.weight.detach().clone())
        assert not unet.training
        run.record()

    def loss_of(unet, scheduler, x_0, y):
        own.append(unet.conv_in.weight.detach().clone())
        shown.append(y)
        return train_ddpm.ddpm_loss(unet, scheduler, x_0, y)

    monkeypatch.setattr(training, "MIN_VALIDATE_EVERY", 4)
    numbered = SimpleNamespace(info={}, splits={"train": (PIXELS, torch.arange(64))})
    run = make_run(tmp_path, unet, numbered, steps=6)
    train_ddpm.train(unet, SCHEDULER, run, validate, loss_of)
    by_hand = EMAModel([nn.Parameter(own[0])], decay=train_ddpm.EMA_DECAY)
    for kernel in own[1:5]:  # after each of the first four steps
        by_hand.step([nn.Parameter(kernel)])
    torch.testing.assert_close(averaged[0], by_hand.shadow_params[0])
    kept = unet.conv_in.weight
    assert torch.equal(kept, averaged[1]) and not torch.equal(kept, averaged[0])
    assert [entry["step"] for entry in run.history] == [4, 6]
    assert run.history[0]["loss"] == pytest.approx(torch.stack(run.losses[:4]).mean().item())
    assert torch.cat(shown[:4]).sort().values.tolist() == list(range(64))
    assert not torch.equal(torch.cat(shown[4:]), torch.cat(shown[:2]))


@pytest.mark.parametrize("name", ["labeled unet", "classifier"])
def test_a_short_run_trains_every_parameter_and_ends_at_learning_rate_0(tmp_path, name):
    """For example, every block sees t. The U-Net has no weight decay."""
    script, network, others = train_classifier, Classifier(8, num_classes=2), []
    if name == "labeled unet":
        script, network = train_ddpm, make_unet((1, 28, 28), 8, 3)
        others = [classifier_free.classifier_free_loss]
    groups, run = [], make_run(tmp_path, network, steps=20, batch_size=4, lr=1e-3)
    hook = register_optimizer_step_pre_hook(lambda o, *_: groups.append(dict(o.param_groups[0])))
    script.train(network, SCHEDULER, run, run.record, *others)
    hook.remove()
    rates = [group["lr"] for group in groups]
    assert max(rates) == pytest.approx(1e-3) and rates[-1] < 2e-4 and len(rates) == 20
    assert (groups[0]["weight_decay"] == 0) == (name == "labeled unet")
    assert all(p.grad.any() for p in network.parameters())


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
        patch.setattr(train_ddpm, "SAMPLING_STEPS", 2)
        patch.setattr(train_ddpm, "NUM_SAMPLES", 10)
        patch.setattr(training, "MIN_VALIDATE_EVERY", 1)
        yield few_images


@pytest.fixture(scope="module")
def tiny(tmp_path_factory, short):
    """A folder in which all networks were trained."""
    folder = tmp_path_factory.mktemp("trial")
    for name in SCRIPTS:
        train(name, folder)
    return folder


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_shipped_checkpoint_was_written_by_this_code_with_its_defaults(tiny, name):
    shipped, trained = (torch.load(folder / f"{name}.pth") for folder in (MODELS, tiny))
    assert shipped.keys() == trained.keys()
    for key in ("network", "config", "schedule", "dataset"):
        assert shipped[key] == trained[key]
    for key, value in shipped["state_dict"].items():
        assert value.shape == trained["state_dict"][key].shape
    script, training = SCRIPTS[name], shipped["training"]
    sizes = script if hasattr(script, "BATCH_SIZE") else train_ddpm
    assert (training["steps"], training["seed"]) == (script.STEPS, 0)
    assert (training["batch_size"], training["lr"]) == (sizes.BATCH_SIZE, sizes.LEARNING_RATE)


def test_the_networks_are_validated_on_the_validation_images(tiny, short):
    """The last validation is one of the weights that are saved."""
    images, labels = short.load("validation")
    classifier, info = load_checkpoint(tiny / "classifier.pth", Classifier)
    found = train_classifier.accuracy_and_confidence(classifier, SCHEDULER, images, labels)
    assert {key: info["training"][key] for key in found} == pytest.approx(found)
    ddpm = load_ddpm(tiny / "ddpm_unet.pth")
    found = train_ddpm.validation_losses(ddpm.unet, SCHEDULER, images)
    assert [ddpm.info["training"][key] for key in ("validation", "middle")] == pytest.approx(found)
    network, info = judge.load_judge(tiny / "judge.pth")
    for split in ("validation", "test"):
        found = judge.accuracy_of(network, *short.splits[split])
        assert info["training"][f"{split}_accuracy"] == found


FLAGS = ["--seed 1", "--lr 1e-4", "--batch-size 6", "--steps 7", "--channels 24"]


@pytest.mark.parametrize("name, flag", itertools.product(SCRIPTS, FLAGS))
def test_every_flag_of_a_training_changes_its_weights(tiny, tmp_path, name, flag):
    if (name, flag) == ("judge", "--channels 24"):
        return
    train(name, tmp_path, *flag.split())
    once, other = (torch.load(folder / f"{name}.pth")["state_dict"] for folder in (tiny, tmp_path))
    pairs = zip(once.values(), other.values())
    assert any(a.shape != b.shape or not torch.equal(a, b) for a, b in pairs)


def test_the_plot_shows_the_accuracy_at_each_t_and_chance(tiny, short):
    images, labels = short.load("validation")
    classifier, _ = load_checkpoint(tiny / "classifier.pth", Classifier)
    figure = train_classifier.plot_accuracy(classifier, SCHEDULER, images, labels, 10)
    curve, chance = figure.axes[0].lines
    assert list(curve.get_xdata()) == [*range(0, 1000, 100), 999] and chance.get_ydata()[0] == 0.1
    x_t, _, _ = noised_for_validation(SCHEDULER, images, torch.full((50,), 300))
    right = classifier(x_t, torch.full((50,), 300)).argmax(dim=1) == labels
    assert curve.get_ydata()[3] == pytest.approx(right.float().mean().item())


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


# --- interruptions ---

INTERRUPTIONS = {  # twice each: before which call of which function; the step that was saved
    "classifier": [(F, "cross_entropy", 2, 1), (train_classifier, "save_figure", 1, 6)],
    # during a validation, the network holds averaged weights
    "ddpm_unet": [(Run, "record", 1, 2), (train_ddpm, "save_figure", 1, 6)],
    "judge": [(F, "cross_entropy", 4, 3), (Run, "save_checkpoint", 1, 6)],
    "classifier_free": [(F, "mse_loss", 5, 4), (Run, "save_checkpoint", 1, 6)],
}


def interrupted(function, number):
    """The function, but Ctrl-C comes before its call of this number."""
    calls = itertools.count(1)

    def wrapped(*args, **settings):
        if next(calls) == number:
            raise KeyboardInterrupt
        return function(*args, **settings)

    return wrapped


def contents(folder):
    """What the files in a folder hold: weights, settings without the seconds, pixels, text."""
    found = {}
    for path in folder.rglob("*.*"):
        content = path.read_bytes()
        if path.suffix == ".png":
            content = np.asarray(Image.open(path)).tobytes()
        elif path.suffix == ".pth":
            content = torch.load(path)
            content["training"].pop("seconds")
            weights = content["state_dict"].items()
            content["state_dict"] = {key: value.numpy().tobytes() for key, value in weights}
        found[str(path.relative_to(folder))] = content
    return found


@pytest.mark.parametrize("name", SCRIPTS)
def test_an_interrupted_run_resumes_bit_for_bit(tiny, tmp_path, name, monkeypatch, capsys):
    """It is interrupted twice; its files are then those of a run that was not, and no others.

    In a log, lines with the loss take the place of the progress bar.
    """
    state, flags = tmp_path / f"{name}.state.pth", []
    monkeypatch.setattr(training, "SAVE_SECONDS", 0)  # after every step
    for owner, function, number, step in INTERRUPTIONS[name]:
        with monkeypatch.context() as patch, pytest.raises(SystemExit) as end:
            patch.setattr(owner, function, interrupted(getattr(owner, function), number))
            train(name, tmp_path, *flags)
        shown, error = capsys.readouterr()
        assert (end.value.code, error.count("\n")) == (130, 1) and f"step {step:6d}" in shown
        left = torch.load(state)
        assert left["step"] == step
        torch.save(left | {"seconds": 1000 + left["seconds"]}, state)
        flags = ["--resume"]
    train(name, tmp_path, *flags)
    assert torch.load(tmp_path / f"{name}.pth")["training"]["seconds"] > 2000
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
    assert "nothing to resume" in error("--resume")
    monkeypatch.setattr(training, "SAVE_SECONDS", 0)
    assert "not finite" in error("--lr", "1e9")
    assert "pass --resume or delete it" in error()
    assert "other settings: {'lr': 1000000000.0}" in error("--resume")
    assert "{'seed': 0}" in error("--resume", "--lr", "1e9", "--seed", "3")
    state.write_bytes(state.read_bytes()[:1000])
    assert "corrupted" in error("--resume", "--lr", "1e9")


# --- other checkpoints in the folder ---


def foreign(file, network, schedule=SCHEDULE, **info):
    """A function that saves such a checkpoint to a folder."""
    return lambda folder, ours: save_checkpoint(folder / file, network, schedule, ours | info, {})


V, COSINE = {"prediction_type": "v_prediction"}, {"beta_schedule": "squaredcos_cap_v2"}
UNET = make_unet((1, 28, 28), 8)
FOREIGN = {
    "not a checkpoint": lambda folder, _: (folder / "classifier.pth").write_bytes(b"anything"),
    "someone else's": lambda folder, _: torch.save({"epoch": 5}, folder / "classifier.pth"),
    "another class": foreign("classifier.pth", judge.Judge()),
    "another schedule": foreign("classifier.pth", Classifier(), SCHEDULE | V),
    "another dataset": foreign("classifier.pth", Classifier(), name="shapes"),
    "a neighbor of another schedule": foreign("ddpm_unet.pth", UNET, SCHEDULE | COSINE),
    "a neighbor of another dataset": foreign("judge.pth", judge.Judge(), None, name="shapes"),
}


@pytest.mark.parametrize("what", FOREIGN)
def test_an_unrelated_checkpoint_is_not_overwritten(fails, tmp_path, short, what):
    FOREIGN[what](tmp_path, short.info)
    before = {file: file.read_bytes() for file in tmp_path.iterdir()}
    flags = "--models", tmp_path, "--steps", 1, "--batch-size", 8
    assert str(tmp_path) in fails(train_classifier.main, *flags)
    assert {file: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_a_neighbor_that_adds_the_same_noise_does_not_matter(tmp_path, short):
    foreign("ddpm_unet.pth", UNET, SCHEDULE | V | {"clip_sample": False})(tmp_path, short.info)
    train("classifier", tmp_path)
    load_models(tmp_path)


@pytest.mark.usefixtures("short")
def test_another_schedule_needs_no_code_changes(tmp_path, monkeypatch):
    """As examples/README.md says: both scripts, and guided sampling, follow `SCHEDULE`.

    It has fewer timesteps than there are sampling steps.
    """
    for key, value in (V | COSINE | {"num_train_timesteps": 12}).items():
        monkeypatch.setitem(SCHEDULE, key, value)
    monkeypatch.setattr(train_ddpm, "SAMPLING_STEPS", 50)
    for name in ("classifier", "ddpm_unet"):
        train(name, tmp_path, "--channels", "8")
    ddpm, classifier = load_models(tmp_path)
    assert ddpm.scheduler.config.items() >= (V | COSINE).items() and len(ddpm.abar) == 13
    assert ddpm.unet.config.block_out_channels[0] == classifier.config["channels"] == 8
    predict = guided(ddpm, gradient(classifier.log_p), growing_scale(ddpm))
    images = sample(ddpm, [3], [0], predict, steps=3)
    assert not torch.equal(images, sample(ddpm, None, [0], steps=3))
