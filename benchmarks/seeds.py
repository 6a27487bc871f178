"""What another seed of both trainings changes, at the default settings.

    python train_classifier.py --seed 1 --models seed1
    python train_ddpm.py --seed 1 --models seed1            # and so on
    python -m benchmarks.seeds models seed1 seed2

Writes results/seeds.csv. The samples are drawn from the same noise, seed 0, and measured on the
validation set, n = 2,000.
"""

import argparse
from pathlib import Path

from evaluation.bench import Bench
from evaluation.tables import NUM_SWEEP
from inference import NAMES, load_models
from mnist import Dataset
from support.checkpoints import MODELS, read_checkpoint
from support.cli import pick_device
from support.files import beside, sha256
from support.tables import write_rows

OUTPUT = beside("results") / "seeds.csv"


def measured(bench, folder):
    """A row of the table: what the training in `folder` records, and its samples measured."""
    bench.unet, bench.classifier = load_models(folder, bench.device)
    made = read_checkpoint(folder / NAMES[0], "train_ddpm.py")
    unguided = bench.row(bench.settings(NUM_SWEEP, guidance_scale=0.0))
    guided = bench.row(bench.settings(NUM_SWEEP))
    return {
        "training_seed": made["seed"],
        "trained_in": made["training"]["precision"],
        "training_steps": made["training"]["steps"],
        "validation_loss": f"{made['training']['validation_loss']:.5f}",
        **{f"{name}_unguided": unguided[name] for name in ("frechet", "precision", "recall")},
        **guided,
        **{Path(name).stem: sha256(folder / name) for name in NAMES},
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folders", nargs="+", type=Path, metavar="DIR", help="of the checkpoints")
    parser.add_argument("--output", type=Path, default=OUTPUT, metavar="CSV")
    args = parser.parse_args()
    bench = Bench(MODELS, Dataset(), "validation", 0, pick_device("auto"))
    rows = []
    for folder in args.folders:
        rows.append(measured(bench, folder))
        print(rows[-1], flush=True)
        write_rows(args.output, rows)


if __name__ == "__main__":
    main()
