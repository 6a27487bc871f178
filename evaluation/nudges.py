"""The nudge of a guide, compared with what it should be.

With s = 1, guidance shifts the predicted image by (1 - abar_t) / sqrt(abar_t) grad log p(y | x_t):
the nudge, n. By Bayes' rule, it should be e = E[x_0 | x_t, y] - E[x_0 | x_t], the target, which we
can compute if we assume that there are no images but those in the training set.
"""

import torch

from diffusion import exact_x_0, noised_for_validation, sampling_times, snr, t_batch
from evaluation.metrics import with_interval
from support.streams import generator

MEASURED = 17  # of 20 evenly spaced timesteps; at the last ones, there is almost no nudge
RESAMPLES = 1_000  # of the bootstrap


def nudge(ddpm, grad, x_t, t, y):
    """The shift of the predicted image for s = 1: (B, C, H, W)."""
    return (1 - ddpm.abar[t]) / ddpm.abar[t].sqrt() * grad(x_t, t, y)


def target(ddpm, x_t, t, y, images, labels):
    """E[x_0 | x_t, y] - E[x_0 | x_t] over images (N, C, H, W) with labels (N,): (B, C, H, W)."""
    shift = -exact_x_0(x_t, ddpm.abar[t], images)
    for label in y.unique():
        shift[y == label] += exact_x_0(x_t[y == label], ddpm.abar[t], images[labels == label])
    return shift


def target_loss(ddpm, x_t, t, y, images, labels):
    """-log p(y | x_t) if there are no other images: the cross-entropy, a number."""
    squares = torch.cdist(x_t.flatten(1), ddpm.abar[t].sqrt() * images.flatten(1)).square()
    log_weights = -squares / (2 * (1 - ddpm.abar[t]))  # (B, N), as in `exact_x_0`
    of_y = log_weights.masked_fill(labels != y[:, None], -torch.inf)
    return (log_weights.logsumexp(dim=1) - of_y.logsumexp(dim=1)).mean().item()


def compare(nudges, targets):
    """Compare nudges n (B, C, H, W) with their targets e: name -> number.

    nudge, target: the norms. r: their ratio, |e| / |n|. cosine: c, of the angle between them.
    component: r / c, the scale with which n has the right component in the direction of e. All are
    medians over the images, with 95% confidence intervals from order statistics.
    """
    n, e = nudges.flatten(1), targets.flatten(1)
    r, c = e.norm(dim=1) / n.norm(dim=1), torch.cosine_similarity(n, e)
    values = {"nudge": n.norm(dim=1), "target": e.norm(dim=1), "r": r, "cosine": c}
    values |= {"component": r / c.clamp(min=1e-3)}  # without a component, a large scale
    row, half = {}, 0.98 / len(n) ** 0.5
    for name, value in values.items():
        low, high = value.quantile(max(0.5 - half, 0)), value.quantile(min(0.5 + half, 1))
        row |= with_interval(name, value.median().item(), low.item(), high.item())
    return row


def pooled_scale(nudges, e_A, e_B, name="S"):
    """S = sum <e_A, e_B> / sum <n, (e_A + e_B) / 2>, with a 95% interval from resampled images.

    The targets e_A and e_B come from disjoint training images. So S is the scale of the part of the
    target that they share, without what each remembers of its own images.
    """
    n, e_A, e_B = (part.flatten(1) for part in (nudges, e_A, e_B))
    sums = torch.stack([(e_A * e_B).sum(dim=1), (n * (e_A + e_B) / 2).sum(dim=1)])  # (2, B)
    rng = generator(0, "subset")
    drawn = torch.randint(len(n), (RESAMPLES, len(n)), generator=rng)
    above, below = sums[:, drawn].sum(dim=2)
    low, high = (above / below).quantile(torch.tensor([0.025, 0.975])).tolist()
    above, below = sums.sum(dim=1)
    return with_interval(name, (above / below).item(), low, high)


def measured_nudges(ddpm, grad, log_p, dataset, n=1_000, times=None, right=False):
    """Compare nudges and targets on noised validation images, pushed toward random wrong labels.

    Yields t and its columns, by default for 17 decreasing t: those of `compare`; S, from two halves
    of the training images, and S_of_quarters; and the cross-entropies on the true labels, loss of
    log_p and loss_of_target, which is computed from one half. With right=True, the images are
    pushed toward their own labels.
    """
    x_0, labels = (part[:n] for part in dataset.load("validation"))
    K, images = len(dataset.info["classes"]), dataset.load("train")
    wrong = (labels + torch.randint(1, K, labels.shape, generator=generator(0, "validation"))) % K
    y = labels if right else wrong
    order = torch.randperm(len(images[0]), generator=generator(0, "halves"))

    def part(k, parts):
        return [whole[order[k::parts]] for whole in images]

    for t in times or sampling_times(len(ddpm.abar) - 1, 20)[:MEASURED]:
        x_t, _, _ = noised_for_validation(ddpm.scheduler, x_0, torch.full_like(y, t))
        nudges = nudge(ddpm, grad, x_t, t, y)
        row = {"n": n} | compare(nudges, target(ddpm, x_t, t, y, *images))
        for name, parts in ("S", 2), ("S_of_quarters", 4):
            both = (target(ddpm, x_t, t, y, *part(k, parts)) for k in (0, 1))
            row |= pooled_scale(nudges, *both, name)
        with torch.no_grad():
            row["loss"] = -log_p(x_t, t_batch(x_t, t), labels).mean().item()
        row["loss_of_target"] = target_loss(ddpm, x_t, t, labels, *part(0, 2))
        yield t, row


def fitted_b(ddpm, rows, name, times=None):
    """The b of 1 + b SNR with the least relative squared error: a number.

    rows: t -> columns; name: the column with the scale. By default, for the first 3/4 of all t.
    """
    times = times or [t for t in rows if t >= (len(ddpm.abar) - 1) / 4]
    s = torch.tensor([float(rows[t][name]) for t in times])
    x, y = snr(ddpm.abar[times]) / s, 1 - 1 / s  # b x = y
    return ((x * y).sum() / x.square().sum()).item()
