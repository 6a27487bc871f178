"""Measure samples with a judge that never guides: a row for each combination of settings.

    python evaluate.py                                      # the default; n = 4,300, test set
    python evaluate.py --n 500                              # a quick look
    python evaluate.py --guidance-scale 1 0 --steps 20 10   # four rows
    python evaluate.py --split validation --seed 1 --guidance-scale 0.5 1 2 --csv scales.csv
    python evaluate.py --resume --csv scales.csv ...        # continue after Ctrl-C, same flags
    python evaluate.py --guide my_guide.py:log_p            # a guide of your own
    python evaluate.py --samples FILE.npz                   # anybody's samples

Accuracy is the share of samples in which the judge sees the digit asked for. Fréchet distance,
precision and recall compare the judge's features of samples and of half of the real images of
--split. The other half gets a row; against the test set, so do the validation images. Changes are
from the first row that is drawn. `nearest` is the smallest distance of a sample to a training
image. Settings are chosen with `--split validation --seed 1`, and reported with the defaults.

`python -m evaluation.figures FILE.csv` draws a table.
"""

import os
from itertools import product
from pathlib import Path

from evaluation.rows import EXACT, OWN_CLASSIFIER, SETTINGS
from evaluation.rows import Reference, file_row, real_row, sampled_row
from evaluation.table import measure_rows
from evaluation.variants import VARIANTS
from inference import add_sampling_flags
from mnist import add_data_flags, read_dataset
from support import cli
from support.cli import MODELS, require
from support.files import check_outputs, sha256

N = 4_300


def parse_args(argv):
    parser = cli.ArgumentParser(__doc__)
    group = parser.add_argument_group("several values make several rows")
    add = group.add_argument
    names = f"forms of the guidance: {', '.join(VARIANTS)}, or FILE.py:NAME"
    guides = f"FILE.py:NAME of a log_p(x_t, t, y) -> (B,), FILE.pth of a classifier, or {EXACT}"
    samples = ".npz, .npy or folder of PNGs; without --models, nothing else is drawn"
    add("--models", nargs="+", default=[], metavar="DIR", help="folders of both networks")
    add("--variant", nargs="+", default=["guided_noise"], metavar="NAME", help=names)
    add("--guide", nargs="+", default=[OWN_CLASSIFIER], help=guides)
    add_sampling_flags(group, nargs="+")
    add("--samples", nargs="+", default=[], metavar="FILE", help=samples)
    add = parser.add_argument
    add("--n", type=cli.number(int, 100), default=N, help="samples, equally many of each class")
    add("--split", choices=("test", "validation"), default="test", help="of the real images")
    add("--judge", type=Path, default=MODELS, metavar="DIR", help="folder of judge.pth")
    add("--csv", type=cli.file_name(".csv"), metavar="CSV", help="keep the rows in a new file")
    add("--resume", action="store_true", help="continue the file of --csv")
    cli.add_run_flags(parser)
    add_data_flags(parser)
    args = parser.parse_args(argv)
    require(args.csv or not args.resume, "argument --resume: only with --csv")
    if not args.models and not args.samples:
        args.models = [os.path.relpath(MODELS)]
    return args


def wanted_rows(args, reference):
    """Every row by the flags: real images, combinations of settings, files. Raises UserError."""
    rows = []
    for values in product(*(getattr(args, name) for name in SETTINGS)):
        rows.append(sampled_row(dict(zip(SETTINGS, values)), args.n, args.seed, reference))
    rows += [file_row(path, reference) for path in args.samples]
    real = []
    for size in sorted({row.settings["n"] for row in rows}):
        real += [real_row(name, images, size) for name, images in reference.floors.items()]
    shared = {"seed": args.seed, "against": args.split}
    shared["sha256 of judge"] = sha256(reference.judge_path)
    wanted = {}  # settings -> row: one that is asked for twice is measured once
    for row in real + rows:
        settings = {name: as_text(value) for name, value in {**row.settings, **shared}.items()}
        wanted.setdefault(tuple(settings.items()), row._replace(settings=settings))
    return list(wanted.values())


def as_text(value):
    """A setting as it is in the file."""
    if isinstance(value, tuple):
        return "-".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


@cli.one_line_errors
def main(argv=None):
    args = parse_args(argv)
    if args.csv:
        check_outputs(args.csv)
        remedy = "continue it with --resume, or name another file"
        require(args.resume or not args.csv.exists(), f"{args.csv} exists: {remedy}")
    reference = Reference(args.judge, read_dataset(args), args.split, args.device)
    measure_rows(wanted_rows(args, reference), reference, args.csv, args.resume)


if __name__ == "__main__":
    main()
