"""The tables of evaluate.py: which rows, against which images, with which figure."""

import torch

import inference
from diffusion import SAMPLERS, add_noise, simple_loss, stratified_timesteps
from evaluation import figures
from evaluation.solvers import SOLVERS
from evaluation.variants import WINDOWS
from support.tables import write_rows
from support.streams import generator

FAST = {"sampler": "sde-dpmsolver++", "steps": 10}  # the setting for speed
NUM_SWEEP = 1_000
NO_ROOT = "raw-t guide, no root"
CONSTANT = {"scale_growth": 0.0}
BEST_CONSTANT = CONSTANT | {
    "guidance_scale": 3.0
}  # the lowest Fréchet distance at g = 0 in scales.csv
FAMILIES = {  # label -> what all its rows share, and their guidance scales
    "g = 0 (ADM)": (CONSTANT, (1, 2, 3, 5, 10, 25)),
    f"g = {inference.SCALE_GROWTH:g}": ({}, (0.1, 0.25, 0.5, 1, 2, 4)),
    "classifier-free": (CONSTANT | {"variant": "classifier-free"}, (0, 0.25, 0.5, 1, 2)),
    "usual notebook": (CONSTANT | {"variant": NO_ROOT}, (1, 3, 10, 25)),
}
OTHER_SCALES = (  # beside the families; the last two have the default's s at low noise
    *({"scale_growth": growth} for growth in (12.0, 48.0)),
    *({"guidance_scale": w, "scale_growth": g} for w, g in ((0.5, 48.0), (2.0, 12.0))),
)
MORE_STEPS = (5, 10, 50)  # of the default sampler only
CONTROLS = (  # beside the default
    {"variant": "without sqrt(1 - abar_t)"},
    {"variant": "clip after the tilt"},
    {"variant": "no clipping"},
    {"variant": "ADM Algorithm 2", "sampler": "ddpm"},
    {"variant": "ADM Algorithm 1", "sampler": "ddpm"},
    {"variant": "gradient at the mean"},
    {"variant": "Algorithm 1 at the mean", "sampler": "ddpm"},
    {"variant": "wrong digits"},
    {"variant": "guide at t = 0"},
    {"variant": "clean guide at x_t"},
    {"variant": "clean guide at predicted x_0"},
    {"variant": "raw-t guide"},
    {"variant": "raw-t guide", "guidance_scale": 4.0},
    {"variant": "projected"},
    {"variant": "rescaled"},
)
QUANTILES = (0.001, 0.01, 0.1, 0.5, 0.9)  # of the distances to training images
GUIDE_SCALES = (0.5, 1, 1.5, 2, 3, 5)
GUIDE_BANDS = ((0, 100), (100, 300), (300, 500), (500, 700), (700, 850), (850, 1000))


def final_table(bench, n, path, guide=None, scale=inference.GUIDANCE_SCALE):
    """Real images, unguided samples, the defaults, the setting for speed, and a guide of one's own.

    Args:
        path: the CSV file, or None. guide: as `evaluation.variants.brought` takes it, or None.
        scale: the guidance scale of that guide.
    """
    changes = [{}, {"guidance_scale": 0.0}, FAST]
    if guide:
        changes.append({"variant": guide, "guidance_scale": scale})
        bench.draw(bench.settings(len(bench.classes), steps=2, variant=guide))  # fail early
    bench.fill(path, below_floors(bench, n, changes))


def below_floors(bench, n, changes):
    """The settings of the rows of real images, and of the defaults with each of `changes`."""
    return [*bench.floor_settings(n), *(bench.settings(n, **change) for change in changes)]


def copies(bench, n, folder):
    """The distances of the default's samples to the training images: a table and a figure."""
    distances = figures.draw_copies(bench, folder / "copies.png", bench.default(n)[0])
    rows = []
    for label, values in distances.items():
        quantiles = {f"quantile_{q:g}": f"{values.quantile(q):.3f}" for q in QUANTILES}
        row = {
            "images": label,
            "n": len(values),
            "seed": bench.seed,
            "nearest": f"{values.min():.3f}",
        }
        rows.append(row | quantiles | bench.made_from)
    write_rows(folder / "copies.csv", rows)


def sweep_scales(bench, folder):
    """The guidance scale, constant and growing, and that of classifier-free guidance."""
    changes = [{}, {"guidance_scale": 0.0}, *OTHER_SCALES]
    for shared, scales in FAMILIES.values():
        changes += [shared | {"guidance_scale": float(scale)} for scale in scales]
    rows = below_floors(bench, NUM_SWEEP, changes)
    rows = bench.fill(folder / "scales.csv", list({str(row): row for row in rows}.values()))
    figures.plot_families(bench, folder / "scales.png", rows, FAMILIES)
    figures.draw_scales(bench, folder / "scales_grid.png")


def sweep_samplers(bench, folder):
    """Every sampler, and the default by its number of steps."""
    default = {"sampler": inference.SAMPLER}
    changes = [default, *({"sampler": name} for name in (*SAMPLERS[:-1], *SOLVERS))]
    changes += [default | {"steps": k} for k in MORE_STEPS]
    rows = bench.fill(folder / "samplers.csv", below_floors(bench, NUM_SWEEP, changes))
    figures.plot_samplers(bench, folder / "samplers.png", rows)


def sweep_windows(bench, folder):
    """The guide at some of the timesteps only: when is the digit decided?"""
    names = [f"guide t {side} {t} only" for side in (">=", "<") for t in WINDOWS]
    changes = [{"guidance_scale": 0.0}]
    for scales in ({}, BEST_CONSTANT):
        changes += [scales, *(scales | {"variant": name} for name in names)]
    rows = bench.fill(folder / "windows.csv", below_floors(bench, NUM_SWEEP, changes))
    figures.plot_windows(bench, folder / "windows.png", rows)


def sweep_controls(bench, folder):
    """The variants of the method, from the same weights and noise: a table, and a row of images."""
    bench.fill(folder / "controls.csv", below_floors(bench, NUM_SWEEP, ({}, *CONTROLS)))
    shown = [bench.settings(2 * len(bench.classes), **change) for change in ({}, *CONTROLS)]
    figures.draw_rows(bench, folder / "controls_grid.png", shown)


def sweep_guide(bench, folder):
    """How the guide changes L_simple, at each scale and in each band of t.

    Beside it, how much lower the loss of the classifier-free U-Net is, which is given the digit:
    an estimate of what an exact guide would do.
    """
    images = bench.dataset.load(bench.split)
    scales, (free, _, hashes) = (0, *GUIDE_SCALES), bench.networks_of("classifier-free")

    def predict(*given):
        return [*eps_at_scales(bench, scales, *given), free(*given).sample]

    losses, t = losses_against_t(bench, *images, predict)
    rows, curves = [], {}
    for low, high in GUIDE_BANDS:
        band = losses[:, (low <= t) & (t < high)].mean(dim=1)  # (len(scales) + 1,)
        *changes, by_label = (band / band[0] - 1).tolist()
        curves[f"t {low} to {high - 1}"] = changes
        for scale, change in zip(GUIDE_SCALES, changes[1:]):
            row = {"t": f"{low}-{high - 1}", "guidance_scale": scale, "n": len(t)}
            row |= {"seed": bench.seed, "against": bench.split}
            row |= {"loss_unguided": f"{band[0]:.5f}", "change": f"{change:.4f}"}
            row |= {"change_by_label": f"{by_label:.4f}"}
            rows.append({**row, **bench.made_from, "classifier_free": hashes["ddpm_unet"]})
    write_rows(folder / "guide.csv", rows)
    figures.plot_guide(bench, folder / "guide.png", scales, curves)


@torch.no_grad()
def losses_against_t(bench, x_0, y, predict, batch_size=250):
    """L_simple of predicted noise, for images with their own digits at uniform t.

    Args:
        x_0: (N, 1, 28, 28). y: (N,). predict: (x_t, t, y) -> K predictions of eps.

    Returns:
        losses: (K, N). t: (N,).
    """
    rng = generator(bench.seed, "calibration", 0)
    t = stratified_timesteps(len(x_0), rng)[torch.randperm(len(x_0), generator=rng)]
    eps = torch.randn(x_0.shape, generator=generator(bench.seed, "calibration", 1))
    losses = []
    for parts in zip(*(x.split(batch_size) for x in (add_noise(x_0, eps, t), t, y, eps))):
        x_t, t_part, y_part, eps_part = (part.to(bench.device) for part in parts)
        of_part = [simple_loss(p, eps_part) for p in predict(x_t, t_part, y_part)]
        losses.append(torch.stack(of_part).cpu())
    return torch.cat(losses, dim=1), t


def eps_at_scales(bench, scales, x_t, t, y):
    """eps_hat of ADM (14) without clipping, at each scale.

    The best prediction of the noise is E[eps | x_t, y], which is ADM (14) at scale 1 if both
    networks are exact. So a calibrated guide lowers the loss most at scale 1, an over-confident
    one at a lower scale or not at all.
    """
    networks = bench.unet, bench.classifier.log_p
    eps, eps_1 = (inference.guided_noise(*networks, x_t, t, y, s, clip=False) for s in (0, 1))
    return [eps + scale * (eps_1 - eps) for scale in scales]  # ADM (14) is linear in s


SWEEPS = {
    "scales": sweep_scales,
    "samplers": sweep_samplers,
    "windows": sweep_windows,
    "controls": sweep_controls,
    "guide": sweep_guide,
}
