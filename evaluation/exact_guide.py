"""The exact guide of the training images: log p(y | x_t) if x_0 is one of these, by Bayes' rule.

`python evaluate.py --guide exact` shows what guidance does if the guide is no network. On MNIST, a
call takes half a second.
"""

import torch

from diffusion import abar_table


class ExactGuide:
    """The guide `log_p` of images (N, C, H, W) in [-1, 1] with labels (N,), under a scheduler."""

    def __init__(self, images, labels, scheduler, device="cpu"):
        self.abar = abar_table(scheduler).to(device)
        self.pixels, self.labels = images.flatten(1).to(device), labels.to(device)
        self.squares = self.pixels.square().sum(dim=1)

    def log_p(self, x_t, t, y):
        """log p(y | x_t, t) of the labels y (B,): (B,)."""
        a = self.abar[t].view(-1, 1)
        # log p(x_t | x_0) of every training image, by DDPM (4), up to a constant: (B, N)
        log_w = (a.sqrt() * x_t.flatten(1) @ self.pixels.T - a * self.squares / 2) / (1 - a)
        log_w_of_y = log_w.masked_fill(self.labels != y[:, None], -torch.inf)
        return log_w_of_y.logsumexp(dim=1) - log_w.logsumexp(dim=1)
