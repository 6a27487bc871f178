"""The flags of inference.py reach `sample`; a training keeps the average of the weights."""

import torch

import inference
import train_ddpm
from inference import load_models
from support.training import Run


def test_the_flags_of_inference_reach_sample(tmp_path, monkeypatch):
    asked = {}

    def record(unet, log_p, y, **settings):
        asked.update(settings, y=y.tolist())
        return torch.zeros(len(y), 1, 28, 28)

    monkeypatch.setattr(inference, "sample", record)
    flags = {"guidance-scale": "3", "scale-growth": "5", "sampler": "ddim", "steps": "7"}
    flags |= {"seed": "9", "batch-size": "4", "num-samples": "2", "output": f"{tmp_path}/o.png"}
    inference.main(["--digits", "4", "2", *(f"--{name}={text}" for name, text in flags.items())])
    wanted = {"guidance_scale": 3, "scale_growth": 5, "sampler": "ddim", "steps": 7, "seed": 9}
    assert asked == wanted | {"batch_size": 4, "y": [4, 4, 2, 2], "watch": None}


def test_what_a_training_keeps_is_the_average(tmp_path, monkeypatch):
    """The checkpoint has the EMA weights and not those of the last step."""
    average = []

    def remember(run, unet, ema, *rest):
        average.extend(weights.clone() for weights in ema.shadow_params)
        return {"loss": 0.0, "validation_loss": 0.0}

    monkeypatch.setattr(train_ddpm, "validate", remember)
    monkeypatch.setattr(Run, "elapsed", lambda self: 0.0)
    train_ddpm.main(["--models", str(tmp_path), "--steps", "2", "--batch-size", "4"])
    kept = load_models(tmp_path, guide=False)[0]
    assert all(map(torch.equal, kept.parameters(), average))
