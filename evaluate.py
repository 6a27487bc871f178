"""Measure step 3 with a judge that never guides.

    python evaluate.py                  # the final table: n = 5,000, against the test set
    python evaluate.py --quick          # n = 500, printed only
    python evaluate.py --sweep scales   # or samplers, controls: n = 2,000, on the validation set
    python evaluate.py --sweep guide    # is the guide's gradient calibrated?

Accuracy is the share of samples in which the judge sees the digit asked for. Fréchet distance,
precision and recall compare the judge's features of samples and of real images. Each stands beside
what real images get at the same n.

Needs requirements-dev.txt. Tables and figures go to results/; with --models DIR, to DIR.
"""

from evaluation import measures
from evaluation.bench import Bench
from evaluation.figures import draw_nearest
from evaluation.tables import SWEEPS, final_table
from support import cli
from support.errors import UserError
from support.files import check_writable, results_folder

NUM_FINAL, NUM_QUICK = 5_000, 500


@cli.one_line_errors
def main(argv=None):
    parser = cli.ArgumentParser(__doc__)
    count = cli.number(int, 20)
    parser.add_argument("--n", type=count, default=NUM_FINAL, help="samples of the final table")
    parser.add_argument("--quick", action="store_true", help=f"n = {NUM_QUICK}, printed only")
    parser.add_argument("--sweep", choices=SWEEPS, help="a table and figure, on the validation set")
    cli.add_common_flags(parser)
    cli.add_data_flag(parser)
    args = parser.parse_args(argv)
    device = cli.pick_device(args.device)
    if measures.FrechetInceptionDistance is None:
        raise UserError("torchmetrics is missing: `pip install -r requirements-dev.txt`")
    folder = results_folder(args.models)
    check_writable(folder / "final.csv")
    split = "validation" if args.sweep else "test"
    bench = Bench(args.models, args.data, split, args.seed, device)
    if args.sweep:
        SWEEPS[args.sweep](bench, folder)
    elif args.quick:
        final_table(bench, NUM_QUICK, None)
    else:
        final_table(bench, args.n, folder / f"final_{args.n}.csv")
        draw_nearest(bench, folder / "nearest.png")


if __name__ == "__main__":
    main()
