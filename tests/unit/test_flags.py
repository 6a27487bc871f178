"""Each flag of inference.py changes the result that it should, and nothing else."""

import json
import shutil

import numpy as np
import pytest
import torch
from conftest import ROOT
from PIL import Image

import inference
from diffusion import SAMPLERS
from support.pictures import to_uint8

BASE = {"--digits": ["3", "8"], "--num-samples": "2", "--steps": "4"}


@pytest.fixture
def draw(tmp_path):
    """Run inference.main with BASE and other flags: the images (N, 28, 28), labels, provenance."""

    def run(*extra, **changes):
        flags = {**BASE, **{f"--{k.replace('_', '-')}": v for k, v in changes.items()}}
        argv = [w for k, v in flags.items() for w in (k, *([v] if isinstance(v, str) else v))]
        npz, png = tmp_path / "o.npz", tmp_path / "o.png"
        inference.main([*argv, *extra, "--npz", str(npz), "--output", str(png)])
        content = np.load(npz)
        made_from = json.loads(Image.open(png).info["provenance"])
        return content["arr_0"][..., 0].astype(int), content["arr_1"].tolist(), made_from

    return run


@pytest.fixture
def base(draw):
    return draw()[0]


def test_the_defaults_are_those_of_the_api(draw, unet, classifier):
    images, labels, made_from = draw(steps="20")
    y = torch.tensor([3, 3, 8, 8])
    expected = to_uint8(inference.sample(unet, classifier.log_p, y))[:, 0].int().numpy()
    assert np.array_equal(images, expected) and labels == y.tolist()
    settings = made_from["settings"]
    assert settings["guidance_scales"] == [1.0] and settings["scale_growth"] == 24.0
    assert settings["sampler"] == "sde-dpmsolver++" and settings["seed"] == 0
    assert set(made_from["weights"]) == {"ddpm_unet.pth", "classifier.pth"}


CHANGES = {
    "seed": "1",
    "steps": "3",
    "guidance_scale": "5",
    "scale_growth": "3",
    **{f"sampler {name}": name for name in SAMPLERS if name != inference.SAMPLER},
}


@pytest.mark.parametrize("flag", CHANGES)
def test_a_flag_of_the_method_changes_the_images(draw, base, flag):
    images, labels, made_from = draw(**{flag.split()[0]: CHANGES[flag]})
    assert labels == [3, 3, 8, 8]
    assert np.abs(images - base).max() > 5
    settings = made_from["settings"]
    name = flag.split()[0]
    shown = settings["guidance_scales"][0] if name == "guidance_scale" else settings[name]
    assert str(shown) in (CHANGES[flag], f"{CHANGES[flag]}.0")


def test_digits_and_num_samples_choose_what_is_drawn(draw, base):
    images, labels, _ = draw(digits=["8"], num_samples="3")
    assert labels == [8, 8, 8] and np.abs(images[:2] - base[2:]).max() <= 1
    images, labels, _ = draw(digits="all", num_samples="1")
    assert labels == list(range(10)) and np.abs(images[[3, 8]] - base[[0, 2]]).max() <= 1


def test_the_batch_size_changes_nothing(draw, base):
    assert np.abs(draw(batch_size="1")[0] - base).max() <= 1


def test_at_scale_0_the_digit_is_a_key_only_and_no_classifier_is_read(draw, tmp_path):
    (tmp_path / "models").mkdir()
    shutil.copy(ROOT / "models" / "ddpm_unet.pth", tmp_path / "models")
    _, _, made_from = draw(guidance_scale="0", models=str(tmp_path / "models"))
    assert set(made_from["weights"]) == {"ddpm_unet.pth"}


def test_models_names_the_folder_of_the_weights(draw, base, tmp_path):
    folder = tmp_path / "models"
    shutil.copytree(ROOT / "models", folder)
    saved = torch.load(folder / "classifier.pth", weights_only=True)
    saved["state_dict"]["linear.weight"] *= -1
    torch.save(saved, folder / "classifier.pth")
    assert np.abs(draw(models=str(folder))[0] - base).max() > 5


def test_a_guide_of_the_opposite_sign_leaves_the_digit(unet, classifier, judge):
    """At the defaults the judge sees the digit; with -log p, as good as never."""
    y = torch.arange(10)

    def accuracy(log_p):
        images = inference.sample(unet, log_p, y)
        return (judge(images).argmax(dim=1) == y).float().mean().item()

    assert accuracy(classifier.log_p) >= 0.9
    assert accuracy(lambda x_t, t, y: -classifier.log_p(x_t, t, y)) <= 0.2


def test_gif_shows_x_t_beside_the_predicted_x_0(tmp_path):
    gif, png = tmp_path / "o.gif", tmp_path / "o.png"
    flags = ["--steps", "30", "--num-samples", "1", "--gif", str(gif), "--output", str(png)]
    inference.main(flags)
    film, final = Image.open(gif), np.asarray(Image.open(png).convert("L")).astype(int)
    assert film.n_frames == 15 + 1  # every second step, and the images
    film.seek(8)
    middle = np.asarray(film.convert("L")).astype(int)
    x_t, x_0 = middle[:, :28], middle[:, -28:]
    assert np.abs(x_0 - final).mean() < 0.5 * np.abs(x_t - final).mean()
    film.seek(15)
    last = np.asarray(film.convert("L")).astype(int)
    assert np.abs(last[:, :28] - final).max() <= 36 and np.array_equal(last[:, :28], last[:, -28:])


def test_help_shows_the_flags_and_their_defaults(capsys):
    with pytest.raises(SystemExit) as stop:
        inference.main(["--help"])
    assert stop.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    for flag in ("--digits", "--npz", "--gif", "--compare", "--batch-size", "--models", "--device"):
        assert flag in text
    assert "(default: 1.0)" in text or "(default: [1.0])" in text


def test_a_batch_holds_no_more_images_than_asked_for(unet, classifier):
    seen = []

    def log_p(x_t, t, y):
        seen.append(len(y))
        return classifier.log_p(x_t, t, y)

    inference.sample(unet, log_p, torch.arange(5), steps=1, batch_size=2)
    assert seen == [2, 2, 1]


@pytest.mark.parametrize("name, clips", [("ddpm", "clip_sample"), ("ddim", "thresholding")])
def test_the_sampler_clips_at_scale_0_only(monkeypatch, unet, classifier, name, clips):
    made = []
    sample_with = inference.sample_with

    def spy(predict_noise, new_sampler, *rest):
        made.append(new_sampler())
        return sample_with(predict_noise, new_sampler, *rest)

    monkeypatch.setattr(inference, "sample_with", spy)
    for scale in (0, 1):
        settings = {"guidance_scale": scale, "sampler": name, "steps": 1}
        inference.sample(unet, classifier.log_p, torch.tensor([3]), **settings)
    assert [scheduler.config[clips] for scheduler in made] == [True, False]


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_predicted_x_0_is_clipped_to_1(name):
    """In a single step from noise, which ends at the predicted x_0."""
    for clip, largest in ((True, 1), (False, 3)):
        scheduler = inference.make_sampler(name, 1, clip=clip)
        t, root = scheduler.timesteps[0], scheduler.alphas_cumprod[999].sqrt()
        x_t = 3 * root * torch.ones(1, 1, 28, 28)
        x_t[..., :14] = 0.5 * root
        generators = [torch.Generator().manual_seed(0)]
        x_0 = scheduler.step(torch.zeros_like(x_t), t, x_t, generator=generators).prev_sample
        assert x_0[..., 14:].max().item() == pytest.approx(largest, abs=1e-3)
        assert x_0[..., :14].max().item() == pytest.approx(0.5, abs=1e-3)  # not rescaled


def test_samples_are_clipped_on_both_sides():
    """Noise predicted far from x_t moves the images far out of [-1, 1]."""
    far = torch.ones(1, 1, 28, 28)
    far[..., :14] = -1

    def predict_noise(x_t, t, y):
        return 30 * far

    def new_sampler():
        return inference.make_sampler("ddim", 5)

    images = inference.sample_with(predict_noise, new_sampler, torch.arange(3))
    assert images.shape == (3, 1, 28, 28)
    assert (images[..., :14] == 1).all() and (images[..., 14:] == -1).all()
