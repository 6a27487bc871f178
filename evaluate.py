"""Measure samples with a judge that never guides: a row for each combination of settings.

    python evaluate.py --n 500                              # a quick look; by default, n = 4,300
    python evaluate.py --guidance-scale 1 0 --steps 20 10   # four rows
    python evaluate.py --csv table.csv --resume ...         # continue after Ctrl-C, same flags
    python evaluate.py --guide my_guide.py:log_p            # a guide of your own
    python evaluate.py --samples FILE.npz                   # anybody's samples

Accuracy is the share of samples in which the judge sees the digit asked for. Fréchet distance,
precision and recall compare the judge's features of samples and of half of the real images of
--split. The other half gets a row; against the test set, so do the validation images. Changes are
from the first row that is drawn. `nearest` is the smallest distance of a sample to a training
image. Settings are chosen with `--split validation --seed 1`, and reported with the defaults. Of a
guide or a variant in FILE.py, that file is hashed, and not what it loads.
"""

import time
from pathlib import Path

from evaluation.judge import load_judge
from evaluation.measures import COMPARED, Scores, balanced_parts, nearest_distances, readings
from evaluation.report import (
    VERSIONS,
    as_text,
    cell,
    check_new_table,
    described,
    read_rows,
    write_rows,
)
from evaluation.rows import add_row_flags, real_row, sample_rows, unique
from mnist import check_same_dataset, read_dataset
from support import cli
from support.errors import require
from support.files import MODELS, check_outputs, sha256


def parse_args(argv):
    parser = cli.ArgumentParser(__doc__)
    add_row_flags(parser, n=4_300)
    add = parser.add_argument
    add("--judge", type=Path, default=MODELS, metavar="DIR", help="folder of judge.pth")
    add("--resume", action="store_true", help="continue the file of --csv")
    args = parser.parse_args(argv)
    require(args.csv or not args.resume, "argument --resume: only with --csv")
    if args.resume:
        check_outputs(args.csv)
    elif args.csv:
        check_new_table(args.csv, "continue it with --resume, or name another file")
    return args


def real_images(judge, dataset, split, sizes):
    """`Readings` of half of a split, to measure against, and rows of other real images.

    The rows, of each size, are of the other half, which no sampler can be expected to beat, and
    against the test set also of the validation images, which other people wrote.
    """
    num_classes = len(dataset.info["classes"])
    images, labels = dataset.splits[split]
    here, there = balanced_parts(labels, 2, num_classes)  # (K, M) each
    others = [(f"other half of the {split} set", split, there)]
    if split == "test":
        [everywhere] = balanced_parts(dataset.splits["validation"][1], 1, num_classes)
        others.append(("validation images", "validation", everywhere))
    rows = []
    for size in sorted(sizes):
        for name, source, index in others:
            some = index[:, : size // num_classes].flatten()
            rows.append(real_row(name, dataset.splits[source], some))
    here = here.flatten()
    return readings(judge, images[here], labels[here]), rows


def measure_row(row, judge, real, train_images):
    """The `Scores` of a `Row` against `Readings` of real images, and all its columns: a dict."""
    start = time.perf_counter()
    images, labels = row.draw()
    seconds = (time.perf_counter() - start) / len(images)
    scores = Scores(readings(judge, images, labels), real)
    columns = scores.row()
    if labels is None:  # what the judge reads was taken for right
        columns = {name: v for name, v in columns.items() if not name.startswith("accuracy")}
    if row.sampled:
        columns["seconds"] = seconds
    nearest = nearest_distances(images, train_images)  # is it copying?
    columns["nearest"], columns["nearest_median"] = nearest.min().item(), nearest.median().item()
    return scores, columns


def rows_of_file(path, rows, machine):
    """The rows that are in a file. Raises UserError if they are not the first of those wanted."""
    done = read_rows(path) if path.exists() else []
    other = f"--resume: {path} has rows of other settings, weights or versions; name another file"
    require(len(done) <= len(rows), other)
    for found, row in zip(done, rows):
        wanted = row.settings | machine
        require(all(found.get(k) == as_text(v) for k, v in wanted.items()), other)
    print(f"--resume: {len(done)} of {len(rows)} rows are taken from {path}")
    return done


@cli.one_line_errors
def main(argv=None):
    args = parse_args(argv)
    dataset = read_dataset(args)
    judge = load_judge(args.judge / "judge.pth", args.device)
    check_same_dataset(judge.dataset, dataset.info, judge.path)
    samples = sample_rows(args, dataset)
    sizes = {row.settings["n"] for row in samples}
    real, others = real_images(judge, dataset, args.split, sizes)
    shared = {"seed": args.seed, "against": args.split, "sha256 of judge": sha256(judge.path)}
    rows = [row._replace(settings=row.settings | shared) for row in unique(others + samples)]
    machine = VERSIONS | {"device": args.device}
    done = rows_of_file(args.csv, rows, machine) if args.resume else []
    reference = judge, real, dataset.splits["train"][0]
    drawn_before = [row for row in rows[: len(done)] if row.sampled]
    left = rows[len(done) :]
    first = None  # the scores that changes are from: of an old row, they are measured once more
    if drawn_before and any(row.sampled for row in left):
        first, _ = measure_row(drawn_before[0], *reference)
    for row in left:
        scores, columns = measure_row(row, *reference)
        if row.sampled:
            columns |= scores.changes_from(first) if first else {}
            first = first or scores
        done.append(row.settings | columns | machine)
        main_columns = [name for name in ("accuracy", *COMPARED) if name in columns]
        shown = [f"{name} {cell(columns, name)}" for name in main_columns]
        print(f"{described(row.settings)}\n    {'  '.join(shown)}")
        if args.csv:
            write_rows(args.csv, done)


if __name__ == "__main__":
    main()
