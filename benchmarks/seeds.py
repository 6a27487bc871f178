"""What another seed of both trainings changes: the default settings, measured on the weights of several folders.

    python train_classifier.py --seed 1 --models seed1 && python train_ddpm.py --seed 1 --models seed1    # and so on
    python benchmarks/seeds.py models seed1 seed2        # results/seeds.csv

The samples are drawn from the same noise, seed 0, and measured on the validation set, n = 2,000.
"""

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from classifier import Classifier  # noqa: E402
from diffusion import UNet, load_checkpoint, pick_device, sha256  # noqa: E402
from evaluate import NUM_SWEEP, Bench, write_rows  # noqa: E402

OUTPUT = ROOT / "results" / "seeds.csv"


def measured(bench, folder):
    """A row of the table: what the training in `folder` says of itself, and what its samples are like."""
    bench.unet, made = load_checkpoint(folder / "ddpm_unet.pth", UNet, "train_ddpm.py", bench.device)
    bench.classifier, _ = load_checkpoint(folder / "classifier.pth", Classifier, "train_classifier.py", bench.device)
    hashes = {name: sha256(folder / f"{name}.pth") for name in ("ddpm_unet", "classifier")}
    unguided = bench.row(bench.settings(NUM_SWEEP, guidance_scale=0.0))
    guided = bench.row(bench.settings(NUM_SWEEP))
    return {
        "training_seed": made["seed"],
        "trained_in": made["training"]["precision"],
        "training_steps": made["training"]["steps"],
        "validation_loss": f"{made['training']['validation_loss']:.5f}",
        **{f"{name}_unguided": unguided[name] for name in ("frechet", "precision", "recall")},
        **guided,
        **hashes,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folders", nargs="+", type=Path, metavar="DIR", help="folders of the checkpoints, `models` among them")
    parser.add_argument("--output", type=Path, default=OUTPUT, metavar="CSV")
    args = parser.parse_args()
    setup = argparse.Namespace(models=ROOT / "models", data=ROOT / "data", seed=0)
    bench = Bench(setup, "validation", pick_device("auto"))
    rows = []
    for folder in args.folders:
        rows.append(measured(bench, folder))
        print(rows[-1], flush=True)
        write_rows(args.output, rows)


if __name__ == "__main__":
    main()
