"""Write exercise.ipynb, the student's copy of the notebook: some lines become blanks to fill in.

    python -m examples.make_exercise

The lines of `BLANKS` become a name that is None, each `guess` loses its number, and all cells their
outputs. The checks stay, and say what is still blank.
"""

import re

import nbformat

from support.cli import ROOT, ArgumentParser, one_line_errors
from support.files import atomic_write

BLANKS = {  # lines of the notebook -> the hint in their place
    "log_p = -distance / (2 * variance)": "the terms with x of the log of a Gaussian",
    "log_p_1 = log_joint(x, t)[:, 1] - log_joint(x, t).logsumexp(dim=1)": "Bayes' rule",
    "score_here = -mean_eps / (1 - a).sqrt()": "the score, from the mean noise",
    """variance = width**2 + 2 * tau
    p_1 = (2 * x / variance).sigmoid()  # that x belongs to the Gaussian around 1
    score = (2 * p_1 - 1 - x) / variance""": "the mean of both scores, by their shares in x",
    "eps = -(1 - ALPHAS_CUMPROD[t]).sqrt() * score": "the mean noise, from the score",
    "x_0 = (x + (1 - a) * guided_score(x, t, s)) / a.sqrt()": "Tweedie's formula, guided",
    "x_new = x + h * grad + (2 * h) ** 0.5 * noise": "one step, as above",
    "loss = F.cross_entropy(logits, y)": "the mean of -log p(y)",
    "h_t = (1 + scale)[:, :, None, None] * h + shift[:, :, None, None]": "one line, as above",
    """x_t = add_noise(x_0, eps, t)
    loss = F.mse_loss(network(x_t, t).sample, eps)""": "mix, predict, compare",
    """t, eps = torch.randint(1000, (len(x_0),)), torch.randn_like(x_0)
    loss = unet_loss(network, x_0, t, eps)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    loss = loss.item()""": "draw, loss, gradient, step; the loss is a float",
    "x_0 = (x_t - (1 - a).sqrt() * eps) / a.sqrt()": "DDPM (15)",
    "x_t = a_next.sqrt() * x_0 + (1 - a_next).sqrt() * eps": "DDPM (4), at the next t",
    """steps = []
    for t, a, a_next in zip(times, abars, abars[1:]):
        with torch.no_grad():
            eps = clipped_noise(x_t, t, unet(x_t, t).sample)
        x_0 = predicted_image(x_t, eps, a)
        x_t = next_x_t(x_0, eps, a_next)
        steps.append(x_0)
    steps = torch.stack([*steps, x_t])""": "a loop over times, abars and the next abars",
    "grad = torch.autograd.grad(log_p(x_t, t, y).sum(), x_t)[0]": "by torch.autograd.grad",
    "eps_hat = eps - s * (1 - abar(t)).sqrt() * grad": "from the scores of both",
    """with torch.no_grad():
        eps = clipped_noise(x_t, t, unet(x_t, t).sample)
    grad = gradient(classifier.log_p, x_t, t.expand(10), y)
    eps_hat = add_guide(eps, grad, t, s)
    x_next = next_x_t(predicted_image(x_t, eps_hat, a), eps_hat, a_next)""": "five lines",
    """x_t = add_noise(picture.expand(10, -1, -1, -1), x_T, times[first])
    for k in range(first, 20):
        x_t = guided_step(x_t, times[k], abars[k], abars[k + 1], s)""": "add noise, then the loop",
    """beta = (1 - a_next) / (1 - a) * (1 - a / a_next)
    x_next = a_next.sqrt() * x_0 + (1 - a_next - beta).sqrt() * eps + beta.sqrt() * z""": (
        "beta, the step"
    ),
    "best = along.sum() / size.sum()": "set the derivative to zero",
    "log_p = log_w_of_y.logsumexp(dim=1) - log_w.logsumexp(dim=1)": "log p(y | x_t), by Bayes",
    "eps_hat = guided_noise(unet, log_p, x_t, t, y, s if low <= t < high else 0)": "guided or not",
    """ratio = other.flatten(1).norm(dim=1) / grad.flatten(1).norm(dim=1).clamp(min=1e-12)
    scaled = ratio.view(-1, 1, 1, 1) * grad""": "each image's gradient times a number",
    "constant = factors.log().mean().exp()": "the same mean logarithm",
    """n, k = wins + losses, min(wins, losses)
    tail = sum(math.comb(n, i) for i in range(k + 1)) / 2**n
    p = torch.tensor(min(1.0, 2 * tail))""": "a tensor, at most 1",
    """turned = x_t.rot90(2, (2, 3))
    log_p = classifier.log_p(x_t, t, y // 10) + classifier.log_p(turned, t, y % 10)""": "a sum",
    """variances = [x_0[digits == k].flatten(1).var(dim=0).sum() for k in range(10)]
    spread = torch.stack(variances).mean().sqrt()""": "sum over pixels, average over digits, root",
    """best = accuracy.argmax()
    right_enough = accuracy >= 0.98
    if right_enough.any():
        distance = (spread - real_spread).abs()
        distance[~right_enough] = torch.inf
        best = distance.argmin()""": "your rule",
    "change = torch.stack([spread_of(second, draw) - spread_of(first, draw) for draw in draws])": (
        "one number for each draw"
    ),
    (
        'prediction = "DDIM has less spread, because it adds no fresh noise. '
        'An interval below zero would prove me wrong."'
    ): "what you expect, and which result would prove you wrong",
    """one = sample(unet, classifier.log_p, digits, sampler="ddim", steps=10, seed=8)
    other = sample(unet, classifier.log_p, digits, steps=10, seed=8)
    both = torch.stack([one, other])""": "your two settings",
    """x_0 = predicted_image(x_t, unet(x_t, t).sample, abar(t)).clamp(-1, 1)
    error = (x_0 - unseen[y])[:, :, :14].square().sum(dim=(1, 2, 3))
    log_p = -error / (2 * (1 - abar(t)).flatten())""": "the predicted image, its error, log p",
    "log_p = log_p_each.scatter(1, y[:, None], -torch.inf).logsumexp(dim=1)": "without that of y",
    "eps_hat = eps + s * (eps_y - eps)": "ADM (14), with this difference",
}


def blank(lines, hint):
    """What stands in the place of some lines: the name that the last of them sets, and the hint."""
    *_, last = lines.split("\n")
    name = last.split(" = ")[0].strip()
    return f"{name} = None  # your code: {hint}"


def blanked(source):
    """The source of a cell with its blanks."""
    for lines, hint in BLANKS.items():
        pattern = rf"^( *){re.escape(lines)}$"
        source = re.sub(pattern, rf"\1{blank(lines, hint)}", source, flags=re.MULTILINE)
    return re.sub(r"^guess = .*$", "guess = None  # your guess", source, flags=re.MULTILINE)


def make_exercise(notebook):
    """Blank the lines of a notebook, in place, and clear its outputs: the notebook."""
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.source = blanked(cell.source)
            cell.outputs, cell.execution_count = [], None
    return notebook


@one_line_errors
def main(argv=None):
    ArgumentParser(__doc__).parse_args(argv)
    notebook = nbformat.read(ROOT / "quick_demo_CGD.ipynb", as_version=4)
    with atomic_write(ROOT / "exercise.ipynb") as file:
        file.write(f"{nbformat.writes(make_exercise(notebook))}\n".encode())
    print(ROOT / "exercise.ipynb")


if __name__ == "__main__":
    main()
