"""The exercises of the lessons: our solutions, and typical mistakes."""

from functools import cache, partial
from inspect import signature

import torch

from course.checks import ABAR, Exercise, Guide, check
from diffusion import add_noise, x_0_from_eps
from inference import gradient, load_models

TABLE, MANY = ABAR.view(-1, 1, 1, 1), torch.tensor([399, 99, 999])  # one t per image
IMAGES = torch.randn(2, 3, 1, 28, 28, generator=torch.Generator().manual_seed(1234))
LABELS = torch.tensor([3, 8, 1])


def weighted_sum(ours, t=(399, 99)):
    """An exercise whose result is a weighted sum of its first two arguments."""
    first, second, *rest = signature(ours).parameters
    numbers = {"t": t, "u": (249, 69), "s": (7.0, 3.0)}
    images = dict(zip((first, second), IMAGES))
    cases = [images | {name: numbers[name][k] for name in rest} for k in range(len(t))]
    mistakes = {"it is clipped": lambda *case: ours(*case).clamp(-1, 1)}
    if "s" in rest:
        mistakes["`s` is not used"] = lambda first, second, s, *t: ours(first, second, 1, *t)
    return Exercise(ours, cases, (first, second), mistakes)


# --- lesson 1 ---

TWO = [torch.tensor([[-0.5, 0.0]]), torch.tensor([[0.5, 0.0]])]
THREE = [torch.randn(n, 2, generator=torch.Generator().manual_seed(n)) for n in (1, 2, 3)]
POINTS = torch.randn(50, 2, generator=torch.Generator().manual_seed(4))


def cloud_noise(x_t, t, world, width, power=2, center=0.5, exponent=-0.5, dim=1):
    """The mean noise in points x_t (B, 2): (B, 2). The defaults are right."""
    variance = width**power * ABAR[t] + 1 - ABAR[t]
    away = x_t[:, None] - ABAR[t] ** center * torch.cat(world)  # (B, clouds, 2)
    weights = (exponent * away.square().sum(dim=2) / variance).softmax(dim=dim)
    return (1 - ABAR[t]).sqrt() / variance * (weights[:, :, None] * away).sum(dim=1)


LESSON_1 = {
    "exercise 1": Exercise(
        cloud_noise,
        [
            {"x_t": POINTS, "t": 399, "world": TWO, "width": 0.15},
            {"x_t": POINTS, "t": 49, "world": THREE, "width": 0.1},
        ],
        mistakes={
            "the softmax is over the points, not the clouds": partial(cloud_noise, dim=0),
            "all clouds have the same weight": partial(cloud_noise, exponent=0),
            "the exponent is not divided by 2": partial(cloud_noise, exponent=-1),
            "the centers are not scaled": partial(cloud_noise, center=0),
            "v has `width` without the square": partial(cloud_noise, power=1),
            "v has no `width`": lambda x_t, t, world, width: cloud_noise(x_t, t, world, 0),
            "`world` is not used": lambda x_t, t, world, width: cloud_noise(x_t, t, TWO, width),
        },
    ),
}

# --- lesson 2 ---

models = cache(load_models)
digit_gradient = gradient(lambda x_t, t, y: models()[1].log_p(x_t, t, y))


def pushed_x_u(grad, t, u, of_eps=-1, power=0.5):
    """The change of x_u by a push with s = 1. The defaults are right."""
    change_of_x_0 = (1 - ABAR[t]) / ABAR[t].sqrt() * grad
    return add_noise(change_of_x_0, of_eps * (1 - ABAR[t]) ** power * grad, ABAR[u])


LESSON_2 = {
    "exercise 1": weighted_sum(
        lambda x_0, eps, t: add_noise(x_0, eps, TABLE[t]), t=(399, 99, MANY)
    ),
    "exercise 2": weighted_sum(
        lambda x_t, eps, t: x_0_from_eps(x_t, eps, TABLE[t]), t=(399, 99, MANY)
    ),
    "exercise 3": Exercise(
        digit_gradient,
        [{"x_t": x, "t": t, "y": LABELS} for x, t in zip(IMAGES, (699, 199))],
        mistakes={
            "log p is averaged, not added": lambda x_t, t, y: digit_gradient(x_t, t, y) / len(y),
            "p instead of log p": gradient(lambda *case: models()[1].log_p(*case).exp()),
        },
    ),
    "exercise 4": weighted_sum(lambda eps, grad, s, t: eps - s * (1 - TABLE[t]).sqrt() * grad),
    "exercise 5": weighted_sum(
        lambda x_t, eps, t, u: add_noise(x_0_from_eps(x_t, eps, TABLE[t]), eps, TABLE[u])
    ),
    "exercise 6": Guide(lambda x_0, y: -x_0.mean(dim=(1, 2, 3)), (IMAGES[0], LABELS)),
    "exercise 7": Exercise(
        pushed_x_u,
        [{"grad": IMAGES[0], "t": 699, "u": 549}, {"grad": IMAGES[1], "t": 99, "u": 49}],
        mistakes={
            "only the image changes": partial(pushed_x_u, of_eps=0),
            "the change of the noise has the wrong sign": partial(pushed_x_u, of_eps=1),
            "the noise changes by `-grad`": partial(pushed_x_u, power=0),
        },
    ),
    "exercise 8": weighted_sum(lambda eps, eps_y, s: eps + s * (eps_y - eps)),
}
check_1, check_2 = partial(check, LESSON_1), partial(check, LESSON_2)
