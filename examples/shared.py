"""Helpers for the examples: a flag, and the judge's predictions."""

import functools
from pathlib import Path

from evaluation.judge import judge_images, load_judge
from support.pictures import to_uint8

FAST = {"sampler": "sde-dpmsolver++", "steps": 20}  # 40% of the time of the default
judge = functools.cache(load_judge)  # never used for guidance


def add_output_flag(parser):
    """Add --output, the folder for the files of an example."""
    folder = Path("output")
    parser.add_argument("--output", type=Path, default=folder, metavar="DIR", help="output folder")


def read(images):
    """The digits (N,) that the judge predicts for images (N, 1, 28, 28)."""
    return judge_images(judge()[0], to_uint8(images))[1]
