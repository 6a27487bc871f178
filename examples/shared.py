"""Helpers for the examples: loading, the judge's predictions, and saving labeled rows."""

import functools

from evaluation.judge import judge_images, load_judge
from inference import load_models
from support import pictures
from support.cli import ArgumentParser, one_line_errors
from support.files import ROOT, provenance
from support.pictures import to_uint8

FAST = {"sampler": "sde-dpmsolver++", "steps": 20}  # 40% of the time of the default
judge = functools.cache(load_judge)  # never used for guidance


def example(run):
    """Decorate `run(ddpm, classifier)`: it becomes the main(argv=None) of a script."""

    @one_line_errors
    def main(argv=None):
        ArgumentParser(run.__globals__["__doc__"]).parse_args(argv)
        run(*load_models())

    return main


def read(images):
    """The digits (N,) that the judge predicts for images (N, 1, 28, 28)."""
    return judge_images(judge(), to_uint8(images))[1]


def judge_log_p(images):
    """The judge's log p of every digit (N, 10) for images (N, 1, 28, 28)."""
    features, _ = judge_images(judge(), to_uint8(images))
    return judge().linear(features).log_softmax(dim=1)


def save_rows(name, rows, columns, *networks, **settings):
    """Save results/NAME.png: rows, label -> images (N, 1, 28, 28), with column labels."""
    path = ROOT / "results" / f"{name}.png"
    columns = [str(label) for label in columns]
    pictures.save_labeled_grid(path, rows, columns, provenance(*networks, **settings))
    print(path)
