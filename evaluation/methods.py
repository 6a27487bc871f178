"""Ablations of classifier guidance: one part of it is replaced at a time."""

import torch

from diffusion import abar_table, implied_noise, predicted_image, timesteps
from inference import Guided, gradient


class AtPredictedX0(Guided):
    """Applies the classifier to the predicted x_0 at t = 0 and backpropagates through the U-Net."""

    def __init__(self, ddpm, log_p, scale):
        super().__init__(ddpm, log_p, scale)  # checks the noise schedule of log_p

        def log_p_of_x_0(x_t, t, y):
            return log_p(predicted_image(ddpm, x_t, t), torch.zeros_like(t), y)

        self.log_p = log_p_of_x_0


class Exact:
    """The exact classifier and denoiser for x_0 uniform over N training images, by Bayes' rule.

    images (N, C, H, W) in [-1, 1], labels (N,). For MNIST, a call takes half a second per 100
    images.
    """

    def __init__(self, images, labels, scheduler, device="cpu"):
        self.abar = abar_table(scheduler).to(device)
        self.pixels, self.labels = images.flatten(1).to(device), labels.to(device)
        self.squares = self.pixels.square().sum(dim=1)

    def log_p_of_images(self, x_t, t):
        """log p(x_t | x_0) for every training image, DDPM (4), up to a constant: (B, N)."""
        a = self.abar[t].view(-1, 1)
        return (a.sqrt() * x_t.flatten(1) @ self.pixels.T - a * self.squares / 2) / (1 - a)

    def log_p(self, x_t, t, y):
        """log p(y | x_t, t) of the labels y (B,): (B,)."""
        log_w = self.log_p_of_images(x_t, t)
        log_w_of_y = log_w.masked_fill(self.labels != y[:, None], -torch.inf)
        return log_w_of_y.logsumexp(dim=1) - log_w.logsumexp(dim=1)

    def denoised(self, x_t, t):
        """E[x_0 | x_t], same shape as x_t."""
        return (self.log_p_of_images(x_t, t).softmax(dim=1) @ self.pixels).view_as(x_t)


class ExactDenoiser(Guided):
    """The exact denoiser of the training images replaces the U-Net."""

    def __init__(self, ddpm, log_p, scale, exact):
        super().__init__(ddpm, log_p, scale)
        self.exact = exact

    def eps(self, x_t, t):
        """The expected noise in x_t, over the training images."""
        return implied_noise(x_t, self.exact.denoised(x_t, timesteps(x_t, t)), self.abar[t])


class Hybrid(Guided):
    """The gradient has the direction of one guide and the norm of another.

    Where the first gradient is 0, it has no direction, and there is no guidance.
    """

    def __init__(self, ddpm, direction, norm, scale):
        super().__init__(ddpm, direction, scale)
        self.norm = norm

    def __call__(self, x_t, t, y):
        direction, other = (gradient(log_p, x_t, t, y) for log_p in (self.log_p, self.norm))
        grad = direction * norm(other) / norm(direction).clamp(min=1e-12)
        return self.clipped_eps(x_t, t) - self.scale(t) * (1 - self.abar[t]).sqrt() * grad


def norm(grad):
    """The norm of each gradient (B, C, H, W): (B, 1, 1, 1)."""
    return grad.square().sum(dim=(1, 2, 3), keepdim=True).sqrt()
