"""The data: MNIST, a data set of its form, or a folder of images, as tensors in [-1, 1].

Everything is chosen on the validation images; the test images are only reported. The validation
images of MNIST, Fashion-MNIST and KMNIST are the last 5,000 of the training file. Of a folder, a
random tenth, always the same, is for validation, and another tenth for the test.
"""

from pathlib import Path

import torch
from torchvision import datasets, transforms
from torchvision.transforms.functional import pil_to_tensor

from support.cli import number
from support.errors import UserError, require
from support.files import ROOT, check_outputs, load_tensors
from support.streams import generator

DATA = ROOT / "data"
TORCHVISION = {
    "mnist": datasets.MNIST,
    "fashion-mnist": datasets.FashionMNIST,
    "kmnist": datasets.KMNIST,
}
KNOWN = f"{', '.join(TORCHVISION)}, or a folder of one folder of images per class"
MNIST_REMEDY = f"; if {DATA} is damaged, delete it: `git checkout -- data` restores MNIST"
NUM_VALIDATION = 5_000
SPLITS = ("train", "validation", "test")


def from_uint8(images):
    """Images (..., H, W) in uint8 0 .. 255 as floats in [-1, 1] of the same shape."""
    return images.float().div(127.5).sub(1)


class Dataset:
    """A data set. Raises UserError if there is none such, or it cannot be read or downloaded.

    Args:
        name: one of `KNOWN`. torchvision downloads what is missing.
        size: scale the images of a folder to this height and width; None takes them as they are.

    Attributes:
        splits: "train", "validation", "test" -> images uint8 (N, C, H, W), and labels (N,).
        info: what checkpoints of this data set carry: its kind, name, classes and image shape.
    """

    def __init__(self, name="mnist", size=None):
        kind = name if name in TORCHVISION else "folder"
        require(size is None or kind == "folder", f"--size is for folders of images, not {name}")
        try:
            if kind == "folder":
                self.splits, classes = read_folder(Path(name), size)
            else:
                self.splits, classes = read_torchvision(TORCHVISION[name])
        except (OSError, RuntimeError, ValueError, AssertionError) as error:
            remedy = "" if kind == "folder" else MNIST_REMEDY
            raise UserError(f"--dataset {name}: {str(error) or 'damaged'}{remedy}") from error
        images, _ = self.splits["train"]
        self.info = {
            "kind": kind,
            "name": Path(name).resolve().name,
            "classes": classes,
            "shape": list(images.shape[1:]),
        }

    def load(self, split):
        """Images of a split, float (N, C, H, W) in [-1, 1], and labels, int64 (N,)."""
        images, labels = self.splits[split]
        return from_uint8(images), labels


def read_torchvision(source):
    """A data set of torchvision: split -> (uint8 (N, 1, 28, 28), int64 (N,)), and its classes."""
    train, test = (source(DATA, train=is_train, download=True) for is_train in (True, False))
    images, labels = train.data[:, None], train.targets
    splits = {
        "train": (images[:-NUM_VALIDATION], labels[:-NUM_VALIDATION]),
        "validation": (images[-NUM_VALIDATION:], labels[-NUM_VALIDATION:]),
        "test": (test.data[:, None], test.targets),
    }
    return splits, [name.split(" - ")[0] for name in train.classes]  # MNIST has "3 - three"


def read_folder(folder, size):
    """The images of a folder, as `read_torchvision`; those without colours have one channel."""
    require(folder.is_dir(), f"it is none of {KNOWN}")
    pictures = datasets.ImageFolder(folder, transforms.Resize((size, size)) if size else None)
    images = [pil_to_tensor(picture) for picture, _ in pictures]
    _, height, width = images[0].shape
    good = height == width and height % 4 == 0 and len({image.shape for image in images}) == 1
    require(good, "images should be square, of one size, a multiple of 4: scale with --size 32")
    images, labels = torch.stack(images), torch.tensor(pictures.targets)
    if torch.equal(images, images[:, :1].expand_as(images)):
        images = images[:, :1]
    tenth = len(images) // 10
    require(tenth >= 10, f"it has {len(images)} images, 100 are the least")
    order = torch.randperm(len(images), generator=generator(0, "split"))
    parts = order[2 * tenth :], order[:tenth], order[tenth : 2 * tenth]
    splits = {name: (images[part], labels[part]) for name, part in zip(SPLITS, parts)}
    return splits, pictures.classes


def load_mnist(split):
    """One split of MNIST: see `Dataset.load`."""
    return Dataset().load(split)


def class_numbers(words, classes):
    """The classes that are named, or numbered from 0; "all" for all: ints. Raises UserError."""
    numbers = {str(y): y for y in range(len(classes))}
    numbers |= {name: y for y, name in enumerate(classes)}  # a name goes before a number
    asked = classes if "all" in words else words
    known = f"{', '.join(classes)}, a number from 0 to {len(classes) - 1}, or all"
    for word in asked:
        require(word in numbers, f"--digits: {word!r} is not one of {known}; separate by spaces")
    return [numbers[word] for word in asked]


def add_data_flags(parser):
    """The flags of every script that reads a data set, for `read_dataset`."""
    add = parser.add_argument
    add("--dataset", default="mnist", metavar="NAME", help=KNOWN)
    add("--size", type=number(int, 4), help="scale the images of a folder to SIZE x SIZE")


def read_dataset(args):
    """The `Dataset` of the flags. Raises UserError."""
    dataset = Dataset(args.dataset, args.size)
    print(f"reads {args.dataset}; device: {args.device}", flush=True)
    return dataset


def training_data(args, *outputs):
    """The `Dataset` of the flags, to train a network for the folder --models.

    Raises UserError if an output cannot be written, or a network there is of another data set.
    """
    check_outputs(*outputs)
    dataset = read_dataset(args)
    for path in sorted(args.models.glob("*.pth")):
        checkpoint = load_tensors(path, "restore or delete it")
        if "dataset" in checkpoint:  # not the state of a training
            check_same_dataset(checkpoint["dataset"], dataset.info, path)
    return dataset


def check_same_dataset(trained, given, path):
    """Raises UserError if the network of a file was trained on another data set, both `info`."""
    what = f"{path} was trained on {described(trained)}, not on {described(given)}"
    require(trained == given, f"{what}: name another folder with --models, or another data set")


def described(info):
    """A data set in words, by its `info`."""
    kind = "the folder " if info["kind"] == "folder" else ""
    size = "x".join(map(str, info["shape"]))
    return f"{kind}{info['name']} ({len(info['classes'])} classes, {size})"
