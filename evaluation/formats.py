"""Kinds of files that hold images: `.npz`, `.npy`, `.pt`, and folders of PNGs.

Pickled objects are not read, and no code in a file is run.
"""

import contextlib

import numpy as np
import torch
from PIL import Image

from support.cli import is_out_of_memory
from support.errors import UserError

IMAGES = ("arr_0", "images", "image", "samples", "sample", "x", "data", "imgs")
LABELS = ("arr_1", "labels", "label", "y", "targets", "target", "classes")
LARGEST_PNG = 64  # pixels a side
MODES = ("1", "L", "LA", "P", "RGB", "RGBA")  # of PIL, 8 bits a channel


def read_arrays(path):
    """The images of a file or folder, and its labels or None: tensors of any shape and type.

    Raises:
        UserError: it is missing, damaged, of an unknown kind, or does not say what is what.
    """
    try:
        images, labels = read_folder(path) if path.is_dir() else read_file(path)
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError("there is no such file or folder") from None
    except Exception as error:  # of numpy, zipfile, PIL or the unpickler
        if is_out_of_memory(error):
            raise UserError("not enough memory for what it holds; split it") from None
        if isinstance(error, OSError) and error.strerror:
            raise UserError(f"cannot be read: {error.strerror}") from None
        if "allow_pickle" in str(error):
            raise UserError("holds pickled objects, which are not read; save arrays") from None
        raise UserError(f"is damaged, or not what its name says ({path.suffix})") from error
    return as_tensor(images, "images"), as_tensor(labels, "labels")


def read_file(path):
    """The images and the labels of a .npz, .npy or .pt file."""
    if path.suffix in (".npz", ".npy"):
        with open(path, "rb") as file:
            if file.read(2) not in (b"PK", b"\x93N"):  # np.load takes all others for pickles
                raise UserError(f"is damaged, or not what its name says ({path.suffix})")
            file.seek(0)
            content = np.load(file, allow_pickle=False)
            return (content, None) if isinstance(content, np.ndarray) else by_name(content)
    if path.suffix not in (".pt", ".pth"):
        path.stat()  # a missing file is that, whatever its name
        raise UserError("is of an unknown kind; name a .npz, .npy or .pt file or a folder of PNGs")
    with open(path, "rb") as file:
        content = torch.load(file, map_location="cpu", weights_only=True)
    if isinstance(content, (tuple, list)) and len(content) in (1, 2):
        content = dict(zip(("images", "labels"), content))
    return by_name(content) if isinstance(content, dict) else (content, None)


def by_name(arrays):
    """The images and the labels, or None, of a mapping of names to arrays."""
    names = [name for name in arrays if isinstance(name, str)]
    labels = [name for name in names if name.lower() in LABELS]
    images = [name for name in names if name.lower() in IMAGES]
    images = images or [name for name in names if name not in labels or len(names) == 1]
    if len(images) != 1 or len(labels) > 1:
        found = ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")
        raise UserError(f"which array is what? It has {found or 'none'}; name images and labels")
    labels = [name for name in labels if name not in images]
    return arrays[images[0]], arrays[labels[0]] if labels else None


def read_folder(path):
    """The PNGs of a folder, or of its folders 0 .. 9, whose names are the labels: uint8, int64."""
    files = pngs(path)
    folders = {folder: pngs(folder) for folder in sorted(path.iterdir()) if folder.is_dir()}
    folders = {folder: inside for folder, inside in folders.items() if inside}
    if bool(files) == bool(folders):
        have = "both PNGs and folders of them" if files else "no PNGs"
        raise UserError(f"has {have}; it should have PNGs, or folders of them named 0 to 9")
    for folder in folders:
        if not (folder.name.isascii() and folder.name.isdecimal()):
            raise UserError(f"the folder {folder.name} is not named by a digit")
    labels = [int(folder.name) for folder, inside in folders.items() for _ in inside]
    images = [read_png(file) for file in files or sum(folders.values(), [])]
    for file, image in zip(files or sum(folders.values(), []), images):
        if image.shape != images[0].shape:
            raise UserError(f"{file.name} is of another size than the first image")
    return np.stack(images), np.array(labels) if labels else None


def pngs(folder):
    """The PNGs in a folder, sorted; hidden ones are left out."""
    files = [path for path in folder.iterdir() if path.suffix.lower() == ".png"]
    return sorted(path for path in files if not path.name.startswith("."))


def read_png(path):
    """A PNG in grey, 8 bits, without transparency: uint8 (H, W)."""
    try:
        with Image.open(path, formats=["PNG"]) as image:
            if max(image.size) > LARGEST_PNG:
                raise UserError(f"{path.name} has {image.width} x {image.height} pixels, not 28x28")
            if image.mode not in MODES:
                raise UserError(f"{path.name} has more than 8 bits per pixel")
            rgba = np.asarray(image.convert("RGBA"))
    except (OSError, SyntaxError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is damaged, or not a PNG"
        raise UserError(f"{path.name} cannot be read: {reason}") from error
    if (rgba[..., :3] != rgba[..., :1]).any() or (rgba[..., 3] < 255).any():
        raise UserError(f"{path.name} is in colour or transparent; save it in grey")
    return rgba[..., 0]


def as_tensor(array, name):
    """A tensor of a numpy array or a tensor; None stays None."""
    if isinstance(array, np.ndarray):
        with contextlib.suppress(TypeError):  # strings, records
            native = array.astype(array.dtype.newbyteorder("="), copy=False)
            return torch.from_numpy(native)
    plain = isinstance(array, torch.Tensor) and array.layout == torch.strided
    if array is None or (plain and array.device.type == "cpu"):
        return array if array is None else array.detach()
    what = getattr(array, "dtype", type(array).__name__)
    raise UserError(f"the {name} are no plain array of numbers, but {what}")
