"""Training: what the loops minimize, and a run that is interrupted and resumed."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from conftest import ROOT, abar
from diffusers import DDPMScheduler
from diffusers.configuration_utils import FrozenDict
from diffusers.training_utils import EMAModel
from PIL import Image
from torch import nn

import train_classifier
import train_ddpm
from classifier import Classifier
from diffusion import SCHEDULE, make_unet, noised_for_validation, training_target
from evaluation import classifier_free, fine_tuned, judge
from inference import gradient, growing_scale, guided, load_models, sample
from support import training
from support.files import MODELS, output_folder, read_rows, save_checkpoint
from support.training import Run

SCRIPTS = {
    "classifier": train_classifier,
    "ddpm_unet": train_ddpm,
    "judge": judge,
    "classifier_free": classifier_free,
}

# --- what the loops minimize ---

LABELS = torch.arange(64) % 2
IMAGES = (LABELS - 0.5).view(-1, 1, 1, 1).expand(64, 1, 28, 28)  # gray: -.5 or .5
GRAY = SimpleNamespace(info={"name": "gray"}, load=lambda split: (IMAGES, LABELS))
SCHEDULER = DDPMScheduler(**SCHEDULE)
SETTINGS = {"steps": 3, "batch_size": 16, "lr": 0.1}


def started(script, network, scheduler, folder, validate, *others, **settings):
    """The finished `Run` of the train function of a script."""
    run = Run(folder / "w.pth", GRAY, **SETTINGS | settings)
    script.train(network, scheduler, run, validate, *others)
    return run


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

    def __init__(self):
        super().__init__(1, 1, bias=False)
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
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_the_unet_learns_the_target_of_its_scheduler(tmp_path, prediction_type):
    """Three steps of gradient descent by hand; v is computed by diffusers."""
    network = Multiple()
    scheduler = DDPMScheduler(**SCHEDULE | {"prediction_type": prediction_type})
    a, averaged = network.weight.item(), []

    def validate(run):
        averaged.append(network.weight.item())
        run.record(validation=0.0)

    torch.manual_seed(1)
    run = started(train_ddpm, network, scheduler, tmp_path, validate)
    torch.manual_seed(1)
    for step, (x_t, t, eps, x_0, _) in enumerate(batches_by_hand(3, unet_timesteps)):
        target = scheduler.get_velocity(x_0, eps, t) if prediction_type != "epsilon" else eps
        error = a * x_t - target
        assert run.losses[step].item() == pytest.approx(error.square().mean().item())  # L_simple
        a -= 0.1 * (2 * error * x_t).mean().clamp(-1, 1).item()
    assert network.labels_seen == [None] * 3
    assert averaged == [network.weight.item()] and network.weight.item() != pytest.approx(a)


@pytest.mark.parametrize("max_t", [0, 500])
@pytest.mark.usefixtures("by_sgd")
def test_the_classifier_is_trained_on_noised_images_up_to_max_t(tmp_path, max_t):
    """One step of gradient descent by hand."""

    class OfMeanAndT(nn.Linear):
        config = {}

        def forward(self, x_t, t):
            return super().forward(torch.stack([x_t.mean(dim=(1, 2, 3)), t / 1000], dim=1))

    network = OfMeanAndT(2, 2)
    torch.manual_seed(1)
    x_t, t, _, _, y = next(batches_by_hand(1, lambda: torch.randint(max_t + 1, (16,))))
    loss = F.cross_entropy(network(x_t, t), y)
    grads = torch.autograd.grad(loss, list(network.parameters()))
    expected = [p - 0.1 * grad for p, grad in zip(network.parameters(), grads)]  # not clipped
    torch.manual_seed(1)
    run = started(train_classifier, network, SCHEDULER, tmp_path, Run.record, max_t, steps=1)
    assert run.losses[0].item() == pytest.approx(loss.item())
    for parameter, wanted in zip(network.parameters(), expected):
        torch.testing.assert_close(parameter, wanted)


def test_the_classifier_free_network_drops_a_tenth_of_its_labels():
    """The other labels are unchanged, and the loss is the mean squared error of the noise."""
    network, kept = Multiple(), []
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
    images = torch.full((64, 1, 28, 28), -1.0)
    images[LABELS == 0, :, 4:24, 4:8] = images[LABELS == 1, :, 4:24, 20:24] = 1
    validation = (images.add(1).mul(127).byte(), LABELS)
    bars = SimpleNamespace(info={}, load=lambda split: (images, LABELS))
    bars.splits = {"validation": validation}
    network, seen = judge.Judge(num_classes=2), []
    network.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    run = Run(tmp_path / "w.pth", bars, **SETTINGS | {"lr": 1e-3, "steps": 40})
    judge.train(network, bars, run)
    assert judge.accuracy_of(network, *validation) == 1
    original = torch.cdist(seen[0].flatten(1), images.flatten(1)).amin(dim=1)
    assert original.mean() > 1 and 0.5 < (seen[0] + 1).sum() / (images[:16] + 1).sum() < 1.5


def test_the_classifier_reports_accuracy_and_confidence():
    """This classifier predicts 0 with p = 0.7, and every other image is a 0."""

    class Sure(nn.Linear):
        def forward(self, x_t, t):
            return torch.tensor([0.7, 0.3]).log().expand(len(x_t), 2)

    found = train_classifier.accuracy_by_band(Sure(1, 1), SCHEDULER, IMAGES[:60], LABELS[:60])
    accuracy, confidence = (values["t 0-999"] for values in found)
    assert (accuracy, confidence) == pytest.approx((0.5, 0.7))


def test_the_validation_losses_are_over_all_timesteps_and_over_the_middle():
    """This U-Net predicts 0, so the loss is the mean square of the noise."""
    unet = Multiple()
    unet.weight.data.zero_()
    _, t, eps = noised_for_validation(SCHEDULER, IMAGES)
    middle = eps[(t >= 150) & (t < 550)]
    expected = eps.square().mean().item(), middle.square().mean().item()
    assert train_ddpm.validation_losses(unet, SCHEDULER, IMAGES, 10) == pytest.approx(expected)
    assert sorted(t.tolist()) == [1000 * k // 64 for k in range(64)]


def test_validations_and_the_checkpoint_have_the_averaged_weights(tmp_path, monkeypatch):
    """Training continues with the unaveraged weights. An epoch shows every image once."""
    own, averaged, shown = [], [], []  # kernels of the U-Net; labels
    unet = make_unet((1, 28, 28), channels=8)

    def validate(run):
        averaged.append(unet.conv_in.weight.detach().clone())
        assert not unet.training
        run.record()

    def loss_of(unet, scheduler, x_0, y):
        own.append(unet.conv_in.weight.detach().clone())
        shown.append(y)
        return train_ddpm.ddpm_loss(unet, scheduler, x_0, y)

    monkeypatch.setattr(training, "MIN_VALIDATE_EVERY", 4)
    numbered = SimpleNamespace(info={}, load=lambda split: (IMAGES, torch.arange(64)))
    run = Run(tmp_path / "w.pth", numbered, **SETTINGS | {"steps": 6})
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


@pytest.mark.parametrize("script", [train_ddpm, train_classifier])
def test_the_learning_rate_ends_at_0_even_in_a_short_run(tmp_path, script, monkeypatch):
    rates, step = [], torch.optim.AdamW.step

    def record(optimizer, *args):
        rates.append(optimizer.param_groups[0]["lr"])
        return step(optimizer, *args)

    monkeypatch.setattr(torch.optim.AdamW, "step", record)
    unet = make_unet((1, 28, 28), 8)
    network = unet if script is train_ddpm else Classifier(8, num_classes=2)
    started(script, network, SCHEDULER, tmp_path, Run.record, steps=20, lr=1e-3)
    assert max(rates) == pytest.approx(1e-3) and rates[-1] < 2e-4 and len(rates) == 20


def test_every_parameter_is_trained_by_gradients(tmp_path):
    """For example, every block sees t."""
    networks = make_unet((1, 28, 28)), make_unet((1, 28, 28), 8, 3), Classifier(num_classes=2)
    unet, free, classifier = networks
    where = SCHEDULER, tmp_path, Run.record
    started(train_ddpm, unet, *where, lr=1e-3)
    started(train_ddpm, free, *where, classifier_free.classifier_free_loss, lr=1e-3)
    started(train_classifier, classifier, *where, lr=1e-3)
    for network in networks:
        assert all(p.grad.any() for p in network.parameters())


# --- whole runs ---


def train(name, folder, *flags):
    """Train a network for six steps and return its checkpoint."""
    SCRIPTS[name].main(["--models", str(folder), "--steps", "6", "--batch-size", "8", *flags])
    return torch.load(folder / f"{name}.pth", weights_only=True)


@pytest.fixture(scope="module")
def short(few_images):
    """An epoch has three batches of 8, after which the run is validated; sampling has two steps."""
    few_images.splits["train"] = [part[:24] for part in few_images.splits["train"]]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_ddpm, "SAMPLING_STEPS", 2)
        patch.setattr(train_ddpm, "NUM_VALIDATION_IMAGES", 100)
        patch.setattr(training, "MIN_VALIDATE_EVERY", 1)
        yield


@pytest.fixture(scope="module")
def tiny(tmp_path_factory, short):
    """A folder in which all networks were trained."""
    folder = tmp_path_factory.mktemp("trial")
    for name in SCRIPTS:
        train(name, folder)
    return folder


def structure(value):
    """A nested dict with its numbers and tensors replaced by their types."""
    return {k: structure(v) for k, v in value.items()} if isinstance(value, dict) else type(value)


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_shipped_checkpoint_was_written_by_this_code_with_its_defaults(tiny, name):
    shipped, trained = (torch.load(folder / f"{name}.pth") for folder in (MODELS, tiny))
    assert structure(shipped) == structure(trained)
    for settings in ("config", "schedule", "dataset"):
        assert shipped[settings] == trained[settings]
    script, training = SCRIPTS[name], shipped["training"]
    sizes = script if hasattr(script, "BATCH_SIZE") else train_ddpm
    assert (training["steps"], training["seed"]) == (script.STEPS, 0)
    assert (training["batch_size"], training["lr"]) == (sizes.BATCH_SIZE, sizes.LEARNING_RATE)


def test_a_trial_writes_only_to_its_folder(tiny):
    pictures = {"sample_ddpm_output.png", "results/classifier_accuracy.png"}
    pictures |= {"results/ddpm_loss.png", "results/ddpm_loss.csv"}
    pictures |= {"previews/step_000003.png"}
    found = {str(path.relative_to(tiny)) for path in tiny.rglob("*") if path.is_file()}
    assert found == pictures | {f"{name}.pth" for name in SCRIPTS}


def test_the_losses_are_means_up_to_their_step_and_validations(tmp_path):
    history = [{"step": step, "validation": 0.5, "middle": 0.25} for step in (100, 251)]
    run = SimpleNamespace(losses=list(torch.arange(251.0)), steps=251, history=history)
    train_ddpm.save_losses(tmp_path / "x.csv", run)
    rows = {int(row.pop("step")): row for row in read_rows(tmp_path / "x.csv")}
    assert list(rows) == [*range(2, 251, 2), 251]
    assert rows[100] == {"training": "98.5", "validation": "0.5", "middle": "0.25"}
    assert rows[251] == {"training": "250", "validation": "0.5", "middle": "0.25"}


def test_the_figure_has_the_settings_of_its_run(tiny):
    made_from = json.loads(Image.open(tiny / "results" / "ddpm_loss.png").info["provenance"])
    trained = torch.load(tiny / "ddpm_unet.pth")["training"]
    assert made_from["settings"].items() <= trained.items() and "steps" in made_from["settings"]


def test_pictures_of_the_shipped_models_go_to_the_repository(tmp_path):
    assert output_folder(Path("models")) == output_folder(MODELS) == ROOT
    assert output_folder(tmp_path) == tmp_path


@pytest.mark.parametrize("name", SCRIPTS)
def test_an_interrupted_run_resumes_bit_for_bit(tiny, tmp_path, name, monkeypatch, capsys):
    """It is interrupted in the last step, in its second epoch, and resumes after the fourth.

    The seconds include those before the interruption.
    """
    monkeypatch.setattr(training, "SAVE_EVERY", 4)
    record = Run.record

    def interrupt(run, **metrics):
        if run.step == 6:
            raise KeyboardInterrupt
        record(run, **metrics)

    with monkeypatch.context() as patch, pytest.raises(SystemExit) as end:
        patch.setattr(Run, "record", interrupt)
        train(name, tmp_path)
    state = tmp_path / f"{name}.state.pth"
    assert end.value.code == 130 and capsys.readouterr().err.endswith(": interrupted\n")
    assert not (tmp_path / f"{name}.pth").exists() and state.exists()

    torch.save(torch.load(state) | {"seconds": 1000}, state)

    histories, finish = [], Run.save_checkpoint
    monkeypatch.setattr(
        Run, "save_checkpoint", lambda r, **kw: histories.append(r.history) or finish(r, **kw)
    )
    torch.manual_seed(123)
    resumed, once = train(name, tmp_path, "--resume"), torch.load(tiny / f"{name}.pth")
    for key, value in once.pop("state_dict").items():
        assert torch.equal(resumed["state_dict"][key], value), key
    assert resumed["training"].pop("seconds") > 1000 > once["training"].pop("seconds") > 0
    assert resumed["training"] == once["training"]  # also the mean loss and the validation
    assert [entry["step"] for entry in histories[0]] == [3, 6]
    assert not list(tmp_path.glob("*state*")) and not list(tmp_path.glob(".*"))
    assert capsys.readouterr().err == ""  # no progress bar: stderr is not a terminal


@pytest.mark.usefixtures("short")
def test_a_state_is_resumed_only_by_the_run_that_it_belongs_to(tmp_path, monkeypatch, fails):
    monkeypatch.setattr(training, "SAVE_EVERY", 1)

    def error(*flags):
        flags = ["--batch-size", 8, *flags]
        return fails(train_classifier.main, "--models", tmp_path, "--steps", 6, *flags)

    assert "--batch-size 25 exceeds the 24 training images" in error("--batch-size", 25)
    assert "nothing to resume" in error("--resume")
    assert "not finite" in error("--lr", "1e9")
    assert "pass --resume or delete it" in error()
    assert "different settings: lr" in error("--resume")
    state = tmp_path / "classifier.state.pth"
    state.write_bytes(state.read_bytes()[:1000])
    assert "corrupted" in error("--resume", "--lr", "1e9")


FOREIGN = {
    "not a checkpoint": lambda path, info: path.write_bytes(b"anything"),
    "someone else's": lambda path, info: torch.save({"state_dict": {}, "epoch": 5}, path),
    "another class": lambda path, info: save_checkpoint(path, judge.Judge(), SCHEDULE, info, {}),
    "another schedule": lambda path, info: save_checkpoint(
        path, Classifier(), SCHEDULE | {"prediction_type": "v_prediction"}, info, {}
    ),
    "another dataset": lambda path, info: save_checkpoint(
        path, Classifier(), SCHEDULE, {**info, "name": "shapes"}, {}
    ),
    "a neighbor of another schedule": lambda path, info: save_checkpoint(
        path.with_name("ddpm_unet.pth"),
        make_unet((1, 28, 28), 8),
        SCHEDULE | {"beta_schedule": "squaredcos_cap_v2"},
        info,
        {},
    ),
    "a neighbor of another dataset": lambda path, info: save_checkpoint(
        path.with_name("judge.pth"), judge.Judge(), None, {**info, "name": "shapes"}, {}
    ),
}


@pytest.mark.usefixtures("short")
def test_a_neighbor_that_adds_the_same_noise_does_not_matter(tmp_path, few_images):
    schedule = SCHEDULE | {"prediction_type": "v_prediction", "clip_sample": False}
    unet = make_unet((1, 28, 28), 8)
    save_checkpoint(tmp_path / "ddpm_unet.pth", unet, schedule, few_images.info, {})
    train("classifier", tmp_path)
    load_models(tmp_path)


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("what", FOREIGN)
def test_an_unrelated_checkpoint_is_not_overwritten(fails, tmp_path, few_images, what):
    path = tmp_path / "classifier.pth"
    FOREIGN[what](path, few_images.info)
    before = {file: file.read_bytes() for file in tmp_path.iterdir()}
    assert str(tmp_path) in fails(
        train_classifier.main, "--models", tmp_path, "--steps", 1, "--batch-size", 8
    )
    assert {file: file.read_bytes() for file in tmp_path.iterdir()} == before


@pytest.mark.usefixtures("short")
def test_a_schedule_may_have_fewer_timesteps_than_the_sampler_takes(tmp_path, monkeypatch):
    monkeypatch.setitem(SCHEDULE, "num_train_timesteps", 3)
    monkeypatch.setattr(train_ddpm, "SAMPLING_STEPS", 50)
    train("ddpm_unet", tmp_path, "--channels", "8")
    assert (tmp_path / "sample_ddpm_output.png").exists()


@pytest.mark.usefixtures("short")
def test_a_cosine_schedule_and_v_prediction_need_no_code_changes(tmp_path, monkeypatch):
    """As examples/README.md says: both scripts, and guided sampling, follow `SCHEDULE`."""
    for key, value in (("beta_schedule", "squaredcos_cap_v2"), ("prediction_type", "v_prediction")):
        monkeypatch.setitem(SCHEDULE, key, value)
    monkeypatch.setitem(SCHEDULE, "num_train_timesteps", 400)
    for name in ("classifier", "ddpm_unet"):
        train(name, tmp_path, "--channels", "8")
    ddpm, classifier = load_models(tmp_path)
    assert (
        ddpm.scheduler.alphas_cumprod.shape == (400,) and ddpm.scheduler.alphas_cumprod[-1] < 1e-7
    )
    assert ddpm.scheduler.config.prediction_type == "v_prediction"
    assert ddpm.unet.config.block_out_channels[0] == classifier.config["channels"] == 8
    scale = growing_scale(ddpm, high=390)
    images = sample(ddpm, [3], [0], guided(ddpm, gradient(classifier.log_p), scale), steps=3)
    assert not torch.equal(images, sample(ddpm, None, [0], steps=3))
    target = training_target(ddpm.scheduler, IMAGES[:1], 1 - IMAGES[:1], torch.tensor([5]))
    assert not torch.equal(target, 1 - IMAGES[:1])


def test_fine_tuning_adds_the_error_of_the_guided_noise(monkeypatch):
    """As a fraction of the error without guidance."""
    ddpm, classifier = load_models()
    x_0, y, t = IMAGES[:16, :1], LABELS[:16], torch.full((16,), 300)
    torch.manual_seed(0)
    eps = torch.randn_like(x_0)
    x_t = ddpm.scheduler.add_noise(x_0, eps, t)
    guided_eps = guided(ddpm, gradient(classifier.log_p), 1)(x_t, 300, y)
    removed = 1 - (guided_eps - eps).square().mean() / (ddpm(x_t, 300) - eps).square().mean()
    expected = 1 - removed + F.cross_entropy(classifier(x_t, t), y)
    monkeypatch.setattr(fine_tuned.torch, "randint", lambda *args: t)
    torch.manual_seed(0)
    loss = fine_tuned.guided_loss(ddpm, classifier, x_0, y)
    assert loss.item() == pytest.approx(expected.item(), rel=3e-3)  # without clipping
