"""examples/stock_diffusers.py guides as inference.py does."""

import numpy as np
import pytest
import torch
from PIL import Image

from diffusion import make_sampler
from examples import export_to_diffusers, stock_diffusers
from inference import noise_predictor, reverse_process
from support.pictures import grid_image


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("export") / "digits"
    export_to_diffusers.main([str(folder)])
    return folder


def test_the_stock_guided_loop(unet, classifier, folder, tmp_path, monkeypatch, capsys):
    """stock.png, against `reverse_process` with `guided_noise` from the same noise."""
    monkeypatch.chdir(tmp_path)
    stock_diffusers.main([str(folder)])
    said = capsys.readouterr().out
    assert int(said.split("%")[0].split()[-1]) >= 95, said
    rng, y = torch.Generator().manual_seed(0), torch.arange(10).repeat_interleave(10)
    x_T = torch.randn(100, 1, 28, 28, generator=rng)
    guide = noise_predictor(unet, classifier.log_p, guidance_scale=1)
    sampler = make_sampler("dpmsolver++", 20)
    x_0 = reverse_process(lambda x_t, t: guide(x_t, t, y), sampler, x_T, None)
    exact = np.asarray(grid_image(x_0, 10)).astype(int)
    assert np.abs(np.asarray(Image.open("stock.png")).astype(int) - exact).max() <= 1


def test_a_folder_that_is_no_export(fails, tmp_path):
    assert "is not an exported folder" in fails(stock_diffusers.main, tmp_path)
    assert "is not an exported folder" in fails(stock_diffusers.main, tmp_path / "missing")
