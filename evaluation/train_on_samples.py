"""Train on samples, test on real: the accuracy of a classifier that has only seen samples.

    python -m evaluation.train_on_samples --guidance-scale 1 0.25 --growth 24 --csv FILE.csv
    python -m evaluation.train_on_samples --samples FILE.npz    # anybody's, with labels in arr_1

The classification accuracy score (Ravuri & Vinyals 2019, arXiv 1905.10887). A small network learns
from labelled samples, or from as many training images, and classifies all real images of --split.
Samples that lack some forms of a digit cost accuracy; wrong labels cost less, and `confirmed` is
the share of labels with which the judge agrees. Rows are as in evaluate.py, with a row for each
training seed.
"""

import torch
import torch.nn.functional as F
from diffusers.optimization import get_cosine_schedule_with_warmup
from torch import nn
from tqdm import trange

from evaluation.judge import accuracy_of
from evaluation.measures import accuracy_row
from evaluation.report import VERSIONS, cell, check_new_table, described, write_rows
from evaluation.rows import add_row_flags, judge_of, real_row, sample_rows
from mnist import from_uint8, read_dataset
from support import cli
from support.errors import UserError
from support.streams import batch_indices, generator

SEEDS = (0, 1, 2)
STEPS = 1_000
WARMUP_STEPS = 50
BATCH_SIZE = 128
LEARNING_RATE = 2e-3


def trained_on(images, labels, num_classes, seed):
    """A small network, trained on images (N, C, H, W) with labels (N,), on their device."""
    torch.manual_seed(seed)  # for the initial weights and dropout
    network = nn.Sequential(
        nn.LazyConv2d(32, 5), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Dropout(0.5), nn.LazyLinear(128), nn.ReLU(),
        nn.Dropout(0.5), nn.Linear(128, num_classes),
    ).to(images.device)  # fmt: skip
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
    return network.eval().requires_grad_(False)


def check_usable(name, images, labels):
    """Raises UserError if a network cannot be trained on them."""
    if len(images) < BATCH_SIZE:
        raise UserError(f"{name} has {len(images)} images, and a batch {BATCH_SIZE}")
    if labels is None:
        raise UserError(f"{name} has no labels: write them as arr_1")


@cli.one_line_errors
def main(argv=None):
    parser = cli.ArgumentParser(__doc__)
    add_row_flags(parser, n=10_000)
    args = parser.parse_args(argv)
    if args.csv:
        check_new_table(args.csv)
    dataset = read_dataset(args)
    num_classes = len(dataset.info["classes"])
    judge = judge_of(args, dataset)
    if args.n // num_classes * num_classes < BATCH_SIZE:
        raise UserError(f"--n {args.n}: a batch has {BATCH_SIZE} images")
    real_images, real_labels = (part.to(args.device) for part in dataset.load(args.split))
    train_split = dataset.splits["train"]
    some = torch.randperm(len(train_split[0]), generator=generator(0, "subset"))[: args.n]
    rows = [real_row("training images", train_split, some), *sample_rows(args, dataset)]
    shared = {"seed": args.seed, "against": args.split, "training_steps": STEPS}
    shared |= {**VERSIONS, "device": args.device}
    for row in rows:
        if not row.sampled:  # it draws nothing, so it can be checked before the first training
            check_usable(row.settings["images"], *row.draw())
    done = []
    for row in rows:
        images, labels = row.draw()
        confirmed = accuracy_of(judge, images, labels)
        images, labels = from_uint8(images).to(args.device), labels.to(args.device)
        for seed in SEEDS:
            network = trained_on(images, labels, num_classes, seed)
            logits = torch.cat([network(part) for part in real_images.split(500)])
            right = logits.argmax(dim=1) == real_labels
            measured = {"confirmed": confirmed, "training_seed": seed, **accuracy_row(right)}
            done.append(row.settings | measured | shared)
            shown = f"confirmed {confirmed:.4f}, seed {seed}: {cell(measured, 'accuracy')}"
            print(f"{described(row.settings)}, {shown}")
            if args.csv:
                write_rows(args.csv, done)


if __name__ == "__main__":
    main()
