"""The data: MNIST, Fashion-MNIST, or a folder of images, as tensors in [-1, 1].

Settings are chosen on the validation images; the test images are only for reported results.
"""

import hashlib

import torch
from torchvision import datasets
from torchvision.datasets.folder import default_loader
from torchvision.transforms import Compose, PILToTensor, Resize

from support.cli import UserError
from support.cli import number
from support.files import ROOT
from support.seeds import generator

DATA = ROOT / "data"
TORCHVISION = {"mnist": datasets.MNIST, "fashion-mnist": datasets.FashionMNIST}
NUM_VALIDATION = 5_000  # the last images of each torchvision training set
SPLITS = ("train", "validation", "test")


class Dataset:
    """A dataset with its three splits.

    Args:
        name: a key of `TORCHVISION`, downloaded if it is missing, or a folder with one subfolder of
            images per class, of which a tenth is for validation and another for test.
        size: resize the images of a folder to this height and width.

    Attributes: `splits`, "train", "validation", "test" -> images uint8 (N, C, H, W), labels (N,);
    `info`, saved in checkpoints: kind, name (of a folder, a hash), classes, shape.

    Raises UserError if the data is missing or corrupted, or the images cannot be used.
    """

    def __init__(self, name="mnist", size=None):
        self.name = name
        if name in TORCHVISION:
            if size:
                raise UserError(f"--size applies only to a folder of images, not to {name}")
            self.splits, classes = read_torchvision(name)
            images, _ = self.splits["train"]
            self.info = {"kind": name, "name": name}
        else:
            self.splits, classes = read_folder(name, size)
            images, labels = self.splits["train"]
            digest = hashlib.sha256(images.numpy().tobytes() + labels.numpy().tobytes())
            self.info = {"kind": "folder", "name": digest.hexdigest()}
        self.info |= {"classes": classes, "shape": list(images.shape[1:])}

    def __str__(self):
        counts = (f"{len(labels):,} {split}" for split, (_, labels) in self.splits.items())
        return f"{self.name}: {', '.join(counts)} images in {len(self.info['classes'])} classes"

    def load(self, split):
        """Images (N, C, H, W) in [-1, 1] and labels (N,) of a split."""
        images, labels = self.splits[split]
        return from_uint8(images), labels


def read_torchvision(name):
    """The splits and class names of a torchvision dataset of 28x28 grayscale images."""
    dataset_class = TORCHVISION[name]
    try:
        train, test = (dataset_class(DATA, train=flag, download=True) for flag in (True, False))
    except (OSError, RuntimeError, ValueError, AssertionError) as error:  # corrupted, or offline
        advice = "; delete data/ and run `git checkout -- data`" if name == "mnist" else ""
        raise UserError(f"cannot read {name}: {str(error) or 'corrupted'}{advice}") from error
    images, labels = train.data[:, None], train.targets
    splits = {
        "train": (images[:-NUM_VALIDATION], labels[:-NUM_VALIDATION]),
        "validation": (images[-NUM_VALIDATION:], labels[-NUM_VALIDATION:]),
        "test": (test.data[:, None], test.targets),
    }
    return splits, [label.split(" - ")[0] for label in train.classes]  # MNIST has "3 - three"


def read_folder(folder, size):
    """The splits and class names of a folder of images; grayscale images get one channel."""
    transform = Compose([Resize((size, size)), PILToTensor()]) if size else PILToTensor()
    try:
        pictures = datasets.ImageFolder(folder, transform, loader=load_image)
    except OSError as error:
        known = f"expected {', '.join(TORCHVISION)}, or a folder with one subfolder per class"
        raise UserError(f"cannot read {folder}: {error}; {known}") from error
    images = [image for image, _ in pictures]
    if len(images) < 100:
        raise UserError(f"at least 100 images are needed, found {len(images)} in {folder}")
    for (path, _), image in zip(pictures.samples, images):
        _, height, width = image.shape
        if height != width or height % 4 or image.shape != images[0].shape:
            needed = "images must be square, all of the same size, and their side a multiple of 4"
            raise UserError(f"{path} is {height}x{width}; {needed}; use --size 32")
    images, labels = torch.stack(images), torch.tensor(pictures.targets)
    if torch.equal(images, images[:, :1].expand_as(images)):
        images = images[:, :1]
    order = torch.randperm(len(images), generator=generator(0, "split"))
    tenth = len(images) // 10
    parts = order[2 * tenth :], order[:tenth], order[tenth : 2 * tenth]
    splits = {name: (images[part], labels[part]) for name, part in zip(SPLITS, parts)}
    return splits, pictures.classes


def load_image(path):
    """An RGB image. Raises UserError if it is corrupted."""
    try:
        return default_loader(path)
    except Exception as error:  # Pillow raises many exception types
        raise UserError(f"cannot read {path}: {error}") from error


def from_uint8(images):
    """uint8 images as floats in [-1, 1]."""
    return images.float().div(127.5).sub(1)


def class_numbers(words, classes):
    """Class indices of class names, indices, or "all": a list of ints.

    What is both a name and an index is read as a name. Raises UserError for unknown words.
    """
    if words == ["all"]:
        return list(range(len(classes)))
    numbers = {str(k): k for k in range(len(classes))} | {n: k for k, n in enumerate(classes)}
    for word in words:
        if word not in numbers:
            known = f"expected 'all' by itself, or any of {' '.join(numbers)}, separated by spaces"
            raise UserError(f"unknown class {word!r}; {known}")
    return [numbers[word] for word in words]


def add_dataset_flags(parser):
    """Add --dataset and --size, the arguments of `Dataset`."""
    known = f"{', '.join(TORCHVISION)}, or a folder with one subfolder of images per class"
    parser.add_argument("--dataset", default="mnist", metavar="NAME", help=known)
    parser.add_argument(
        "--size", type=number(int, 4), help="resize the images of a folder to this height and width"
    )
