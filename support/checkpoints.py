"""Checkpoints (.pth): tensors and plain values from which a network is rebuilt, and provenance."""

import contextlib
import io
import json
import platform
from pathlib import Path

import diffusers
import torch

from support.errors import UserError
from support.files import atomic_write, beside, is_shipped, sha256

MODELS = beside("models")
KEYS = {"network", "config", "schedule", "seed", "training", "state_dict"}


def save_checkpoint(path, network, schedule, dataset, seed, training):
    """Write a checkpoint from which `load_checkpoint` rebuilds the network.

    Args:
        path: the file.
        network: a module whose `config` holds its constructor arguments.
        schedule, dataset: dicts of plain values that checkpoints used together must share.
        seed: the seed of the run.
        training: a dict of plain values: steps, seconds, settings, final metrics.
    """
    # diffusers marks its own bookkeeping in the config with a leading underscore
    config = {key: value for key, value in network.config.items() if not key.startswith("_")}
    state_dict = {key: value.detach().cpu() for key, value in network.state_dict().items()}
    checkpoint = {
        "network": type(network).__name__,
        "config": config,
        "schedule": schedule,
        "dataset": dataset,
        "seed": seed,
        "training": training,
        "state_dict": state_dict,
    }
    save_tensors(path, checkpoint)


def load_checkpoint(path, network_class, *, schedule, dataset, made_by, device="cpu"):
    """Rebuild a network from its checkpoint alone.

    Args:
        path: a file that `save_checkpoint` wrote.
        network_class: the class that the checkpoint must hold.
        schedule: the schedule that the checkpoint must have been trained on.
        dataset: what it was trained on, if it does not say.
        made_by: the command that makes the checkpoint, for error messages.
        device: where the network goes.

    Returns:
        network: in eval mode, without parameter gradients; `network.dataset` is a dict.

    Raises:
        UserError: the file is missing, damaged, of another network or schedule, or not finite.
    """
    checkpoint = read_checkpoint(path, made_by)
    make_it = f"make it with `python {made_by}`"
    if not checkpoint.keys() >= KEYS:
        raise UserError(f"{path} is not a checkpoint of this project: {make_it}")
    if checkpoint["network"] != network_class.__name__:
        raise UserError(
            f"{path} holds a {checkpoint['network']}, not a {network_class.__name__}: {make_it}"
        )
    if checkpoint["schedule"] != schedule:
        raise UserError(f"{path} was trained on another noise schedule: {make_it}")
    try:
        network = network_class(**checkpoint["config"])
        network.load_state_dict(checkpoint["state_dict"])
    except (TypeError, ValueError, RuntimeError, AttributeError, KeyError) as error:
        raise UserError(f"{path} does not fit the network of this code: {make_it}") from error
    if not all(parameter.isfinite().all() for parameter in network.parameters()):
        raise UserError(f"{path} holds weights that are not finite: {make_it}")
    network.dataset = checkpoint.get("dataset", dataset)
    return network.eval().requires_grad_(False).to(device)


def read_checkpoint(path, made_by):
    """A dict of tensors and plain values. `weights_only`: no code in the file is run.

    Raises:
        UserError: the file is missing, unreadable, or not such a dict.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        shipped = "restore it with `git checkout -- models`, or "
        restore = shipped if is_shipped(Path(path).parent) else ""
        made_by += "" if restore else f" --models {Path(path).parent}"
        raise UserError(f"{path} is missing: {restore}make it with `python {made_by}`") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    except Exception as error:  # the unpickler can raise anything on damaged input
        raise UserError(
            f"{path} is not a checkpoint, or is damaged: make it with `python {made_by}`"
        ) from error
    if not isinstance(content, dict):
        raise UserError(
            f"{path} is not a checkpoint of this project: make it with `python {made_by}`"
        )
    return content


def recorded(folder, key, default):
    """Yield the path of each checkpoint of this project in a folder, and what it has under a key.

    Args:
        default: what those have that were written without the key.
    """
    for path in sorted(Path(folder).glob("*.pth")):
        with contextlib.suppress(UserError):  # a damaged file has nothing to keep
            checkpoint = read_checkpoint(path, "?")
            if checkpoint.keys() >= KEYS:
                yield path, checkpoint.get(key, default)


def save_tensors(path, content):
    """torch.save, whole or not at all. In memory first: a full disk in torch.save is no OSError."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    with atomic_write(path) as file:
        file.write(buffer.getbuffer())


def provenance(models, names, device, **settings):
    """What made a file, as one line of JSON: SHA-256 of the weights, settings, versions, device.

    Args:
        models: the folder of the checkpoints. names: the checkpoints that were used.
    """
    weights = {name: sha256(Path(models, name)) for name in names}
    versions = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
    }
    return json.dumps(
        {"weights": weights, "settings": settings, "versions": versions, "device": str(device)}
    )
