"""Random streams: one per key, so that no draw depends on what was drawn before it."""

import functools
from collections import Counter
from itertools import islice

import numpy as np
import torch
from tqdm import tqdm

from support.errors import UserError


MAX_SEED = 2**32 - 1
PURPOSES = {  # of a stream -> how many numbers follow in its key
    "batches": 1,  # epoch
    "classifier": 1,  # step
    "U-Net": 1,  # step
    "judge": 1,  # step
    "samples": 2,  # label, number
    "validation": 1,  # 0: times, 1: noise
    "calibration": 1,  # 0: times, 1: noise
    "split": 0,
    "subset": 0,
    "halves": 1,  # number
}


def generator(seed, purpose, *numbers):
    """A CPU torch.Generator seeded by the key (seed, purpose, *numbers).

    No two keys are equal: the purpose is always the second number, and each has its own length.
    The key is hashed to 64 bits.

    Args:
        seed: 0 .. 2^32 - 1. purpose: one of `PURPOSES`. numbers: integers, of the same range.
    """
    key = np.array([seed, [*PURPOSES].index(purpose), *numbers])
    assert len(numbers) == PURPOSES[purpose] and key.min() >= 0 and key.max() <= MAX_SEED, key
    state = np.random.SeedSequence(key.tolist()).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state))


@functools.lru_cache(maxsize=1)
def epoch_order(num_images, seed, epoch):
    """The order of the training images in an epoch: (num_images,)."""
    return torch.randperm(num_images, generator=generator(seed, "batches", epoch))


def batch_indices(num_images, batch_size, seed, step):
    """The training images of step number `step`: (B,).

    Every epoch is a new permutation; the images left over at its end are dropped.
    """
    epoch, position = divmod(step, num_images // batch_size)
    order = epoch_order(num_images, seed, epoch)
    return order[position * batch_size : (position + 1) * batch_size]


def image_generators(seed, labels):
    """Yield one generator per image, keyed by its label and its number among those of the label.

    So the noise of an image does not depend on what else is drawn. Conditions that are not whole
    numbers (N,), such as pixels (N, ...), all count as label 0.
    """
    whole = labels.ndim == 1 and not labels.is_floating_point()
    seen = Counter()
    for label in labels.tolist() if whole else [0] * len(labels):
        yield generator(seed, "samples", label, seen[label])
        seen[label] += 1


def check_finite(images, when):
    """Raises UserError if an image is not finite."""
    if not images.isfinite().all():
        raise UserError(f"the samples are not finite {when}: use a lower --guidance-scale")


def in_batches(draw, labels, seed, batch_size, steps):
    """Draw an image for each label, in batches, with a progress bar: (N, ...).

    Args:
        draw: (labels (B, ...), generators, step_done) -> (B, ...), one generator per image. It
            calls step_done(images, time) at each of `steps` steps.
        labels: (N,), or other conditions (N, ...); see `image_generators`.

    Raises:
        UserError: an image is not finite.
    """
    batches, generators, images = labels.split(batch_size), image_generators(seed, labels), []
    with tqdm(total=len(batches) * steps, desc="sampling", unit="step", disable=None) as bar:

        def step_done(x, time):
            check_finite(x, f"at t = {int(time)}")
            bar.update()

        for batch in batches:
            images.append(draw(batch, list(islice(generators, len(batch))), step_done))
            check_finite(images[-1], "after the last step")
    return torch.cat(images)
