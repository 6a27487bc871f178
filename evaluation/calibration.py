"""Is the guide's gradient right? The loss of the guided noise for the true digit, by the scale.

    python -m evaluation.calibration    # results/guide.csv and results/guide.png

The best prediction of the noise is E[eps | x_t, y], which is ADM (14) at scale 1 if both networks
are exact. So an exact guide lowers L_simple most at scale 1, an over-confident one at a lower scale
or not at all. Beside it, how much lower the loss of the classifier-free U-Net is, which is given
the digit: a rough comparison, since that is another network. n = 5,000, validation images, seed 1.
"""

if __name__ == "__main__" and not __package__:
    raise SystemExit("run this as `python -m evaluation.calibration`, in the top folder")

import matplotlib.pyplot as plt
import torch
from tqdm import tqdm

from diffusion import abar, add_noise, simple_loss, spread_timesteps
from evaluation.rivals import CHECKPOINT, load_rival
from evaluation.table import write_rows
from inference import guide_gradient, load_models
from mnist import load_mnist
from support import cli
from support.cli import MODELS, ROOT
from support.files import prepare_outputs, provenance, sha256
from support.pictures import save_figure
from support.streams import generator

RESULTS = ROOT / "results"
SEED = 1
BATCH_SIZE = 250
SCALES = (0.5, 1, 1.5, 2, 3, 5)
NUM_DRAWS = 1_000
BANDS = ((0, 100), (100, 300), (300, 500), (500, 700), (700, 850), (850, 1000))


@torch.no_grad()
def loss_parabolas(unet, log_p, x_0, y, free):
    """L_simple of the guided noise at scale s, without clipping, for images with their own digits.

    ADM (14) is linear in s: eps_hat = eps_theta + s d. So the loss of an image is a parabola,
    mean |eps - eps_theta - s d|^2 = loss_0 - 2 s a + s^2 b, and lowest at a / b.

    Args:
        x_0: (N, 1, 28, 28). y: (N,). free: the U-Net of classifier-free guidance.

    Returns:
        loss_0, a, b, and the loss of `free`, which is given y: (4, N); t, which is uniform: (N,).
    """
    t = spread_timesteps(len(x_0), generator(SEED, "calibration", 0))
    eps = torch.randn(x_0.shape, generator=generator(SEED, "calibration", 1))
    x_t = add_noise(x_0, eps, t)
    parts = []
    for part in tqdm(torch.arange(len(x_0)).split(BATCH_SIZE), desc="calibration", disable=None):
        inputs = x_t[part], t[part], y[part]
        eps_theta = unet(x_t[part], t[part]).sample
        d = -(1 - abar(t[part])).sqrt() * guide_gradient(log_p, *inputs)
        loss_0 = simple_loss(eps_theta, eps[part])
        a = ((eps[part] - eps_theta) * d).mean(dim=(1, 2, 3))
        b = d.square().mean(dim=(1, 2, 3))
        by_label = simple_loss(free(*inputs).sample, eps[part])
        parts.append(torch.stack([loss_0, a, b, by_label]))
    return torch.cat(parts, dim=1), t


def best_scale(a, b):
    """Where the loss is lowest, with a 95 % interval by a bootstrap over images: three numbers."""
    shape = NUM_DRAWS, len(a)
    draws = torch.randint(len(a), shape, generator=generator(SEED, "calibration", 2))
    drawn = a[draws].sum(dim=1) / b[draws].sum(dim=1)
    low, high = drawn.quantile(torch.tensor([0.025, 0.975])).tolist()
    return (a.sum() / b.sum()).item(), low, high


def plot(curves):
    """The change of L_simple against the scale, a line per band of t: a matplotlib figure."""
    figure, axes = plt.subplots(figsize=(8, 4), layout="constrained")
    for label, changes in curves.items():
        axes.plot((0, *SCALES), [100 * change for change in changes], marker=".", label=label)
    axes.set(xlabel="guidance scale s", xlim=(0, 3.05), ylim=(-23, 30))
    axes.set_ylabel(r"change of $L_{\rm simple}$, percent")
    axes.axhline(0, linestyle="--", linewidth=1, color="gray")
    axes.axvline(1, linestyle=":", linewidth=1, color="gray")
    figure.legend(loc="outside right upper")
    return figure


@cli.one_line_errors
def main(argv=None):
    cli.ArgumentParser(__doc__).parse_args(argv)
    table, picture = RESULTS / "guide.csv", RESULTS / "guide.png"
    prepare_outputs(table, picture)
    (unet, classifier), free = load_models(), load_rival()
    images, labels = load_mnist("validation")
    losses, t = loss_parabolas(unet, classifier.log_p, images, labels, free)
    weights = [MODELS / name for name in ("ddpm_unet.pth", "classifier.pth", CHECKPOINT)]
    shared = {"n": len(t), "seed": SEED, "against": "validation", "torch": torch.__version__}
    shared |= {path.stem: sha256(path) for path in weights}
    rows, curves = [], {}
    for low, high in BANDS:
        loss_0, a, b, by_label = losses[:, (low <= t) & (t < high)]
        best, best_low, best_high = best_scale(a, b)
        unguided = loss_0.mean().item()
        change_by_label = by_label.mean().item() / unguided - 1
        changes = [(s * s * b - 2 * s * a).mean().item() / unguided for s in (0, *SCALES)]
        curves[f"t {low} to {high - 1}"] = changes
        for scale, change in zip(SCALES, changes[1:]):
            row = {"t": f"{low}-{high - 1}", "guidance_scale": scale, "change": f"{change:.4f}"}
            row |= {"change_by_label": f"{change_by_label:.4f}", "loss_unguided": f"{unguided:.5f}"}
            row |= {"best_scale": f"{best:.2f}"}
            row |= {"best_scale_low": f"{best_low:.2f}", "best_scale_high": f"{best_high:.2f}"}
            rows.append(row | shared)
    write_rows(table, rows)
    with plt.rc_context({"font.size": 11}):
        save_figure(picture, plot(curves), provenance(weights, seed=SEED))
    print(f"{table} and {picture}")


if __name__ == "__main__":
    main()
