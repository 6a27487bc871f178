"""Random numbers: seeds for images and measurements."""

from collections import Counter

import numpy as np
import torch

PURPOSES = {
    "samples": 4,  # the noise of generated images
    "split": 7,  # the training, validation, and test images of a folder
    "validation timesteps": 10,
    "validation noise": 11,
    "real images": 12,  # the halves that samples are compared with
    "halves": 13,  # of samples and real images, for confidence intervals
}


def stream_seed(seed, purpose, *numbers):
    """Hash (seed, purpose, *numbers) to 32 bits, all that torch's CPU generator uses of a seed."""
    key = [seed, PURPOSES[purpose], *numbers]
    return int(np.random.SeedSequence(key).generate_state(1)[0])


def generator(seed, purpose, *numbers):
    """A CPU torch.Generator seeded with `stream_seed`."""
    return torch.Generator().manual_seed(stream_seed(seed, purpose, *numbers))


def image_seeds(seed, labels):
    """One seed per image, which depends on its label and on its index among images of that label.

    So an image keeps its noise when other classes are added or removed.
    """
    seeds, count = [], Counter()
    for label in labels:
        seeds.append(stream_seed(seed, "samples", label, count[label]))
        count[label] += 1
    return seeds
