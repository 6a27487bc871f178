"""Helpers for the examples: flags, the judge's predictions, and saving labeled rows."""

import functools
from pathlib import Path

from evaluation.judge import judge_images, load_judge
from inference import load_models
from support import pictures
from support.cli import ArgumentParser, one_line_errors
from support.files import provenance
from support.pictures import to_uint8

FAST = {"sampler": "sde-dpmsolver++", "steps": 20}  # 40% of the time of the default
judge = functools.cache(load_judge)  # never used for guidance


def add_output_flag(parser):
    """Add --output, the folder for the files of an example."""
    folder = Path("output")
    parser.add_argument("--output", type=Path, default=folder, metavar="DIR", help="output folder")


def example(run):
    """Decorate `run(ddpm, classifier, folder)`: it becomes the main(argv=None) of a script."""

    @one_line_errors
    def main(argv=None):
        parser = ArgumentParser(run.__globals__["__doc__"])
        add_output_flag(parser)
        run(*load_models(), parser.parse_args(argv).output)

    return main


def read(images):
    """The digits (N,) that the judge predicts for images (N, 1, 28, 28)."""
    return judge_images(judge(), to_uint8(images))[1]


def save_rows(path, rows, columns, *networks, **settings):
    """Save a PNG file of rows, label -> images (N, 1, 28, 28), with column labels."""
    columns = [str(label) for label in columns]
    pictures.save_labeled_grid(path, rows, columns, provenance(*networks, **settings))
    print(f"saved {path}")
