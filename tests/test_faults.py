"""Every error that a user can cause ends in one line and exit status 2, and damages nothing."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch
import torchvision
from conftest import ROOT
from PIL import Image

import evaluate
import inference
import train_classifier
import train_ddpm
from diffusion import UNET_CONFIG
from evaluation import guides, measures, rivals
from evaluation import judge as judge_module
from evaluation.guides import GUIDES
from mnist import Dataset, load_mnist
from support.cli import pick_device, say_start
from support.files import check_writable, is_shipped, results_folder
from support.training import Run

OUT_OF_MEMORY = "[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"

BAD_FLAGS = [
    (inference, ["--digits", "10"], "'10' is not one of 0, 1"),
    (inference, ["--digits", "12"], "'12' is not one of"),
    (inference, ["--digits", "-1"], "--digits"),
    (inference, ["--digits", "one"], "'one' is not"),
    (inference, ["--digits", "1,2"], "'1,2' is not"),
    (inference, ["--digits", "all", "3"], "or all, alone"),
    (inference, ["--digits"], "--digits"),
    (inference, ["--num-samples", "0"], "--num-samples"),
    (inference, ["--num-samples", "2.5"], "--num-samples"),
    (inference, ["--guidance-scale", "-1"], "--guidance-scale"),
    (inference, ["--guidance-scale", "nan"], "--guidance-scale"),
    (inference, ["--guidance-scale", "inf"], "--guidance-scale"),
    (inference, ["--guidance-scale", "much"], "--guidance-scale"),
    (inference, ["--scale-growth", "-1"], "--scale-growth"),
    (inference, ["--scale-growth", "inf"], "--scale-growth"),
    (inference, ["--steps", "0"], "--steps"),
    (inference, ["--steps", "1001"], "--steps"),
    (inference, ["--sampler", "euler"], "--sampler"),
    (inference, ["--seed", "-1"], "--seed"),
    (inference, ["--seed", str(2**32)], "from 0 to 4294967295"),
    (inference, ["--batch-size", "0"], "--batch-size"),
    (inference, ["--device", "tpu"], "--device"),
    (inference, ["--no-such-flag"], "--no-such-flag"),
    (inference, ["--guidance-scale", "0", "-5"], "--guidance-scale"),
    (inference, ["--guidance-scale", "0", "inf"], "--guidance-scale"),
    (inference, ["--guidance-scale"], "--guidance-scale"),
    (inference, ["--guidance-scale", "0", "5", "--compare"], "--compare"),
    (inference, ["--guidance-scale", "0", "5", "--npz", "o.npz"], "--npz"),
    (inference, ["--guidance-scale", "0", "5", "--gif", "o.gif"], "--gif"),
    (inference, ["--output", "same.png", "--gif", "./same.png"], "different files"),
    (train_classifier, ["--steps", "0"], "--steps"),
    (train_classifier, ["--lr", "0"], "--lr"),
    (train_classifier, ["--lr", "nan"], "--lr"),
    (train_classifier, ["--batch-size", "60000"], "--batch-size"),
    (train_ddpm, ["--steps", "ten"], "--steps"),
    (train_ddpm, ["--batch-size", "-4"], "--batch-size"),
    (train_ddpm, ["--lr", "-1"], "--lr"),
    (train_ddpm, ["--precision", "float16"], "--precision"),
    (train_ddpm, ["--step", "1"], "--step"),  # abbreviations are not taken
    (evaluate, ["--n", "0"], "--n"),
    (evaluate, ["--n", "25"], "not a multiple of 10"),
    (evaluate, ["--n", "100", "--quick"], "not allowed with"),
    (evaluate, ["--n", "100", "--sweep", "scales"], "not allowed with"),
    (evaluate, ["--quick", "--sweep", "scales"], "not allowed with"),
    (evaluate, ["--quick", "--resume"], "--resume"),
    (evaluate, ["--sweep", "guide", "--resume"], "--resume"),
    (evaluate, ["--steps", "3"], "--steps"),
    (evaluate, ["--sweep", "everything"], "--sweep"),
    (inference, ["--num-samples", "1000000000"], "GiB of memory"),
    (inference, ["--num-samples", "1000000000000000000000"], "GiB of memory"),
    (inference, ["--num-samples", "200000", "--batch-size", "200000"], "--batch-size"),
    (judge_module, ["--steps", "0"], "--steps"),
    (guides, [], "guide"),
    (guides, ["raw"], "invalid choice: 'raw'"),
    (guides, ["clean", "raw_t"], "raw_t"),
    (guides, ["clean", "--steps", "0"], "--steps"),
    (rivals, [], "rival"),
    (rivals, ["free"], "invalid choice: 'free'"),
    (rivals, ["course", "--lr", "0"], "--lr"),
]


@pytest.mark.parametrize("script, argv, named", BAD_FLAGS)
def test_bad_flag(fails, script, argv, named):
    assert named in fails(script.main, *argv)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
@pytest.mark.parametrize(
    "script", [inference, train_classifier, train_ddpm, evaluate, judge_module, guides, rivals]
)
def test_no_such_device(fails, script):
    which = {guides: ["clean"], rivals: ["course"]}.get(script, [])
    assert "--device cuda" in fails(script.main, *which, "--device", "cuda")


# --- checkpoints ---


@pytest.fixture
def models(tmp_path):
    """A copy of the shipped weights, to be spoiled."""
    folder = tmp_path / "models"
    shutil.copytree(ROOT / "models", folder)
    return folder


class Evil:
    """A pickle that would leave a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def edit(path, **changes):
    content = torch.load(path, weights_only=True)
    torch.save({**content, **changes}, path)


def truncated(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def not_finite(path):
    weights = torch.load(path, weights_only=True)["state_dict"]
    name = next(iter(weights))
    edit(path, state_dict={**weights, name: weights[name] * float("nan")})


def another_shape(path):
    edit(
        path,
        config={"channels": 8}
        if path.stem == "classifier"
        else {**UNET_CONFIG, "block_out_channels": (8, 16, 32)},
    )


BAD_CHECKPOINTS = {
    "missing": lambda path: path.unlink(),
    "empty": lambda path: path.write_bytes(b""),
    "truncated": truncated,
    "text": lambda path: path.write_text("these are not weights\n"),
    "directory": lambda path: (path.unlink(), path.mkdir()),
    "another dict": lambda path: torch.save({"epoch": 3}, path),
    "a list": lambda path: torch.save([1, 2], path),
    "bare weights": lambda path: torch.save(
        torch.load(path, weights_only=True)["state_dict"], path
    ),
    "another network's": lambda path: shutil.copy(path.with_name("judge.pth"), path),
    "another schedule's": lambda path: edit(path, schedule={"num_train_timesteps": 500}),
    "another shape's": another_shape,
    "a foreign config": lambda path: edit(path, config={"depth": 3}),
    "not finite": not_finite,
}


@pytest.mark.parametrize("network", ["ddpm_unet.pth", "classifier.pth"])
@pytest.mark.parametrize("fault", BAD_CHECKPOINTS)
def test_bad_checkpoint(fails, models, tmp_path, network, fault):
    BAD_CHECKPOINTS[fault](models / network)
    output = tmp_path / "before.png"
    output.write_bytes(b"before")
    error = fails(inference.main, "--models", models, "--output", output)
    assert (
        network in error
        and ("train_ddpm.py" if "unet" in network else "train_classifier.py") in error
        or fault == "directory"
    )
    assert output.read_bytes() == b"before"


@pytest.mark.parametrize("name", GUIDES)
@pytest.mark.parametrize("fault", ["missing", "truncated"])
def test_a_bad_guide_of_the_controls(fails, models, name, fault):
    BAD_CHECKPOINTS[fault](models / f"guide_{name}.pth")
    error = fails(evaluate.main, "--sweep", "controls", "--models", models)
    assert f"guide_{name}.pth" in error and f"python -m evaluation.guides {name}" in error
    assert not list(models.glob("controls*"))


@pytest.mark.parametrize("fault", ["missing", "truncated", "another network's"])
def test_a_bad_rival(fails, models, fault):
    path = models / "rival_classifier_free.pth"
    path.write_bytes(b"")
    BAD_CHECKPOINTS[fault](path)
    error = fails(evaluate.main, "--sweep", "scales", "--models", models)
    assert path.name in error and "python -m evaluation.rivals classifier_free" in error
    assert not list(models.glob("scales*"))


def test_a_pickle_with_code_in_it_runs_nothing(fails, models, tmp_path):
    torch.save({"network": Evil(tmp_path / "pwned")}, models / "ddpm_unet.pth")
    assert "ddpm_unet.pth" in fails(
        inference.main, "--models", models, "--output", tmp_path / "o.png"
    )
    assert not (tmp_path / "pwned").exists()
    torch.load(models / "ddpm_unet.pth", weights_only=False)  # it does bite whoever lets it
    assert (tmp_path / "pwned").exists()


# --- outputs ---


@pytest.mark.parametrize("flag", ["--output", "--npz", "--gif"])
def test_bad_output(fails, tmp_path, flag):
    other = [] if flag == "--output" else ["--output", tmp_path / "o.png"]
    assert "does not exist" in fails(inference.main, flag, tmp_path / "no" / "o.png", *other)
    assert "is a directory" in fails(inference.main, flag, tmp_path, *other)
    (tmp_path / "file").write_text("")
    assert "cannot write" in fails(inference.main, flag, tmp_path / "file" / "o.png", *other)


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere"
)
def test_read_only_folder(fails, tmp_path):
    tmp_path.chmod(0o500)
    assert "cannot write" in fails(inference.main, "--output", tmp_path / "o.png")


@pytest.fixture
def few_images(monkeypatch):
    """The trainings see a hundred images of noise: loading MNIST would take longer."""
    images = torch.rand(100, 1, 28, 28) * 2 - 1, torch.arange(100) % 10
    monkeypatch.setattr(Dataset, "load", lambda *_: images)


@contextlib.contextmanager
def small_disk():
    """No file can grow beyond 4,000 bytes here: the write fails, as on a full disk."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4_000, before[1]))
    try:
        yield
    finally:  # before pytest itself writes to what may be a long file
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("flag", ["--output", "--npz", "--gif"])
def test_a_full_disk_leaves_the_pictures_that_were_there(fails, tmp_path, flag):
    before = tmp_path / "before"
    before.write_bytes(b"before")
    other = [] if flag == "--output" else ["--output", tmp_path / "o.png"]
    argv = [
        "--steps",
        1,
        "--digits",
        "all",
        "--num-samples",
        1 if other else 10,
        flag,
        before,
        *other,
    ]
    with small_disk():
        error = fails(inference.main, *argv)
    assert "cannot write" in error
    assert before.read_bytes() == b"before" and not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    "script, name", [(train_classifier, "classifier"), (train_ddpm, "ddpm_unet")]
)
@pytest.mark.parametrize("save_every, kind", [(0, ".state.pth"), (60, ".pth")])
def test_a_full_disk_leaves_the_weights_that_were_there(
    fails, tmp_path, few_images, monkeypatch, script, name, save_every, kind
):
    monkeypatch.setattr(Run, "SAVE_EVERY", save_every)
    monkeypatch.setattr(inference, "sample", lambda *_, **__: torch.zeros(40, 1, 28, 28))
    weights, state = tmp_path / f"{name}.pth", tmp_path / f"{name}.state.pth"
    weights.write_bytes(b"before")
    state.write_bytes(b"before")
    with small_disk():
        error = fails(script.main, "--models", tmp_path, "--steps", 2, "--batch-size", 2)
    assert f"cannot write {tmp_path / name}{kind}" in error
    kept = state.with_name(f"{state.name}.bak")  # this training starts over that one
    assert weights.read_bytes() == kept.read_bytes() == b"before" and not state.exists()
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("script", [train_classifier, train_ddpm])
def test_models_is_a_file(fails, tmp_path, script):
    (tmp_path / "models").write_text("")
    assert "cannot make the folder" in fails(script.main, "--models", tmp_path / "models")


@pytest.mark.parametrize("script", [train_classifier, train_ddpm])
def test_nothing_to_resume(fails, tmp_path, script):
    assert "--resume" in fails(script.main, "--models", tmp_path, "--resume")


def stop_after_a_step(script, flags, monkeypatch, capsys):
    """As Ctrl-C does."""
    end_step = Run._end_step

    def stop_here(state):
        state.interrupted = True
        end_step(state)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "_end_step", stop_here)
        with pytest.raises(SystemExit) as stop:
            script.main([str(word) for word in flags])
    assert stop.value.code == 130 and "and --resume" in capsys.readouterr().err


@pytest.fixture
def stopped(tmp_path, monkeypatch, capsys, few_images):
    """A training of the classifier, stopped after its first step: the flags that it began with."""
    flags = ["--models", tmp_path, "--steps", 3, "--batch-size", 8, "--lr", 0.001, "--seed", 5]
    stop_after_a_step(train_classifier, flags, monkeypatch, capsys)
    return flags


@pytest.mark.parametrize(
    "flag, other", [("--steps", 4), ("--batch-size", 16), ("--lr", 0.002), ("--seed", 6)]
)
def test_resuming_with_other_flags_is_refused(fails, stopped, tmp_path, flag, other):
    before = (tmp_path / "classifier.state.pth").read_bytes()
    assert f"{flag} {stopped[stopped.index(flag) + 1]}" in fails(
        train_classifier.main, *stopped, flag, other, "--resume"
    )
    assert (tmp_path / "classifier.state.pth").read_bytes() == before


def test_resuming_on_other_data_is_refused(fails, stopped, shapes):
    for flags, said in (
        (["--dataset", shapes], "--dataset mnist, not shapes"),
        (["--invert"], "--invert"),
    ):
        assert said in fails(train_classifier.main, *stopped, *flags, "--resume")


def test_resuming_in_another_precision_is_refused(fails, tmp_path, monkeypatch, capsys, few_images):
    flags = ["--models", tmp_path, "--steps", 3, "--batch-size", 8, "--precision"]
    stop_after_a_step(train_ddpm, [*flags, "float32"], monkeypatch, capsys)
    assert "--precision float32" in fails(train_ddpm.main, *flags, "bfloat16", "--resume")


def test_a_training_that_starts_again_keeps_the_old_state(stopped, tmp_path, capsys):
    path = tmp_path / "classifier.state.pth"
    before = path.read_bytes()
    train_classifier.main([*map(str, stopped)])
    assert "the state of the stopped one is kept" in capsys.readouterr().out
    assert path.with_name("classifier.state.pth.bak").read_bytes() == before
    assert not path.exists() and (tmp_path / "classifier.pth").exists()


@pytest.mark.parametrize(
    "fault", ["empty", "truncated", "text", "directory", "another dict", "a list", "code"]
)
def test_bad_state(fails, stopped, tmp_path, fault):
    path = tmp_path / "classifier.state.pth"
    if fault == "code":
        torch.save({"step": Evil(tmp_path / "pwned")}, path)
    else:
        BAD_CHECKPOINTS[fault](path)
    error = fails(train_classifier.main, *stopped, "--resume")
    assert "classifier.state.pth" in error and not (tmp_path / "pwned").exists()


def test_the_state_of_another_training(fails, stopped, tmp_path):
    (tmp_path / "classifier.state.pth").rename(tmp_path / "ddpm_unet.state.pth")
    assert "ddpm_unet.state.pth is not the state" in fails(train_ddpm.main, *stopped, "--resume")


def test_a_loss_that_is_not_finite_stops_training(fails, tmp_path):
    (tmp_path / "classifier.pth").write_bytes(b"before")
    assert "step" in fails(
        train_classifier.main, "--models", tmp_path, "--steps", 400, "--batch-size", 8, "--lr", 1e30
    )
    assert (tmp_path / "classifier.pth").read_bytes() == b"before"


@pytest.mark.parametrize("script", [train_classifier, train_ddpm, judge_module])
def test_a_gradient_that_is_not_finite_in_the_last_step_writes_no_weights(
    fails, tmp_path, few_images, monkeypatch, script
):
    norms = iter([torch.tensor(1.0), torch.tensor(float("nan"))])
    monkeypatch.setattr(script, "clip_grad_norm_", lambda *_: next(norms))
    error = fails(script.main, "--models", tmp_path, "--steps", 2, "--batch-size", 4)
    assert "gradient is nan at step 1" in error and not list(tmp_path.glob("*.pth"))


def test_samples_that_are_not_finite_name_their_first_bad_step(fails, tmp_path):
    error = fails(
        inference.main,
        "--guidance-scale",
        1e300,
        "--steps",
        3,
        "--output",
        tmp_path / "o.png",
        "--sampler",
        "dpmsolver++",
    )
    assert "not finite at t = 666" in error and not (tmp_path / "o.png").exists()


# --- data ---


@pytest.fixture
def data(tmp_path):
    raw = tmp_path / "data" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for path in (ROOT / "data" / "MNIST" / "raw").glob("*.gz"):
        shutil.copy(path, raw)
    return raw


def test_missing_data(fails, data, tmp_path):
    (data / "train-labels-idx1-ubyte.gz").unlink()
    assert "train-labels-idx1-ubyte.gz is missing" in fails(
        train_classifier.main, "--data", tmp_path / "data", "--models", tmp_path
    )


def test_damaged_data(fails, data, tmp_path):
    path = data / "train-labels-idx1-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    assert "is damaged" in fails(train_ddpm.main, "--data", tmp_path / "data", "--models", tmp_path)


FOLDERS = {  # images per class -> what is said
    "no folder": ({}, "nor a folder"),
    "empty": ({".": 0}, "one folder of images per class"),
    "a class without images": ({"a": 100, "b": 0}, "b"),
    "one class": ({"a": 100}, "1 classes"),
    "101 classes": ({f"{k}": 1 for k in range(101)}, "101 classes"),
    "99 images": ({"a": 50, "b": 49}, "99 images"),
}


@pytest.mark.parametrize("kind", FOLDERS)
@pytest.mark.parametrize("script", [train_classifier, train_ddpm, judge_module])
def test_a_folder_that_is_no_data_set(fails, tmp_path, script, kind):
    counts, said = FOLDERS[kind]
    for name, count in counts.items():
        (tmp_path / "data" / name).mkdir(parents=True)
        for k in range(count):
            Image.new("L", (9, 9)).save(tmp_path / "data" / name / f"{k}.png")
    argv = ["--dataset", tmp_path / "data", "--models", tmp_path / "models"]
    assert said in fails(script.main, *argv)
    assert not (tmp_path / "models").exists()


def test_a_damaged_image(fails, shapes, tmp_path):
    for path in (shapes / "bar").iterdir():
        path.write_bytes(b"no image")
    argv = ["--dataset", shapes, "--models", tmp_path / "models", "--steps", 1]
    assert "cannot read" in fails(train_ddpm.main, *argv)


def test_other_data_never_overwrite_the_shipped_weights(fails, shapes):
    for flags in (["--dataset", shapes], ["--invert"]):
        assert "--models" in fails(train_classifier.main, *flags)


def test_a_batch_larger_than_the_data(fails, shapes, tmp_path):
    argv = ["--dataset", shapes, "--models", tmp_path, "--batch-size", 241]
    assert "there are 240 images" in fails(train_ddpm.main, *argv)


def test_missing_files_say_where_they_are_from_and_go(fails, tmp_path):
    argv = ["--dataset", "kmnist", "--data", tmp_path, "--models", tmp_path / "m"]
    error = fails(train_ddpm.main, *argv)
    assert f"{tmp_path}/KMNIST/raw/train-images-idx3-ubyte.gz is missing: get it from http" in error
    assert "--download" in error


def test_a_download_that_fails(fails, tmp_path, monkeypatch):
    def no_network(*_):
        raise RuntimeError("Error downloading train-images-idx3-ubyte.gz")

    monkeypatch.setattr(torchvision.datasets.KMNIST, "download", no_network)
    argv = ["--dataset", "kmnist", "--data", tmp_path, "--models", tmp_path / "m", "--download"]
    assert "put the files in" in fails(train_ddpm.main, *argv)


def test_reading_the_data_writes_nothing(data, tmp_path):
    before = sorted(data.iterdir())
    for split, n in (("train", 55_000), ("validation", 5_000), ("test", 10_000)):
        assert len(load_mnist(split, tmp_path / "data")[0]) == n
    assert sorted(data.iterdir()) == before


def test_no_data_at_all(fails, tmp_path):
    assert "--data" in fails(train_ddpm.main, "--data", tmp_path / "nowhere", "--models", tmp_path)


# --- as real processes ---


@pytest.mark.parametrize(
    "argv",
    [
        ["inference.py", "--digits", "12"],
        ["train_ddpm.py", "--data", "nowhere", "--models", "TMP"],
        ["evaluate.py", "--quick", "--models", "TMP"],
    ],
)
def test_one_line_and_status_2_in_a_real_process(argv, tmp_path):
    argv = [str(tmp_path) if word == "TMP" else word for word in argv]
    done = subprocess.run([sys.executable, *argv], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith(f"{argv[0]}: error: ") and done.stderr.count("\n") == 1


def test_evaluate_without_its_requirements(fails, monkeypatch):
    monkeypatch.setattr(measures, "FrechetInceptionDistance", None)
    assert "requirements-dev.txt" in fails(evaluate.main, "--quick")


def test_faults_of_ours_keep_their_traceback(monkeypatch):
    monkeypatch.setattr(inference, "sample_with", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        inference.main(["--steps", "1", "--output", "guided_output.png"])


@pytest.mark.parametrize("argv", [["inference.py", "--steps", "1000"], ["evaluate.py", "--quick"]])
def test_ctrl_c_is_one_line_and_status_130(argv, tmp_path):
    flags = ["--output", str(tmp_path / "o.png")] if argv[0] == "inference.py" else []
    command = [sys.executable, "-u", *argv, *flags]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    # parallel test processes ignore Ctrl-C, and their children would inherit that
    streams["preexec_fn"] = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen(command, cwd=ROOT, **streams) as process:
        assert "device: cpu" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        try:
            _, error = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 130
    assert error.strip() == f"{argv[0]}: interrupted" and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "error",
    [MemoryError(), torch.OutOfMemoryError("CUDA out of memory"), RuntimeError(OUT_OF_MEMORY)],
)
def test_running_out_of_memory_is_one_line(fails, monkeypatch, tmp_path, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(inference, "sample_with", fail)
    line = fails(inference.main, "--output", tmp_path / "o.png")
    assert "not enough memory: use a lower --batch-size" in line


# --- from another folder ---


def run_elsewhere(folder, *argv):
    command = [sys.executable, str(ROOT / argv[0]), *map(str, argv[1:])]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


def test_a_script_finds_its_defaults_beside_itself(tmp_path):
    done = run_elsewhere(tmp_path, "inference.py", "--steps", 1)
    assert done.returncode == 0, done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["guided_output.png"]


@pytest.mark.parametrize(
    "argv",
    [
        ["train_classifier.py", "--data", "nowhere", "--models", "new"],
        ["train_ddpm.py", "--data", "nowhere", "--models", "new"],
        ["train_ddpm.py", "--batch-size", "60000", "--models", "new"],
        ["train_classifier.py", "--batch-size", "60000", "--models", "new"],
        ["train_ddpm.py", "--resume", "--models", "nowhere"],
        ["train_classifier.py", "--resume", "--models", "nowhere"],
        ["evaluate.py", "--models", "nowhere"],
        ["inference.py", "--models", "nowhere"],
    ],
)
def test_a_failed_start_leaves_no_folder(argv, tmp_path):
    done = run_elsewhere(tmp_path, *argv)
    assert done.returncode == 2 and ("nowhere" in done.stderr or "60000" in done.stderr)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["models", "./models/", "tests/../models", str(ROOT / "models")])
def test_however_the_shipped_folder_is_written_it_is_the_same(name):
    assert is_shipped(Path(name)) and results_folder(Path(name)) == ROOT / "results"


def test_another_folder_is_a_trial(tmp_path):
    assert not is_shipped(tmp_path) and results_folder(tmp_path) == tmp_path


def test_the_check_that_a_folder_can_be_written_has_no_name_to_leave_behind(tmp_path, monkeypatch):
    seen = []
    temporary_file = tempfile.TemporaryFile

    @contextlib.contextmanager
    def spy(**settings):
        with temporary_file(**settings) as file:
            seen.append(list(tmp_path.iterdir()))
            yield file

    monkeypatch.setattr(tempfile, "TemporaryFile", spy)
    check_writable(tmp_path / "o.png")
    assert seen == [[]]


def test_the_device_is_said(capsys, tmp_path):
    inference.main(["--steps", "1", "--output", str(tmp_path / "o.png")])
    first = capsys.readouterr().out.split("\n")[0]
    assert first.startswith(f"reads {ROOT / 'models'}; ")
    assert f"device: {pick_device('auto')}" in first and "about" in first


def test_that_an_accelerator_is_not_tested_is_said(capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    device = pick_device("auto")
    say_start("data", device, 200)
    assert device.type == "cuda"
    line = capsys.readouterr().out
    assert "reads data; device: cuda (this project is tested on the CPU only); about 3" in line
