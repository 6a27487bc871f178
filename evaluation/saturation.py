"""Why s = 1 is not enough: the guide's log p of a wrong digit saturates as the noise falls.

    python -m evaluation.saturation    # results/saturation.csv, results/saturation.png

Noised validation images, each with its own digit and a random wrong one: log p(y | x_t) and the
length of its gradient, by our guide and by the exact guide of the training images. n = 500, seed 2.
"""

import torch
import torch.nn.functional as F
from tqdm import tqdm

from diffusion import add_noise, snr
from evaluation.exact_guide import ExactGuide
from evaluation.measures import with_interval
from evaluation.report import write_rows
from inference import DEFAULT_SCALE, gradient, load_models
from mnist import load_mnist
from support import cli
from support.files import MODELS, ROOT, check_outputs, provenance
from support.pictures import save_figure
from support.streams import generator

N = 500
SEED = 2
TIMES = range(99, 1000, 100)


def compare(guides, x_t, t, y):
    """log p of two guides, ours and the exact one, and ratio and cosine of their gradients.

    The images x_t are (N, C, H, W), t is an int, y (N,): a dict of (N,).
    """
    times = torch.full((len(y),), t)
    ours, exact = guides
    our_grad = gradient(ours, x_t, t, y).flatten(1)
    exact_grad = gradient(exact, x_t, t, y).flatten(1)
    return {
        "ours": ours(x_t, times, y),
        "exact": exact(x_t, times, y),
        "ratio": exact_grad.norm(dim=1) / our_grad.norm(dim=1),
        "cosine": F.cosine_similarity(our_grad, exact_grad),
    }


def quartiles(name, values):
    """Median and quartiles of values (N,), as columns of a table."""
    low, middle, high = values.quantile(torch.tensor([0.25, 0.5, 0.75])).tolist()
    return with_interval(name, middle, low, high)


def plot(rows):
    """log p of a wrong digit, and the ratio of lengths, against the SNR: a matplotlib figure."""
    import matplotlib.pyplot as plt  # here, since a script starts faster without it

    snrs = [row["snr"] for row in rows]
    figure, panels = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
    curves = {"our guide": "wrong_ours", "exact guide": "wrong_exact", "ratio": "ratio"}
    for label, name in curves.items():
        axes = panels[1] if name == "ratio" else panels[0]
        middle, low, high = ([row[name + end] for row in rows] for end in ("", "_low", "_high"))
        axes.plot(snrs, middle, marker=".", label=label)
        axes.fill_between(snrs, low, high, alpha=0.2)
    line = torch.logspace(-4, 1.2, 100)
    panels[1].plot(line, 1 + 5 * line, "--", color="gray", label="1 + 5 SNR")
    default = f"the default scale, 1 + {DEFAULT_SCALE[1]:g} SNR"
    panels[1].plot(line, 1 + DEFAULT_SCALE[1] * line, ":", color="gray", label=default)
    panels[0].set(ylabel="log p of a wrong digit", yscale="symlog")
    panels[1].set(ylabel="length of the gradient, exact / ours", yscale="log")
    for axes in panels:
        axes.set(xscale="log", xlabel="SNR; the noise falls to the right")
        axes.legend()
    return figure


@cli.one_line_errors
def main(argv=None):
    cli.ArgumentParser(__doc__).parse_args(argv)
    table, picture = (ROOT / "results" / f"saturation.{end}" for end in ("csv", "png"))
    check_outputs(table, picture)
    ddpm, classifier = load_models()
    abar = ddpm.scheduler.alphas_cumprod
    guides = classifier.log_p, ExactGuide(*load_mnist("train"), ddpm.scheduler).log_p
    images, digits = (part[:N] for part in load_mnist("validation"))
    rng = generator(SEED, "saturation")
    wrong = (digits + torch.randint(1, 10, (N,), generator=rng)) % 10
    eps = torch.randn(images.shape, generator=rng)
    rows = []
    for t in tqdm(TIMES, desc="saturation", disable=None):
        x_t = add_noise(images, eps, abar[t])
        right, other = (compare(guides, x_t, t, y) for y in (digits, wrong))
        row = {"t": t, "snr": snr(abar[t]).item(), "n": N, "seed": SEED}
        for name in ("ours", "exact"):
            row |= quartiles(f"wrong_{name}", other[name]) | quartiles(f"right_{name}", right[name])
        row |= quartiles("ratio", other["ratio"]) | quartiles("cosine", other["cosine"])
        rows.append(row | quartiles("ratio_right", right["ratio"]))
    write_rows(table, rows)
    save_figure(picture, plot(rows), provenance([MODELS / "classifier.pth"], seed=SEED, n=N))
    print(f"{table} and {picture}")


if __name__ == "__main__":
    main()
