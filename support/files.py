"""Files that are replaced in one step, and checkpoints."""

import contextlib
import errno
import hashlib
import io
import os
import tempfile
from pathlib import Path

import torch

from support.cli import UserError

ROOT = Path(__file__).resolve().parent.parent
MODELS = ROOT / "models"
OURS = "ddpm_unet.pth", "classifier.pth", "classifier_free.pth", "judge.pth"


def write_files(contents):
    """Write path -> bytes. Each file is replaced in one step, after all have been written.

    Raises UserError if one cannot be written; existing files are then unchanged.
    """
    temporary = {path: path.with_name(f".{path.name}.{os.getpid()}.tmp") for path in contents}
    try:
        for path, content in contents.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary[path].write_bytes(content)
        for path in contents:
            os.replace(temporary[path], path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        for file in temporary.values():
            with contextlib.suppress(OSError):
                file.unlink()


def check_writable(path):
    """Raise UserError if a file cannot be written, before it is computed."""
    folder = next(folder for folder in path.absolute().parents if folder.exists())
    try:
        tempfile.TemporaryFile(dir=folder).close()
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error


def output_folder(models):
    """The folder for a run's pictures: the repository for the included models, else `models`."""
    return ROOT if models.resolve() == MODELS.resolve() else models


def sha256(path):
    """The SHA-256 of a file, in hexadecimal."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


# --- checkpoints: tensors and plain values, from which a network is rebuilt ---


def save_checkpoint(path, network, schedule, dataset_info, training):
    """Save a network, whose `config` holds the constructor arguments, for `load_checkpoint`.

    The scheduler config, `Dataset.info`, and summary of the training are dicts of plain values.
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

    Its attribute `checkpoint` is a dict with the schedule, dataset, and training that were saved,
    and the sha256 of the file. Raises UserError if it is missing, corrupted, or incompatible.
    """
    path, name, advice = Path(path), network_class.__name__, "; train it first"
    if path.resolve().parent == MODELS.resolve():
        advice = "; restore the included one with `git checkout -- models`"
    content = read_checkpoint(path, advice)
    if content["network"] != name:
        raise UserError(f"{path} holds a {content['network']}; expected a {name}")
    try:
        network = network_class(**content["config"])
        network.load_state_dict(content["state_dict"])
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"{path} was saved by a different version of {name}: {error}") from error
    network.checkpoint = {key: content[key] for key in ("schedule", "dataset", "training")}
    network.checkpoint["sha256"] = sha256(path)
    return network.eval().requires_grad_(False).to(device)


def check_may_write(path, network, schedule, dataset_info):
    """Check, before training, that the checkpoint can be written and matches those next to it.

    Raises UserError if the folder cannot be written, or holds a checkpoint (one of `OURS`, or
    `path` itself) of another dataset or noise schedule.
    """
    config_of(network)  # a network without a config fails before it is trained
    advice = "; move it, or pass another folder with --models"
    check_writable(path)
    for other in {path, *(path.parent / name for name in OURS)}:
        if not other.exists():
            continue
        content = read_checkpoint(other, advice)
        if content["dataset"] != dataset_info:
            raise UserError(f"{other} was trained on a different dataset{advice}")
        if schedule and content["schedule"] not in (schedule, None):  # the judge has none
            raise UserError(f"{other} was trained with a different noise schedule{advice}")


def read_checkpoint(path, advice):
    """What `save_checkpoint` saved. Raises UserError, ending in `advice`, if it was not."""
    content = load_tensors(path, advice)
    keys = {"network", "config", "schedule", "dataset", "training", "state_dict"}
    if not isinstance(content, dict) or set(content) != keys:
        raise UserError(f"{path} was not saved by this repository's `save_checkpoint`{advice}")
    return content


def save_tensors(path, content):
    """torch.save, with `write_files`."""
    file = io.BytesIO()
    torch.save(content, file)
    write_files({path: file.getvalue()})


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
