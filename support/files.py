"""Atomic file writes and checkpoints."""

import contextlib
import hashlib
import io
import os
from pathlib import Path

import torch
from diffusers import DDPMScheduler

from support import UserError

ROOT = Path(__file__).resolve().parent.parent
MODELS = ROOT / "models"
STATE = ".state.pth"  # suffix of the state files that support/training.py writes
ADVICE = "; train it, or restore the included one with `git checkout -- models`"


@contextlib.contextmanager
def atomic_write(path):
    """Open a buffer for writing bytes; when it is complete, `path` is written in one step.

    Raises UserError if it cannot be written; `path` is then unchanged.
    """
    path, buffer = Path(path), io.BytesIO()
    yield buffer
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(buffer.getbuffer())
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def output_folder(models):
    """The folder for a run's pictures: the repository for the shipped models, else `models`."""
    return ROOT if models.resolve() == MODELS else models


def sha256(path):
    """The SHA-256 of a file, in hexadecimal."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


# --- checkpoints: tensors and plain values, from which a network is rebuilt ---


def save_checkpoint(path, network, schedule, dataset_info, training):
    """Save a network for `load_checkpoint`.

    Args:
        network: its `config`, a dict, holds the constructor arguments.
        schedule: the scheduler config, or None. dataset_info: `Dataset.info`. training: a
            summary. All are dicts of plain values.
    """
    content = {
        "network": type(network).__name__,
        "config": config_of(network),
        "schedule": schedule,
        "dataset": dataset_info,
        "training": training,
        "state_dict": {key: value.cpu() for key, value in network.state_dict().items()},
    }
    save_tensors(path, content)


def config_of(network):
    """The constructor arguments of a network, without diffusers' private entries."""
    return {key: value for key, value in network.config.items() if not key.startswith("_")}


def load_checkpoint(path, network_class, device="cpu"):
    """Rebuild a network from its checkpoint, in eval mode, with frozen parameters.

    Returns (network, info): info is a dict with the schedule, the dataset, and the training that
    `save_checkpoint` saved, and the sha256 of the file. Raises UserError if it is missing,
    corrupted, or incompatible.
    """
    path, name = Path(path), network_class.__name__
    content = read_checkpoint(path, ADVICE)
    if content["network"] != name:
        raise UserError(
            f"{path} holds a {content['network']}; expected a {name}. Your own class must be "
            "passed to the function that loads it"
        )
    try:
        network = network_class(**content["config"])
        network.load_state_dict(content["state_dict"])
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"{path} was saved by a different version of {name}: {error}") from error
    info = {key: content[key] for key in ("schedule", "dataset", "training")}
    info["sha256"] = sha256(path)
    return network.eval().requires_grad_(False).to(device), info


def check_may_write(path, network, schedule, dataset_info):
    """Check, before training, that the checkpoint fits into its folder.

    Raises UserError if a file in its folder is not a checkpoint, or was trained on a different
    dataset or with different noise, or if `path` is a checkpoint of another class.
    """
    config_of(network)  # a network without a config fails before it is trained
    advice = "; move it, or pass another folder with --models"
    for other in sorted(path.parent.glob("*.pth")):
        if other.name.endswith(STATE):
            continue
        content = read_checkpoint(other, advice)
        if other == path and content["network"] != type(network).__name__:
            raise UserError(f"{path} holds a {content['network']}{advice}")
        if content["dataset"] != dataset_info:
            raise UserError(f"{other} was trained on a different dataset{advice}")
        both = schedule and content["schedule"]  # the judge has none
        if both and not same_noise(schedule, content["schedule"]):
            raise UserError(f"{other} was trained with a different noise schedule{advice}")


def read_checkpoint(path, advice):
    """What `save_checkpoint` saved. Raises UserError, ending in `advice`, if it was not."""
    content = load_tensors(path, advice)
    keys = {"network", "config", "schedule", "dataset", "training", "state_dict"}
    if not isinstance(content, dict) or set(content) != keys:
        raise UserError(f"{path} was not saved by this repository's `save_checkpoint`{advice}")
    return content


def same_noise(schedule, other):
    """Whether two scheduler configs have the same alphas_cumprod."""
    abar, theirs = (DDPMScheduler(**config).alphas_cumprod for config in (schedule, other))
    return abar.shape == theirs.shape and torch.allclose(abar, theirs)


def save_tensors(path, content):
    """Atomic torch.save."""
    with atomic_write(path) as file:
        torch.save(content, file)


def load_tensors(path, advice=""):
    """torch.load of tensors and plain values; with `weights_only`, no code in the file runs.

    Raises UserError, ending in `advice`, if the file is missing or corrupted.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"{path} is missing{advice}") from None
    except Exception as error:  # on a corrupted file, the unpickler raises many exception types
        raise UserError(f"{path} is corrupted or not a checkpoint{advice}") from error
