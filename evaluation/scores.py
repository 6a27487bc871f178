"""Scores of anybody's samples, each beside what real images get; and warnings of usual mistakes."""

import hashlib
import sys

import torch

from evaluation.figures import nearest_distances
from evaluation.judge import judge_images, load_judge
from evaluation.measures import MEASURES, accuracy, measure, see, shuffled_classes
from evaluation.samples import SIZE, read_samples
from support import cli
from support.checkpoints import provenance
from support.errors import UserError
from support.files import check_writable
from support.pictures import save_labelled_grid

NUM_SHOWN = 10
NUM_CHECKED = 500  # images of a file that are looked at for mistakes
SURER = 0.1  # a mistake is one if the judge is that much surer once it is undone
MISTAKES = {
    "dark on a bright background": ("inverted", lambda images: -images),
    "transposed": ("transposed back", lambda images: images.mT),
}
MOST_REPEATED = 0.01  # the share of copies from which on they are reported
MOST_ENLARGED = 1.07  # 32 / 28 is 1.14
HEADER = ("", "n", "accuracy", "Fréchet distance", "precision", "recall")


class Yardstick:
    """The judge, the test images to measure against, and the validation images as samples."""

    def __init__(self, models, dataset, device):
        self.judge, self.device = load_judge(models, device), device
        self.train_images, _ = dataset.load("train")
        self.real = see(self.judge, *dataset.load("test"), device)
        self.others = see(self.judge, *dataset.load("validation"), device)
        self.floors = {}  # class frequencies -> scores of validation images

    def score(self, images, labels):
        """Scores of images (N, 1, 28, 28) in [-1, 1], labels (N,) or None, and of real images."""
        seen = see(self.judge, images, labels, self.device)
        counts = tuple(seen.labels.bincount().tolist())
        if counts not in self.floors:
            self.floors[counts] = self.scores(self.others.part(self.like(seen.labels)))
        return self.scores(seen), self.floors[counts]

    def scores(self, seen):
        """n and all measures of `Seen` images: a dict of strings."""
        values = zip(MEASURES, measure(seen, self.real).tolist())
        return {"n": str(len(seen.labels)), **accuracy(seen), **{k: f"{v:.4f}" for k, v in values}}

    def like(self, labels):
        """The indices of as many validation images as labels (N,), of the same class frequencies.

        If there are too few of a class, fewer of all of them.
        """
        classes, counts = labels.unique(return_counts=True)
        of_class, wanted = shuffled_classes(self.others.labels, classes), counts.tolist()
        share = min(1, *(len(index) / number for index, number in zip(of_class, wanted)))
        return torch.cat([i[: max(1, int(share * number))] for i, number in zip(of_class, wanted)])

    @torch.no_grad()
    def reads(self, images):
        """What the judge reads (N,), and its mean probability of that."""
        features, prediction = judge_images(self.judge, images, self.device)
        logits = self.judge.linear(features.to(self.device))
        return prediction, logits.softmax(dim=1).amax(dim=1).mean().item()


def score_files(args, dataset, device):
    """Print a row for each file of `args.samples`, and draw `args.output` if that is asked for.

    They are measured against the test images of `dataset`. Raises UserError.
    """
    if args.output:
        check_output(args.output, args.samples)
    files = [read_samples(path, len(dataset.info["classes"])) for path in args.samples]
    sizes = [len(samples.images) for samples in files]
    seconds = 10 + 0.0015 * (sum(sizes) + sum(set(sizes)))
    cli.say_start(f"{args.models / 'judge.pth'} and {args.dataset}", device, seconds)
    yardstick = Yardstick(args.models, dataset, device)
    print_table([HEADER, *(table_row(yardstick, samples) for samples in files)])
    print("against the test set; in parentheses: validation images, as many of each class")
    if args.output:
        draw_samples(args, yardstick, files)


def check_output(output, samples):
    """Raises UserError if the picture cannot be written, or would be written over samples."""
    check_writable(output)
    for path in samples:
        if path.resolve() in (output.resolve(), *output.resolve().parents):
            raise UserError(f"--output {output} is among the samples of {path}; name another place")


def in_range(images):
    """uint8 as floats in [-1, 1]."""
    return images.float().div(127.5).sub(1)


def table_row(yardstick, samples):
    """Warn, measure, and return the cells of a row: each measure, in parentheses that of real."""
    print(f"{samples.path}: {samples.taken}", flush=True)
    for warning in warnings(yardstick, samples):
        print(f"evaluate.py: warning: {samples.path}: {warning}", file=sys.stderr, flush=True)
    scores, real = yardstick.score(in_range(samples.images), samples.labels)
    cells = {name: f"{scores[name]} ({real[name]})" for name in scores}
    if samples.labels is None:
        cells["accuracy"] = "-"
    else:
        interval = f"[{scores['accuracy_low']}, {scores['accuracy_high']}]"
        cells["accuracy"] = f"{scores['accuracy']} {interval} ({real['accuracy']})"
    names = ("n", "accuracy", "frechet", "precision", "recall")
    return str(samples.path), *(cells[name] for name in names)


def print_table(rows):
    """Print rows of strings with their columns aligned."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())


# --- warnings ---


def warnings(yardstick, samples):
    """Yield a line for each mistake that these samples seem to have."""
    images = samples.images
    copies = len(images) - len({image.tobytes() for image in images.numpy()})
    if copies > MOST_REPEATED * len(images):
        yield f"{copies} of {len(images)} images are exact copies of others"
    index = torch.linspace(0, len(images) - 1, min(NUM_CHECKED, len(images))).long()
    if samples.uncropped is not None:
        yield from cropping(samples, index, yardstick.train_images)
    images, labels = in_range(images[index]), samples.labels
    read, sure = yardstick.reads(images)
    for mistake, (undone, undo) in MISTAKES.items():
        read_after, sure_after = yardstick.reads(undo(images))
        better = sure_after > sure + SURER
        if labels is not None:
            y = labels[index]
            better = better and (read_after == y).sum() > (read == y).sum()
        if better:
            yield (f"the images seem to be {mistake}: the judge is sure of {sure:.2f} on average, "
                   f"and of {sure_after:.2f} when they are {undone}")  # fmt: skip


def cropping(samples, index, train_images):
    """Yield that the images were cropped, and whether they seem to be scaled, not padded."""
    size = samples.uncropped.shape[-1]
    yield f"{size}x{size} pixels were taken as padded, and the middle {SIZE}x{SIZE} is scored"
    background = samples.uncropped[:, :, 0, 0].float().median()
    drawn = (samples.uncropped[index].float() - background).abs() > 127
    larger = extent(drawn) / extent(train_images[: len(index)] > 0)
    if larger > MOST_ENLARGED:
        yield (f"what is drawn is {larger:.2f} times as large as in training images: it was "
               f"scaled to {size}x{size}, not padded; scale it to {SIZE}x{SIZE}")  # fmt: skip


def extent(drawn):
    """The mean longer side of what is drawn, bool (N, 1, H, W), in pixels; blanks are left out."""
    sides = []
    for dim in (2, 3):
        line = drawn.any(dim=dim)[:, 0]  # (N, pixels)
        first, last = line.int().argmax(dim=1), line.int().flip(1).argmax(dim=1)
        sides.append(line.shape[1] - first - last)
    longer = torch.maximum(*sides)[drawn.flatten(1).any(dim=1)]
    return longer.float().mean().item()


# --- the picture ---


def draw_samples(args, yardstick, files):
    """Ten samples of each file above their nearest training images; a read label has a "?"."""
    images, names, digits = [], [], []
    for samples in files:
        labels, mark = samples.labels, ""
        if labels is None:
            labels, mark = yardstick.reads(in_range(samples.images))[0], "?"
        shown = spread(labels)
        some = in_range(samples.images[shown])
        nearest = nearest_distances(some, yardstick.train_images)[1]
        images += [some, yardstick.train_images[nearest]]
        names.append(str(samples.path).replace("$", r"\$"))  # no mathematics
        digits.append([f"{label}{mark}" for label in labels[shown].tolist()])
    columns = digits[0]
    if any(row != columns for row in digits):  # then each file has its own, left of its row
        names = [f"{name}: {' '.join(row)}" for name, row in zip(names, digits)]
        columns = [""] * NUM_SHOWN
    rows = [label for name in names for label in (name, "nearest training image")]
    save_labelled_grid(args.output, torch.cat(images), rows, columns, made_from(args, files))
    unlabelled = any(samples.labels is None for samples in files)
    read = "; ?: no labels, so as the judge reads it" if unlabelled else ""
    print(f"{args.output}: {NUM_SHOWN} samples above their nearest training images{read}")


def made_from(args, files):
    """The provenance of the picture: the judge, and the SHA-256 of the pixels of each file."""
    hashes = {str(s.path): hashlib.sha256(s.images.numpy().tobytes()).hexdigest() for s in files}
    device = cli.pick_device(args.device)
    return provenance(args.models, ("judge.pth",), device, samples=hashes, columns=NUM_SHOWN)


def spread(labels):
    """The indices of ten samples that are evenly spread over the labels (N,)."""
    places = (torch.arange(NUM_SHOWN) + 0.5) * len(labels) / NUM_SHOWN
    return labels.argsort(stable=True)[places.long()]
