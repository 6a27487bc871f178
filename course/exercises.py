"""The exercises of the lessons: our solutions, typical mistakes, and checks of loops."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property, partial
from inspect import signature
from itertools import pairwise

import torch

from course.lesson import path_of
from diffusion import END, add_noise, eps_from_x_0, sampling_times, x_0_from_eps
from inference import gradient, load_models
from support import checks
from support.checks import ABAR, Exercise, NotYet, close, described

models = cache(load_models)


class Lesson:
    """The exercises of a lesson, and which of them are correct."""

    def __init__(self, *exercises):
        self.exercises = {f"exercise {k}": each for k, each in enumerate(exercises, 1)}
        self.correct = dict.fromkeys(self.exercises, False)

    def check(self, name, function):
        """Check a function; return it if it is correct, and ours if not."""
        result = checks.check(name, function, self.exercises[name])
        self.correct[name] = result is function
        return result

    def check_loop(self, name, function, *inputs):
        """Check a loop. Returns the student's path, or None, and the loop to use."""
        loop = self.exercises[name]
        loop.first, loop.path = inputs, None
        to_use = self.check(name, function)
        return loop.path, to_use

    def check_match(self, name, answer, words):
        """Check the words of the letters A, B, ...: a dict, or a list in this order."""
        given = [word for _, word in sorted(answer.items())] if isinstance(answer, dict) else answer
        given = given if isinstance(given, list) else []
        right = sum(str(a).strip().lower() == b for a, b in zip(given, words))
        self.correct[name] = right == len(words)
        print(f"{name}: {right} of {len(words)} are correct.")

    def print_done(self):
        """Print which exercises are correct."""
        for name, correct in self.correct.items():
            print(f"{name}: {'correct' if correct else 'not yet'}")


@dataclass
class Loop:
    """A loop from noise (x_t, y, s, ...) to a list of (t, x_t, x_0).

    `parts` is a function (x_t, t, y, ...) -> the mean noise and the gradient, and `mistakes` has
    functions (x_t, t, y, s, ...) -> the guided noise. `first` and `other` are two cases.
    """

    times: tuple
    parts: Callable
    other: tuple
    mistakes: dict
    constants: dict
    first: tuple = None
    path: list = None
    praise = "correct."

    def noise(self, x_t, t, y, s, *rest):
        return guided_noise(*self.parts(x_t, t, y, *rest), s, t)

    @cached_property
    def ours(self):
        def path(x_t, y, s, *rest):
            return path_of(lambda *args: self.noise(*args, s, *rest), x_t, y, self.times)

        return path

    def compare(self, function):
        """Raise NotYet with the first difference from ours, in the order of computation."""
        for where, inputs in zip(("", "With other arguments: "), (self.first, self.other)):
            try:
                path = self.path_from(function, inputs)
                self.path = self.path or path
                for entry, after in pairwise([*path, (END, path[-1][2], None)]):
                    self.compare_step(entry, after, inputs)
            except NotYet as problem:
                hint = checks.outside(function, self.constants)
                raise NotYet(f"{where}{problem}{hint}") from None

    def path_from(self, function, inputs):
        """What a student's loop returns. Raises NotYet if it is not a path from the noise."""
        path, x_T = checks.answer(function, *inputs, constants=self.constants), inputs[0]
        if not isinstance(path, (list, tuple)):
            raise NotYet(f"It should return a list of (t, x_t, x_0); it returns {described(path)}.")
        for entry in path:
            if not isinstance(entry, (list, tuple)) or len(entry) != 3:
                raise NotYet(f"An entry should be (t, x_t, x_0); one is {described(entry)}.")
            _ = [checks.tensor(image, x_T) for image in entry[1:]]
        got = [t for t, _, _ in path]
        if got != [*self.times[:-1]]:
            expected = f"{self.times[0]}, {self.times[1]}, ... {self.times[-2]}"
            raise NotYet(f"The timesteps should be {expected}; they are {got[:2]} ... {got[-1:]}.")
        if not torch.equal(path[0][1], x_T):
            raise NotYet("The first `x_t` is not the argument: append it before the next one.")
        return [(int(t), x_t.detach().float(), x_0.detach().float()) for t, x_t, x_0 in path]

    @torch.no_grad()
    def compare_step(self, entry, after, inputs):
        """Raise NotYet if the noise, or the next x_t, differs from ours, given x_t and x_0."""
        (t, x_t, x_0), (u, x_u, _), (_, y, s, *rest) = entry, after, inputs
        numbers, a = {"s": float(s), "t": t, "u": u}, ABAR[t]
        eps, grad = self.parts(x_t, t, y, *rest)
        eps_hat, ours = eps_from_x_0(x_t, x_0, a), guided_noise(eps, grad, s, t)
        clipped = x_0_from_eps(x_t, ours, a).clamp(-1, 1)
        mistakes = {k: partial(f, x_t, t, y, s, *rest) for k, f in self.mistakes.items()}
        mistakes["the gradient is computed at u, not at t"] = lambda: guided_noise(
            eps, self.parts(x_t, u, y, *rest)[1], s, t
        )
        mistakes["`x_0` is clipped after the guidance"] = partial(eps_from_x_0, x_t, clipped, a)
        compare_part("noise", eps_hat, ours, {"eps": eps, "grad": grad} | numbers, mistakes)

        ours, case = add_noise(x_0, eps_hat, ABAR[u]), {"x_0": x_0, "eps_hat": eps_hat} | numbers
        mistakes = {"it contains `eps`, without guidance": partial(add_noise, x_0, eps, ABAR[u])}
        mistakes["it is the same as the last one"] = lambda: x_t
        compare_part("next `x_t`", x_u, ours, case, mistakes)


def compare_part(name, yours, ours, case, mistakes):
    if close(yours, ours):
        return
    for description, mistake in mistakes.items():
        if close(yours, mistake()):
            raise NotYet(f"A known mistake in the {name} at t = {case['t']}: {description}.")
    reason = checks.wrong_factors(tuple(case)[:2], [(case, yours, ours)])
    reason = reason or f"It differs: {checks.difference(yours, ours)}."
    raise NotYet(f"The {name} at t = {case['t']} is wrong. {reason}")


def sum_of_two(ours, images):
    """An exercise whose result is the sum of the first two arguments, each times a number."""
    names = [*signature(ours).parameters]
    numbers = {"s": (7.0, 3.0), "t": (399, 49), "u": (249, 19)}
    cases = [dict(zip(names, images[k : k + 2])) for k in (0, 2)]
    cases = [case | {n: numbers[n][k] for n in names[2:]} for k, case in enumerate(cases)]
    return Exercise(ours, cases, tuple(names[:2]))


def guided_noise(eps, grad, s, t):
    return eps - s * (1 - ABAR[t]).sqrt() * grad


# --- lesson 1 ---

TWO = [torch.tensor([[-0.5, 0.0]]), torch.tensor([[0.5, 0.0]])]
THREE = [torch.randn(n, 2, generator=torch.Generator().manual_seed(n)) for n in (1, 2, 3)]
CONSTANTS = {"abar": ABAR, "two": TWO}
POINTS = torch.randn(4, 50, 2, generator=torch.Generator().manual_seed(4))
PARTS = {
    "clouds": torch.cat,
    "center": lambda a: a**0.5,
    "variance": lambda a, w: w**2 * a + 1 - a,
    "share": lambda exponent: exponent.softmax(dim=1),
    "factor": lambda a, v: (1 - a) ** 0.5 / v,
}
CLOUD_MISTAKES = {  # other parts
    "the softmax is over the points, not the clouds": {"share": lambda e: e.softmax(dim=0)},
    "all clouds have the same weight": {"share": lambda e: (0 * e).softmax(dim=1)},
    "the weights do not add up to 1": {"share": torch.exp},
    "the exponent has no 2": {"share": lambda e: (2 * e).softmax(dim=1)},
    "v is the standard deviation": {"variance": lambda a, w: (w**2 * a + 1 - a) ** 0.5},
    "v has `width` without the square": {"variance": lambda a, w: w * a + 1 - a},
    "v is 1 - abar[t], without `width`": {"variance": lambda a, w: 1 - a},
    "`width` is not multiplied by abar[t]": {"variance": lambda a, w: w**2 + 1 - a},
    "`width` is always 0.15": {"variance": lambda a, w: 0.15**2 * a + 1 - a},
    "the centers are not scaled": {"center": lambda a: 1},
    "the centers are multiplied by abar[t]": {"center": lambda a: a},
    "this is the score": {"factor": lambda a, v: -1 / v},
    "(1 - abar[t]).sqrt() is missing": {"factor": lambda a, v: 1 / v},
    "1 - abar[t] has no root": {"factor": lambda a, v: (1 - a) / v},
    "the division by v is missing": {"factor": lambda a, v: (1 - a) ** 0.5},
    "only two classes are used": {"clouds": lambda world: torch.cat(world[:2])},
    "`two` is used instead of `world`": {"clouds": lambda world: torch.cat(TWO)},
    "only the nearest cloud is used": {"share": lambda e: (1e6 * e).softmax(dim=1)},
}


def cloud_noise(x_t, t, world, width, **mistake):
    """The mean noise in points x_t (B, 2): (B, 2)."""
    clouds, center, variance, share, factor = (PARTS | mistake).values()
    a, v = ABAR[t], variance(ABAR[t], width)
    away = x_t[:, None] - center(a) * clouds(world)  # (B, clouds, 2)
    weights = share(-away.square().sum(dim=2) / (2 * v))[:, :, None]
    return factor(a, v) * (weights * away).sum(dim=1)


def cloud_parts(x_t, t, y, world, width):
    """The mean noise, and the gradient of log p(y | x_t), a difference of two scores."""
    eps, eps_of_y = (cloud_noise(x_t, t, classes, width) for classes in (world, [world[y]]))
    return eps, (eps - eps_of_y) / (1 - ABAR[t]).sqrt()


LESSON_1 = Lesson(
    Exercise(
        cloud_noise,
        [
            {"x_t": POINTS[0], "t": 399, "world": TWO, "width": 0.15},
            {"x_t": POINTS[1], "t": 49, "world": THREE, "width": 0.1},
        ],
        mistakes={k: partial(cloud_noise, **other) for k, other in CLOUD_MISTAKES.items()},
        constants=CONSTANTS,
    ),
    sum_of_two(guided_noise, POINTS),
    sum_of_two(lambda x_t, eps, t: x_0_from_eps(x_t, eps, ABAR[t]), POINTS),
    sum_of_two(lambda x_0, eps, t, u: add_noise(x_0, eps, ABAR[u]), POINTS),
    Loop((*range(999, 0, -10), END), cloud_parts, (POINTS[0], 2, 3.0, THREE, 0.1), {}, CONSTANTS),
)

# --- lesson 2 ---

IMAGES = torch.randn(4, 3, 1, 28, 28, generator=torch.Generator().manual_seed(5))
LABELS = torch.tensor([[3, 8, 1], [0, 5, 5]])


def unet_noise(x_t, t, clip=True):
    return models()[0](x_t, t) if clip else models()[0].unclipped_eps(x_t, t)


def of_logits(f):
    return gradient(lambda x_t, t, y: f(models()[1](x_t, t)).gather(1, y[:, None])[:, 0])


digit_gradient = of_logits(lambda logits: logits.log_softmax(dim=1))


def guided(x_t, t, y, s, power=0.5, before=True, after=False):
    eps = unet_noise(x_t, t, before) - s * (1 - ABAR[t]) ** power * digit_gradient(x_t, t, y)
    x_0 = x_0_from_eps(x_t, eps, ABAR[t])
    return eps_from_x_0(x_t, x_0.clamp(-1, 1) if after else x_0, ABAR[t])


def pushed(grad, t, u, of_x_0=1, of_eps=-1, power=0.5):
    """The change of x_u by a push with s = 1."""
    of_x_0 = of_x_0 * ABAR[u].sqrt() * (1 - ABAR[t]) / ABAR[t] ** power
    return (of_x_0 + of_eps * (1 - ABAR[u]).sqrt() * (1 - ABAR[t]).sqrt()) * grad


BUGS = {  # (x_t, t, y, s) -> the guided noise; the lesson draws the first four
    "plus: the gradient is added": lambda x_t, t, y, s: guided(x_t, t, y, -s),
    "root: (1 - abar[t]).sqrt() is missing": partial(guided, power=0),
    "mean: log p is averaged, not added": lambda x_t, t, y, s: guided(x_t, t, y, s / len(y)),
    "clip: the image is clipped after the guidance": partial(guided, before=False, after=True),
    "the image is not clipped": partial(guided, before=False),
}
LESSON_2 = Lesson(
    Exercise(
        unet_noise,
        [{"x_t": IMAGES[0], "t": 699}, {"x_t": IMAGES[1], "t": 49}],
        mistakes={
            "nothing is clipped": partial(unet_noise, clip=False),
            "the noise is clipped": lambda x_t, t: unet_noise(x_t, t, False).clamp(-1, 1),
            "it returns the image": lambda *args: models()[0].x_0(*args),
        },
    ),
    Exercise(
        digit_gradient,
        [{"x_t": x, "t": t, "y": y} for x, t, y in zip(IMAGES, (699, 199), LABELS)],
        mistakes={
            "the average of log p": lambda x_t, t, y: digit_gradient(x_t, t, y) / len(y),
            "p instead of log p": of_logits(lambda logits: logits.softmax(dim=1)),
            "logits without softmax": of_logits(lambda logits: logits),
            "softmax over the images": of_logits(lambda logits: logits.log_softmax(dim=0)),
        },
    ),
    sum_of_two(guided_noise, IMAGES),
    Loop(
        (*sampling_times(1000, 20), END),
        lambda x_t, t, y: (unet_noise(x_t, t), digit_gradient(x_t, t, y)),
        (IMAGES[0], LABELS[0], 2.0),
        BUGS,
        {"abar": ABAR},
    ),
    None,  # see `check_match`
    sum_of_two(lambda x_0, grad, s, t: x_0 + s * (1 - ABAR[t]) / ABAR[t].sqrt() * grad, IMAGES),
    Exercise(
        pushed,
        [{"grad": grad, "t": t, "u": u} for grad, t, u in zip(IMAGES, (699, 99), (549, 49))],
        mistakes={
            "only the image changes": partial(pushed, of_eps=0),
            "only the noise changes": partial(pushed, of_x_0=0),
            "the change of the noise has the wrong sign": partial(pushed, of_eps=1),
            "the nudge is not divided by abar[t].sqrt()": partial(pushed, power=0),
        },
    ),
    sum_of_two(lambda eps_u, eps_c, s: eps_u + s * (eps_c - eps_u), IMAGES),
)
