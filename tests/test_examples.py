"""The examples draw what they say, with few images and steps, into a temporary folder."""

import re
from unittest.mock import Mock

import torch
from conftest import small_mnist

from examples import measure_scale, stock_diffusers
from inference import load_models, sample


def test_the_measured_scale_grows_like_the_default_one(monkeypatch, capsys):
    monkeypatch.setattr(measure_scale, "Dataset", lambda *_: small_mnist())
    measure_scale.main([])
    shown = re.findall(r"^(.*): python .*--growing-scale (.*)$", capsys.readouterr().out, re.M)
    b = {name: float(number) for name, number in shown}
    assert 3 < b["S"] < 15 < b["r / c"] < 40


def test_the_ddpm_can_be_exported_to_diffusers_and_guided_there(monkeypatch, tmp_path):
    save = Mock()
    monkeypatch.setattr(stock_diffusers, "N", 8)
    monkeypatch.setattr(stock_diffusers, "save_labeled_grid", save)
    stock_diffusers.main(["--output", str(tmp_path)])
    drawn = dict(save.call_args.args[1])
    assert "# An unconditional DDPM" in (tmp_path / "digits" / "README.md").read_text()
    ddpm, _ = load_models()
    ours = sample(ddpm, None, range(8), sampler="sde-dpmsolver++", steps=20)
    assert torch.equal(drawn["unguided"], ours)
    for name, target in {"thin": 0.07, "thick": 0.2}.items():
        assert (stock_diffusers.mean_intensity(drawn[name]) - target).abs().mean() < 0.03
