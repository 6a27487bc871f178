"""Measure samples with a judge that never guides: a row for each combination of settings.

    python evaluate.py --n 500                                # a quick look; by default, n = 4,300
    python evaluate.py --guidance-scale 1 3 --steps 50 20     # four rows
    python evaluate.py --method guided unguided classifier_free
    python evaluate.py --guide my_guide.py:log_p              # a guide of your own
    python evaluate.py --samples FILE.npz                     # anybody's samples

Accuracy is the share of samples in which the judge sees the digit asked for. Fréchet distance,
precision and recall compare the judge's features of the samples with those of half of the real
images of --split. The other half gets its own row; with --split test, so do the validation images.
Changes are relative to the first row of generated samples. `nearest` is the smallest distance of a
sample to a training image. Choose settings with the defaults; report with `--split test --seed 0`.
Rows are written to --csv as they are measured: after an interruption, ask only for the missing
rows, in a new file. Of a FILE.py, only that file is hashed, not what it imports.
"""

import time

from evaluation.measures import NUM_NEIGHBOURS, Scores, balanced_parts, nearest_distances, readings
from evaluation.report import VERSIONS, cell, check_new_table, described, write_rows
from evaluation.rows import JUDGE, add_row_flags, judge_of, real_row, sample_rows, unique
from mnist import read_dataset
from support import cli
from support.errors import UserError
from support.files import sha256


def parse_args(argv):
    parser = cli.ArgumentParser(__doc__)
    add_row_flags(parser, n=4_300)
    args = parser.parse_args(argv)
    if args.csv:
        check_new_table(args.csv)
    return args


def real_images(judge, dataset, split, sizes):
    """`Readings` of half of a split, to measure against, and rows of other real images.

    The rows, of each size, are of the other half, which no sampler can be expected to beat, and
    against the test set also of the validation images, which other people wrote.
    """
    num_classes = len(dataset.info["classes"])
    images, labels = dataset.splits[split]
    here, there = balanced_parts(labels, 2, num_classes)  # (K, M) each
    if num_classes * ((here.shape[1] + 1) // 2) <= NUM_NEIGHBOURS:  # in half of this half
        raise UserError(f"the {split} images are too few to measure with: {len(labels)}")
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


@cli.one_line_errors
def main(argv=None):
    args = parse_args(argv)
    dataset = read_dataset(args)
    judge = judge_of(args, dataset)
    samples = sample_rows(args, dataset)
    sizes = {row.settings["n"] for row in samples}
    real, others = real_images(judge, dataset, args.split, sizes)
    judge_hash = sha256(args.judge / JUDGE)
    shared = {"seed": args.seed, "against": args.split, "sha256 of judge": judge_hash}
    machine = VERSIONS | {"device": args.device}
    first, done = None, []  # the scores that changes are from; the rows of the table
    for row in unique(others + samples):
        scores, columns = measure_row(row, judge, real, dataset.splits["train"][0])
        if row.sampled:
            columns |= scores.changes_from(first) if first else {}
            first = first or scores
        settings = row.settings | shared
        done.append(settings | columns | machine)
        if args.csv:
            write_rows(args.csv, done)
        names = [name for name in columns if f"{name}_low" in columns and "_change" not in name]
        shown = [f"{name} {cell(columns, name)}" for name in names]
        print(f"{described(settings)}\n    {'  '.join(shown)}")


if __name__ == "__main__":
    main()
