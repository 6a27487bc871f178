"""The data: MNIST, a data set of its form, or a folder of images, as tensors in [-1, 1].

Everything is chosen on the validation images; the test images are only reported. The validation
images of MNIST, Fashion-MNIST and KMNIST are the last 5,000 of the training file. Of a folder, a
random tenth, always the same, is for validation, and another tenth for the test.
"""

from pathlib import Path

import torch
from torchvision import datasets, transforms

from support.cli import ROOT, UserError, require
from support.files import load_tensors
from support.pictures import from_uint8
from support.streams import generator

DATA = ROOT / "data"
TORCHVISION = {
    "mnist": datasets.MNIST,
    "fashion-mnist": datasets.FashionMNIST,
    "kmnist": datasets.KMNIST,
}
NUM_VALIDATION = 5_000
SPLITS = ("train", "validation", "test")
FOLDER_TRANSFORM = transforms.Compose(
    [transforms.Grayscale(), transforms.Resize((28, 28)), transforms.PILToTensor()]
)


class Dataset:
    """A data set: `load(split)`, and `info`, a dict that its checkpoints carry.

    Args:
        name: one of `TORCHVISION`, which downloads what is missing, or a folder of one folder of
            images per class. Strokes should be bright on black, as in MNIST.
        data_dir: where torchvision finds, unpacks and downloads MNIST/raw/*.gz and the like.

    Raises:
        UserError: there is no such data set, or it cannot be read or downloaded.
    """

    def __init__(self, name="mnist", data_dir=DATA):
        try:
            if name in TORCHVISION:
                self.splits, classes = read_torchvision(TORCHVISION[name], data_dir)
            else:
                self.splits, classes = read_folder(name)
        except (OSError, RuntimeError, ValueError, AssertionError) as error:
            if name not in TORCHVISION:
                raise UserError(f"--dataset {name}: {error}") from error
            remedy = "`git checkout -- data` restores MNIST, torchvision downloads the others"
            raise UserError(
                f"cannot read {name} in {data_dir}: {str(error) or 'it is damaged'}; "
                f"delete its folder there: {remedy}"
            ) from error
        self.info = {"name": Path(name).resolve().name, "classes": classes}

    def load(self, split):
        """Read "train", "validation" or "test"; of MNIST, 55,000, 5,000 and 10,000 images.

        Returns:
            images: float (N, 1, 28, 28) in [-1, 1]. labels: int64 (N,), 0 .. len(classes) - 1.
        """
        images, labels = self.splits[split]
        return from_uint8(images), labels


def read_torchvision(source, data_dir):
    """A data set of torchvision: split -> (uint8 (N, 1, 28, 28), int64 (N,)), and its classes."""
    train, test = (source(data_dir, train=is_train, download=True) for is_train in (True, False))
    images, labels = train.data[:, None], train.targets
    splits = {
        "train": (images[:-NUM_VALIDATION], labels[:-NUM_VALIDATION]),
        "validation": (images[-NUM_VALIDATION:], labels[-NUM_VALIDATION:]),
        "test": (test.data[:, None], test.targets),
    }
    return splits, [name.split(" - ")[0] for name in train.classes]  # MNIST has "3 - three"


def read_folder(folder):
    """The images of a folder of one folder per class, as `read_torchvision`."""
    known = f"{', '.join(TORCHVISION)}, or a folder of one folder of images per class"
    require(Path(folder).is_dir(), f"--dataset {folder}: it is none of {known}")
    pictures = datasets.ImageFolder(folder, FOLDER_TRANSFORM)
    images = torch.stack([image for image, _ in pictures])
    labels = torch.tensor(pictures.targets)
    order = torch.randperm(len(images), generator=generator(0, "split"))
    tenth = len(images) // 10
    require(tenth >= 10, f"--dataset {folder}: it has {len(images)} images, 100 are the least")
    parts = order[2 * tenth :], order[:tenth], order[tenth : 2 * tenth]
    splits = {name: (images[part], labels[part]) for name, part in zip(SPLITS, parts)}
    return splits, pictures.classes


def load_mnist(split):
    """One split of MNIST: see `Dataset.load`."""
    return Dataset().load(split)


def class_numbers(words, classes):
    """The classes that are named, or numbered from 0; "all" for all: ints. Raises UserError."""
    numbers = {str(y): y for y in range(len(classes))}
    numbers |= {name: y for y, name in enumerate(classes)}
    found = []
    for word in words:
        known = word in numbers or word == "all"
        names = f"{', '.join(classes)}, a number from 0 to {len(classes) - 1}, or all"
        wrong = f"argument --digits/--classes: {word!r} is not one of {names}; separate by spaces"
        require(known, wrong)
        found += range(len(classes)) if word == "all" else [numbers[word]]
    return found


def add_data_flags(parser):
    """The flags of every script that reads a data set."""
    names = f"{', '.join(TORCHVISION)}, or a folder of one folder of images per class"
    parser.add_argument("--dataset", default="mnist", metavar="NAME", help=names)
    data_help = "where torchvision keeps its files"
    parser.add_argument("--data", type=Path, default=DATA, metavar="DIR", help=data_help)


def training_data(args):
    """The `Dataset` of the flags, to train a network for the folder --models.

    Raises UserError if networks in that folder are of another data set.
    """
    dataset = Dataset(args.dataset, args.data)
    for path in sorted(args.models.glob("*.pth")):
        checkpoint = load_tensors(path, "restore or delete it")
        if "dataset" in checkpoint:  # not the state of a training
            check_same_dataset(checkpoint["dataset"], dataset.info, path)
    return dataset


def check_same_dataset(trained, given, path):
    """Raises UserError if the network of a file was trained on another data set, both `info`."""
    same = trained["name"] == given["name"] and trained["classes"] == given["classes"]
    remedy = "name another folder with --models, or the data set with --dataset"
    require(same, f"{path} was trained on {trained['name']}, not on {given['name']}: {remedy}")
