"""What a guide and a U-Net would say if x_0 were one of the training images, by Bayes' rule.

`python evaluate.py --method guided exact_denoiser --guide classifier exact` replaces one of our
networks, or both, by exact ones. On MNIST, a call takes half a second for a hundred images.
"""

import torch

from diffusion import abar_table


class Exact:
    """The exact networks of images (N, C, H, W) in [-1, 1] with labels (N,), under a scheduler."""

    def __init__(self, images, labels, scheduler, device="cpu"):
        self.abar = abar_table(scheduler).to(device)
        self.pixels, self.labels = images.flatten(1).to(device), labels.to(device)
        self.squares = self.pixels.square().sum(dim=1)

    def log_p_of_images(self, x_t, t):
        """log p(x_t | x_0) of every training image, by DDPM (4), up to a constant: (B, N)."""
        a = self.abar[t].view(-1, 1)
        return (a.sqrt() * x_t.flatten(1) @ self.pixels.T - a * self.squares / 2) / (1 - a)

    def log_p(self, x_t, t, y):
        """The exact guide, log p(y | x_t, t) of the labels y (B,): (B,)."""
        log_w = self.log_p_of_images(x_t, t)
        log_w_of_y = log_w.masked_fill(self.labels != y[:, None], -torch.inf)
        return log_w_of_y.logsumexp(dim=1) - log_w.logsumexp(dim=1)

    def denoised(self, x_t, t):
        """E[x_0 | x_t], the mean of the training images that x_t may come from: as x_t."""
        return (self.log_p_of_images(x_t, t).softmax(dim=1) @ self.pixels).view_as(x_t)
