"""Measure the guidance scale for a classifier and a dataset, without sampling.

    python -m examples.measure_scale
    python -m examples.measure_scale --dataset fashion-mnist --models fashion

Compares the nudge with its target (see evaluation/nudges.py) on noised validation images, pushed
toward random wrong labels. Fits 1 + b SNR to two estimates of the scale: S, without what the target
remembers of single training images, and r / c, from the norms and the cosine. results/README.md
says how far they can be trusted.
"""

from pathlib import Path

from data import Dataset, add_data_flags
from evaluation.nudges import fitted_b, measured_nudges
from inference import gradient, load_models
from support import UserError, cli
from support.files import MODELS

COLUMNS = "nudge", "target", "cosine", "S", "component", "loss", "loss_of_target"


@cli.one_line_errors
def main(argv=None):
    parser = cli.make_parser(__doc__)
    models_help = "folder of the checkpoints (default: models)"
    parser.add_argument("--models", type=Path, default=MODELS, help=models_help)
    add_data_flags(parser)
    args = parser.parse_args(argv)
    dataset, (ddpm, classifier) = Dataset(args.dataset, args.size), load_models(args.models)
    if ddpm.info["dataset"] != dataset.info:
        raise UserError(f"the networks in {args.models} are not for --dataset {args.dataset}")

    rows, grad = {}, gradient(classifier.log_p)
    print("   t  nudge target cosine      S  r / c   loss, that of the target")
    for t, rows[t] in measured_nudges(ddpm, grad, classifier.log_p, dataset):
        print(f"{t:4d}", *(f"{rows[t][name]:6.2f}" for name in COLUMNS), flush=True)
    print("Try both, and values in between, and choose by sampling:")
    for label, name in {"S": "S", "r / c": "component"}.items():
        b = fitted_b(ddpm, rows, name)
        print(f"{label}: python inference.py --models {args.models} --growing-scale {b:.1f}")


if __name__ == "__main__":
    main()
