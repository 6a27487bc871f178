"""Measure the guidance scale for a classifier and a dataset, without sampling.

    python -m examples.measure_scale
    python -m examples.measure_scale --dataset fashion-mnist --models fashion

Compares the nudge with the exact one (see evaluation/nudges.py) on noised validation images, pushed
toward a random wrong label. Prints the ratio r of their norms (exact / ours), the cosine c, and the
a + b SNR that fits the scales r and r / c. results/README.md says how well these work.
"""

from pathlib import Path

from data import Dataset, add_data_flags
from evaluation.nudges import fitted_scale, measured_nudges
from inference import gradient, load_models
from support import UserError, cli
from support.files import MODELS

COLUMNS = "nudge", "exact", "ratio", "cosine", "component"


@cli.one_line_errors
def main(argv=None):
    parser = cli.make_parser(__doc__)
    models_help = "folder that contains the checkpoints"
    parser.add_argument("--models", type=Path, default=MODELS, help=models_help)
    add_data_flags(parser)
    args = parser.parse_args(argv)
    dataset, (ddpm, classifier) = Dataset(args.dataset, args.size), load_models(args.models)
    if ddpm.info["dataset"] != dataset.info:
        raise UserError(f"the networks in {args.models} are not for --dataset {args.dataset}")

    rows = {}
    print("   t  nudge  exact      r      c   r / c")
    for t, rows[t] in measured_nudges(ddpm, gradient(classifier.log_p), dataset):
        print(f"{t:4d}", *(f"{rows[t][name]:6.2f}" for name in COLUMNS), flush=True)
    for label, name in {"r": "ratio", "r / c": "component"}.items():
        a, b = fitted_scale(ddpm, rows, name)
        print(f"{label}: {a:.2f} + {b:.1f} SNR")


if __name__ == "__main__":
    main()
