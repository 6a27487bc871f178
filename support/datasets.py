"""Images and labels from files: the IDX format, and a folder of one folder of images per class."""

import gzip
import hashlib
import sys
import zlib

import numpy as np
import torch
from torchvision import transforms
from torchvision.datasets import ImageFolder

from support.errors import UserError
from support.streams import generator

MIN_IMAGES, MAX_CLASSES = 100, 100  # of a folder


def read_idx(path, shape, md5, restore):
    """The content of a packed IDX file: uint8 (N, *shape).

    A file of the right kind whose checksum is another is read with a warning.

    Args:
        shape: of an entry: (H, W) of images, () of labels. md5: of the published file.
        restore: how to get the file, for error messages.

    Raises:
        UserError: the file is missing, damaged or cannot be read.
    """
    try:
        packed = path.read_bytes()
        content = np.frombuffer(gzip.decompress(packed), dtype=np.uint8)
        header = content[: 8 + 4 * len(shape)].view(">i4")  # a magic number, N, the shape
        if header[0] != 2049 + len(shape) or tuple(header[2:]) != shape:
            raise ValueError("another kind of file")
        values = content[header.nbytes :].reshape(header[1], *shape)
    except FileNotFoundError:
        raise UserError(f"{path} is missing: {restore}; --data names another folder") from None
    except (EOFError, IndexError, ValueError, gzip.BadGzipFile, zlib.error):
        raise UserError(f"{path} is damaged: {restore}") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    if hashlib.md5(packed).hexdigest() != md5:
        print(f"warning: {path} is not the published file", file=sys.stderr)
    return values.copy()


class Folder:
    """Images in a folder per class, as torchvision's ImageFolder finds them.

    A random tenth, always the same, is for validation, and another tenth for the test.

    Args:
        path: the folder. size: (H, W), to which images are scaled.

    Raises:
        UserError: it is no such folder, or has too few images or classes.
    """

    def __init__(self, path, size):
        grey = [transforms.Grayscale(), transforms.Resize(size), transforms.PILToTensor()]
        try:
            self.images = ImageFolder(path, transforms.Compose(grey))
        except OSError as error:
            raise UserError(
                f"{path} is not a folder of one folder of images per class: {error}"
            ) from error
        self.classes = self.images.classes
        if not (2 <= len(self.classes) <= MAX_CLASSES and len(self.images) >= MIN_IMAGES):
            raise UserError(
                f"{path} has {len(self.images)} images of {len(self.classes)} classes; "
                f"{MIN_IMAGES} images or more of 2 to {MAX_CLASSES} classes are needed"
            )

    def load(self, split):
        """The images, uint8 (N, 1, H, W), and labels (N,) of "train", "validation" or "test"."""
        order = torch.randperm(len(self.images), generator=generator(0, "split")).tolist()
        tenth = len(order) // 10
        parts = {"validation": order[:tenth], "test": order[tenth : 2 * tenth]}
        index = parts.get(split, order[2 * tenth :])
        images, labels = zip(*map(self.read, index))
        return torch.stack(images), torch.tensor(labels)

    def read(self, i):
        try:
            return self.images[i]
        except (OSError, SyntaxError, ValueError) as error:  # what Pillow raises on damaged files
            raise UserError(f"cannot read {self.images.samples[i][0]}: {error}") from error
