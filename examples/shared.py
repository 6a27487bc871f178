"""What the examples share: a script around them, what the judge reads, and rows of a picture."""

import functools
import sys

from evaluation.judge import judge_images, load_judge
from inference import load_models
from support.cli import ArgumentParser, one_line_errors
from support.files import MODELS, ROOT, check_outputs, provenance
from support.pictures import save_labelled_grid, to_uint8

FAST = {"sampler": "sde-dpmsolver++", "steps": 20}  # as good as the default, in 40 % of the time
judge = functools.cache(load_judge)  # it never guides


def example(*names):
    """Decorate `draw(ddpm, classifier)`: it becomes the main(argv=None) of a script.

    The pictures results/NAME.png that it draws, and the networks, are checked before.
    """

    def decorate(draw):
        @one_line_errors
        def main(argv=None):
            ArgumentParser(sys.modules[draw.__module__].__doc__).parse_args(argv)
            check_outputs(*(picture_path(name) for name in names))
            judge()
            draw(*load_models())

        return main

    return decorate


def picture_path(name):
    """results/NAME.png."""
    return ROOT / "results" / f"{name}.png"


def read(images):
    """The digits (N,) that the judge reads of images (N, 1, 28, 28)."""
    return judge_images(judge(), to_uint8(images))[1]


def judge_log_p(images):
    """The log p that the judge gives each digit, of images (N, 1, 28, 28): (N, 10)."""
    features, _ = judge_images(judge(), to_uint8(images))
    return judge().linear(features).log_softmax(dim=1)


def save_rows(name, rows, columns=(), **settings):
    """Write results/NAME.png: the images (N, 1, 28, 28) of each label of `rows`, a dict."""
    path = picture_path(name)
    weights = [MODELS / "ddpm_unet.pth", MODELS / "classifier.pth"]
    columns = [str(label) for label in columns]
    save_labelled_grid(path, rows, columns, provenance(weights, **settings))
    print(path)
