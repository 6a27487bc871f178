"""Random streams: one per key, so that no draw depends on what was drawn before it."""

from collections import Counter

import numpy as np
import torch

PURPOSES = {  # of a stream -> its number, and what follows it in a key; no number is used again
    "batches": 0,  # epoch
    "classifier": 1,  # step
    "U-Net": 2,  # step
    "judge": 3,  # step
    "samples": 4,  # label, number
    "validation": 5,  # 0: times, 1: noise
    "split": 7,
    "subset": 8,
    "halves": 9,  # number
}


def stream_seed(seed, purpose, *numbers):
    """The seed of the stream with the key (seed, purpose, *numbers), hashed to 64 bits.

    All numbers, and the seed, are 0 .. 2^32 - 1; they are always equally many for a purpose.
    """
    key = [seed, PURPOSES[purpose], *numbers]
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0])


def generator(seed, purpose, *numbers):
    """A CPU torch.Generator of the stream with this key, see `stream_seed`."""
    return torch.Generator().manual_seed(stream_seed(seed, purpose, *numbers))


def image_seeds(seed, labels):
    """A seed for each image, by its label and its number among those of the label: a list.

    So the noise of an image does not depend on what else is drawn.
    """
    seeds, seen = [], Counter()
    for label in labels:
        seeds.append(stream_seed(seed, "samples", label, seen[label]))
        seen[label] += 1
    return seeds


def gaussian_noise(shape, generators):
    """Noise N(0, I), that of each image from its own generator: (B, *shape)."""
    return torch.stack([torch.randn(shape, generator=rng) for rng in generators])


def batch_indices(num_images, batch_size, seed, step):
    """The training images of step number `step`: (B,).

    Every epoch is a new permutation; the images left over at its end are dropped.
    """
    epoch, position = divmod(step, num_images // batch_size)
    order = torch.randperm(num_images, generator=generator(seed, "batches", epoch))
    return order[position * batch_size : (position + 1) * batch_size]
