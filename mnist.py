"""MNIST as tensors in memory: torchvision reads the four original files that lie in data/MNIST/raw/.

The last 5,000 training images are set aside as the validation set: whatever is chosen is chosen on them, and the test
set is only ever reported.
"""

import gzip
import shutil
from pathlib import Path

from torchvision.datasets import MNIST
from torchvision.datasets.utils import check_integrity

from diffusion import UserError, atomic_write

NUM_VALIDATION = 5_000
SPLITS = ("train", "validation", "test")
UNPACKED_BYTES = {
    "train-images-idx3-ubyte": 47_040_016,
    "train-labels-idx1-ubyte": 60_008,
    "t10k-images-idx3-ubyte": 7_840_016,
    "t10k-labels-idx1-ubyte": 10_008,
}


def load_mnist(split, data_dir="data"):
    """Read one split of MNIST.

    Args:
        split: "train" (55,000 images), "validation" (the last 5,000 of the training file) or "test" (10,000).
        data_dir: the folder that holds MNIST/raw/*.gz.

    Returns:
        images: float (N, 1, 28, 28) in [-1, 1], and labels: int64 (N,), 0 .. 9.

    Raises:
        UserError: a file is missing or damaged, or cannot be read or unpacked.
    """
    assert split in SPLITS, f"split is one of {SPLITS}, not {split!r}"
    unpack(data_dir)
    try:
        dataset = MNIST(data_dir, train=split != "test")
    except OSError as error:
        raise UserError(f"cannot read MNIST in {Path(data_dir, 'MNIST', 'raw')}: {error}") from error
    images = dataset.data.unsqueeze(1).float().div(127.5).sub(1)  # (N, 1, 28, 28)
    part = {"train": slice(0, -NUM_VALIDATION), "validation": slice(-NUM_VALIDATION, None), "test": slice(None)}[split]
    return images[part], dataset.targets[part]


def unpack(data_dir):
    """Check the MD5 of the four .gz files, and unpack beside them, for torchvision, those that are not unpacked in full.

    torchvision unpacks in place, which a kill cuts off and another script, begun at the same moment, reads too early.
    """
    raw = Path(data_dir, "MNIST", "raw")
    for name, md5 in MNIST.resources:
        path = raw / name
        if not path.is_file():
            raise UserError(f"{path} is missing: bring it back with `git checkout -- data`, or name its folder with --data")
        try:
            intact = check_integrity(str(path), md5)
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror}") from error
        if not intact:
            raise UserError(f"{path} is damaged (its MD5 is not {md5}): bring it back with `git checkout -- data`")
        unpacked = path.with_suffix("")
        if not unpacked.is_file() or unpacked.stat().st_size != UNPACKED_BYTES[unpacked.name]:
            with gzip.open(path) as packed, atomic_write(unpacked) as file:
                shutil.copyfileobj(packed, file)
