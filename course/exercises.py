"""The exercises of the lessons: our solutions, typical mistakes, and checks of loops."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, partial
from itertools import pairwise

import torch

from course.lesson import path_of
from diffusion import END, add_noise, eps_from_x_0, sampling_times, x_0_from_eps
from inference import gradient, load_models
from support import checks
from support.checks import ABAR, EXERCISES, IMAGES, Exercise, NotYet, weighted_sum

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
        try:
            path = self.exercises[name].path_from(function, inputs)
        except NotYet:
            path = None
        return path, self.check(name, function)

    def check_match(self, name, answer, words):
        """Check the words of the letters A, B, ...: a dict, or anything else if it is empty."""
        given = answer if isinstance(answer, dict) else {}
        right = sum(given.get(letter) == word for letter, word in zip("ABCD", words))
        self.correct[name] = right == len(words)
        print(f"{name}: {right} of {len(words)} are correct.")

    def print_done(self):
        """Print which exercises are correct."""
        for name, correct in self.correct.items():
            print(f"{name}: {'correct' if correct else 'not yet'}")


@dataclass
class Loop:
    """A loop from noise (x_t, y, s, ...) to a list of (t, x_t, x_0).

    `noise` is our guided noise, a function of (x_t, t, y, s, ...), and `mistakes` has others.
    """

    times: tuple
    noise: Callable
    inputs: tuple
    constants: dict
    mistakes: dict = field(default_factory=dict)

    def ours(self, x_t, y, s, *rest):
        return path_of(lambda *args: self.noise(*args, s, *rest), x_t, y, self.times)

    def path_from(self, function, inputs):
        """What a student's loop returns. Raises NotYet if it is not a path from the noise."""
        path, x_T = checks.answer(function, *inputs, constants=self.constants), inputs[0]
        if not isinstance(path, (list, tuple)):
            raise NotYet(f"It should return a list, not a {type(path).__name__}.")
        try:
            path = [(int(t), *(checks.tensor(x, x_T) for x in (x_t, x_0))) for t, x_t, x_0 in path]
        except (TypeError, ValueError, RuntimeError) as error:
            raise NotYet("Each entry of the list should be (t, x_t, x_0).") from error
        if [t for t, _, _ in path] != [*self.times[:-1]]:
            raise NotYet(f"The timesteps should be {self.times[:2]} ... {self.times[-2]}.")
        if not torch.equal(path[0][1], x_T):
            raise NotYet("The first `x_t` is not the argument: append it before the next one.")
        return path

    def compare(self, function):
        """Raise NotYet with the first difference from ours, in the order of computation."""
        path = self.path_from(function, self.inputs)
        for (t, x_t, x_0), (u, x_u, _) in pairwise([*path, (END, path[-1][2], None)]):
            self.compare_step(t, x_t, x_0, u, x_u, *self.inputs[1:])

    def compare_step(self, t, x_t, x_0, u, x_u, y, s, *rest):
        """Raise NotYet if the noise, or the next x_t, differs from ours, given x_t and x_0."""

        def noise(s):
            return self.noise(x_t, t, y, s, *rest)

        case, eps_hat = {"t": t, "y": y, "s": s}, eps_from_x_0(x_t, x_0, ABAR[t])
        mistakes = {text: partial(f, x_t, t, y, s) for text, f in self.mistakes.items()}
        mistakes["the gradient is missing"] = partial(noise, 0)
        mistakes["the gradient is not multiplied by s"] = partial(noise, 1)
        checks.compare("noise", case, eps_hat, noise(s), mistakes)

        mistakes = {"it is the same as the last one": lambda: x_t}
        mistakes["it has no guidance"] = lambda: add_noise(x_0, noise(0), ABAR[u])
        checks.compare("next `x_t`", case, x_u, add_noise(x_0, eps_hat, ABAR[u]), mistakes)


# --- lesson 1 ---

TWO = [torch.tensor([[-0.5, 0.0]]), torch.tensor([[0.5, 0.0]])]
THREE = [torch.randn(n, 2, generator=torch.Generator().manual_seed(n)) for n in (1, 2, 3)]
POINTS = torch.randn(50, 2, generator=torch.Generator().manual_seed(4))
CONSTANTS = {"abar": ABAR, "two": TWO}
TIMES = (*range(999, 0, -10), END)


def cloud_noise(x_t, t, world, width, power=2, center=0.5, exponent=-0.5, dim=1):
    """The mean noise in points x_t (B, 2): (B, 2). The defaults are right."""
    variance = width**power * ABAR[t] + 1 - ABAR[t]
    away = x_t[:, None] - ABAR[t] ** center * torch.cat(world)  # (B, clouds, 2)
    weights = (exponent * away.square().sum(dim=2) / variance).softmax(dim=dim)
    return (1 - ABAR[t]).sqrt() / variance * (weights[:, :, None] * away).sum(dim=1)


def guided_cloud_noise(x_t, t, y, s, world, width):
    """Bayes' rule: the gradient of log p(y | x_t) is the difference of two scores."""
    eps, eps_of_y = (cloud_noise(x_t, t, classes, width) for classes in (world, [world[y]]))
    return eps + s * (eps_of_y - eps)


LESSON_1 = Lesson(
    Exercise(
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
        constants=CONSTANTS,
    ),
    EXERCISES["exercise 4"],
    weighted_sum(checks.image_in),
    EXERCISES["exercise 3"],
    Loop(TIMES, guided_cloud_noise, (POINTS, 2, 3.0, THREE, 0.1), CONSTANTS),
)

# --- lesson 2 ---

LABELS = torch.tensor([3, 8, 1])


@torch.no_grad()
def unet_noise(x_t, t, clip=True):
    return models()[0](x_t, t) if clip else models()[0].unet_eps(x_t, t)


digit_gradient = gradient(lambda x_t, t, y: models()[1].log_p(x_t, t, y))


def guided(x_t, t, y, s, power=0.5, before=True, after=False):
    eps = unet_noise(x_t, t, before) - s * (1 - ABAR[t]) ** power * digit_gradient(x_t, t, y)
    x_0 = x_0_from_eps(x_t, eps, ABAR[t])
    return eps_from_x_0(x_t, x_0.clamp(-1, 1) if after else x_0, ABAR[t])


def pushed_x_u(grad, t, u, of_eps=-1):
    """The change of x_u by a push with s = 1."""
    change_of_x_0 = (1 - ABAR[t]) / ABAR[t].sqrt() * grad
    return add_noise(change_of_x_0, of_eps * (1 - ABAR[t]).sqrt() * grad, ABAR[u])


BUGS = {  # (x_t, t, y, s) -> the guided noise; the lesson draws the first four
    "plus: the gradient is added": lambda x_t, t, y, s: guided(x_t, t, y, -s),
    "root: (1 - abar[t]).sqrt() is missing": partial(guided, power=0),
    "mean: log p is averaged, not added": lambda x_t, t, y, s: guided(x_t, t, y, s / len(y)),
    "clip: the image is clipped after the guidance": partial(guided, before=False, after=True),
    "the image is not clipped": partial(guided, before=False),
    "the image is clipped again, after the guidance": partial(guided, after=True),
}
LESSON_2 = Lesson(
    Exercise(
        unet_noise,
        [{"x_t": IMAGES[0], "t": 699}, {"x_t": IMAGES[1], "t": 49}],
        mistakes={
            "nothing is clipped": partial(unet_noise, clip=False),
            "the noise is clipped": lambda x_t, t: unet_noise(x_t, t, False).clamp(-1, 1),
        },
    ),
    Exercise(
        digit_gradient,
        [{"x_t": x, "t": t, "y": LABELS} for x, t in zip(IMAGES, (699, 199))],
        mistakes={
            "log p is averaged, not added": lambda x_t, t, y: digit_gradient(x_t, t, y) / len(y),
            "p instead of log p": gradient(lambda *case: models()[1].log_p(*case).exp()),
        },
    ),
    EXERCISES["exercise 4"],
    Loop((*sampling_times(1000, 20), END), guided, (IMAGES[0], LABELS, 2.0), {"abar": ABAR}, BUGS),
    None,  # see `check_match`
    weighted_sum(lambda x_0, grad, s, t: x_0 + s * (1 - ABAR[t]) / ABAR[t].sqrt() * grad),
    Exercise(
        pushed_x_u,
        [{"grad": IMAGES[0], "t": 699, "u": 549}, {"grad": IMAGES[1], "t": 99, "u": 49}],
        mistakes={
            "only the image changes": partial(pushed_x_u, of_eps=0),
            "the change of the noise has the wrong sign": partial(pushed_x_u, of_eps=1),
        },
    ),
    weighted_sum(lambda eps_u, eps_c, s: eps_u + s * (eps_c - eps_u)),
)
