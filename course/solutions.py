"""Our answers to the exercises, and common mistakes; the notebooks do not show them.

Mistakes are dicts: description -> a function that returns the result of the mistake.
"""

import functools
import math
from itertools import pairwise

import torch

from course.lesson import clipped_noise, path_of, verdict
from diffusion import DDPM, add_noise, noised_for_validation, predicted_x_0
from evaluation import measures
from evaluation.methods import Exact, change_of_next, norm
from inference import guided

# --- lesson 1 ---


def followed(noise, x_t, times, abar, put_back=1.0):
    """The points x_t (B, 2) on the way from noise: (len(times), B, 2). noise: (x_t, t) -> noise."""
    path = [x_t]
    for t, u in pairwise(times):
        eps = noise(path[-1], t)
        x_0 = predicted_x_0(path[-1], eps, abar[t])
        path.append(add_noise(x_0, put_back * eps, abar[u]))
    return torch.stack(path)


# --- lesson 2 ---


def without_root(ddpm, grad, s):
    """ADM (14) without sqrt(1 - abar_t)."""
    return lambda x_t, t, y: ddpm(x_t, t) - s * grad(x_t, t, y)


def clipped_after_guidance(ddpm, grad, s):
    """The predicted x_0 is clipped after the guidance, as diffusers' schedulers do."""

    def eps_hat(x_t, t, y):
        shift = s * (1 - ddpm.abar[t]).sqrt() * grad(x_t, t, y)
        return clipped_noise(x_t, ddpm.eps(x_t, t) - shift, ddpm.abar[t])

    return eps_hat


def loop_mistakes(ddpm, grad, s, x_T, y, times):
    """Mistakes in the loop that samples by DDIM."""
    abar, right = ddpm.abar, guided(ddpm, grad, s)
    unclipped = DDPM(ddpm.unet, type(ddpm.scheduler)(**ddpm.unet.schedule, clip_sample=False))

    def drawn(removed, put_back):
        x = x_T
        for t, u in pairwise(times):
            x_0 = predicted_x_0(x, removed(x, t, y), abar[t])
            x = add_noise(x_0, put_back(x, t, y), abar[u])
        return x_0

    def stuck():
        t = times[-2]
        return predicted_x_0(x_T, right(x_T, t, y), abar[t])

    def last(eps_hat):
        return path_of(eps_hat, x_T, y)[-1][2]

    return {
        "all noise is put back, as if u were t": stuck,
        "no noise is put back": lambda: drawn(right, lambda x, t, y: torch.zeros_like(x)),
        "the U-Net's noise is removed instead of the guided noise": lambda: drawn(ddpm, right),
        "the U-Net's noise is put back instead of the guided noise": lambda: drawn(right, ddpm),
        "the U-Net's image is not clipped": lambda: last(guided(unclipped, grad, s)),
        "the classifier is not used": lambda: last(ddpm),
        "s is not used": lambda: last(guided(ddpm, grad, 1)),
        "this uses s + 1": lambda: last(guided(ddpm, grad, s + 1)),
    }


def mean_norm(change):
    """The mean over images of the norm."""
    return norm(change).mean()


def size_mistakes(ddpm, grad, t, u, x_t, y):
    """Mistakes in the size of a push."""
    change = functools.partial(change_of_next, ddpm, grad, t, u, x_t, y)
    x_0_only = change(noise=0.0)
    return {
        "the change of the noise is missing": lambda: mean_norm(x_0_only),
        "this is the change of the predicted image": lambda: (
            mean_norm(x_0_only) / ddpm.abar[u].sqrt()
        ),
        "this is the norm of the whole batch": lambda: change().norm(),
        "the sign of the change of the noise is wrong": lambda: mean_norm(change(noise=-1.0)),
        "this is the sum of the norms": lambda: len(y) * mean_norm(change()),
        "flatten each image first": lambda: change().norm(dim=1).mean(),
        "the factor sqrt(1 - abar[t]) of the noise is missing": lambda: (
            mean_norm(change()) / (1 - ddpm.abar[t]).sqrt()
        ),
    }


# --- lesson 3 ---


@torch.no_grad()
def mixture(ddpm, x_t, t, y, s):
    """The noise of classifier-free guidance, before clipping."""
    none = torch.full_like(y, ddpm.unet.config.num_class_embeds - 1)
    return (1 - s) * ddpm.eps(x_t, t, none) + s * ddpm.eps(x_t, t, y)


def mixture_mistakes(ddpm, x_t, t, y, s):
    """Mistakes in classifier-free guidance."""
    eps = functools.partial(mixture, ddpm, x_t, t, y)
    return {
        "this uses s + 1 instead of s: the paper's w is s - 1": lambda: eps(s + 1),
        "the noise with the label and the noise without it are swapped": lambda: eps(1 - s),
        "this is the noise with the label": lambda: eps(1),
        "this is the noise without the label": lambda: eps(0),
        "eps is missing: this is only s times the difference": lambda: eps(s) - eps(0),
        "the sign of the difference is flipped": lambda: eps(-s),
        "this uses s - 1": lambda: eps(s - 1),
        "a parenthesis is missing: s multiplies only one of the two": lambda: s * eps(1),
    }


# --- lesson 4 ---


def compare(first, second, real, floor):
    """The comparison of two sets, with the project's own functions."""
    a = int((first[1] & ~second[1]).sum())
    b = int((second[1] & ~first[1]).sum())
    shares = []
    for _, right in (first, second):
        correct, n = int(right.sum()), len(right)
        shares.append([correct / n, *measures.wilson_interval(correct, n)])
    distances = [measures.frechet_distance(real, f) for f in (first[0], second[0], floor)]
    result = {"first": shares[0], "second": shares[1], "only": [a, b]}
    return result | {"p": measures.mcnemar(a, b), "F": distances}


def textbook(right):
    p, n = right.float().mean().item(), len(right)
    half = 1.96 * math.sqrt(p * (1 - p) / n)
    return [p, p - half, p + half]


def frechet_without_roots(real, fake):
    m_1, m_2, s_1, s_2 = real.mean(dim=0), fake.mean(dim=0), real.T.cov(), fake.T.cov()
    return (m_1 - m_2).square().sum() + s_1.trace() + s_2.trace() - 2 * (s_1 @ s_2).trace()


def without_2(real, fake):
    """The missing part of the Fréchet distance if its last term lacks the 2."""
    real, fake = real.double(), fake.double()
    total = real.T.cov().trace() + fake.T.cov().trace()
    means = (real.mean(dim=0) - fake.mean(dim=0)).square().sum()
    return ((total + means - measures.frechet_distance(real, fake)) / 2).item()


def one_term(a, b):
    return min(2 * math.comb(a + b, min(a, b)) / 2 ** (a + b), 1.0)


def judge_comparison(yours, first, second, real, floor):
    """Check a comparison part by part. Returns whether every part has the right shape."""
    if not isinstance(yours, dict):
        print(f"compare: expected a dictionary, got {type(yours).__name__}.")
        return False
    ours = compare(first, second, real, floor)
    a, b = ours["only"]
    n, features = len(first[1]), (first[0], second[0], floor)
    marginal = [max(int(x[1].sum() - z[1].sum()), 0) for x, z in ((first, second), (second, first))]
    wrong = {
        "first": {
            "the textbook interval": lambda: textbook(first[1]),
            "the order is p, low, high": lambda: [ours["first"][k] for k in (1, 0, 2)],
            "the interval lacks p": lambda: ours["first"][1:],
        },
        "second": {"the textbook interval": lambda: textbook(second[1])},
        "only": {
            "first and second are swapped": lambda: [b, a],
            "these are differences of totals; count the pairs": lambda: marginal,
            "these are fractions; return numbers of pairs": lambda: [a / n, b / n],
        },
        "p": {
            "this is one-sided: multiply it by 2": lambda: measures.mcnemar(a, b) / 2,
            "p is at most 1": lambda: 1 + math.comb(a + b, a) / 2 ** (a + b),
            "this is one term; add up the whole tail": lambda: one_term(a, b),
        },
        "F": {
            "the square roots of the eigenvalues are missing": lambda: [
                frechet_without_roots(real, f) for f in features
            ],
            "the order is first, second, floor": lambda: [ours["F"][k] for k in (2, 0, 1)],
            "the 2 is missing": lambda: [
                ours["F"][k] + without_2(real, f) for k, f in enumerate(features)
            ],
            "the means are missing": lambda: [
                measures.frechet_distance(real - real.mean(dim=0), f - f.mean(dim=0))
                for f in features
            ],
        },
    }
    complete = True
    for part, mistakes in wrong.items():
        if part not in yours:
            print(f"{part}: missing in your dictionary.")
            complete = False
            continue
        named = {name: functools.partial(on_scale, part, make) for name, make in mistakes.items()}
        try:
            mine = on_scale(part, lambda part=part: yours[part])
        except (TypeError, ValueError, RuntimeError) as error:
            print(f"{part}: not yet; expected numbers: {error}")
            complete = False
            continue
        exact = on_scale(part, lambda part=part: ours[part])
        complete &= mine.shape == exact.shape
        verdict(part, mine, exact, named, tolerance=2e-3)
    return complete


def on_scale(part, make):
    """A part of a comparison as a tensor; p on a log scale, because it can be tiny."""
    numbers = torch.as_tensor(make(), dtype=torch.float64)
    return numbers.log() if part == "p" else numbers


def pairs(a, b, n=20):
    """Two boolean tensors (n,); a pairs are right only in the first, and b only in the second."""
    first, second = torch.ones(n, dtype=torch.bool), torch.ones(n, dtype=torch.bool)
    second[:a], first[a : a + b] = False, False
    return first, second


# --- lesson 5 ---


def rescaled(direction, other):
    """The direction of one gradient (B, C, H, W) with the norm of another."""
    return direction * norm(other) / norm(direction).clamp(min=1e-12)


def rescaled_mistakes(a, b):
    """Mistakes in `rescaled`."""
    return {
        "the norm is that of the whole batch": lambda: a / a.norm() * b.norm(),
        "the norm is that of each row of pixels": lambda: (
            a / a.norm(dim=3, keepdim=True) * b.norm(dim=3, keepdim=True)
        ),
        "the direction still has its own norm": lambda: a * norm(b),
        "only the direction is returned": lambda: a / norm(a),
        "the two are swapped": lambda: rescaled(b, a),
    }


def error_removed(ddpm, grad, t, x_0, y):
    """The fraction of the U-Net's squared error that guidance with s = 1 removes, a number."""
    x_t, _, eps = noised_for_validation(ddpm.scheduler, x_0, torch.full((len(x_0),), t))
    before, after = ((f(x_t, t, y) - eps).square().mean() for f in (ddpm, guided(ddpm, grad, 1)))
    return 1 - after / before


def removed_mistakes(ddpm, grad, t, x_0, y):
    """Mistakes in the removed error."""
    right = error_removed(ddpm, grad, t, x_0, y)
    root = (1 - ddpm.abar[t]).sqrt()

    def with_factor(factor):
        return lambda: error_removed(ddpm, lambda *inputs: factor * grad(*inputs), t, x_0, y)

    return {
        "the factor sqrt(1 - abar[t]) is missing": with_factor(1 / root),
        "1 - abar[t] needs a square root": with_factor(root),
        "this is a percentage": lambda: 100 * right,
        "the gradient is added instead of subtracted": with_factor(-1),
        "this is the fraction that is left": lambda: 1 - right,
        "the two errors are swapped": lambda: 1 - 1 / (1 - right),
        "you took a square root: compare mean squared errors": lambda: 1 - (1 - right).sqrt(),
    }


def memorized_mistakes(x_t, t, y, images, labels, abar):
    """log p of the memorizing classifier, and mistakes in it."""
    exact = Exact(images, labels, abar)
    right = exact.log_p(x_t, torch.full((len(x_t),), t), y)
    variance, root = 1 - abar[t], abar[t].sqrt()

    def squares(factor):
        return torch.cdist(x_t.flatten(1), factor * images.flatten(1)).square()

    def sums(log_p, first=1.0, second=1.0):
        of_y = log_p.masked_fill(labels != y[:, None], -torch.inf)
        return lambda: first * of_y.logsumexp(dim=1) - second * log_p.logsumexp(dim=1)

    log_p = -squares(root) / (2 * variance)
    return right, {
        "the distances are not squared": sums(-squares(root).sqrt() / (2 * variance)),
        "the images need the factor sqrt(abar[t]), not abar[t]": sums(
            -squares(abar[t]) / (2 * variance)
        ),
        "the images lack the factor sqrt(abar[t])": sums(-squares(1) / (2 * variance)),
        "the 2 in the denominator is missing": sums(-squares(root) / variance),
        "1 - abar[t] needs no square root": sums(-squares(root) / (2 * variance.sqrt())),
        "the sign of the exponent is flipped": sums(-log_p),
        "the second sum is missing": sums(log_p, second=0.0),
        "the order of the difference is reversed": sums(log_p, -1.0, -1.0),
        "this is p, not log p": lambda: right.exp(),
        "the other labels are kept": lambda: (1 - right.exp()).log(),
        "the second sum leaves out y": lambda: right - (1 - right.exp()).log(),
    }
