"""Ablations of classifier guidance: the gradient, or only its norm, is replaced.

A gradient is a function (x_t, t (int), y) -> (B, C, H, W), such as `gradient(classifier.log_p)`;
`guided` turns it into predicted noise.
"""

import torch

from diffusion import DDPM, add_noise, predicted_x_0


class Unlabeled(DDPM):
    """A class-conditional U-Net that always gets the label "none"; see classifier_free.py."""

    def eps(self, x_t, t, *labels):
        none = torch.full((len(x_t),), self.unet.config.num_class_embeds - 1, device=x_t.device)
        return super().eps(x_t, t, none)


def implied_gradient(ddpm):
    """The gradient of log p(y | x_t, t) that a classifier-free `DDPM` implies, by Bayes' rule."""
    unlabeled = Unlabeled(ddpm.unet, ddpm.scheduler)

    @torch.no_grad()
    def grad(x_t, t, y):
        return (unlabeled.eps(x_t, t) - ddpm.eps(x_t, t, y)) / (1 - ddpm.abar[t]).sqrt()

    return grad


def norm(grad):
    """The norm of each gradient (B, C, H, W): (B, 1, 1, 1)."""
    return torch.linalg.vector_norm(grad, dim=(1, 2, 3), keepdim=True)


def mean_norm(grad):
    """The mean norm of the gradients (B, C, H, W): a tensor with one number."""
    return norm(grad).mean()


def with_norm_of(grad, other, size=norm):
    """One gradient, multiplied so that its `size` is that of another; 0 where the first is 0."""

    def rescaled(x_t, t, y):
        first, second = grad(x_t, t, y), other(x_t, t, y)
        return first * size(second) / size(first).clamp(min=1e-12)

    return rescaled


def change_of_next(ddpm, grad, t, u, x_t, y, noise=1.0):
    """The change of x_u by guidance at t with s = 1, if u follows t in DDIM: (B, C, H, W).

    It is the sum of the changes of x_0 and of the noise; the latter is multiplied by `noise`.
    """
    abar = ddpm.abar
    change_of_noise = -(1 - abar[t]).sqrt() * grad(x_t, t, y)
    change_of_x_0 = predicted_x_0(0, change_of_noise, abar[t])
    return add_noise(change_of_x_0, noise * change_of_noise, abar[u])


class Exact:
    """The exact classifier for x_0 uniform over N training images, by Bayes' rule.

    images (N, C, H, W) in [-1, 1], labels (N,), abar (T + 1,) as in `DDPM`. It has memorized these
    images: at low noise it cannot classify any others. For MNIST, a call takes half a second per
    100 images.
    """

    def __init__(self, images, labels, abar):
        self.abar = abar
        self.pixels, self.labels = images.flatten(1), labels
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
