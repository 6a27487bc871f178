"""The data: MNIST, data sets of its form, or a folder of images, as tensors in [-1, 1].

Everything is chosen on the validation images; the test images are only reported. The validation
images of MNIST, Fashion-MNIST and KMNIST are the last 5,000 of the training file.
"""

from pathlib import Path

import torch
from torchvision import datasets

from support.checkpoints import recorded
from support.datasets import Folder, read_idx
from support.errors import UserError, require
from support.files import beside

DATA = beside("data")
MNIST_INFO = {"name": "mnist", "classes": [*"0123456789"], "invert": False}
KIN = {"mnist": datasets.MNIST, "fashion-mnist": datasets.FashionMNIST, "kmnist": datasets.KMNIST}
NUM_VALIDATION = 5_000
SPLITS = {
    "train": ("train", slice(0, -NUM_VALIDATION)),
    "validation": ("train", slice(-NUM_VALIDATION, None)),
    "test": ("t10k", slice(None)),
}


class Dataset:
    """A data set: `load(split)`, and `info`, a dict that its checkpoints carry.

    Args:
        name: one of `KIN`, or a folder of one folder of images per class.
        data_dir: where MNIST/raw/*.gz, FashionMNIST/raw/*.gz or KMNIST/raw/*.gz are.
        invert: exchange black and white; strokes should be bright, as in MNIST.
        download: let torchvision fetch the files of `KIN` that are missing.

    Raises:
        UserError: there is no such data set, or it cannot be downloaded.
    """

    def __init__(self, name="mnist", data_dir=DATA, invert=False, download=False):
        if name in KIN:
            self.source = KinFiles(KIN[name], data_dir, download)
        elif Path(name).is_dir():
            self.source, name = Folder(name, (28, 28)), Path(name).resolve().name
        else:
            raise UserError(f"--dataset {name}: it is not {', '.join(KIN)}, nor a folder")
        self.info = {"name": name, "classes": self.source.classes, "invert": invert}

    def load(self, split):
        """Read "train", "validation" or "test"; of MNIST, 55,000, 5,000 and 10,000 images.

        Returns:
            images: float (N, 1, 28, 28) in [-1, 1]. labels: int64 (N,), 0 .. len(classes) - 1.

        Raises:
            UserError: a file is missing, damaged or cannot be read.
        """
        assert split in SPLITS, f"split is one of {list(SPLITS)}, not {split!r}"
        images, labels = self.source.load(split)
        images = images.float().div(127.5).sub(1)
        return -images if self.info["invert"] else images, labels.long()


class KinFiles:
    """The four original files of MNIST or its kin, with torchvision's names and checksums."""

    def __init__(self, kin, data_dir, download):
        self.kin, self.raw = kin, Path(data_dir, kin.__name__, "raw")
        self.classes = [label.split(" - ")[0] for label in kin.classes]  # MNIST's: "3 - three"
        if download and not all((self.raw / name).exists() for name, _ in kin.resources):
            try:
                kin(data_dir, download=True)
            except (OSError, RuntimeError) as error:
                raise UserError(f"--download: {error}; put the files in {self.raw}") from error

    def load(self, split):
        name, part = SPLITS[split]
        images = self.read(f"{name}-images-idx3-ubyte.gz", (28, 28))
        labels = self.read(f"{name}-labels-idx1-ubyte.gz", ())
        if len(images) != len(labels) or labels.max() >= len(self.classes):
            raise UserError(f"images and labels in {self.raw} do not fit: get them again")
        return images[part, None], labels[part]

    def read(self, name, shape):
        restore = f"get it from {self.kin.mirrors[0]}{name}, or use --download"
        if self.raw == DATA / "MNIST" / "raw":
            restore = "restore it with `git checkout -- data`"
        content = read_idx(self.raw / name, shape, dict(self.kin.resources)[name], restore)
        return torch.from_numpy(content)


def load_mnist(split, data_dir=DATA):
    """One split of MNIST: see `Dataset.load`."""
    return Dataset(data_dir=data_dir).load(split)


def class_numbers(words, classes):
    """The classes that are named, or numbered from 0, or "all": ints. Raises UserError."""
    numbers = {str(y): y for y in range(len(classes))} | {name: y for y, name in enumerate(classes)}
    unknown = [word for word in words if word not in numbers and words != ["all"]]
    names = f"{', '.join(classes)}, a number from 0 to {len(classes) - 1}, or all, alone"
    require(not unknown, f"argument --digits: {[*unknown, ''][0]!r} is not one of {names}")
    return [*range(len(classes))] if words == ["all"] else [numbers[word] for word in words]


def add_data_flags(parser):
    """The flags of every script that reads a data set."""
    add = parser.add_argument
    add("--dataset", default="mnist", metavar="NAME",
        help=f"{', '.join(KIN)}, or a folder of one folder of images per class")  # fmt: skip
    add("--data", type=Path, default=DATA, metavar="DIR", help="where MNIST/raw/*.gz is")
    add("--download", action="store_true", help="let torchvision fetch missing files")
    add("--invert", action="store_true", help="for images that are dark on white")


def open_dataset(args):
    """The data set of the flags. Raises UserError, also where --models has networks of another."""
    dataset = Dataset(args.dataset, args.data, args.invert, args.download)
    for path, trained in recorded(args.models, "dataset", MNIST_INFO):
        require(trained == dataset.info, f"{path} is of the data set {trained['name']}: name that, "
                "or another folder with --models; --invert as it was trained")  # fmt: skip
    return dataset
