"""Measure step 3 with a judge that never guides.

    python evaluate.py                  # the final table: n = 4,300, against the test set
    python evaluate.py --quick          # n = 500, printed only
    python evaluate.py --sweep scales   # or samplers, windows, controls; on the validation set
    python evaluate.py --sweep guide    # is the guide's gradient calibrated?
    python evaluate.py --resume         # continue an interrupted table
    python evaluate.py --quick --guide my_guide.py:log_p    # a row for a guide of your own
    python evaluate.py --samples FILE.npz --output nearest.png  # anybody's images, 100 or more

Accuracy is the share of samples in which the judge sees the digit asked for. Fréchet distance,
precision and recall compare the judge's features of samples and of half of the real images; the
other half gets a row. The sweeps, which choose, are of validation images and seed 1.

Needs requirements-dev.txt. Every command measures all of its rows. Tables and figures go to
results/, of other seeds to results/seedN/; with --models DIR, to DIR instead of results/. The row
of --guide has the SHA-256 of its file as that of the classifier.
"""

import argparse
from pathlib import Path

from evaluation import measures
from evaluation.bench import Bench
from evaluation.scores import score_files
from evaluation.tables import SWEEPS, copies, final_table
from evaluation.variants import brought
from inference import GUIDANCE_SCALE
from mnist import add_data_flags, open_dataset
from support import cli
from support.errors import require
from support.files import check_writable, make_folders, results_folder

NUM_FINAL, NUM_QUICK = 4_300, 500
SECONDS = {"scales": 1_200, "samplers": 500, "windows": 800, "controls": 600, "guide": 80}
FINAL_SEED, SWEEP_SEED = 0, 1  # what is chosen is reported on noise that it was not chosen on


def parse_args(argv):
    parser = cli.ArgumentParser(__doc__)
    what = parser.add_mutually_exclusive_group()
    n_help = f"samples of the final table, equally many of each class (default: {NUM_FINAL})"
    what.add_argument("--n", type=cli.number(int, 20), help=n_help, default=argparse.SUPPRESS)
    what.add_argument("--quick", action="store_true", help=f"n = {NUM_QUICK}, printed only")
    guide_help = "also a row for your own guide, a function log_p(x_t, t, y) -> (B,)"
    parser.add_argument("--guide", metavar="FILE.py:NAME", help=guide_help)
    parser.add_argument("--guidance-scale", type=cli.number(float, 0), metavar="S",
                        default=GUIDANCE_SCALE, help="of the row of --guide")  # fmt: skip
    what.add_argument("--sweep", choices=SWEEPS, help="a table and figure, on the validation set")
    what.add_argument("--samples", type=Path, nargs="+", metavar="FILE",
                      help="score images (printed only): .npz, .npy, .pt, PNG folder")  # fmt: skip
    picture = "with --samples: ten of them above their nearest training images"
    parser.add_argument("--output", type=Path, metavar="PNG", help=picture)
    parser.add_argument("--resume", action="store_true", help="continue an interrupted table")
    cli.add_common_flags(parser, seed=argparse.SUPPRESS)
    add_data_flags(parser)
    args = parser.parse_args(argv)
    args.usual_seed = SWEEP_SEED if args.sweep else FINAL_SEED
    args.seed = getattr(args, "seed", args.usual_seed)
    if args.output and not args.samples:
        parser.error("argument --output: only with --samples")
    if args.resume and (args.quick or args.samples or args.sweep == "guide"):
        parser.error("argument --resume: only for tables of several rows that are written")
    if args.guidance_scale != GUIDANCE_SCALE and not args.guide:
        parser.error("argument --guidance-scale: only with --guide")
    if args.guide and (args.sweep or args.samples):
        parser.error("argument --guide: not with --sweep or --samples")
    return args


@cli.one_line_errors
def main(argv=None):
    args = parse_args(argv)
    install = "`pip install -r requirements-dev.txt`"
    require(measures.FrechetInceptionDistance, f"torchmetrics is missing: {install}")
    brought(args.guide) if args.guide else None  # fail before the work starts
    device, split = cli.pick_device(args.device), "validation" if args.sweep else "test"
    dataset = open_dataset(args)
    if args.samples:
        return score_files(args, dataset, device)
    n, k = NUM_QUICK if args.quick else getattr(args, "n", NUM_FINAL), len(dataset.info["classes"])
    even = n % k == 0 or not hasattr(args, "n")
    require(even, f"argument --n: {n} is not a multiple of {k}, the number of classes")
    bench = Bench(args.models, dataset, split, args.seed, device, args.resume)
    seconds = n * 50 * 0.002 if not args.sweep else SECONDS[args.sweep]
    cli.say_start(f"{args.models} and {args.dataset}", device, seconds)
    if args.quick:
        return final_table(bench, n, None, args.guide, args.guidance_scale)
    folder = results_folder(args.models)
    folder = folder if args.seed == args.usual_seed else folder / f"seed{args.seed}"
    make_folders(folder)
    check_writable(folder / "final.csv")
    if args.sweep:
        SWEEPS[args.sweep](bench, folder)
    else:
        name = f"final_{n}_{args.guide.rpartition(':')[2]}" if args.guide else f"final_{n}"
        final_table(bench, n, folder / f"{name}.csv", args.guide, args.guidance_scale)
        copies(bench, n - n % k, folder)


if __name__ == "__main__":
    main()
