"""Anybody's samples as tensors: `.npz`, `.npy`, `.pt`, or a folder of PNGs."""

from dataclasses import dataclass
from pathlib import Path

import torch

from evaluation.formats import read_arrays
from support.errors import UserError
from support.pictures import to_uint8

NUM_LEAST = 100
SIZE, LARGEST = 28, 64  # pixels a side; larger ones up to LARGEST are taken as padded
SHAPES = "(N, 28, 28), (N, 28, 28, 1) or (N, 1, 28, 28)"
TOLERANCE = 1e-3  # beyond a range of floats, for rounding


@dataclass
class Samples:
    """What a file holds.

    Attributes:
        images: uint8 (N, 1, 28, 28). labels: int64 (N,), or None.
        taken: what was taken as what, for the user to check.
        uncropped: uint8 (N, 1, H, W), if the images were cropped.
    """

    path: Path
    images: torch.Tensor
    labels: torch.Tensor | None
    taken: str
    uncropped: torch.Tensor | None = None


def read_samples(path, num_classes):
    """The `Samples` of a file or folder that holds 100 images or more.

    Floats are rounded to 8 bits, so that every form of the same images scores the same.

    Raises:
        UserError: it cannot be read, or has images of another shape or range, or labels that are
            not a whole number 0 .. num_classes - 1 for each image.
    """
    try:
        images, labels = read_arrays(path)
        images = with_channel(images)
        if len(images) < NUM_LEAST:
            raise UserError(f"{len(images)} images; {NUM_LEAST} or more can be scored")
        images, scale = in_8_bits(images)
        labels = checked_labels(labels, len(images), num_classes)
        taken = f"{len(images)} images, {scale}, {'no' if labels is None else 'with'} labels"
        if images.shape[-1] == SIZE:
            return Samples(path, images, labels, taken)
        return Samples(path, cropped(images), labels, taken, uncropped=images)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def with_channel(images):
    """Images of a known shape as (N, 1, H, W)."""
    shape = tuple(images.shape)
    if images.ndim == 4 and 1 in (shape[1], shape[3]):
        images = images.squeeze(1 if shape[1] == 1 else 3)
    square = images.ndim == 3 and images.shape[1] == images.shape[2]
    if not square or images.shape[1] not in range(SIZE, LARGEST + 1, 2):
        raise UserError(f"images of shape {shape}; what can be scored is {SHAPES}")
    return images.unsqueeze(1)


def in_8_bits(images):
    """Images in uint8, and the range that they were taken to have.

    Floats in [-1, 1] have their background, or their ink, at -1. So if none is below -.5, these are
    floats in [0, 1], perhaps a little below 0 by a filter or a network; that is not guessed at.
    """
    if images.dtype != torch.uint8 and not images.is_floating_point():
        raise UserError(f"images of type {images.dtype}; what can be scored is uint8 or float")
    grey, scale = images if images.dtype == torch.uint8 else images.float(), "uint8"
    low, high = (value.item() for value in grey.aminmax())
    if images.dtype != torch.uint8:
        bottom = 0 if low > -0.5 else -1
        if not bottom - TOLERANCE <= low <= high <= 1 + TOLERANCE:  # nor if one is NaN
            raise UserError(f"values from {low:g} to {high:g}; what can be scored is uint8, or "
                            "floats in [0, 1] or [-1, 1]: undo a normalisation, clip")  # fmt: skip
        grey, scale = to_uint8(grey if bottom else 2 * grey - 1), f"floats in [{bottom}, 1]"
    if grey.max() == 1:  # of 255
        raise UserError(f"no value above {high:g}; white is 255 in uint8, and 1 in floats")
    return grey, scale


def checked_labels(labels, n, num_classes):
    """Labels as int64 (N,); None stays None."""
    if labels is None:
        return None
    labels = labels.squeeze(1) if labels.ndim == 2 and labels.shape[1] == 1 else labels
    if labels.shape != (n,):
        raise UserError(f"labels of shape {tuple(labels.shape)} for {n} images")
    must = f"labels are whole numbers from 0 to {num_classes - 1}"
    if labels.dtype == torch.bool or labels.is_complex():
        raise UserError(f"{must}, not {labels.dtype}")
    good = torch.isin(labels.double(), torch.arange(num_classes).double())
    if not good.all():
        raise UserError(f"{must}, not {labels[~good][0].item():g}")
    return labels.long()


def cropped(images):
    """The middle 28x28 of images (N, 1, H, W) whose border is empty."""
    margin = (images.shape[-1] - SIZE) // 2
    inside = torch.zeros(images.shape[-2:], dtype=torch.bool)
    inside[margin:-margin, margin:-margin] = True
    border = images[:, 0, ~inside].short()  # (N, pixels)
    if ((border - border.median()).abs() > 64).float().mean() > 0.01:
        raise UserError(f"images of {images.shape[-1]} pixels a side with something in the border; "
                        "scale them to 28x28")  # fmt: skip
    return images[..., margin:-margin, margin:-margin].contiguous()
