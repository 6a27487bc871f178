"""What the examples share: what the judge reads of their samples, and how they draw them."""

import functools

import torch

from evaluation.judge import judge_images, load_judge
from support.cli import MODELS, ROOT
from support.files import provenance
from support.pictures import save_labelled_grid, to_uint8

NUM_SHOWN = 20  # images of a row
judge = functools.cache(load_judge)  # it never guides


def read(images):
    """The digits (N,) that the judge reads of images (N, 1, 28, 28)."""
    return judge_images(judge(), to_uint8(images))[1]


def save_rows(name, rows, columns=(), **settings):
    """Write results/NAME.png: the first images (N, 1, 28, 28) of each label of `rows`, a dict."""
    path = ROOT / "results" / f"{name}.png"
    images = torch.cat([row[:NUM_SHOWN] for row in rows.values()])
    weights = [MODELS / "ddpm_unet.pth", MODELS / "classifier.pth"]
    columns = [str(label) for label in columns[:NUM_SHOWN]]
    save_labelled_grid(path, images, list(rows), columns, provenance(weights, **settings))
    print(path)
