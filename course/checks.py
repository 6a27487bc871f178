"""Checks of a student's short functions.

A check calls the function with random images and compares the results with ours. If ours is a
weighted sum of two images, least squares finds the factors, and the message names the wrong one.
"""

import copy
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from dis import get_instructions

import torch
from diffusers import DDPMScheduler

from diffusion import SCHEDULE, abar_table

ABAR = abar_table(DDPMScheduler(**SCHEDULE))
ARGUMENTS = {"x_t", "x_0", "eps", "eps_hat", "grad", "t", "u", "y", "s"}
TOLERANCE = 1e-4  # relative


class NotYet(Exception):
    """An answer is not correct; the message says why. It is empty for a function without one."""


@dataclass
class Exercise:
    """What a student's function should compute.

    Args:
        ours: our solution.
        cases: dicts, name -> argument, passed by position. Use two or more, one at a small t.
        terms: names of the two images whose weighted sum is the result, or (). The factors may
            depend on the timesteps "t" and "u" and on "s".
        mistakes: description -> a function with this mistake.
    """

    ours: Callable
    cases: list
    terms: tuple = ()
    mistakes: dict = field(default_factory=dict)
    verdict = "correct."

    def compare(self, function):
        """Raise NotYet if a student's function differs from ours in any case."""
        for case in self.cases:
            try:
                self.compare_case(function, case)
            except NotYet as problem:
                raise NotYet(str(problem) and f"{problem} This is{place(case)}.") from problem

    def compare_case(self, function, case):
        """Raise NotYet if a student's function differs from ours in this case."""
        ours = self.ours(*case.values())
        yours = tensor(answer(function, *case.values()), ours)
        if close(yours, ours):
            return
        for description, mistake in self.mistakes.items():
            if close(yours, mistake(*case.values())):
                raise NotYet(f"A known mistake: {description}.")
        if self.terms and not torch.is_tensor(case.get("t")):
            raise NotYet(wrong_factors(self.terms, case, yours, ours))
        factor = (yours * ours).sum() / ours.square().sum()
        if close(yours, factor * ours):
            raise NotYet(f"The result is {factor:.4g} times ours.")
        raise NotYet(f"The result differs from ours by up to {(yours - ours).abs().max():.2g}.")


@dataclass
class Guide:
    """A guide of the student's own: any differentiable function, one number per image."""

    ours: Callable
    inputs: tuple
    verdict = "it runs. Now look at the picture."

    def compare(self, function):
        """Raise NotYet if a student's function cannot guide."""
        images, *others = self.inputs
        tensor(answer(function, *self.inputs), torch.zeros(len(images)))
        images = images.clone().requires_grad_()
        try:
            (grad,) = torch.autograd.grad(function(images, *others)[0], images)
        except RuntimeError as error:
            raise NotYet("It has no gradient; use no `>`, `argmax`, `detach`, or NumPy.") from error
        if not (grad.isfinite().all() and grad[0].any()):
            raise NotYet("Its gradient is 0, or not finite.")
        if grad[1:].any():
            raise NotYet("The number of one image depends on the others: use dim=(1, 2, 3).")


def check(exercises, name, function):
    """Print whether a student's function is correct; return it if it is, and ours if not."""
    exercise, used = exercises[name], {}  # global names
    if hasattr(function, "__code__"):
        loads = [step.argval for step in get_instructions(function) if step.opname == "LOAD_GLOBAL"]
        used = {word: function.__globals__.get(word) for word in loads}
    try:
        if any(exercise.ours is value for value in (function, *used.values())):
            raise NotYet("It is our solution, or calls it. Run the cell with your `def` again.")
        for word in ARGUMENTS & used.keys():
            raise NotYet(f"It uses a global variable, `{word}`, instead of its arguments.")
        exercise.compare(function)
    except NotYet as problem:
        why = f"not yet. {problem}\nUntil it is correct, ours is used."
        print(f"{name}: {why if str(problem) else 'ours is used until you write yours.'}")
        return exercise.ours
    print(f"{name}: {exercise.verdict}")
    return function


# --- what a function returns ---


def answer(function, *inputs):
    """What a student's function returns. Raises NotYet if it fails or changes its arguments."""
    if not callable(function):
        raise NotYet("It is not a function. Run the cell with `def` again.")
    copies = copy.deepcopy(inputs)
    try:
        result = function(*copies)
    except Exception as error:  # a student's code can raise anything
        lines = [frame.line for frame in traceback.extract_tb(error.__traceback__)]
        where = f" in `{lines[1]}`" if any(lines[1:2]) else ""  # the student's line
        hint = " `t` must be a tensor here, one per image." if "'int' object" in str(error) else ""
        raise NotYet(f"It raises {type(error).__name__}{where}: {error}.{hint}") from error
    if not all(torch.equal(a, b) for a, b in zip(copies, inputs) if torch.is_tensor(b)):
        raise NotYet("It changes its arguments: compute a new tensor instead (no `-=`, `sqrt_()`).")
    return result


def tensor(result, ours):
    """A result as a tensor that can be compared with ours. Raises NotYet if it is none."""
    if result is ...:
        raise NotYet
    if not torch.is_tensor(result):
        hint = " `return` is missing." if result is None else ""
        raise NotYet(f"It should return a tensor, not a {type(result).__name__}.{hint}")
    if result.shape != ours.shape:
        raise NotYet(f"The shape is {tuple(result.shape)}; it should be {tuple(ours.shape)}.")
    if not (result.is_floating_point() and result.isfinite().all()):
        raise NotYet("The result should have finite floating-point values.")
    return result.detach().float()


# --- how it differs from ours ---


def close(yours, ours):
    """Whether two tensors are equal up to rounding errors."""
    return (yours - ours).abs().max() <= TOLERANCE * ours.abs().max()


def place(case):
    """The numbers among the arguments: " at t = 399"."""
    numbers = {name: v for name, v in case.items() if isinstance(v, (int, float))}
    numbers |= {n: v.tolist() for n, v in case.items() if torch.is_tensor(v) and v.ndim == 1}
    return " at " + ", ".join(f"{n} = {v}" for n, v in numbers.items())


def wrong_factors(terms, case, yours, ours):
    """Say which factors of the two images differ from ours."""
    images = [case[term].flatten().double() for term in terms]
    columns = torch.stack([*images, torch.ones_like(images[0])], dim=1)
    both = torch.stack([yours.flatten(), ours.flatten()], dim=1).double()
    factors = torch.linalg.lstsq(columns, both).solution
    if not close(columns @ factors, both):
        return f"It is not a sum of `{terms[0]}` and `{terms[1]}`, each times a number."
    messages = []
    for term, (factor, right) in zip(terms, factors.tolist()):
        if abs(factor) < TOLERANCE:
            messages.append(f"`{term}` is missing.")
        elif abs(factor + right) < TOLERANCE:
            messages.append(f"The sign of `{term}` is wrong.")
        elif abs(factor - right) > TOLERANCE / 10:
            sign = "sign and the factor" if factor * right < 0 else "factor"
            messages.append(f"Look at the {sign} of `{term}`: yours is {factor:.3g}.")
    if abs(factors[2, 0]) > TOLERANCE / 10:
        messages.append("You also add a number to all pixels: are brackets missing?")
    return " ".join(messages)
