"""What the scripts of examples/ share: flags, the judge's reading, pictures and tables."""

from pathlib import Path

import torch

from evaluation.bench import NAMES
from evaluation.judge import judge_images, load_judge
from evaluation.measures import wilson_interval
from support import cli
from support.checkpoints import MODELS, provenance
from support.cli import one_line_errors as one_line_errors  # for the examples
from support.files import beside, check_writable, sha256
from support.pictures import save_labelled_grid
from support.tables import write_rows

SHOWN = 20  # images of a row
DIGIT = cli.number(int, 0, 9)


def parse_args(doc, argv, *names, n, pair=None):
    """--n, --folder (where `names` are written), and --pair if it has a default. Raises UserError.

    Args:
        n, pair: the defaults of --n and --pair.
    """
    parser = cli.ArgumentParser(doc)
    parser.add_argument("--n", type=cli.number(int, 1), default=n, help="images of each kind")
    parser.add_argument("--folder", type=Path, default=beside("results"), help="of the outputs")
    if pair:
        parser.add_argument("--pair", type=DIGIT, nargs=2, default=pair, metavar="Y", help="digits")
    args = parser.parse_args(argv)
    check_writable(*[args.folder / name for name in names])
    return args


def read(images):
    """What the judge reads of images (N, 1, 28, 28) in [-1, 1]: digits (N,). Raises UserError."""
    return judge_images(load_judge(), images)[1]


def share(right):
    """The share of a boolean (N,) with its 95 % interval and N, as text."""
    k, n = int(right.sum()), len(right)
    low, high = wilson_interval(k, n) if n else (0, 1)
    return f"{k / max(n, 1):.3f} [{low:.3f}, {high:.3f}] of {n}"


def save_rows(path, rows, column_labels, **settings):
    """Write a PNG with the first SHOWN images of each row.

    Args:
        rows: the images (N, 1, 28, 28) in [-1, 1] of each label. settings: for the provenance.
    """
    images = torch.cat([row[:SHOWN] for row in rows.values()])
    made_from = provenance(MODELS, NAMES, "cpu", seed=0, **settings)
    save_labelled_grid(path, images, list(rows), column_labels[:SHOWN], made_from)


def save_table(path, rows):
    """Write dicts as a CSV file, each with the seed and the SHA-256 of the weights."""
    made_by = {"seed": 0, "torch": torch.__version__, "device": "cpu"}
    made_by |= {Path(name).stem: sha256(MODELS / name) for name in NAMES}
    write_rows(path, [row | made_by for row in rows])
