"""Train on samples, test on real images: the classification accuracy score.

Ravuri & Vinyals 2019, arXiv 1905.10887: a small network learns from labeled samples, or from the
same number of training images, and classifies the real images of the test set. Samples that lack
some variants of a digit lower the accuracy. `confirmed` is the fraction of labels with which the
judge agrees.
"""

import torch
import torch.nn.functional as F
from diffusers.optimization import get_cosine_schedule_with_warmup
from torch import nn
from tqdm import trange

from data import Dataset, from_uint8
from evaluation.judge import accuracy_of, load_judge
from evaluation.measures import accuracy_row, balanced_parts
from evaluation.table import cell, draw, write_rows
from support.streams import image_seeds

N = 2_000
TRAINING_SEEDS = (0, 1, 2)
STEPS = 1_000
WARMUP_STEPS = 50
BATCH_SIZE = 128
LEARNING_RATE = 2e-3


def trained_on(images, labels, num_classes, seed):
    """A small network trained on images (N, C, H, W) in [-1, 1] with labels (N,)."""
    torch.manual_seed(seed)
    network = nn.Sequential(
        nn.LazyConv2d(32, 5), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Dropout(0.5), nn.LazyLinear(128), nn.ReLU(),
        nn.Dropout(0.5), nn.Linear(128, num_classes),
    ).to(images.device)  # fmt: skip
    network(images[:1])  # initializes the lazy layers
    optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE)
    lr_scheduler = get_cosine_schedule_with_warmup(optimizer, WARMUP_STEPS, STEPS)
    for _ in trange(STEPS, desc=f"{len(images)} images, seed {seed}", disable=None):
        index = torch.randint(len(images), (BATCH_SIZE,))
        loss = F.cross_entropy(network(images[index]), labels[index])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        lr_scheduler.step()
    return network.eval().requires_grad_(False)


def train_on_samples(rows, n=N, split="test", seed=0, dataset=None, judge=None, path=None):
    """Score rows, given as in `evaluation.table.measure`: a list of dicts, one accuracy per seed.

    The first row contains the same number of training images, also class-balanced.
    """
    dataset, judge = dataset or Dataset(), judge or load_judge()
    num_classes = len(dataset.info["classes"])
    y = torch.arange(num_classes).repeat_interleave(n // num_classes)
    images, labels = dataset.splits["train"]
    [index] = balanced_parts(labels, 1, num_classes)
    of_training = images[index[:, : n // num_classes].flatten()]
    real_images, real_labels = dataset.load(split)
    table = []
    for name, row in {"training images": lambda y, seeds: of_training, **rows}.items():
        images, _ = draw(row, y, image_seeds(seed, y.tolist()))
        columns = {"images": name, "n": len(images), "split": split, "seed": seed}
        columns["confirmed"] = accuracy_of(judge, images, y)
        table.append(columns)
        for training_seed in TRAINING_SEEDS:
            network = trained_on(from_uint8(images), y, num_classes, training_seed)
            logits = torch.cat([network(part) for part in real_images.split(500)])
            accuracy = f"accuracy_seed_{training_seed}"
            columns |= accuracy_row(logits.argmax(dim=1) == real_labels, accuracy)
            print(f"{name}, seed {training_seed}: {cell(columns, accuracy)}", flush=True)
        if path:
            write_rows(path, table)
    return table
