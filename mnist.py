"""MNIST as tensors, read from the four original files in data/MNIST/raw/.

The last 5,000 training images are the validation set. Everything is chosen on it; the test set is
only reported.
"""

import gzip
import hashlib
from pathlib import Path

import numpy as np
import torch
from torchvision.datasets import MNIST

from support.errors import UserError
from support.files import beside

DATA = beside("data")
NUM_VALIDATION = 5_000
SPLITS = {
    "train": ("train", slice(0, -NUM_VALIDATION)),
    "validation": ("train", slice(-NUM_VALIDATION, None)),
    "test": ("t10k", slice(None)),
}


def load_mnist(split, data_dir=DATA):
    """Read one split of MNIST.

    Args:
        split: "train" (55,000 images), "validation" (the last 5,000 of the training file) or
            "test" (10,000).
        data_dir: the folder that holds MNIST/raw/*.gz.

    Returns:
        images: float (N, 1, 28, 28) in [-1, 1]. labels: int64 (N,), 0 .. 9.

    Raises:
        UserError: a file is missing, damaged or cannot be read.
    """
    assert split in SPLITS, f"split is one of {list(SPLITS)}, not {split!r}"
    name, part = SPLITS[split]
    raw = Path(data_dir, "MNIST", "raw")
    # the IDX format: a header of 16 and 8 bytes, then one byte per pixel and per label
    images = read_gz(raw / f"{name}-images-idx3-ubyte.gz")[16:].reshape(-1, 1, 28, 28)[part]
    labels = read_gz(raw / f"{name}-labels-idx1-ubyte.gz")[8:][part]
    return torch.tensor(images).float().div(127.5).sub(1), torch.tensor(labels).long()


def read_gz(path):
    """The unpacked bytes of a file of MNIST, as uint8 (N,). Raises UserError if it is not whole."""
    try:
        packed = path.read_bytes()
    except FileNotFoundError:
        raise UserError(
            f"{path} is missing: restore it with `git checkout -- data`, or use --data"
        ) from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    md5 = dict(MNIST.resources)[path.name]
    if hashlib.md5(packed).hexdigest() != md5:
        raise UserError(
            f"{path} is damaged (its MD5 is not {md5}): restore it with `git checkout -- data`"
        )
    return np.frombuffer(gzip.decompress(packed), dtype=np.uint8)
