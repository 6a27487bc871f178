"""What the examples share: a script around them, what the judge reads, and rows of a picture."""

import functools
import sys

import torch

from evaluation.judge import judge_images, load_judge
from inference import load_models
from support.cli import ArgumentParser, one_line_errors
from support.files import MODELS, ROOT, provenance
from support.pictures import save_labelled_grid, to_uint8

NUM_SHOWN = 20  # images of a row
judge = functools.cache(load_judge)  # it never guides


def example(draw):
    """Decorate `draw(unet, classifier)`: it becomes the main(argv=None) of a script."""

    @one_line_errors
    def main(argv=None):
        ArgumentParser(sys.modules[draw.__module__].__doc__).parse_args(argv)
        draw(*load_models())

    return main


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
