"""Train on samples, test on real: the accuracy of a classifier that has only seen samples.

    python inference.py --digits all --num-samples 5000 --npz samples.npz --output samples.png
    python -m evaluation.train_on_samples samples.npz --csv results/train_on_samples.csv

The classification accuracy score (Ravuri & Vinyals 2019, arXiv 1905.10887). A small network learns
from labelled samples, or from as many training images, and classifies the 10,000 real test images:
samples that are wrong, or that lack some forms of a digit, cost accuracy. Anybody's samples will
do: uint8 28x28 in `arr_0` of an .npz, with their labels in `arr_1`.
"""

from itertools import product
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers.optimization import get_cosine_schedule_with_warmup
from torch import nn
from tqdm import trange

from evaluation.measures import accuracy_row
from evaluation.rows import read_samples
from evaluation.table import interval_text, where_it_ran, write_rows
from mnist import Dataset, from_uint8
from support import cli
from support.cli import require
from support.files import check_outputs, sha256
from support.streams import batch_indices, generator

SIZES = (10_000, 50_000)  # images to train on
SEEDS = (0, 1, 2)
STEPS = 4_000
WARMUP_STEPS = 200
BATCH_SIZE = 128
LEARNING_RATE = 2e-3


def trained_on(images, labels, seed):
    """A small network, trained on images (N, 1, 28, 28) with labels (N,); in eval mode."""
    torch.manual_seed(seed)  # for the initial weights and dropout
    network = nn.Sequential(
        nn.Conv2d(1, 32, 5), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Dropout(0.5), nn.Linear(64 * 4 * 4, 128), nn.ReLU(),
        nn.Dropout(0.5), nn.Linear(128, 10),
    )  # fmt: skip
    optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE)
    lr_scheduler = get_cosine_schedule_with_warmup(optimizer, WARMUP_STEPS, STEPS)
    for step in trange(STEPS, desc=f"{len(images)} images, seed {seed}", disable=None):
        index = batch_indices(len(images), BATCH_SIZE, seed, step)
        loss = F.cross_entropy(network(images[index]), labels[index])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        lr_scheduler.step()
    return network.eval()


@torch.no_grad()
def accuracy_on(network, images, labels):
    """The accuracy of the network on images (N, 1, 28, 28), also of each digit."""
    logits = torch.cat([network(part) for part in images.split(500)])
    return accuracy_row(logits.argmax(dim=1) == labels, labels)


@cli.one_line_errors
def main(argv=None):
    parser = cli.ArgumentParser(__doc__)
    parser.add_argument("samples", type=Path, metavar="NPZ", help="samples with their labels")
    parser.add_argument("--csv", type=cli.file_name(".csv"), metavar="CSV", help="a new file")
    args = parser.parse_args(argv)
    if args.csv:
        check_outputs(args.csv)
        require(not args.csv.exists(), f"{args.csv} exists: name another file")
    dataset = Dataset()
    samples, asked = read_samples(args.samples, dataset.info)
    require(asked is not None, f"{args.samples} has no labels: write them as arr_1")
    sources = {"samples": (from_uint8(samples), asked), "training images": dataset.load("train")}
    test = dataset.load("test")
    shared = {"steps": STEPS, "sha256 of samples": sha256(args.samples), **where_it_ran("cpu")}
    rows = []
    for size, (name, (images, labels)), seed in product(SIZES, sources.items(), SEEDS):
        if len(images) < size:
            print(f"{name}: there are {len(images)}, too few for a row of {size}")
            continue
        some = torch.randperm(len(images), generator=generator(0, "subset"))[:size]
        network = trained_on(images[some], labels[some], seed)
        row = {"trained on": name, "n": size, "training_seed": seed}
        rows.append(row | accuracy_on(network, *test) | shared)
        if args.csv:
            write_rows(args.csv, rows)
        print(f"{name}, n {size}, seed {seed}: {interval_text(rows[-1], 'accuracy')}")


if __name__ == "__main__":
    main()
