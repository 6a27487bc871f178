"""The recipe tables: what a row changes, by which loop, and that its samples are its own."""

import contextlib
import functools
import hashlib
import inspect
import itertools
from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT

import inference
import mnist
import train_classifier
import train_ddpm
from benchmarks import recipe
from diffusion import IMAGE_SHAPE, make_unet
from evaluation import measures
from support.files import sha256
from support.tables import read_rows

BENCH = SimpleNamespace(dataset=SimpleNamespace(load=functools.cache(mnist.load_mnist)))


def hash_of(network):
    weights = [tensor.numpy().tobytes() for tensor in network.state_dict().values()]
    return hashlib.sha256(b"".join(weights)).hexdigest()


@contextlib.contextmanager
def small():
    """Two recipes a table, two seeds, 20 samples, 500 images: yields the networks that draw."""
    drawn_by, threads, predictor = [], torch.get_num_threads(), inference.noise_predictor

    def spy(unet, log_p, *args):
        drawn_by.append((hash_of(unet), hash_of(log_p.__self__)))
        return predictor(unet, log_p, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inference, "noise_predictor", spy)
        patch.setitem(mnist.SPLITS, "validation", ("train", slice(-500, None)))
        patch.setattr(measures, "NUM_HALVES", 3)
        patch.setattr(recipe, "NUM_SAMPLES", 20)
        patch.setattr(recipe, "SEEDS", (0, 1))
        for changes in recipe.CHANGES.values():
            for name in [*changes][2:]:
                patch.delitem(changes, name)
        yield drawn_by
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Both tables, made small: their rows, and the networks that drew for them."""
    folder = tmp_path_factory.mktemp("tables")
    with small() as drawn_by:
        recipe.main(["--seconds", "0.5", "--output", str(folder)])
    return folder, *(read_rows(folder / name) for name in recipe.FILES.values()), drawn_by


def test_both_tables_say_what_was_trained_and_measured(made):
    _, unets, guides, _ = made
    rows, shipped = unets + guides, {n: sha256(ROOT / "models" / n) for n in inference.NAMES}
    own = [(row["recipe"], row["training_seed"]) for row in rows]
    assert own == [("the recipe", "0"), ("the recipe", "1"), ("AdamW alone", "0"),
                   ("the recipe", "0"), ("the recipe", "1"), ("16 channels", "0")]  # fmt: skip
    same = {"seconds": "0.5", "trained_in": "float32", "n": "20", "seed": "1", "device": "cpu"}
    same |= {"against": "validation", "steps": "20", "torch": torch.__version__}
    same |= {"judge": sha256(ROOT / "models" / "judge.pth")}
    for row in rows:
        assert row.items() >= same.items() and int(row["training_steps"]) > 0
        assert 0 <= float(row["precision"]) <= 1 and float(row["frechet_low"]) > 0
    for row in unets:
        assert row["classifier"] == shipped["classifier.pth"] and "ddpm_unet" not in row
        assert float(row["frechet_unguided_low"]) < float(row["frechet_unguided"])
        assert row["lr"] == "0.0028" and row["batch_size"] == "64" and row["ema_decay"] == "0.998"
        assert float(row["weighted_loss"]) > float(row["validation_loss"]) > 0
    for row in guides:
        assert row["ddpm_unet"] == shipped["ddpm_unet.pth"] and "classifier" not in row
        assert row["lr"] == "0.002" and row["batch_size"] == "128"
        assert float(row["cross_entropy"]) > 1
    sizes = [row["parameters"] for row in rows]
    assert sizes == ["603681"] * 3 + ["254442"] * 2 + ["100730"]
    assert len({row["weights"] for row in rows}) == len(rows)


def test_the_samples_of_a_row_are_of_its_own_network(made, unet, classifier):
    _, unets, guides, drawn_by = made
    expected = [(row["weights"], hash_of(classifier)) for row in unets for _ in range(2)]
    assert drawn_by == expected + [(hash_of(unet), row["weights"]) for row in guides]


class Stop(Exception):
    pass


@pytest.fixture
def given(monkeypatch):
    """What a work gives to the loop of a module, by name; no step is made."""

    def run(module, work):
        seen, signature = {}, inspect.signature(module.train)

        def spy(*args, **changes):
            bound = signature.bind(*args, **changes)
            bound.apply_defaults()
            seen.update(bound.arguments)
            raise Stop

        with monkeypatch.context() as patch, pytest.raises(Stop):
            patch.setattr(module, "train", spy)
            work()
        return parts_of(**seen)

    return run


def parts_of(run, images, unet=None, classifier=None, ema=None, optimizer=None, **rest):
    """All that a training depends on, as values that can be compared."""
    network, x_t = unet or classifier, torch.ones(2, *IMAGE_SHAPE)
    with torch.no_grad():
        output = network(x_t, torch.tensor([3, 900]))
    optimizers = rest.pop("optimizers", [optimizer])
    groups = [dict(each.param_groups[0]) for each in optimizers]
    sizes = [[p.shape for p in group.pop("params")] for group in groups]
    peaks = [group.pop("initial_lr") for group in groups]
    for group in groups:
        del group["lr"]  # it follows the schedule
    return {
        **{name: run.settings.get(name) for name in ("steps", "batch_size", "seed", "precision")},
        "network": (
            hash_of(network),
            getattr(output, "sample", output).tolist(),
            dict(network.config),
        ),
        "optimizers": (list(map(type, optimizers)), groups, sizes, peaks),
        "ema": ema and ema.decay,
        "images": images.shape,
        **{name: value.tolist() if hasattr(value, "tolist") else value
           for name, value in rest.items()},
    }  # fmt: skip


def trained(given, name, changes):
    """The parts of a training of the table `name`."""
    settings = recipe.SETTINGS[name] | {"seed": 0, "seconds": 1}
    settings |= {"precision": "float32"} if name == "unet" else {}
    module, train = {"unet": (train_ddpm, recipe.train_unet),
                     "classifier": (train_classifier, recipe.train_guide)}[name]  # fmt: skip
    torch.manual_seed(0)
    return given(module, lambda: train(BENCH, settings, **changes))


@pytest.mark.parametrize("name", recipe.CHANGES)
def test_the_recipe_is_what_ships(given, name, tmp_path):
    """Every argument of the loop, and the first weights bit for bit."""
    script, flags = {"unet": (train_ddpm, ["--precision", "float32"]),
                     "classifier": (train_classifier, [])}[name]  # fmt: skip
    shipped = given(script, lambda: script.main([*flags, "--models", str(tmp_path)]))
    assert trained(given, name, recipe.CHANGES[name]["the recipe"]) == shipped


CHANGED = {
    "AdamW alone": {"optimizers"},
    "L_simple, no weights": {"weights"},
    "32/64/64": {"network", "optimizers"},  # of other kernels
    "two layers a block": {"network", "optimizers"},
    "predicts eps": {"network"},
    "torch.optim.Muon": {"optimizers"},
    "shifts by a pixel": {"images"},
    "dropout .1": {"network"},
    "16 channels": {"network", "optimizers"},
    "label smoothing .1": {"smoothing"},
    "t not stratified": {"draw_t"},
}
ROWS = [(name, row) for name, rows in recipe.CHANGES.items() for row in [*rows][1:]]


@pytest.mark.parametrize("name, row", ROWS)
def test_a_row_changes_one_thing(given, name, row):
    ours, its = (trained(given, name, recipe.CHANGES[name][r]) for r in ("the recipe", row))
    assert {part for part in ours if ours[part] != its[part]} == CHANGED[row]


def test_the_changes_are_what_their_names_say(given):
    names = ("the recipe", "AdamW alone", "L_simple, no weights", "predicts eps")
    rows = {row: trained(given, "unet", recipe.CHANGES["unet"][row]) for row in names}
    (_, kind), (_, shared), *_ = rows["the recipe"]["optimizers"]
    assert rows["AdamW alone"]["optimizers"][:2] == ([kind], [shared])
    assert set(rows["L_simple, no weights"]["weights"]) == {1.0}
    assert not torch.tensor(rows["predicts eps"]["network"][1]).any()  # the last layer is zero
    t = recipe.random_timesteps(100_000, torch.Generator().manual_seed(0))
    assert t.unique().equal(torch.arange(1000)) and t[:1000].unique().numel() < 800


def test_shifts_are_of_a_pixel_to_each_side():
    point = torch.full((1, *IMAGE_SHAPE), -1.0)
    point[..., 10, 20] = 1
    where = (recipe.shifted(point) == 1).nonzero().tolist()
    assert where == [[k, 0, *at] for k, at in enumerate(
        ([10, 20], [11, 20], [9, 20], [10, 21], [10, 19])
    )]  # fmt: skip


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch < 2.9")
def test_muon_of_torch_takes_the_steps_of_ours():
    """In bfloat16, so nearly."""

    def moved(optimizers_of):
        torch.manual_seed(0)
        unet = make_unet()
        before = [p.detach().clone() for p in unet.parameters()]
        optimizers = optimizers_of(unet, 1e-3)
        for x_t in torch.randn(2, 4, *IMAGE_SHAPE):
            unet.zero_grad()
            unet(x_t, torch.tensor(500)).sample.square().mean().backward()
            [optimizer.step() for optimizer in optimizers]
        return torch.cat([(p - b).flatten() for p, b in zip(unet.parameters(), before)])

    kinds = recipe.make_optimizers, recipe.library_muon, recipe.adamw_alone
    ours, theirs, adamw = map(moved, kinds)
    assert (ours - theirs).norm() < 0.05 * ours.norm() < 0.2 * (ours - adamw).norm()


def test_learning_rates_follow_the_share_of_the_time(monkeypatch):
    """A clock that ticks 1 s a step, of 10: the schedule of 100 steps, at every tenth."""
    ticks = itertools.count(50)
    monkeypatch.setattr(recipe.time, "process_time", lambda: next(ticks))
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=2.0)
    settings = {"steps": 100, "batch_size": 1, "seconds": 10}
    linear = recipe.optimization.get_linear_schedule_with_warmup
    run = recipe.TimedRun(settings, 1, [optimizer], linear, 20)
    rates = [optimizer.param_groups[0]["lr"] for _ in run]
    assert rates == pytest.approx([1.0, *(2 * (100 - s) / 80 for s in range(20, 100, 10))])
    assert run.step == 9


def test_a_table_is_resumed_by_its_name_and_only_if_it_is_the_same(made, tmp_path, fails, capsys):
    assert "name the table, unet or classifier" in fails(recipe.main, "--resume")
    flags = ["classifier", "--output", str(tmp_path), "--resume", "--seconds"]
    whole = (made[0] / "classifier_recipe.csv").read_text()
    with small() as drawn_by:
        assert "there is no" in fails(recipe.main, *flags, "0.5")
        (tmp_path / "classifier_recipe.partial.csv").write_text(whole)
        assert "rows of other settings" in fails(recipe.main, *flags, "0.6")
        recipe.main([*flags, "0.5"])
    assert "3 of 3 rows" in capsys.readouterr().out and drawn_by == []
    assert (tmp_path / "classifier_recipe.csv").read_text() == whole
