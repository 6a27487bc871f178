"""The scripts as a user runs them: tiny runs on real MNIST, and the files that they write."""

import json
import os
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import ROOT
from diffusers import UNet2DModel
from PIL import Image, ImageSequence
from torchvision.datasets import MNIST

import inference
import train_classifier
import train_ddpm
from diffusion import (
    ALPHAS_CUMPROD,
    IMAGE_SHAPE,
    UNET_CONFIG,
    UNet,
    make_unet,
    simple_loss,
    stratified_timesteps,
)
from inference import load_models, sample
from mnist import load_mnist
from support import pictures
from support.checkpoints import read_checkpoint
from support.files import atomic_write, sha256
from support.muon import Muon
from support.pictures import to_uint8
from support.streams import batch_indices, generator
from support.training import Run, pick_precision


def digests():
    """What ships, by content."""
    shipped = [*(ROOT / "models").iterdir(), *(ROOT / "results").iterdir(), *ROOT.glob("*.png")]
    return {path: sha256(path) for path in shipped if path.is_file()}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """Both trainings, a few steps each, in a folder of their own; nothing that ships is touched."""
    folder, before = tmp_path_factory.mktemp("trial"), digests()
    train_classifier.main(["--models", str(folder), "--steps", "6", "--batch-size", "32"])
    train_ddpm.main(["--models", str(folder), "--steps", "4", "--batch-size", "8"])
    assert digests() == before
    return folder


def test_a_trial_run_of_the_three_scripts(tiny):
    made = {path.name for path in tiny.iterdir()}
    assert {
        "classifier.pth",
        "ddpm_unet.pth",
        "classifier_accuracy.png",
        "ddpm_loss.png",
        "sample_ddpm_output.png",
    } <= made
    assert not any("state" in name or "tmp" in name for name in made)
    output = tiny / "guided.png"
    inference.main(["--models", str(tiny), "--output", str(output), "--steps", "3"])
    assert Image.open(output).size == (8 * 30 + 2, 32)
    remade = tiny / "unguided.png"
    inference.main(["--models", str(tiny), "--guidance-scale", "0", "--output", str(remade)])
    assert remade.read_bytes() == (tiny / "sample_ddpm_output.png").read_bytes()


@pytest.mark.parametrize("script", [train_classifier, train_ddpm])
def test_the_same_seed_makes_the_same_weights_and_resume_goes_on_bit_for_bit(
    tiny, tmp_path, script, monkeypatch
):
    name = {train_classifier: "classifier", train_ddpm: "ddpm_unet"}[script]
    flags = {
        train_classifier: ["--steps", "6", "--batch-size", "32"],
        train_ddpm: ["--steps", "4", "--batch-size", "8"],
    }[script]
    once = torch.load(tiny / f"{name}.pth", weights_only=True)["state_dict"]

    end_step = Run._end_step

    def stop_after_two(state):
        state.interrupted = state.step == 1  # as Ctrl-C does
        end_step(state)

    monkeypatch.setattr(Run, "_end_step", stop_after_two)
    with pytest.raises(SystemExit) as stop:
        script.main(["--models", str(tmp_path), *flags])
    assert stop.value.code == 130 and not (tmp_path / f"{name}.pth").exists()
    monkeypatch.setattr(Run, "_end_step", end_step)
    script.main(["--models", str(tmp_path), *flags, "--resume"])
    resumed = torch.load(tmp_path / f"{name}.pth", weights_only=True)["state_dict"]
    assert all(torch.equal(once[key], resumed[key]) for key in once)
    assert not (tmp_path / f"{name}.state.pth").exists()


def test_training_moves_the_weights(tiny):
    unet, _ = load_models(tiny)
    assert unet.conv_out.weight.abs().max() > 0
    assert read_checkpoint(tiny / "ddpm_unet.pth", "?")["training"]["steps"] == 4


def test_the_loss_is_that_of_v_up_to_its_limit(monkeypatch):
    """Outputs of the layers that differ by 1 make a weighted loss of 1: half at low noise."""
    v = iter((torch.zeros(1000, *IMAGE_SHAPE), torch.ones(1000, *IMAGE_SHAPE)))
    monkeypatch.setattr(UNet2DModel, "forward", lambda *_: SimpleNamespace(sample=next(v)))
    unet, x_t, t = UNet(**UNET_CONFIG), torch.randn(1000, *IMAGE_SHAPE), torch.arange(1000)
    loss = simple_loss(unet(x_t, t).sample, unet(x_t, t).sample)
    weighted = train_ddpm.loss_weights() * loss
    limit = (5 * ALPHAS_CUMPROD[150:]).clamp(max=1)
    torch.testing.assert_close(weighted[150:], limit, atol=1e-3, rtol=1e-3)
    assert (weighted[:150] - 0.5).abs().max() < 1e-3
    assert (weighted[150:390] - 1).abs().max() < 1e-3 and weighted[-1] < 1e-3


def test_the_training_uses_the_weights_of_the_loss(tmp_path, monkeypatch):
    """Where each t counts nothing, nothing is learned: the last layer stays at zero."""
    monkeypatch.setattr(train_ddpm, "loss_weights", lambda: torch.zeros(1000))
    train_ddpm.main(["--models", str(tmp_path), "--steps", "2", "--batch-size", "4"])
    unet, _ = load_models(tmp_path, guide=False)
    assert unet.conv_out.weight.abs().max() == 0


def test_bfloat16_is_for_cpus_that_have_it(monkeypatch):
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    for capabilities, precision in (
        ({"avx512_bf16": True}, "bfloat16"),
        ({"amx_bf16": True}, "bfloat16"),
        ({"avx2": True}, "float32"),
    ):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda c=capabilities: c, raising=False)
        assert pick_precision("auto", cpu) == precision
        assert pick_precision("auto", cuda) == "float32"
        assert (
            pick_precision("float32", cpu) == "float32"
            and pick_precision("bfloat16", cpu) == "bfloat16"
        )
    monkeypatch.delattr(torch.cpu, "get_capabilities")  # an older torch
    assert pick_precision("auto", cpu) == "float32"


def test_training_in_bfloat16_is_training_in_float32_rounded(tmp_path):
    weights = {}
    for precision in ("bfloat16", "float32"):
        train_ddpm.main(
            [
                "--models",
                str(tmp_path),
                "--steps",
                "4",
                "--batch-size",
                "8",
                "--precision",
                precision,
            ]
        )
        unet, _ = load_models(tmp_path, guide=False)
        checkpoint = read_checkpoint(tmp_path / "ddpm_unet.pth", "?")
        assert checkpoint["training"]["precision"] == precision
        assert all(parameter.dtype == torch.float32 for parameter in unet.parameters())
        weights[precision] = torch.nn.utils.parameters_to_vector(unet.parameters())
    difference = (weights["bfloat16"] - weights["float32"]).norm() / weights["float32"].norm()
    assert 0 < difference < 0.01


def test_muon_steps_along_an_orthogonal_matrix():
    shapes = ((16, 40), (40, 16), (8, 4, 3, 3), (16, 2, 3, 3))
    kernels = [torch.nn.Parameter(torch.zeros(shape)) for shape in shapes]
    for kernel in kernels:
        kernel.grad = torch.randn(kernel.shape)
    Muon(kernels, lr=0.5).step()  # from zero, where nothing decays
    for shape, kernel in zip(shapes, kernels):
        u, _, v = torch.linalg.svd(kernel.grad.flatten(1), full_matrices=False)
        direction = -kernel.detach().flatten(1) / 0.5 / max(1, shape[0] / kernel[0].numel()) ** 0.5
        assert torch.linalg.svdvals(direction).sub(1).abs().max() < 0.4
        assert ((u.T @ direction @ v.T).diagonal() > 0.6).all()


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch.optim.Muon came with torch 2.9")
def test_muon_is_torchs_on_matrices():
    ours, theirs = (torch.nn.Parameter(torch.ones(24, 60)) for _ in range(2))
    optimizers = (
        Muon([ours], lr=0.1),
        torch.optim.Muon([theirs], lr=0.1, weight_decay=0.1),
    )
    for k in range(3):
        ours.grad = torch.randn(24, 60, generator=torch.manual_seed(k))
        theirs.grad = ours.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    torch.testing.assert_close(ours, theirs, atol=3e-3, rtol=0)  # theirs works in bfloat16
    assert (ours - 1).abs().max() > 0.05


def test_each_parameter_has_one_optimizer():
    unet = make_unet()
    muon, adamw = train_ddpm.make_optimizers(unet, 1e-3)
    ids = [
        id(parameter)
        for optimizer in (muon, adamw)
        for group in optimizer.param_groups
        for parameter in group["params"]
    ]
    assert sorted(ids) == sorted(map(id, unet.parameters()))
    assert all(
        kernel.ndim == 4 and kernel.shape[0] > 1 for kernel in muon.param_groups[0]["params"]
    )


# --- the files ---


def test_npz_has_the_layout_of_guided_diffusion(tmp_path, unet, classifier):
    npz, png = tmp_path / "samples.npz", tmp_path / "grid.png"
    inference.main(
        [
            "--digits",
            "2",
            "0",
            "2",
            "4",
            "--num-samples",
            "2",
            "--steps",
            "4",
            "--output",
            str(png),
            "--npz",
            str(npz),
        ]
    )
    content = np.load(npz)
    assert content["arr_0"].shape == (8, 28, 28, 1) and content["arr_0"].dtype == np.uint8
    assert (
        content["arr_1"].tolist() == [2, 2, 0, 0, 2, 2, 4, 4] and content["arr_1"].dtype == np.int64
    )
    grid = np.asarray(Image.open(png).convert("L"))
    assert grid.shape == (4 * 30 + 2, 2 * 30 + 2)
    for k, image in enumerate(content["arr_0"][..., 0]):  # one row per digit
        row, column = divmod(k, 2)
        assert np.array_equal(grid[2 + 30 * row :, 2 + 30 * column :][:28, :28], image)


def test_row_3_of_all_is_digit_3(tmp_path):
    for digits in ("all", "3"):
        png, npz = (str(tmp_path / f"{digits}.{kind}") for kind in ("png", "npz"))
        inference.main(
            [
                "--digits",
                digits,
                "--num-samples",
                "2",
                "--steps",
                "4",
                "--output",
                png,
                "--npz",
                npz,
            ]
        )
    everything, three = (
        np.load(tmp_path / name)["arr_0"].astype(int) for name in ("all.npz", "3.npz")
    )
    assert np.abs(everything[6:8] - three).max() <= 1


@pytest.mark.parametrize("digits", [[4, 7], [4]])
def test_compare_puts_unguided_above_guided(tmp_path, unet, classifier, monkeypatch, digits):
    """Rows and columns are named; a column per digit, or the images of a single one in a row."""
    drawn, save = {}, pictures.save_labelled_grid

    def spy(path, images, row_labels, column_labels, made_from):
        drawn.update(images=to_uint8(images), rows=row_labels, columns=column_labels)
        save(path, images, row_labels, column_labels, made_from)

    monkeypatch.setattr(pictures, "save_labelled_grid", spy)
    path = tmp_path / "compare.png"
    flags = ["--num-samples", "3", "--steps", "4", "--compare", "--output", str(path)]
    inference.main(["--digits", *map(str, digits), *flags])
    y = torch.tensor(digits).repeat_interleave(3)
    expected = []
    for scale in (0, inference.GUIDANCE_SCALE):
        images = to_uint8(sample(unet, classifier.log_p, y, guidance_scale=scale, steps=4))
        by_column = images.view(len(digits), 3, 1, 28, 28).transpose(0, 1).flatten(0, 1)
        expected.append(by_column if len(digits) > 1 else images)
    assert torch.equal(drawn["images"], torch.cat(expected))
    each = 3 if len(digits) > 1 else 1
    assert drawn["rows"] == ["unguided"] * each + ["guided"] * each
    assert drawn["columns"] == [str(digit) for digit in digits]
    assert Image.open(path).size[0] > 2 * 28 * max(len(digits), 4 - each)


def test_a_labelled_grid_shows_the_images_pixel_by_pixel(tmp_path):
    """At two pixels per pixel, between the labels, which leave a margin at the top and the left."""
    images = torch.rand(6, 1, 28, 28, generator=torch.manual_seed(0)) * 2 - 1
    path = tmp_path / "grid.png"
    pictures.save_labelled_grid(path, images, ["first", "second"], ["a", "b", "c"], "{}")
    shown = np.asarray(Image.open(path).convert("L")).astype(int)
    image = np.kron(to_uint8(images[5, 0]).int().numpy(), np.ones((2, 2), int))
    height, width = shown.shape
    places = [(y, x) for y in range(height - 55) for x in range(width - 55)]
    places = [(y, x) for y, x in places if abs(shown[y, x] - image[0, 0]) <= 1]
    near = [p for p in places if np.abs(shown[p[0] :, p[1] :][:56, :56] - image).max() <= 2]
    assert len(near) == 1 and near[0][0] > 80 and near[0][1] > 140


def test_several_scales_make_a_row_each_from_the_same_noise(tmp_path, unet, classifier):
    path = tmp_path / "scales.png"
    flags = ["--digits", "4", "7", "--num-samples", "2", "--steps", "4"]
    inference.main([*flags, "--guidance-scale", "0", "2", "--output", str(path)])
    grid = np.asarray(Image.open(path).convert("L"))
    assert grid.shape == (2 * 30 + 2, 4 * 30 + 2)
    y = torch.tensor([4, 4, 7, 7])
    for row, scale in enumerate((0, 2)):
        images = sample(unet, classifier.log_p, y, guidance_scale=scale, steps=4)
        for column, image in enumerate(to_uint8(images).numpy()[:, 0]):
            assert np.array_equal(grid[2 + 30 * row :, 2 + 30 * column :][:28, :28], image)


def test_gif_shows_noise_becoming_the_images(tmp_path):
    gif, png = tmp_path / "o.gif", tmp_path / "o.png"
    flags = ["--digits", "0", "5", "--num-samples", "3", "--steps", "6", "--batch-size", "2"]
    inference.main([*flags, "--gif", str(gif), "--output", str(png)])
    final = np.asarray(Image.open(png).convert("L")).astype(int)
    film = Image.open(gif)
    assert film.n_frames == 7 and "ddpm_unet.pth" in json.loads(film.info["comment"])["weights"]
    frames = [np.asarray(frame.convert("L")).astype(int) for frame in ImageSequence.Iterator(film)]
    width = final.shape[1]
    assert all(frame.shape == (len(final), 2 * width + 10) for frame in frames)
    distance = [
        [np.abs(half - final).mean() for half in (frame[:, :width], frame[:, -width:])]
        for frame in frames
    ]
    assert max(distance[-1]) < 20  # eight grays
    assert (
        distance[0][0] > 60 and distance[0][0] > distance[3][0] > distance[-1][0]
    )  # x_t: from noise
    assert all(x_0 < x_t for x_t, x_0 in distance[:-1])  # the predicted x_0 is ahead of it


def test_gif_of_many_steps_keeps_to_its_number_of_frames(tmp_path):
    gif = tmp_path / "o.gif"
    inference.main(
        [
            "--num-samples",
            "1",
            "--steps",
            "60",
            "--gif",
            str(gif),
            "--output",
            str(tmp_path / "o.png"),
        ]
    )
    assert Image.open(gif).n_frames == 20 + 1


def test_npz_holds_all_images_and_the_grid_the_first_of_each_digit(tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, "MAX_COLUMNS", 2)
    flags = [
        "--digits",
        "1",
        "6",
        "--num-samples",
        "5",
        "--steps",
        "3",
        "--output",
        str(tmp_path / "o.png"),
    ]
    contents = []
    for batch_size in ("10", "3"):
        inference.main([*flags, "--batch-size", batch_size, "--npz", str(tmp_path / "o.npz")])
        contents.append(np.load(tmp_path / "o.npz"))
    one, few = contents
    assert few["arr_0"].shape == (10, 28, 28, 1) and few["arr_1"].tolist() == [1] * 5 + [6] * 5
    assert np.abs(few["arr_0"].astype(int) - one["arr_0"].astype(int)).max() <= 1
    grid = np.asarray(Image.open(tmp_path / "o.png").convert("L"))
    assert grid.shape == (2 * 30 + 2, 2 * 30 + 2)
    assert np.array_equal(
        grid[2 + 30 :, 2 + 30 :][:28, :28], few["arr_0"][6, ..., 0]
    )  # the second 6


def test_the_same_command_makes_the_same_bytes(tmp_path):
    for name in ("a.png", "b.png"):
        inference.main(["--steps", "5", "--output", str(tmp_path / name)])
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_a_write_that_fails_leaves_what_was_there(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"before")
    with pytest.raises(ZeroDivisionError), atomic_write(path) as file:
        file.write(b"half")
        raise ZeroDivisionError
    assert path.read_bytes() == b"before" and list(tmp_path.iterdir()) == [path]
    with atomic_write(path) as file:
        file.write(b"after")
    assert path.read_bytes() == b"after" and list(tmp_path.iterdir()) == [path]


def test_what_a_killed_process_left_half_written_is_cleared_away(tmp_path):
    path, old, young = tmp_path / "file", tmp_path / ".file.1.tmp", tmp_path / ".file.2.tmp"
    for leftover in (old, young):
        leftover.write_bytes(b"half")
    os.utime(old, (0, 0))
    with atomic_write(path) as file:
        file.write(b"whole")
    assert not old.exists() and young.exists()  # that one may still be being written


# --- data and random streams ---


def test_splits_do_not_overlap_and_are_those_of_torchvision(tmp_path):
    train, validation, test = (load_mnist(split) for split in ("train", "validation", "test"))
    assert [len(images) for images, _ in (train, validation, test)] == [55_000, 5_000, 10_000]
    assert train[0].min() == -1 and train[0].max() == 1 and train[0].shape[1:] == (1, 28, 28)
    shutil.copytree(ROOT / "data", tmp_path, dirs_exist_ok=True)
    whole = MNIST(tmp_path, train=True, download=True)  # unpacks; the files are there already
    assert torch.equal(torch.cat([train[1], validation[1]]), whole.targets)
    assert torch.equal(to_uint8(validation[0])[:, 0], whole.data[-5_000:])


def test_an_epoch_shows_each_image_once():
    seen = torch.cat([batch_indices(103, 10, 0, step) for step in range(10)])
    assert len(seen.unique()) == 100
    assert not torch.equal(batch_indices(103, 10, 0, 0), batch_indices(103, 10, 0, 10))


def test_timesteps_of_training_are_uniform():
    t = torch.cat([stratified_timesteps(50, generator(0, "U-Net", k)) for k in range(400)])
    assert t.min() == 0 and t.max() == 999
    counts = torch.bincount(t // 100, minlength=10)
    assert (counts - 2000).abs().max() <= 50
