"""The demo's answer checks accept correct answers and name common mistakes."""

from itertools import pairwise

import pytest
import torch

import quick_demo as demo
import inference
from quick_demo import abar, classifier, times, unguided


def loop(x_0_of, x_u_of):
    """A `reverse` whose lines 2 and 3 are replaced."""

    def reverse(x_t, predict_noise, y):
        path = []
        for t, u in pairwise(times):
            eps = predict_noise(x_t, t, y)
            x_0 = x_0_of(x_t, eps, t, u)
            path.append((t, x_t, x_0))
            x_t = x_u_of(x_0, eps, t, u)
        return path

    return reverse


def right_x_0(x_t, eps, t, u):
    return (x_t - (1 - abar[t]).sqrt() * eps) / abar[t].sqrt()


def right_x_u(x_0, eps, t, u):
    return abar[u].sqrt() * x_0 + (1 - abar[u]).sqrt() * eps


LOOPS = {
    "Correct.": (right_x_0, right_x_u),
    "eps is added instead": (
        lambda x_t, eps, t, u: (x_t + (1 - abar[t]).sqrt() * eps) / abar[t].sqrt(),
        right_x_u,
    ),
    "1 - abar[t] lacks its square root": (
        lambda x_t, eps, t, u: (x_t - (1 - abar[t]) * eps) / abar[t].sqrt(),
        right_x_u,
    ),
    "t and u are swapped.": (lambda x_t, eps, t, u: right_x_0(x_t, eps, u, t), right_x_u),
    "t and u are swapped, so": (right_x_0, lambda x_0, eps, t, u: right_x_u(x_0, eps, u, t)),
    "no noise is put back": (right_x_0, lambda x_0, eps, t, u: abar[u].sqrt() * x_0),
    "eps is subtracted": (right_x_0, lambda x_0, eps, t, u: right_x_u(x_0, -eps, t, u)),
    "This is a correct sampler, too": (
        right_x_0,
        lambda x_0, eps, t, u: right_x_u(x_0, torch.randn_like(eps), t, u),
    ),
    "not a mistake we recognize": (
        right_x_0,
        lambda x_0, eps, t, u: 0.9 * right_x_u(x_0, eps, t, u),
    ),
    "is not finished": (right_x_0, lambda x_0, eps, t, u: missing),  # noqa: F821
}


@pytest.mark.parametrize("message", LOOPS)
def test_the_loop(capsys, message):
    ready = demo.check_reverse(loop(*LOOPS[message]))
    assert message in capsys.readouterr().out and ready == (message == "Correct.")


def ours(x_t, t, y):
    return inference.gradient(classifier.log_p)(x_t, t, y)


def of_p(x_t, t, y):
    return inference.gradient(lambda *inputs: classifier.log_p(*inputs).exp())(x_t, t, y)


GRADIENTS = {
    "its sign is flipped": lambda *inputs: -ours(*inputs),
    "you used .mean()": lambda *inputs: ours(*inputs) / 10,
    "the gradient of p, not of log p": of_p,
    "still empty": lambda *inputs: ...,
}


@pytest.mark.parametrize("message", GRADIENTS)
def test_the_gradient(capsys, message):
    assert not demo.check_guidance(GRADIENTS[message], None)
    assert message in capsys.readouterr().out


FACTORS = {
    "Correct.": lambda t, s: s * (1 - abar[t]).sqrt(),
    "add the gradient instead of subtracting": lambda t, s: -s * (1 - abar[t]).sqrt(),
    "the factor sqrt(1 - abar[t]) is missing": lambda t, s: s,
    "square root of 1 - abar[t] is missing": lambda t, s: s * (1 - abar[t]),
    "of abar[t] instead of": lambda t, s: s * abar[t].sqrt(),
    "the scale s is missing": lambda t, s: (1 - abar[t]).sqrt(),
    "not abar[t-1]": lambda t, s: s * (1 - abar[t - 1]).sqrt(),
    "guidance has no effect": lambda t, s: 0,
    "not a mistake we recognize": lambda t, s: 0.7 * s,
}


@pytest.mark.parametrize("message", FACTORS)
def test_the_guidance(capsys, message):
    def guided(x_t, t, y, s):
        return unguided(x_t, t, y) - FACTORS[message](t, s) * ours(x_t, t, y)

    assert demo.check_guidance(ours, guided) == (message == "Correct.")
    assert message in capsys.readouterr().out


def raises(x_t, t, y):
    return x_t + None


GUIDES = {
    "changes the noise by": classifier.log_p,
    "(4,), not (4, 1, 28, 28)": lambda x_t, t, y: x_t,
    "0 or not finite": lambda x_t, t, y: 0 * x_t.sum(dim=(1, 2, 3)),
    "too much": lambda x_t, t, y: 1e4 * x_t.sum(dim=(1, 2, 3)),
    "in `return x_t + None`": raises,
}


@pytest.mark.parametrize("message", GUIDES)
def test_a_guide(capsys, message):
    assert demo.check_guide(GUIDES[message]) == (message == "changes the noise by")
    assert message in capsys.readouterr().out
