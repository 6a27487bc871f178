"""Files that appear whole or not at all."""

import contextlib
import glob
import hashlib
import os
import tempfile
import time
from pathlib import Path

from safetensors import SafetensorError

from support.errors import UserError, require

ROOT = Path(__file__).resolve().parent.parent
LEFTOVER_SECONDS = 3_600  # a temporary file older than this belongs to a process that was killed


@contextlib.contextmanager
def atomic_write(path):
    """Open a temporary file beside `path` for writing bytes, and rename it when all is on disk.

    If anything fails, `path` stays as it was. Raises UserError if the disk is full or the folder
    cannot be written.
    """
    path = Path(path)
    temporary = path.parent / f".{path.name}.{os.getpid()}.tmp"
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        with contextlib.suppress(OSError):
            if time.time() - leftover.stat().st_mtime > LEFTOVER_SECONDS:
                leftover.unlink()
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(path):
    """The name of a folder to make and fill, which becomes `path` when all is in it.

    Raises UserError if `path` exists, the disk is full or the place cannot be written.
    """
    path = Path(path).absolute()
    require(not os.path.lexists(path), f"cannot write {path}: it exists; name a new folder")
    check_writable(path)
    try:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".") as temporary:
            yield Path(temporary, path.name)
            os.replace(Path(temporary, path.name), path)
    except (OSError, SafetensorError) as error:  # the latter where safetensors meets a full disk
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"cannot write {path}: {reason}") from error


def check_writable(*paths):
    """Fail before the work starts if an output could not be written. Raises UserError."""
    paths = [Path(path) for path in paths]
    if len({path.resolve() for path in paths}) < len(paths):
        raise UserError(f"{' and '.join(map(str, paths))} must be different files")
    for path in paths:
        folder = path.parent
        if os.path.isdir(path):
            raise UserError(f"cannot write {path}: it is a directory; name a file")
        if not folder.is_dir():
            raise UserError(f"cannot write {path}: the folder {folder} does not exist; create it")
        try:  # os.access is wrong for root and on read-only file systems
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            raise UserError(f"cannot write {path}: {error.strerror}; name another place") from error


def make_folders(*folders):
    """Create folders of outputs where they are missing. Raises UserError."""
    for folder in folders:
        try:
            Path(folder).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"cannot make the folder {folder}: {error.strerror}; name another place"
            ) from error


def beside(name):
    """A file or folder of the repository, wherever the script was started."""
    return ROOT / name


def is_shipped(models):
    """Whether `models` is the repository's own folder of checkpoints, however it is written."""
    return Path(models).resolve() == ROOT / "models"


def results_folder(models):
    """The folder of tables and figures: results/, or `models` itself in a trial run elsewhere."""
    return beside("results") if is_shipped(models) else Path(models)


def sha256(path):
    """The SHA-256 of a file, in hexadecimal."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()
