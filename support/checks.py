"""Checks of a student's short functions, for the demo and the lessons.

A check calls the function with random images and compares the results with ours. If they are a
weighted sum of the images, least squares finds the factors, and the message names the wrong one.
"""

import copy
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import product

import torch

BETAS = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)  # DDPM, section 4
ABAR = torch.cat([(1 - BETAS).cumprod(dim=0), torch.ones(1)]).float()  # ABAR[-1] is 1
TOLERANCE = 1e-4  # relative
IN_PLACE = "Compute a new tensor instead of changing one in place (`-=`, `sqrt_()`)."
INDICES = {"{}": 0, "{} - 1": -1, "{} + 1": 1, "{} - 50": -50}
ROOTS = {
    "abar[{}].sqrt()": lambda abar: abar**0.5,
    "(1 - abar[{}]).sqrt()": lambda abar: (1 - abar) ** 0.5,
    "abar[{}]": lambda abar: abar,
    "(1 - abar[{}])": lambda abar: 1 - abar,
    "(1 - abar[{}].sqrt())": lambda abar: 1 - abar**0.5,
}
SCALES = {"s": lambda s: s, "(1 - s)": lambda s: 1 - s, "(1 + s)": lambda s: 1 + s}


class NotYet(Exception):
    """An answer is not correct; the message says why."""


@dataclass
class Exercise:
    """What a student's function should compute.

    Args:
        ours: our solution.
        cases: dicts, name -> argument, checked in this order; arguments are passed by position.
            Use two or more, one of them at a small t.
        terms: names of the two images whose weighted sum is the result, or (). The factors may
            depend on the arguments that are ints (timesteps), and on "s".
        mistakes: description -> a function with this mistake.
        constants: name -> value of the global variables that must not change.
    """

    ours: Callable
    cases: list
    terms: tuple = ()
    mistakes: dict = field(default_factory=dict)
    constants: dict = field(default_factory=lambda: {"abar": ABAR})
    praise = "correct."

    def compare(self, function):
        """Raise NotYet if a student's function differs from ours in any case."""
        results, inputs = [], [[*case.values()] for case in self.cases]
        for case, values in zip(self.cases, inputs):
            ours = self.ours(*copy.deepcopy(values))
            try:
                yours = tensor(answer(function, *values, constants=self.constants), ours)
            except NotYet as problem:  # in a later case, say in which
                raise NotYet(f"{problem}{f' This is{place(case)}.' if results else ''}") from None
            results.append((case, yours, ours))
        wrong = [k for k, (_, yours, ours) in enumerate(results) if not close(yours, ours)]
        if not wrong:
            return
        values, (case, yours, ours) = inputs[wrong[0]], results[wrong[0]]
        if not close(tensor(answer(function, *values), ours), yours):
            raise NotYet("It is random: when it is called again, the result differs.")
        for description, mistake in self.mistakes.items():
            if close(yours, mistake(*copy.deepcopy(values))):
                raise NotYet(f"This looks like a known mistake: {description}.")
        message = wrong_factors(self.terms, results) if self.terms else ""
        message = message or f"It differs{place(case)}: {difference(yours, ours)}."
        raise NotYet(message + outside(function, self.constants))


@dataclass
class Guide:
    """A guide of the student's own: any differentiable function, one number per image."""

    ours: Callable
    inputs: tuple
    praise = "it can guide."

    def compare(self, function):
        """Raise NotYet if a student's function cannot guide."""
        images, *others = self.inputs
        tensor(answer(function, *self.inputs), torch.zeros(len(images)))
        images = images.clone().requires_grad_()
        try:
            values = function(images, *others)
            (grad,) = torch.autograd.grad(values.sum(), images, retain_graph=True)
            (of_first,) = torch.autograd.grad(values[0], images)
        except RuntimeError as error:
            advice = "use no `>`, `argmax`, `detach`, or NumPy"
            raise NotYet(f"It has no gradient with respect to the image; {advice}.") from error
        if not (grad.isfinite().all() and grad.any()):
            raise NotYet("Its gradient is 0, or not finite.")
        if of_first[1:].any():
            raise NotYet("The number of one image depends on the others: use dim=(1, 2, 3).")


def check(name, function, exercise=None):
    """Print whether a student's function is correct; return it if it is, and ours if not."""
    exercise = exercise or EXERCISES[name]
    names, code = names_of(function)
    try:
        called = [names.get(used) for used in getattr(code, "co_names", ())]
        if any(used is exercise.ours for used in (function, *called)):
            raise NotYet("It is our solution, or calls it. Run the cell with your `def` again.")
        exercise.compare(function)
    except NotYet as problem:
        print(f"{name}: not yet. {problem}\nUntil it is correct, the notebook uses our solution.")
        return exercise.ours
    print(f"{name}: {exercise.praise}")
    return function


def close(yours, ours):
    """Whether two tensors are equal up to rounding errors."""
    return (yours - ours).abs().max() <= TOLERANCE * max(1e-6, ours.abs().max())


def place(case):
    """The numbers among the arguments, " at t = 399", or ""."""
    numbers = [f"{n} = {v}" for n, v in case.items() if isinstance(v, (int, float))]
    many = [f"{n} = {v.tolist()}, one per image" for n, v in case.items() if per_image(v)]
    return f" at {', '.join(numbers + many)}" if numbers + many else ""


def per_image(value):
    """Whether an argument is a tensor with one number per image."""
    return torch.is_tensor(value) and value.ndim == 1


def difference(yours, ours):
    """Describe how a tensor differs from ours."""
    factor, apart = (yours * ours).sum() / ours.square().sum(), (yours - ours).abs()
    if (yours - factor * ours).norm() < 1e-3 * yours.norm():
        return f"yours is {factor:.4g} times ours"
    count = (apart > TOLERANCE * ours.abs().max()).sum()
    return f"{count:,} of {ours.numel():,} values, by up to {apart.max():.2g}"


# --- what a function returns ---


def answer(function, *inputs, constants=()):
    """What a student's function returns. Raises NotYet if it is empty, fails, or has side effects.

    constants: name -> value of the global variables that must not change.
    """
    if not callable(function):
        raise NotYet(f"It is {described(function)}, not a function. Run the cell with `def` again.")
    names, code = names_of(function)
    for name in set(constants) & set(names):
        if not same(names[name], constants[name]):
            raise NotYet(f"`{name}` has changed. Run the cell with `{name} =`, then this one.")
    before = {n: (names[n], copy.deepcopy(names[n])) for n in set(constants) & set(names)}
    copies, result, error = copy.deepcopy(inputs), None, None
    try:
        result = function(*copies)
    except Exception as caught:  # a student's code can raise anything
        error = caught
    for name, (value, backup) in before.items():
        if names.get(name) is not value or not same(value, backup):
            value[:], names[name] = backup, value
            raise NotYet(f"It changes `{name}`. {IN_PLACE}")
    if error:
        lines = traceback.extract_tb(error.__traceback__)
        lines = [line.line for line in lines if code and line.filename == code.co_filename]
        where = f" in `{lines[-1]}`" if lines and lines[-1] else ""
        text = str(error).partition("\n")[0].rstrip(".")
        raise NotYet(f"It raises {type(error).__name__}{where}: {text}.") from error
    if not all(map(same, copies, inputs)):
        raise NotYet(f"It changes its arguments. {IN_PLACE}")
    if result is ...:
        raise NotYet("It is still empty.")
    if result is None:
        raise NotYet("It returns None: it is empty, or `return` is missing.")
    return result


def tensor(result, ours):
    """A result as a tensor that can be compared with ours. Raises NotYet if it is none."""
    if isinstance(result, (int, float)) and ours.ndim == 0:
        result = torch.tensor(float(result))
    if not torch.is_tensor(result):
        raise NotYet(f"It should return a tensor; it returns {described(result)}.")
    if result.shape != ours.shape:
        expected, got = tuple(ours.shape), tuple(result.shape)
        raise NotYet(f"The result should have the shape {expected}; its shape is {got}.")
    if not (result.is_floating_point() and result.isfinite().all()):
        raise NotYet("The result should have finite floating-point values.")
    return result.detach().float()


def described(value):
    """The type of a value, and of its entries: "a tuple (Tensor, Tensor)"."""
    if value is None:
        return "None"
    kind = type(value).__name__
    if isinstance(value, (list, tuple)):
        kind += f" ({', '.join(type(entry).__name__ for entry in value[:3])})"
    return f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"


def same(a, b):
    """Whether tensors, or lists of them, have the same values, in any shape; others always do."""
    if isinstance(b, (list, tuple)):
        return isinstance(a, (list, tuple)) and len(a) == len(b) and all(map(same, a, b))
    if not torch.is_tensor(b):
        return True
    if not torch.is_tensor(a) or a.numel() != b.numel():
        return False
    return torch.allclose(a.detach().double().flatten(), b.detach().double().flatten(), atol=1e-6)


def names_of(function):
    """The global variables of a function, and its code, if it is written in Python."""
    function = getattr(function, "func", function)  # of a functools.partial
    return getattr(function, "__globals__", {}), getattr(function, "__code__", None)


def outside(function, constants):
    """A hint, if a function reads tensors or numbers that are not its arguments."""
    names, code = names_of(function)
    used = [name for name in getattr(code, "co_names", ()) if name not in constants]
    used = [f"`{n}`" for n in used if isinstance(names.get(n), (torch.Tensor, int, float))]
    return f" It uses {' and '.join(used)} from outside the function." if used else ""


# --- the factors of a sum of two images ---


def wrong_factors(terms, results):
    """Describe which factors of the two images differ from ours, if any."""
    found, cases = [], []
    for case, yours, ours in results:
        if any(map(per_image, case.values())):
            continue
        images = [case[term].flatten().double() for term in terms]
        columns = torch.stack([*images, torch.ones_like(images[0])], dim=1)
        both = torch.stack([yours.flatten(), ours.flatten()], dim=1).double()
        factors = torch.linalg.lstsq(columns, both).solution
        if (columns @ factors - both).abs().max() > TOLERANCE * both.abs().max():
            if close(yours, ours.clamp(-1, 1)):
                return "It is correct before the clipping; remove `clamp`."
            return f"It is not a sum of `{terms[0]}` and `{terms[1]}`, each times a number."
        found.append(factors)
        cases.append(case)
    messages = []
    for term, pairs in zip(terms, torch.stack(found, dim=1)):
        yours, ours = pairs.T  # in each case
        if ((yours - ours).abs() <= TOLERANCE * ours.abs()).all():
            continue
        if (yours.abs() < TOLERANCE).all():
            messages.append(f"`{term}` is missing.")
        elif close(yours, -ours):
            messages.append(f"The sign of `{term}` is wrong.")
        else:
            messages.append(f"The factor of `{term}` is wrong: yours is {named(yours, cases)}.")
    if any(factors[2, 0].abs() > TOLERANCE for factors in found):
        messages.append("You also add a number to all pixels: are brackets missing?")
    return " ".join(messages)


def named(factors, cases):
    """An expression for a factor, given its values in all cases."""
    for text, values in expressions(cases):
        for sign in (1, -1):
            if close(sign * factors / values, torch.ones_like(values)):
                return f"{'-' if sign < 0 else ''}{text}"
    for text, values in expressions(cases, products=False):
        ratios = factors / values
        if close(ratios, ratios[:1].expand_as(ratios)):
            return f"{ratios[0]:.3g}{'' if text == '1' else f' * {text}'}"
    return f"{factors[0]:.3g}{place(cases[0])}"


def expressions(cases, products=True):
    """Candidates for a factor, from simple to complex: (text, its value in each case)."""
    ints = [name for name, value in cases[0].items() if type(value) is int]
    one = torch.ones(len(cases)).double()
    s = torch.tensor([case.get("s", 1) for case in cases]).double()
    scales = {"": one} | ({text: f(s) for text, f in SCALES.items()} if "s" in cases[0] else {})
    for index, shift in INDICES.items():
        roots = {"": one}
        for name, (text, root) in product(ints, ROOTS.items()):
            abar = ABAR[[case[name] + shift for case in cases]].double()
            roots[text.format(index.format(name))] = root(abar)
        others = roots if products else {"": one}
        for (a, x), (b, y), (c, z) in product(others.items(), roots.items(), scales.items()):
            above = " * ".join(filter(None, (c, b)))
            yield (f"{above or 1} / {a}" if a else above or "1"), z * y / x
            yield " * ".join(filter(None, (c, a, b))) or "1", z * y * x


# --- the exercises of the demo ---

TABLE, MANY = ABAR.view(-1, 1, 1, 1), torch.tensor([399, 49, 999])  # one t per image
A, B, C, D = torch.randn(4, 3, 1, 28, 28, generator=torch.Generator().manual_seed(1234))


def noised(x_0, eps, t):
    return TABLE[t].sqrt() * x_0 + (1 - TABLE[t]).sqrt() * eps


def weighted_sum(names, ours, *cases):
    """An exercise whose result is a weighted sum of the first two arguments."""
    return Exercise(ours, [dict(zip(names, case)) for case in cases], terms=names[:2])


EXERCISES = {
    "exercise 1": weighted_sum(("x_0", "eps", "t"), noised, (A, B, 399), (C, D, 49), (A, B, MANY)),
    "exercise 2": weighted_sum(
        ("x_t", "eps", "t"),
        lambda x_t, eps, t: (x_t - (1 - TABLE[t]).sqrt() * eps) / TABLE[t].sqrt(),
        *((A, B, 399), (C, D, 49), (A, B, MANY)),
    ),
    "exercise 3": weighted_sum(
        ("x_0", "eps", "t", "u"),
        lambda x_0, eps, t, u: noised(x_0, eps, u),
        *((A, B, 599, 449), (C, D, 99, 69)),
    ),
    "exercise 4": weighted_sum(
        ("eps", "grad", "s", "t"),
        lambda eps, grad, s, t: eps - s * (1 - TABLE[t]).sqrt() * grad,
        *((A, B, 7.0, 399), (C, D, 3.0, 49)),
    ),
    "exercise 5": Guide(
        lambda x_0, y: -(x_0 - x_0.flip(3)).square().mean(dim=(1, 2, 3)), (A, torch.arange(3))
    ),
}
