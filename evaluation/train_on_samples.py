"""Train on samples, test on real: the accuracy of a classifier that has only seen samples.

    python -m evaluation.train_on_samples --split validation --guidance-scale 1 0.25 --csv FILE.csv
    python -m evaluation.train_on_samples --samples FILE.npz    # anybody's, with labels in arr_1

The classification accuracy score (Ravuri & Vinyals 2019, arXiv 1905.10887). A small network learns
from labelled samples, or from as many training images, and classifies all real images of --split:
samples that are wrong, or that lack some forms of a digit, cost accuracy. Rows are as in
evaluate.py, with a row for each training seed.
"""

import torch
import torch.nn.functional as F
from diffusers.optimization import get_cosine_schedule_with_warmup
from torch import nn
from tqdm import trange

from evaluation.measures import accuracy_row
from evaluation.rows import Row, add_row_flags, as_text, sample_rows
from evaluation.table import check_new_table, interval_text, where_it_ran, write_rows
from mnist import from_uint8, read_dataset
from support import cli
from support.cli import require
from support.streams import batch_indices, generator

N = 10_000
SEEDS = (0, 1, 2)
STEPS = 4_000
WARMUP_STEPS = 200
BATCH_SIZE = 128
LEARNING_RATE = 2e-3


def trained_on(images, labels, num_classes, seed):
    """A small network, trained on images (N, C, H, W) with labels (N,); in eval mode."""
    torch.manual_seed(seed)  # for the initial weights and dropout
    network = nn.Sequential(
        nn.LazyConv2d(32, 5), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Dropout(0.5), nn.LazyLinear(128), nn.ReLU(),
        nn.Dropout(0.5), nn.Linear(128, num_classes),
    )  # fmt: skip
    network(images[:1])  # now the lazy layers know their inputs
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
    """The accuracy of the network on images (N, C, H, W), also of each digit."""
    logits = torch.cat([network(part) for part in images.split(500)])
    return accuracy_row(logits.argmax(dim=1) == labels, labels)


@cli.one_line_errors
def main(argv=None):
    parser = cli.ArgumentParser(__doc__)
    add_row_flags(parser, N)
    args = parser.parse_args(argv)
    require(args.n >= BATCH_SIZE, f"--n {args.n}: a batch has {BATCH_SIZE} images")
    check_new_table(args.csv)
    dataset = read_dataset(args)
    num_classes = len(dataset.info["classes"])
    real = dataset.load(args.split)
    shared = {"seed": args.seed, "against": args.split, "training_steps": STEPS}
    shared |= where_it_ran(args.device)
    done = []
    for row in [training_row(dataset, args.n), *sample_rows(args, dataset)]:
        images, labels = row.draw()
        require(labels is not None, f"{row.settings['images']} has no labels: write them as arr_1")
        settings = {name: as_text(value) for name, value in row.settings.items()}
        for seed in SEEDS:
            network = trained_on(from_uint8(images), labels, num_classes, seed)
            measured = {"training_seed": seed, **accuracy_on(network, *real)}
            done.append(settings | measured | shared)
            print(f"{', '.join(settings.values())}, {seed}: {interval_text(measured, 'accuracy')}")
            if args.csv:
                write_rows(args.csv, done)


def training_row(dataset, n):
    """The `Row` of n random training images, or all that there are."""
    images, labels = dataset.splits["train"]
    some = torch.randperm(len(images), generator=generator(0, "subset"))[:n]
    settings = {"images": "training images", "n": len(some)}
    return Row(settings, lambda: (images[some], labels[some]))


if __name__ == "__main__":
    main()
