"""Is the guide's gradient long enough, on the way that samples take at s = 1?

    python -m evaluation.lengths    # results/lengths.csv, results/lengths.png, results/four.png

At every step of guided sampling, our guide and the exact one of the training images are asked for
log p(y | x_t) and its gradient, apart for samples that end right and for those that do not, by the
judge. n = 1,000, seed 2, `sde-dpmsolver++` in 20 steps. The growth g is that of 1 + g SNR, fitted
to the ratio of lengths where sampling fails.
"""

import torch
import torch.nn.functional as F
from tqdm import tqdm

from diffusion import END, snr
from evaluation.exact import Exact
from evaluation.judge import judge_images, load_judge
from evaluation.measures import with_interval
from evaluation.methods import ExactDenoiser
from evaluation.report import write_rows
from inference import DEFAULT_SCALE, Guided, draw, gradient, load_models, sample
from mnist import load_mnist
from support import cli
from support.files import MODELS, ROOT, check_outputs, provenance
from support.pictures import ACCENT, INK, save_figure, save_labelled_grid, to_uint8
from support.streams import image_seeds

N = 1_000
SEED = 2
SAMPLER, STEPS = "sde-dpmsolver++", 20
BATCH_SIZE = 100


def compare(ours, exact, x_t, t, y):
    """log p of two guides, and ratio and cosine of their gradients: a dict of (B,).

    The images x_t are (B, C, H, W), t is an int, y (B,).
    """
    times = torch.full((len(y),), t)
    our_grad = gradient(ours, x_t, t, y).flatten(1)
    exact_grad = gradient(exact, x_t, t, y).flatten(1)
    with torch.no_grad():
        return {
            "log_p_ours": ours(x_t, times, y),
            "log_p_exact": exact(x_t, times, y),
            "ratio": exact_grad.norm(dim=1) / our_grad.norm(dim=1),
            "cosine": F.cosine_similarity(our_grad, exact_grad),
        }


def on_the_way(method, exact, y, seeds):
    """`compare` at each time of sampling but the first: t -> a dict; and the images (B, ...)."""
    compared = {}
    for t, x_t, _ in draw(method, y, seeds, SAMPLER, STEPS):
        if t != END:
            compared[t] = compare(method.log_p, exact.log_p, x_t, t, y)
    return compared, x_t.clamp(-1, 1)


def quartiles(name, values):
    """Median and quartiles of values (N,), as columns of a table."""
    low, middle, high = values.quantile(torch.tensor([0.25, 0.5, 0.75])).tolist()
    return with_interval(name, middle, low, high)


def fitted_growth(snrs, ratios):
    """The g for which log(1 + g SNR) is nearest to the log of the ratios, by least squares."""
    grid = torch.linspace(0.1, 100, 1_000)
    misfit = (1 + grid[:, None] * torch.tensor(snrs)).log() - torch.tensor(ratios).log()
    return grid[misfit.square().sum(dim=1).argmin()].item()


def plot(rows, growth):
    """The ratio of lengths where sampling fails and where not, against SNR: a matplotlib figure."""
    import matplotlib.pyplot as plt  # here, since a script starts faster without it

    figure, axes = plt.subplots(figsize=(6, 3.8), layout="constrained")
    for ends, color in (("wrong", ACCENT), ("right", INK)):
        some = [row for row in rows if row["ends"] == ends]
        snrs = [row["snr"] for row in some]
        # the exact gradient vanishes where x_t is sure to become y
        middle, low, high = (
            [max(row[f"ratio{end}"], 1e-3) for row in some] for end in ("", "_low", "_high")
        )
        axes.plot(snrs, middle, ".-", color=color, label=f"samples that end {ends}")
        axes.fill_between(snrs, low, high, alpha=0.15, color=color, linewidth=0)
    line = torch.logspace(-3, 1.6, 100)
    for g, style in ((growth, "--"), (DEFAULT_SCALE[1], ":")):
        axes.plot(line, 1 + g * line, style, color="gray", label=f"1 + {g:.2g} SNR")
    axes.set(xscale="log", yscale="log", ylim=(1e-3, 1e3))
    axes.set(
        xlabel="SNR; the noise falls to the right", ylabel="length of the gradient, exact / ours"
    )
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    return figure


@cli.one_line_errors
def main(argv=None):
    cli.ArgumentParser(__doc__).parse_args(argv)
    results = ROOT / "results"
    table, figure, picture = (results / name for name in ("lengths.csv", "lengths.png", "four.png"))
    check_outputs(table, figure, picture)
    ddpm, classifier = load_models()
    exact = Exact(*load_mnist("train"), ddpm.scheduler)
    guided = Guided(ddpm, classifier.log_p, 1)

    y = torch.arange(10).repeat_interleave(N // 10)
    seeds = image_seeds(SEED, y.tolist())
    parts, images = [], []
    for batch in tqdm(torch.arange(N).split(BATCH_SIZE), desc="lengths", disable=None):
        compared, drawn = on_the_way(guided, exact, y[batch], [seeds[i] for i in batch])
        parts.append(compared)
        images.append(to_uint8(drawn))
    right = judge_images(load_judge(), torch.cat(images))[1] == y

    rows = []
    for t in parts[0]:
        merged = {name: torch.cat([part[t][name] for part in parts]) for name in parts[0][t]}
        for ends, mask in (("wrong", ~right), ("right", right)):
            row = {"t": t, "snr": snr(ddpm.scheduler.alphas_cumprod[t]).item(), "ends": ends}
            row |= {"n": int(mask.sum()), "seed": SEED}
            for name, values in merged.items():
                row |= quartiles(name, values[mask])
            rows.append(row)
    wrong = [row for row in rows if row["ends"] == "wrong"]
    growth = fitted_growth([row["snr"] for row in wrong], [row["ratio"] for row in wrong])
    write_rows(table, [row | {"growth": growth} for row in rows])
    paths = [MODELS / name for name in ("ddpm_unet.pth", "classifier.pth")]
    made_from = provenance(paths, seed=SEED, n=N)
    save_figure(figure, plot(rows, growth), made_from)

    digits = torch.arange(10)
    cells = {  # at s = 1
        "ours, ours": guided,
        "ours, exact guide": Guided(ddpm, exact.log_p, 1),
        "exact denoiser, ours": ExactDenoiser(ddpm, classifier.log_p, exact, 1),
        "both exact": ExactDenoiser(ddpm, exact.log_p, exact, 1),
    }
    ten = image_seeds(SEED, digits.tolist())
    grid = {name: sample(cell, digits, ten, SAMPLER, STEPS) for name, cell in cells.items()}
    save_labelled_grid(picture, grid, [str(digit) for digit in range(10)], made_from)
    print(f"{table}, {figure} and {picture}: 1 + {growth:.2g} SNR where samples end wrong")


if __name__ == "__main__":
    main()
