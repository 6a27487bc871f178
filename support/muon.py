"""Muon, an optimizer for convolution kernels."""

import torch


class Muon(torch.optim.Optimizer):
    """Muon (Jordan et al. 2024): momentum, then a step along the nearest orthogonal matrix.

    torch.optim.Muon takes matrices only and works in bfloat16, which most CPUs are slow at. This
    one takes kernels (out, in, ...), each seen as a matrix (out, everything else), in float32.

    Args:
        parameters: the kernels. Each must have a gradient at every step.
        lr: learning rate. momentum: Nesterov momentum. weight_decay: decoupled, times lr.
    """

    def __init__(self, parameters, lr, momentum=0.95, weight_decay=0.1):
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            by_side = {}  # small side of the matrix -> kernels and their Nesterov directions
            for kernel in group["params"]:
                average = self.state[kernel].setdefault("average", torch.zeros_like(kernel))
                average.lerp_(kernel.grad, 1 - group["momentum"])
                matrix = kernel.grad.lerp(average, group["momentum"]).flatten(1)
                by_side.setdefault(min(matrix.shape), []).append((kernel, matrix))
            for kernels, matrices in (zip(*pairs) for pairs in by_side.values()):
                for kernel, direction in zip(kernels, orthogonalize(matrices)):
                    rows, columns = direction.shape
                    kernel.mul_(1 - group["lr"] * group["weight_decay"])
                    step_size = group["lr"] * max(1, rows / columns) ** 0.5
                    kernel.sub_(direction.view_as(kernel), alpha=step_size)


def orthogonalize(matrices, steps=5):
    """Approximately U V^T for each matrix U S V^T: a Newton-Schulz iteration drives S near 1.

    Each step multiplies x by a polynomial of x x^T. These polynomials commute, so their product is
    formed first, on the small side of x, for all matrices of that side at once.
    """
    wide = [matrix.T if matrix.shape[0] > matrix.shape[1] else matrix for matrix in matrices]
    wide = [x / x.norm().clamp(min=1e-7) for x in wide]
    gram = torch.stack([x @ x.T for x in wide])
    product = torch.eye(gram.shape[-1], device=gram.device).expand_as(gram)
    for _ in range(steps):
        polynomial = torch.baddbmm(gram, gram, gram, beta=-4.7750, alpha=2.0315)
        polynomial.diagonal(dim1=1, dim2=2).add_(3.4445)
        product = polynomial @ product
        gram = polynomial @ gram @ polynomial
    results = [part @ x for part, x in zip(product, wide)]
    return [x.T if m.shape[0] > m.shape[1] else x for m, x in zip(matrices, results)]
