"""The exact guide of the training images: log p(y | x_t) if x_0 is one of these 55,000, by Bayes.

For controls: what guidance at scale 1 does if the guide is no network. A call takes half a second.
"""

import functools

import torch

from diffusion import abar
from mnist import load_mnist


@functools.cache
def training_pixels(device):
    """The training images (55000, 784), their squared lengths and their labels (55000,)."""
    images, labels = load_mnist("train")
    pixels = images.flatten(1).to(device)
    return pixels, pixels.square().sum(dim=1), labels.to(device)


def log_p(x_t, t, y):
    """log p(y | x_t, t) of the labels y (B,): (B,)."""
    pixels, squares, labels = training_pixels(x_t.device)
    a = abar(t).view(-1, 1)
    # log p(x_t | x_0) of every training image, by DDPM (4), up to a constant: (B, 55000)
    log_w = (a.sqrt() * x_t.flatten(1) @ pixels.T - a * squares / 2) / (1 - a)
    log_w_of_y = log_w.masked_fill(labels != y[:, None], -torch.inf)
    return log_w_of_y.logsumexp(dim=1) - log_w.logsumexp(dim=1)
