"""Gradients of functions that the user brings."""

import torch

from support.errors import require


def gradient_of_sum(values, x):
    """d sum(values) / d x, of the same shape as x (B, ...).

    Args:
        values: one number per row of x, (B,), computed from x.

    Raises:
        UserError: `values` are not (B,) or do not depend on x, or the gradient is not finite.
    """
    shape = tuple(values.shape) if torch.is_tensor(values) else type(values).__name__
    require(shape == (len(x),), f"the guide returns {shape}, not {(len(x),)}: one number per image")
    depends = values.requires_grad
    grad = torch.autograd.grad(values.sum(), x, allow_unused=True)[0] if depends else None
    require(grad is not None, "the guide is not differentiable in the image that it gets")
    require(grad.isfinite().all(), "the gradient of the guide is not finite: try a lower scale")
    return grad
