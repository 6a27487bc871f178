"""Files that appear whole or not at all, checkpoints, and what made a file."""

import contextlib
import hashlib
import io
import json
import os
from pathlib import Path

import torch

from support.errors import UserError

ROOT = Path(__file__).resolve().parent.parent  # of the repository
MODELS = ROOT / "models"
MADE_BY = {  # a checkpoint -> the script that makes it; all of these ship in MODELS
    "classifier.pth": "train_classifier.py",
    "ddpm_unet.pth": "train_ddpm.py",
    "judge.pth": "-m evaluation.judge",
    "rival_classifier_free.pth": "-m evaluation.rivals",
}
INFO = ("kind", "name", "classes", "shape")  # what a checkpoint says at least of its data set


@contextlib.contextmanager
def atomic_write(path):
    """Open a temporary file beside `path` for writing bytes, and rename it when it is whole.

    If anything fails, `path` stays as it was. Raises UserError if it cannot be written.
    """
    path = Path(path).resolve()  # a link is followed, not replaced
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            yield file
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def check_outputs(*paths):
    """Raises UserError, before the work starts, if an output cannot be written. Makes nothing."""
    for path in paths:
        if path.is_dir():
            raise UserError(f"cannot write {path}: it is a folder; name a file")
        if path.exists() and not path.is_file():
            raise UserError(f"cannot write {path}: it is a device, not a file")
        there = next(parent for parent in path.resolve().parents if parent.exists())
        if not (there.is_dir() and os.access(there, os.W_OK)):
            raise UserError(f"cannot write {path}: {there} is no folder that you may write to")


def output_folder(models):
    """Where pictures go: the top folder, or for a trial with --models elsewhere, that folder.

    Raises UserError if a trial would replace the pictures that ship.
    """
    if models.resolve() == ROOT:
        raise UserError(f"--models {models} is the repository itself: name a folder in it")
    return ROOT if models.resolve() == MODELS else models


def sha256(path):
    """The SHA-256 of a file, in hexadecimal."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def provenance(paths, **settings):
    """What made a picture, as one line of JSON: the SHA-256 of its files, and settings.

    It does not name the machine, so that the same picture is the same file everywhere.
    """
    hashes = {path.name: sha256(path) for path in paths}
    return json.dumps({"sha256": hashes, "settings": settings})


# --- checkpoints: tensors and plain values, from which a network is rebuilt ---


def save_checkpoint(path, network, schedule, dataset, training):
    """Write a checkpoint for `load_checkpoint`.

    `network.config` holds its constructor arguments. The others are dicts of plain values: those of
    the noise scheduler (or None), of the data set, and what the training was.
    """
    # diffusers marks its own bookkeeping in the config with a leading underscore
    config = {key: value for key, value in network.config.items() if not key.startswith("_")}
    content = {
        "network": type(network).__name__,
        "config": config,
        "schedule": schedule,
        "dataset": dataset,
        "training": training,
        "state_dict": {key: value.cpu() for key, value in network.state_dict().items()},
    }
    save_tensors(path, content)


def load_checkpoint(path, network_class, device="cpu"):
    """Rebuild a network from its checkpoint: in eval mode, without gradients of its parameters.

    `network.schedule` and `network.dataset` are those of `save_checkpoint`. Raises UserError, with
    a remedy, if the file is missing, damaged, or of another class.
    """
    content = load_tensors(path, remedy_for(path))
    try:
        if not is_of_class(content, network_class):
            raise KeyError("network")
        network = network_class(**content["config"])
        network.load_state_dict(content["state_dict"])
        network.schedule, network.dataset = content["schedule"], content["dataset"]
        if not set(INFO) <= set(network.dataset):
            raise KeyError("dataset")
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        name = network_class.__name__
        misfit = f"{path} holds no {name} of this code; if it should, "
        raise UserError(misfit + remedy_for(path)) from error
    return network.eval().requires_grad_(False).to(device)


def remedy_for(path):
    """What to do about a checkpoint that is missing or damaged: a part of a sentence."""
    path = Path(path)
    if path.name not in MADE_BY:
        return "check its name, or train it again"
    if path.resolve().parent == MODELS:
        return "restore it with `git checkout -- models`"
    return f"make it with `python {MADE_BY[path.name]} --models {path.parent}`"


def readable_checkpoints(folder):
    """Yield the path and the content, a dict, of each .pth of a folder that can be read."""
    for path in sorted(folder.glob("*.pth")):
        try:
            content = load_tensors(path, "")
        except UserError:  # it is damaged, or somebody else's
            continue
        yield path, content


def is_of_class(content, network_class):
    """Whether a checkpoint is one of this project, of a class of networks."""
    words = {"config", "schedule", "dataset", "training", "state_dict"}
    name = network_class.__name__
    return words <= set(content) and content.get("network", name) == name


def check_replaceable(checkpoint, network_class):
    """Raises UserError if a training would replace what is no earlier network of its own."""
    remedy = "move it, or name another folder with --models"
    if checkpoint.is_symlink():
        raise UserError(f"{checkpoint} is a link, behind which a network would change: {remedy}")
    if checkpoint.exists() and not is_of_class(load_tensors(checkpoint, remedy), network_class):
        raise UserError(f"{checkpoint} holds no {network_class.__name__}: {remedy}")


def save_tensors(path, content):
    """torch.save, whole or not at all. In memory first: a full disk in torch.save is no OSError."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    with atomic_write(path) as file:
        file.write(buffer.getbuffer())


def load_tensors(path, remedy):
    """A dict of tensors and plain values. `weights_only`: no code in the file is run.

    Raises UserError, with a `remedy`, if the file is missing, or is no such dict.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"{path} is missing: {remedy}") from None
    except Exception as error:  # the unpickler can raise anything on a damaged file
        raise UserError(f"{path} is damaged, or is no checkpoint: {remedy}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} is no checkpoint of this project: {remedy}")
    return content
