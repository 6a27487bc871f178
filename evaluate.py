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
"""

from pathlib import Path

from evaluation.rows import Reference, add_row_flags, as_text, real_row, sample_rows
from evaluation.table import check_new_table, measure_rows
from mnist import read_dataset
from support import cli
from support.cli import MODELS, require
from support.files import check_outputs, sha256

N = 4_300


def parse_args(argv):
    parser = cli.ArgumentParser(__doc__)
    add_row_flags(parser, N)
    add = parser.add_argument
    add("--judge", type=Path, default=MODELS, metavar="DIR", help="folder of judge.pth")
    add("--resume", action="store_true", help="continue the file of --csv")
    args = parser.parse_args(argv)
    require(args.csv or not args.resume, "argument --resume: only with --csv")
    return args


def wanted_rows(args, reference):
    """Every row by the flags: real images, combinations of settings, files. Raises UserError."""
    rows = sample_rows(args, reference.dataset)
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


@cli.one_line_errors
def main(argv=None):
    args = parse_args(argv)
    if args.resume:
        check_outputs(args.csv)
    else:
        check_new_table(args.csv, "continue it with --resume, or name another file")
    reference = Reference(args.judge, read_dataset(args), args.split, args.device)
    measure_rows(wanted_rows(args, reference), reference, args.csv, args.resume)


if __name__ == "__main__":
    main()
