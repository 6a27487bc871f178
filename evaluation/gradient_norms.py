"""Compare the classifier's gradient with the exact one, along guided trajectories at s = 1.

    python -m evaluation.gradient_norms    # results/gradient_norms.csv, .png

At every step, both guides compute log p(y | x_t) and its gradient. The results are reported
separately for samples that the judge finally classifies correctly (right) and incorrectly (wrong).
The growth g of 1 + g SNR is fitted to the median norm ratio of the wrong samples.
"""

import torch
import torch.nn.functional as F
from tqdm import tqdm

from data import load_mnist
from diffusion import END, snr
from evaluation.judge import judge_images, load_judge
from evaluation.measures import with_interval
from evaluation.methods import Exact
from evaluation.table import write_rows
from inference import Guided, gradient, load_models, trajectory
from support import cli
from support.cli import UserError
from support.files import ROOT, provenance
from support.pictures import ACCENT, INK, save_figure, to_uint8
from support.streams import image_seeds

N = 1_000
SEED = 2
SAMPLER, STEPS = "sde-dpmsolver++", 20
BATCH_SIZE = 100


def compare(ours, exact, x_t, t, y):
    """log p of two guides, and the norm ratio and cosine similarity of their gradients: a dict.

    x_t (B, C, H, W), t an int, y (B,). The ratio is exact / ours, infinite where ours is 0.
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


def fitted_growth(snrs, ratios):
    """The g in [0.1, 100] of the least-squares fit of log(1 + g SNR) to log(ratio).

    Raises UserError if a ratio is 0 or not finite: its logarithm is then not finite.
    """
    ratios = torch.tensor(ratios)
    if not (ratios.isfinite() & (ratios > 0)).all():
        raise UserError(
            f"cannot fit the growth to ratios from {ratios.min():g} to {ratios.max():g}"
        )
    grid = torch.linspace(0.1, 100, 1_000)
    misfit = (1 + grid[:, None] * torch.tensor(snrs)).log() - ratios.log()
    return grid[misfit.square().sum(dim=1).argmin()].item()


def plot(rows, growth):
    """The ratio of norms against SNR: a matplotlib figure."""
    import matplotlib.pyplot as plt  # imported here, so that scripts start faster

    figure, axes = plt.subplots(figsize=(6, 3.8), layout="constrained")
    for ends, color in (("wrong", ACCENT), ("right", INK)):
        some = [row for row in rows if row["ends"] == ends]
        snrs = [row["snr"] for row in some]
        # the exact gradient vanishes where x_t is certain to become y
        middle, low, high = (
            [max(row[f"ratio{end}"], 1e-3) for row in some] for end in ("", "_low", "_high")
        )
        axes.plot(snrs, middle, ".-", color=color, label=f"samples that end up {ends}")
        axes.fill_between(snrs, low, high, alpha=0.15, color=color, linewidth=0)
    line = torch.logspace(-3, 1.6, 100)
    for g, style in ((growth, "--"), (24, ":")):
        axes.plot(line, 1 + g * line, style, color="gray", label=f"1 + {g:.2g} SNR")
    axes.set(xscale="log", yscale="log", ylim=(1e-3, 1e3))
    axes.set(xlabel="SNR: less noise to the right", ylabel="gradient norm, exact / ours")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    return figure


@cli.one_line_errors
def main(argv=None):
    cli.ArgumentParser(__doc__).parse_args(argv)
    ddpm, classifier = load_models()
    exact, guided = Exact(*load_mnist("train"), ddpm.scheduler), Guided(ddpm, classifier.log_p, 1)
    y = torch.arange(10).repeat_interleave(N // 10)
    seeds = image_seeds(SEED, y.tolist())
    parts, images = {}, []  # parts: t -> one dict per batch
    for batch in tqdm(torch.arange(N).split(BATCH_SIZE), disable=None):
        some = [seeds[i] for i in batch]
        for t, x_t, _ in trajectory(guided, y[batch], some, SAMPLER, STEPS):
            if t != END:
                found = compare(classifier.log_p, exact.log_p, x_t, t, y[batch])
                parts.setdefault(t, []).append(found)
        images.append(to_uint8(x_t))
    right = judge_images(load_judge(), torch.cat(images))[1] == y

    rows = []
    for t, batches in parts.items():
        for ends, mask in (("wrong", ~right), ("right", right)):
            row = {"t": t, "snr": snr(ddpm.scheduler.alphas_cumprod[t]).item(), "ends": ends}
            row |= {"n": int(mask.sum()), "seed": SEED}
            for name in batches[0]:
                values = torch.cat([batch[name] for batch in batches])[mask]
                low, middle, high = values.quantile(torch.tensor([0.25, 0.5, 0.75])).tolist()
                row |= with_interval(name, middle, low, high)  # median and quartiles
            rows.append(row)
    wrong = [row for row in rows if row["ends"] == "wrong"]
    growth = fitted_growth([row["snr"] for row in wrong], [row["ratio"] for row in wrong])
    results = ROOT / "results"
    write_rows(results / "gradient_norms.csv", [row | {"growth": growth} for row in rows])
    made_from = provenance(ddpm.unet, classifier, seed=SEED, n=N)
    save_figure(results / "gradient_norms.png", plot(rows, growth), made_from)
    print(f"1 + {growth:.2g} SNR for samples that end up wrong")


if __name__ == "__main__":
    main()
