"""Checks of a student's short functions.

A check calls the function with random images and compares the results with ours. If ours is a
weighted sum of two images, least squares finds the factors, and the message names the wrong one.
"""

import copy
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from dis import get_instructions
from functools import partial
from itertools import product

import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler

from diffusion import SCHEDULE

ABAR = F.pad(DDPMScheduler(**SCHEDULE).alphas_cumprod, (0, 1), value=1.0)  # ABAR[END] is 1
ARGUMENTS = {"x_t", "x_0", "eps", "eps_hat", "grad", "t", "u", "y", "s"}
TOLERANCE = 1e-4  # relative
IN_PLACE = "Compute a new tensor instead of changing one in place (`-=`, `sqrt_()`)."


class NotYet(Exception):
    """An answer is not correct; the message says why. An empty one has no message."""


@dataclass
class Exercise:
    """What a student's function should compute.

    Args:
        ours: our solution.
        cases: dicts, name -> argument, passed by position. Use two or more, one at a small t.
        terms: names of the two images whose weighted sum is the result, or (). The factors may
            depend on the timesteps "t" and "u" and on "s".
        mistakes: description -> a function with this mistake.
        constants: name -> value of the global variables that must not change.
    """

    ours: Callable
    cases: list
    terms: tuple = ()
    mistakes: dict = field(default_factory=dict)
    constants: dict = field(default_factory=lambda: {"abar": ABAR})
    verdict = "correct."

    def compare(self, function):
        """Raise NotYet if a student's function differs from ours in any case."""
        for k, case in enumerate(self.cases):
            ours = self.ours(*case.values())
            try:
                yours = tensor(answer(function, *case.values(), constants=self.constants), ours)
            except NotYet as problem:  # in a later case, say in which
                raise NotYet(f"{problem}{f' This is{place(case)}.' if k else ''}") from None
            again = tensor(answer(function, *case.values(), constants=self.constants), ours)
            if not close(yours, again):
                raise NotYet("Its result is random: use the noise that it gets.")
            mistakes = {text: partial(f, *case.values()) for text, f in self.mistakes.items()}
            compare("result", case, yours, ours, mistakes, self.terms)


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
        loads = [each.argval for each in get_instructions(function) if each.opname == "LOAD_GLOBAL"]
        used = {word: function.__globals__.get(word) for word in loads}
    try:
        if any(exercise.ours is value for value in (function, *used.values())):
            raise NotYet("It is our solution, or calls it. Run the cell with your `def` again.")
        for word in ARGUMENTS & used.keys():
            raise NotYet(f"It uses a global variable, `{word}`, instead of its arguments.")
        exercise.compare(function)
    except NotYet as problem:
        if not str(problem):
            print(f"{name}: ours is used until you write yours.")
        else:
            print(f"{name}: not yet. {problem}\nUntil it is correct, ours is used.")
        return exercise.ours
    print(f"{name}: {exercise.verdict}")
    return function


# --- what a function returns ---


def answer(function, *inputs, constants=()):
    """What a student's function returns. Raises NotYet if it is empty, fails, or has side effects.

    constants: name -> value of the global variables that must not change.
    """
    if not callable(function):
        raise NotYet("It is not a function. Run the cell with `def` again.")
    names = getattr(function, "__globals__", {})
    before = {name: copy.deepcopy(names[name]) for name in constants if name in names}
    for name, value in before.items():
        if not same(value, constants[name]):
            raise NotYet(f"`{name}` has changed. Run the cell with `{name} =`, then this one.")
    copies = copy.deepcopy(inputs)
    try:
        result = function(*copies)
    except Exception as error:  # a student's code can raise anything
        result = error
    for name, value in before.items():
        if not same(names.get(name), value):
            names.update(before)
            raise NotYet(f"It changes `{name}`. {IN_PLACE}")
    if isinstance(result, Exception):
        lines = [frame.line for frame in traceback.extract_tb(result.__traceback__)]
        where = f" in `{lines[1]}`" if any(lines[1:2]) else ""  # the student's line
        hint = " `t` must be a tensor here, one per image." if "'int' object" in str(result) else ""
        raise NotYet(f"It raises {type(result).__name__}{where}: {result}.{hint}") from result
    if not all(map(same, copies, inputs)):
        raise NotYet(f"It changes its arguments. {IN_PLACE}")
    if result is ...:
        raise NotYet
    if result is None:
        raise NotYet("`return` is missing.")
    return result


def tensor(result, ours):
    """A result as a tensor that can be compared with ours. Raises NotYet if it is none."""
    if not torch.is_tensor(result):
        raise NotYet(f"It should return a tensor, not a {type(result).__name__}.")
    if result.shape != ours.shape:
        raise NotYet(f"The shape is {tuple(result.shape)}; it should be {tuple(ours.shape)}.")
    if not (result.is_floating_point() and result.isfinite().all()):
        raise NotYet("The result should have finite floating-point values.")
    return result.detach().float()


def same(a, b):
    """Whether tensors, or lists of them, have the same values, in any shape; others always do."""
    if isinstance(b, list):
        return isinstance(a, list) and len(a) == len(b) and all(map(same, a, b))
    if not torch.is_tensor(b):
        return True
    equal_size = torch.is_tensor(a) and a.numel() == b.numel()
    return equal_size and torch.allclose(a.flatten().float(), b.flatten().float(), atol=1e-6)


# --- how it differs from ours ---


def compare(what, case, yours, ours, mistakes, terms=()):
    """Raise NotYet if two tensors differ. `mistakes` has functions without arguments."""
    if close(yours, ours):
        return
    for description, mistake in mistakes.items():
        if close(yours, mistake()):
            raise NotYet(f"A known mistake in the {what}{place(case)}: {description}.")
    if terms and not torch.is_tensor(case.get("t")):
        raise NotYet(wrong_factors(terms, case, yours, ours))
    factor = (yours * ours).sum() / ours.square().sum()
    if close(yours, factor * ours):
        raise NotYet(f"The {what}{place(case)} is {factor:.4g} times ours.")
    apart = (yours - ours).abs().max()
    raise NotYet(f"The {what}{place(case)} differs from ours by up to {apart:.2g}.")


def close(yours, ours):
    """Whether two tensors are equal up to rounding errors."""
    return (yours - ours).abs().max() <= TOLERANCE * ours.abs().max()


def place(case):
    """The numbers among the arguments, " at t = 399", or ""."""
    numbers = {name: v for name, v in case.items() if isinstance(v, (int, float))}
    numbers |= {n: v.tolist() for n, v in case.items() if torch.is_tensor(v) and v.ndim == 1}
    return " at " + ", ".join(f"{n} = {v}" for n, v in numbers.items()) if numbers else ""


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
            sign = "The sign and the factor" if factor * right < 0 else "The factor"
            verb = "are" if factor * right < 0 else "is"
            messages.append(f"{sign} of `{term}` {verb} wrong: yours is {named(factor, case)}.")
    if abs(factors[2, 0]) > TOLERANCE / 10:
        messages.append("You also add a number to all pixels: are brackets missing?")
    return " ".join(messages)


def named(factor, case):
    """An expression for a factor, such as -s * abar[t] / (1 - abar[t]).sqrt(), or its value."""
    s, powers = case.get("s", 1), {"": 1}
    scales = {"": 1, "s": s, "(1 - s)": 1 - s, "(1 + s)": 1 + s, "5": 5} if "s" in case else {"": 1}
    for index in [name for name in ("t", "u") if name in case]:
        a, text = ABAR[case[index]].item(), f"abar[{index}]"
        powers |= {f"{text}.sqrt()": a**0.5, f"(1 - {text}).sqrt()": (1 - a) ** 0.5, text: a}
        powers |= {f"(1 - {text})": 1 - a, f"(1 - {text}.sqrt())": 1 - a**0.5}
    for (a, x), (b, y), (c, z) in product(scales.items(), powers.items(), powers.items()):
        ratio = factor * z / (x * y)
        if abs(abs(ratio) - 1) < TOLERANCE / 10:
            above = " * ".join(filter(None, (a, b))) or "1"
            return ("-" if ratio < 0 else "") + (f"{above} / {c}" if c else above)
    return f"{factor:.3g}{place(case)}"
