"""Measure step 3 with a judge that never guides.

    python evaluate.py                  # the final table: n = 5,000, against the test set
    python evaluate.py --quick          # n = 500, printed only
    python evaluate.py --sweep scales   # or samplers, controls: n = 2,000, on the validation set
    python evaluate.py --sweep samplers_long    # up to 1,000 steps: n = 100
    python evaluate.py --resume         # continue an interrupted table
    python evaluate.py --sweep guide    # is the guide's gradient calibrated?

Accuracy is the share of samples in which the judge sees the digit asked for. Fréchet distance,
precision and recall compare the judge's features of samples and of real images. Each stands beside
what real images get at the same n.

Needs requirements-dev.txt. Every command measures all of its rows. Tables and figures go to
results/, of other seeds to results/seedN/; with --models DIR, to DIR instead of results/.
"""

import argparse

from evaluation import measures
from evaluation.bench import Bench
from evaluation.figures import draw_nearest
from evaluation.tables import SWEEPS, final_table
from support import cli
from support.errors import UserError
from support.files import check_writable, make_folders, results_folder

NUM_FINAL, NUM_QUICK = 5_000, 500
SECONDS = {"scales": 900, "samplers": 1_000, "samplers_long": 600, "controls": 1_400, "guide": 60}


def parse_args(argv):
    parser = cli.ArgumentParser(__doc__)
    what = parser.add_mutually_exclusive_group()
    n_help = f"samples of the final table, a multiple of 10 (default: {NUM_FINAL})"
    what.add_argument("--n", type=cli.number(int, 20), help=n_help, default=argparse.SUPPRESS)
    what.add_argument("--quick", action="store_true", help=f"n = {NUM_QUICK}, printed only")
    what.add_argument("--sweep", choices=SWEEPS, help="a table and figure, on the validation set")
    parser.add_argument("--resume", action="store_true", help="continue an interrupted table")
    cli.add_common_flags(parser)
    cli.add_data_flag(parser)
    args = parser.parse_args(argv)
    args.n = NUM_QUICK if args.quick else getattr(args, "n", NUM_FINAL)
    if args.n % 10:
        parser.error(f"argument --n: {args.n} is not a multiple of 10, the number of digits")
    if args.resume and (args.quick or args.sweep == "guide"):
        parser.error("argument --resume: only for tables of several rows that are written")
    return args


@cli.one_line_errors
def main(argv=None):
    args = parse_args(argv)
    if measures.FrechetInceptionDistance is None:
        raise UserError("torchmetrics is missing: `pip install -r requirements-dev.txt`")
    device, split = cli.pick_device(args.device), "validation" if args.sweep else "test"
    bench = Bench(args.models, args.data, split, args.seed, device, args.resume)
    seconds = args.n * 50 * 0.002 if not args.sweep else SECONDS[args.sweep]
    cli.say_start(f"{args.models} and {args.data}", device, seconds)
    if args.quick:
        return final_table(bench, args.n, None)
    folder = results_folder(args.models)
    folder = folder / f"seed{args.seed}" if args.seed else folder  # what ships is of seed 0
    make_folders(folder)
    check_writable(folder / "final.csv")
    if args.sweep:
        SWEEPS[args.sweep](bench, folder)
    else:
        final_table(bench, args.n, folder / f"final_{args.n}.csv")
        draw_nearest(bench, folder / "nearest.png")


if __name__ == "__main__":
    main()
