"""The data: MNIST, a data set of its form, or a folder of images, as tensors in [-1, 1].

Everything is chosen on the validation images; the test images are only reported. The validation
images of MNIST, Fashion-MNIST and KMNIST are the last 5,000 of the training file. Of a folder, a
random tenth, always the same, is for validation, and another tenth for the test.
"""

import contextlib
import hashlib
from pathlib import Path

import torch
from PIL import Image
from torchvision import datasets
from torchvision.transforms.functional import pil_to_tensor

from support.cli import multiple_of
from support.errors import UserError
from support.files import INFO, ROOT, check_outputs, check_replaceable, readable_checkpoints
from support.streams import generator

DATA = ROOT / "data"
TORCHVISION = {
    "mnist": datasets.MNIST,
    "fashion-mnist": datasets.FashionMNIST,
    "kmnist": datasets.KMNIST,
}
KNOWN = f"{', '.join(TORCHVISION)}, or a folder with a subfolder of images per class"
MNIST_REMEDY = f"; if {DATA} is damaged, delete it: `git checkout -- data` restores MNIST"
NUM_VALIDATION = 5_000
MAX_SIZE = 256  # pixels; more than a small U-Net can learn
SPLITS = ("train", "validation", "test")
OTHER_FOLDER = "name another folder with --models, or another data set"


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
        info: what checkpoints of this data set carry: its kind, name, classes and image shape, and
            of a folder the SHA-256 of its training images and labels.
    """

    def __init__(self, name="mnist", size=None):
        kind = name if name in TORCHVISION else "folder"
        if size is not None and kind != "folder":
            raise UserError(f"--size is for folders of images, not {name}")
        if not str(name):
            raise UserError("--dataset: the name is empty")
        try:
            if kind == "folder":
                self.splits, classes = read_folder(Path(name), size)
            else:
                self.splits, classes = read_torchvision(TORCHVISION[name])
        except (OSError, RuntimeError, ValueError, AssertionError) as error:
            remedy = MNIST_REMEDY if kind == "mnist" else ""
            raise UserError(f"--dataset {name}: {str(error) or 'damaged'}{remedy}") from error
        for split, (images, labels) in self.splits.items():
            same_length = len(labels) == len(images)
            if not same_length or labels.min() < 0 or labels.max() >= len(classes):
                raise UserError(f"--dataset {name}: labels of {split} are damaged{MNIST_REMEDY}")
        images, _ = self.splits["train"]
        self.info = {
            "kind": kind,
            "name": Path(name).resolve().name,
            "classes": classes,
            "shape": list(images.shape[1:]),
        }
        if kind == "folder":  # whose name does not say which images it has
            content = [part.numpy().tobytes() for part in self.splits["train"]]
            self.info["sha256"] = hashlib.sha256(b"".join(content)).hexdigest()

    def load(self, split):
        """Images of a split, float (N, C, H, W) in [-1, 1], and labels, int64 (N,)."""
        images, labels = self.splits[split]
        return from_uint8(images), labels


def read_torchvision(source):
    """A data set of torchvision: split -> (uint8 (N, 1, 28, 28), int64 (N,)), and its classes."""
    folder = DATA / source.__name__
    try:
        train, test = (source(DATA, train=is_train, download=True) for is_train in (True, False))
    except (OSError, RuntimeError) as error:
        for empty in (folder / "raw", folder):  # what torchvision made for the download
            with contextlib.suppress(OSError):
                empty.rmdir()
        if folder.exists():
            raise
        raise UserError(f"it cannot be downloaded, is there a network? {error}") from error
    images, labels = train.data[:, None], train.targets
    splits = {
        "train": (images[:-NUM_VALIDATION], labels[:-NUM_VALIDATION]),
        "validation": (images[-NUM_VALIDATION:], labels[-NUM_VALIDATION:]),
        "test": (test.data[:, None], test.targets),
    }
    return splits, [name.split(" - ")[0] for name in train.classes]  # MNIST has "3 - three"


class Folder(datasets.ImageFolder):
    """torchvision's folder of images, without hidden folders, such as .ipynb_checkpoints."""

    def find_classes(self, directory):
        folders = Path(directory).iterdir()
        classes = sorted(f.name for f in folders if f.is_dir() and not f.name.startswith("."))
        if not classes:
            raise UserError("it has no folder of images")
        return classes, {name: number for number, name in enumerate(classes)}


def read_folder(folder, size):
    """The images of a folder, as `read_torchvision`; those without colours have one channel."""
    if not folder.is_dir():
        raise UserError(f"it is none of {KNOWN}")
    pictures = Folder(folder)
    images, targets = [], []
    for path, target in pictures.samples:
        inside = Path(path).relative_to(folder).parts
        if any(part.startswith(".") for part in inside):
            continue  # hidden, as ._1.png is
        if len(inside) != 2:
            raise UserError(
                f"{path} is not in the folder of its class: name {Path(path).parents[1]}"
            )
        targets.append(target)
        images.append(read_image(path, size))
        if images[-1].shape != images[0].shape:
            raise UserError(f"{path} has another size than the others: scale all with --size 32")
    _, height, width = images[0].shape
    if height != width or height % 4 != 0 or not 8 <= height <= MAX_SIZE:
        should = f"they should be square, a multiple of 4, from 8 to {MAX_SIZE}"
        raise UserError(f"images are {height}x{width}: {should}; scale with --size 32")
    images, labels = torch.stack(images), torch.tensor(targets)
    for number, name in enumerate(pictures.classes):
        if targets.count(number) < 10:
            raise UserError(
                f"class {name!r} has fewer than 10 images: delete its folder, or add some"
            )
    if torch.equal(images, images[:, :1].expand_as(images)):
        images = images[:, :1]
    tenth = len(images) // 10
    if tenth < 10:
        raise UserError(f"it has {len(images)} images, 100 are the least")
    order = torch.randperm(len(images), generator=generator(0, "split"))
    parts = order[2 * tenth :], order[:tenth], order[tenth : 2 * tenth]
    splits = {name: (images[part], labels[part]) for name, part in zip(SPLITS, parts)}
    return splits, pictures.classes


def read_image(path, size):
    """An image file, uint8 (3, H, W), scaled to a size if it is not None. Raises UserError."""
    try:
        with Image.open(path) as image:
            check_pixels(image, path)
            image = image.convert("RGB")
    except UserError:  # which is a ValueError
        raise
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"{path} is damaged, or is no image: {error}") from error
    return pil_to_tensor(image.resize((size, size), Image.BILINEAR) if size else image)


def check_pixels(image, path):
    """Raises UserError if the pixels of a PIL image would be changed on the way to 8 bits."""
    if image.mode.startswith(("I", "F")):
        raise UserError(f"{path} has more than 8 bits a pixel: convert it to 8")
    opaque = not image.has_transparency_data or image.convert("RGBA").getextrema()[3] == (255, 255)
    if not opaque:
        raise UserError(f"{path} is transparent: put it on a background")


def load_mnist(split):
    """One split of MNIST: see `Dataset.load`."""
    return Dataset().load(split)


def class_numbers(words, classes):
    """The classes that are named, or numbered from 0; "all" for all: ints. Raises UserError.

    Where the name of a class is a number, numbers are names.
    """
    numbers = {name: y for y, name in enumerate(classes)}
    known = f"{', '.join(classes)}, or all"
    if not any(name.isdecimal() for name in classes):
        numbers |= {str(y): y for y in range(len(classes))}
        known = f"{', '.join(classes)}, a number from 0 to {len(classes) - 1}, or all"
    asked = classes if "all" in words else words
    for word in asked:
        if word not in numbers:
            raise UserError(f"{word!r} is not one of {known}; separate by spaces")
    return [numbers[word] for word in asked]


def add_data_flags(parser):
    """The flags of every script that reads a data set, for `read_dataset`."""
    add = parser.add_argument
    add("--dataset", default="mnist", metavar="NAME", help=KNOWN)
    add("--size", type=multiple_of(4), help="scale the images of a folder to SIZE x SIZE")


def read_dataset(args):
    """The `Dataset` of the flags. Raises UserError."""
    dataset = Dataset(args.dataset, args.size)
    print(f"reads {in_words(dataset.info)}; device: {args.device}", flush=True)
    return dataset


def training_data(args, network_class, checkpoint, *pictures):
    """The `Dataset` of the flags, to train a network of a class for the folder --models.

    Raises UserError if an output cannot be written, or a network there is of another data set.
    """
    check_outputs(checkpoint, *pictures)
    check_replaceable(checkpoint, network_class)
    if args.models.resolve().is_relative_to(Path(args.dataset).resolve()):
        raise UserError(f"--models {args.models} is in the data set: name a folder outside of it")
    dataset = read_dataset(args)
    for path, content in readable_checkpoints(args.models):
        trained = content.get("dataset")
        if isinstance(trained, dict) and set(INFO) <= set(trained):  # of this project
            check_same_dataset(trained, dataset.info, path)
    return dataset


def check_same_dataset(trained, given, path, remedy=OTHER_FOLDER):
    """Raises UserError if the network of a file was trained on another data set, both `info`."""
    what = f"{path} was trained on {in_words(trained)}, not on {in_words(given)}"
    if trained != given:
        raise UserError(f"{what}: {remedy}")


def in_words(info):
    """A data set in words, by its `info`."""
    kind = "the folder " if info["kind"] == "folder" else ""
    size = "x".join(map(str, info["shape"]))
    which = f", sha256 {info['sha256'][:8]}" if "sha256" in info else ""
    classes = ", ".join(info["classes"][:10]) + (", ..." if len(info["classes"]) > 10 else "")
    return f"{kind}{info['name']} ({size}{which}; classes {classes})"
