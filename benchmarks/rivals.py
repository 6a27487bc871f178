"""Quality of what a sensible user would take instead, on the same judge and from the same noise.

    python -m evaluation.rivals classifier_free    # trains one; so does course
    python -m benchmarks.rivals                    # the weights that ship
    python -m benchmarks.rivals models seed1 again    # and those of other trainings
    python -m benchmarks.rivals models seed1 again --resume    # continue it

n = 1,000 against the test set, sampling seed 0. The scales are those of the lowest Fréchet distance
in results/scales.csv, which is of the validation set and another seed. The folder of another
training needs our two networks, and rival_*.pth for the rows of that rival: all of `seed1` are
trained with `--seed 1 --models seed1`, ours of `again` with `--models again`, on another machine.
Changes are from the default of the same folder. The judge is the one that ships.
`python -m benchmarks.costs` has the costs.

Writes results/rivals.csv.
"""

from pathlib import Path

import inference
from evaluation.bench import Bench
from evaluation.guides import guide_path
from evaluation.rivals import DIFFUSERS_DDIM, rival_path
from evaluation.tables import BEST_CONSTANT, CONSTANT, FAST, NO_ROOT, NUM_SWEEP
from evaluation.variants import GUIDE_OF, RIVAL_OF
from mnist import Dataset
from support.checkpoints import MODELS, read_checkpoint
from support.cli import ArgumentParser, one_line_errors, pick_device
from support.errors import require
from support.files import beside
from support.tables import fill_table

OUTPUT = beside("results") / "rivals.csv"
SEED = 0  # of the samples
FREE = CONSTANT | {"variant": "classifier-free", "guidance_scale": 0.25}
COURSE = {"variant": "course U-Net", "sampler": DIFFUSERS_DDIM, "steps": 50}
METHODS = {  # name -> what differs from the defaults of inference.py
    "ours": {},
    "ours, 10 calls": FAST,
    "ours, 5 calls": {"steps": 5},
    "ours, unguided": {"guidance_scale": 0.0},
    "constant s": BEST_CONSTANT,
    "classifier-free": FREE,
    "classifier-free, 2 x 10 calls": FREE | {"steps": 10},
    "notebook guidance": CONSTANT | {"variant": NO_ROOT, "guidance_scale": 10.0},
    "course U-Net, unguided": COURSE | {"guidance_scale": 0.0},
    "course U-Net, our guide": COURSE,
    "the same, 50 ancestral steps": COURSE | {"sampler": "ddpm"},
}


def rows_of(folder, bench):
    """The settings of the rows of a folder: the methods whose networks it has."""
    seed = read_checkpoint(folder / inference.NAMES[0], "train_ddpm.py")["seed"]
    for method, changes in METHODS.items():
        if has_networks(folder, changes.get("variant")):
            yield row_of(method, folder, seed, bench, bench.settings(NUM_SWEEP, **changes))


def row_of(method, folder, seed, bench, settings):
    """What identifies a row."""
    row = {"method": method, "folder": folder.name, "training_seed": str(seed), **settings}
    return row | bench.made_from_of(settings["variant"])


def has_networks(folder, variant):
    """Whether a folder has what a variant takes beside our two networks."""
    needed = [rival_path(RIVAL_OF[variant], folder)] if variant in RIVAL_OF else []
    needed += [guide_path(GUIDE_OF[variant], folder)] if variant in GUIDE_OF else []
    return all(path.exists() for path in needed)


def benches_of(folders, device):
    """The bench of each folder of networks, by its name: the test set, the judge that ships.

    Raises UserError if two folders have the same name, or as `Bench`.
    """
    differ = len({folder.name for folder in folders}) == len(folders)
    require(differ, "two of the folders have the same name: rename one")
    dataset = Dataset()
    return {
        folder.name: Bench(folder, dataset, "test", SEED, device, judge_in=MODELS)
        for folder in folders
    }


@one_line_errors
def main(argv=None):
    parser = ArgumentParser(__doc__)
    parser.add_argument("folders", nargs="*", type=Path, default=[MODELS], metavar="DIR")
    parser.add_argument("--output", type=Path, default=OUTPUT, metavar="CSV")
    parser.add_argument("--resume", action="store_true", help="continue an interrupted table")
    args = parser.parse_args(argv)
    benches, first = benches_of(args.folders, pick_device("auto")), args.folders[0]
    floors = benches[first.name].floor_settings(NUM_SWEEP)
    wanted = [row_of("real images", first, "-", benches[first.name], row) for row in floors]
    for folder in args.folders:
        wanted += rows_of(folder, benches[folder.name])
    fill_table(args.output, wanted, lambda row: benches[row["folder"]].row(row), args.resume)


if __name__ == "__main__":
    main()
