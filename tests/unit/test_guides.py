"""The guides of the controls: what they see, how they are trained, and which row takes which."""

import shutil
from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT
from torch import nn

from classifier import Classifier
from diffusion import IMAGE_SHAPE, SCHEDULE
from evaluation import guides, measures
from evaluation.bench import Bench
from evaluation.guides import GUIDES, CleanClassifier, RawTClassifier, guide_path, load_guide
from evaluation.rivals import RIVALS, load_rival, rival_path
from evaluation.variants import GUIDE_OF, RIVAL_OF, variants
from mnist import MNIST_INFO, Dataset
from support.checkpoints import read_checkpoint, save_checkpoint
from support.errors import UserError
from support.files import sha256
from support.tables import write_rows
from support.training import Run

T = torch.tensor([0, 400, 999])


def test_the_clean_guide_knows_no_t():
    guide, x_0 = CleanClassifier(), torch.randn(3, *IMAGE_SHAPE)
    assert torch.equal(guide(x_0, T), Classifier.forward(guide, x_0, 0 * T))
    assert not torch.equal(guide(x_0, T), Classifier.forward(guide, x_0, T))


def test_raw_t_only_shifts_each_class():
    """The change of the logits from one t to another is linear in t, whatever the image shows."""
    guide, images = RawTClassifier(), torch.randn(2, 3, *IMAGE_SHAPE)
    logits = torch.stack([guide(x_t, T) for x_t in images])  # (2, 3, 10)
    at_0 = torch.stack([guide(x_t, 0 * T) for x_t in images])
    assert (at_0[0] - at_0[1]).abs().max() > 1e-3  # the image matters
    change = logits - at_0
    torch.testing.assert_close(change[0], change[1], atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(change[:, 1] * 999 / 400, change[:, 2], atol=1e-3, rtol=1e-4)
    assert change[:, 2].abs().max() > 1


@pytest.mark.parametrize("name", GUIDES)
def test_a_guide_is_rebuilt_from_its_checkpoint(tmp_path, name):
    guide = GUIDES[name][0](channels=8).eval()
    save_checkpoint(guide_path(name, tmp_path), guide, SCHEDULE, MNIST_INFO, 0, {})
    loaded, x_t, y = load_guide(name, tmp_path), torch.randn(3, *IMAGE_SHAPE), torch.arange(3)
    assert loaded.config == guide.config and not loaded.training
    log_p = loaded.log_p(x_t, T, y)
    assert torch.equal(log_p, guide.log_p(x_t, T, y)) and log_p.shape == (3,)
    torch.testing.assert_close(log_p, guide(x_t, T).log_softmax(dim=1)[torch.arange(3), y])


class Means(nn.Module):
    """Logits from the mean pixel: weight * mean for class 1, and 0 for class 0."""

    def __init__(self):
        super().__init__()
        self.weight, self.seen = nn.Parameter(torch.zeros(())), []

    def forward(self, x_0, t):
        self.seen.append((x_0.detach(), t))
        score = self.weight * x_0.mean(dim=(1, 2, 3))
        return torch.stack([torch.zeros_like(score), score], dim=1)


def test_the_clean_guide_is_trained_on_the_images_themselves():
    labels = torch.arange(64) % 2
    images = (labels - 0.5).view(-1, 1, 1, 1).expand(64, *IMAGE_SHAPE)
    run = Run("test", {"steps": 20, "batch_size": 16, "seed": 0}, {}, 64, lambda run: {})
    network = Means()
    optimizer = torch.optim.SGD(network.parameters(), lr=5.0)
    guides.train_clean(run, network, optimizer, images, labels)
    assert len(network.seen) == 20
    for x_0, t in network.seen:
        assert set(x_0.unique().tolist()) == {-0.5, 0.5} and t.tolist() == [0] * 16
    assert run.losses[0] == pytest.approx(0.6931, abs=1e-3) and run.losses[-1] < 0.1


@pytest.fixture
def few_images(monkeypatch):
    images = torch.randn(40, *IMAGE_SHAPE).sign(), torch.arange(40) % 10
    monkeypatch.setattr(Dataset, "load", lambda *_: images)


@pytest.mark.parametrize("name", GUIDES)
def test_the_command_trains_a_guide(tmp_path, few_images, capsys, monkeypatch, name):
    """Of images of 1 and -1: the clean guide sees nothing else in training, the other one noise."""
    network, seen = GUIDES[name][0], []
    forward = network.forward

    def spy(self, x, t):
        seen.extend(x.abs().unique().tolist() if torch.is_grad_enabled() else [])
        return forward(self, x, t)

    monkeypatch.setattr(network, "forward", spy)
    before = {path: sha256(path) for path in (ROOT / "models").iterdir()}
    guides.main([name, "--models", str(tmp_path), "--steps", "3", "--batch-size", "8"])
    assert (set(seen) == {1.0}) == (name == "clean")
    path = tmp_path / f"guide_{name}.pth"
    assert [*tmp_path.iterdir()] == [path] and str(path) in capsys.readouterr().out
    checkpoint = read_checkpoint(path, "?")
    assert checkpoint["training"]["steps"] == 3 and checkpoint["training"]["validation"]
    torch.manual_seed(0)
    pairs = zip(network().parameters(), load_guide(name, tmp_path).parameters())
    assert sum((a - b).abs().max() > 1e-5 for a, b in pairs) > 3
    assert {path: sha256(path) for path in (ROOT / "models").iterdir()} == before


def test_a_training_with_nothing_to_resume(fails, tmp_path, few_images):
    assert "--resume" in fails(
        guides.main, "clean", "--models", tmp_path, "--resume", "--batch-size", 8
    )
    assert not list(tmp_path.iterdir())


# --- which row takes which ---


@pytest.fixture
def bench(tmp_path, classifier, with_rivals):
    """A bench over a copy of the shipped weights and of rivals, without data."""
    bench = Bench.__new__(Bench)
    bench.models, bench.device, bench.classifier = tmp_path / "models", "cpu", classifier
    bench.seed, bench.split, bench.resume = 0, "validation", False
    bench.classes, bench.unet = MNIST_INFO["classes"], object()
    bench.dataset = SimpleNamespace(info=MNIST_INFO)
    bench.made_from = {"ddpm_unet": "a", "classifier": "b", "judge": "c"}
    bench.networks, bench.defaults, bench.floors = {}, {}, {"real": None}
    bench.compared = bench
    shutil.copytree(with_rivals, bench.models)
    return bench


def all_variants(bench):
    return [bench.settings(20, variant=name) for name in variants(20)]


def test_each_row_names_the_networks_that_it_took(bench, monkeypatch):
    rows = []
    monkeypatch.setattr(bench, "row", lambda settings: rows.append(settings) or settings)
    bench.fill(None, [*all_variants(bench), bench.settings(20, variant="real")])
    for row in rows:
        guide, rival = GUIDE_OF.get(row["variant"]), RIVAL_OF.get(row["variant"])
        expected = sha256(guide_path(guide, bench.models)) if guide else "b"
        assert row["classifier"] == expected and row["judge"] == "c"
        assert row["ddpm_unet"] == (sha256(rival_path(rival, bench.models)) if rival else "a")


def test_a_row_is_told_from_the_default_of_as_many_images(bench, monkeypatch):
    """But for the default itself, which is measured once, and for real images."""
    drawn, compared = [], []

    class Measured:
        def __init__(self, seen, real):
            self.seen = seen

        def row(self):
            return {"accuracy": self.seen}

        def changes_from(self, default):
            compared.append((self.seen, default.seen))
            return dict.fromkeys(measures.CHANGES, "1")

    def draw(settings):
        drawn.append(settings["variant"])
        return settings["variant"] + settings["n"], range(int(settings["n"]))

    monkeypatch.setattr(bench, "draw", draw)
    monkeypatch.setattr(measures, "see", lambda judge, images, *_: images)
    monkeypatch.setattr(measures, "Measured", Measured)
    monkeypatch.setattr("evaluation.bench.print_row", lambda row: None)
    bench.judge = bench.real = None
    default, other = "ADM Algorithm 2", "raw-t guide"
    rows = [bench.row(bench.settings(20, variant=v)) for v in (other, default, "real")]
    rows.append(bench.row(bench.settings(30, variant=other)))
    assert compared == [(other + "20", default + "20"), (other + "30", default + "30")]
    assert [row["mcnemar_p"] for row in rows] == ["1", "-", "-", "1"]
    assert bench.default(20)[0] == default + "20" and drawn.count(default) == 3
    assert rows[0]["classifier"] == sha256(guide_path("raw_t", bench.models))

    bench.compared = SimpleNamespace(default=lambda n: (None, Measured("theirs", None)))
    compared.clear()
    rows = [bench.row(bench.settings(20, variant=v)) for v in (other, default, "real")]
    assert compared == [(other + "20", "theirs"), (default + "20", "theirs")]
    assert [row["mcnemar_p"] for row in rows] == ["1", "1", "-"]


@pytest.mark.parametrize("name", [*GUIDES, *RIVALS])
@pytest.mark.parametrize("fault", ["missing", "another network's"])
def test_a_network_that_cannot_be_loaded_is_said_before_the_work(bench, name, fault):
    folder, kind = bench.models, "guides" if name in GUIDES else "rivals"
    path = guide_path(name, folder) if name in GUIDES else rival_path(name, folder)
    path.unlink()
    if fault == "another network's":
        shutil.copy(bench.models / "classifier.pth", path)
    bench.row = lambda settings: pytest.fail("a row was measured")
    with pytest.raises(UserError, match=f"{path.name} .*python -m evaluation.{kind} {name}"):
        bench.fill(None, all_variants(bench))


def test_resume_refuses_rows_of_another_guide(bench, tmp_path, monkeypatch):
    wanted = [bench.settings(20, variant=name) for name in ("raw-t guide", "ADM Algorithm 2")]
    before = [{**row, **bench.made_from_of(row["variant"])} for row in wanted]
    write_rows(tmp_path / "controls.partial.csv", before[:1])
    bench.resume, measured = True, []
    monkeypatch.setattr(bench, "row", lambda settings: measured.append(settings) or settings)
    assert bench.fill(tmp_path / "controls.csv", wanted) == before and len(measured) == 1

    write_rows(tmp_path / "controls.partial.csv", before[:1])
    bench.networks.clear()
    guide = RawTClassifier(channels=8)
    save_checkpoint(guide_path("raw_t", bench.models), guide, SCHEDULE, MNIST_INFO, 0, {})
    with pytest.raises(UserError, match="other settings or weights"):
        bench.fill(tmp_path / "controls.csv", wanted)


def test_the_bench_takes_the_networks_of_the_variant(bench):
    assert bench.networks_of("ADM Algorithm 2") == (bench.unet, bench.classifier, {})
    for variant in GUIDE_OF:
        network = CleanClassifier if variant.startswith("clean guide") else RawTClassifier
        unet, guide, _ = bench.networks_of(variant)
        assert unet is bench.unet and type(guide) is network
    for variant, name in RIVAL_OF.items():
        unet, guide, _ = bench.networks_of(variant)
        assert unet.config == load_rival(name, bench.models).config and guide is bench.classifier
        assert bench.networks_of(variant)[0] is unet  # loaded once


@pytest.mark.parametrize("variant", ["raw-t guide", "course U-Net"])
def test_networks_of_another_data_set_are_refused(bench, variant):
    bench.dataset.info = MNIST_INFO | {"name": "kmnist"}
    with pytest.raises(UserError, match="is of the data set mnist, not kmnist"):
        bench.networks_of(variant)
