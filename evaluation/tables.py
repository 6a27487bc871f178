"""The tables of evaluate.py: which rows, against which images, with which figure."""

import math

import torch

import inference
from diffusion import SAMPLERS, add_noise, simple_loss, stratified_timesteps
from evaluation import figures
from evaluation.variants import variants
from support.tables import write_rows
from support.streams import generator

FAST = {"sampler": "sde-dpmsolver++", "steps": 10}  # the setting for speed
NUM_SWEEP, NUM_LONG = 2_000, 100
SCALES = (0, 1, 2, 5, 10, 15, 20, 25, 30, 50, 100)
SAMPLER_STEPS = (5, 10, 20)
MORE_STEPS = 50  # of the default sampler only
LONG_STEPS = (50, 1_000)
EARLY_SCALES = (1.0, 2.0, math.inf)  # beside the default
CONSTANT_SCALES = (5.0, 10.0)
ROOTLESS_SCALES = (10.0,)  # beside the default
ASKED = {  # variant -> (guidance scale, early scale) beside the default. These have the lowest
    # Fréchet distance of 3 to 6 that were tried, on the validation set at n = 100, seed 1.
    "gradient at the mean": [],
    "guide at t = 0": [],
    "clean guide at x_t": [(100.0, 0.2)],
    "clean guide at predicted x_0": [(5.0, 1.5)],
    "raw-t guide": [(100.0, 1.5)],
}
NUM_CONTROLS_SHOWN = 12  # the rows of the picture: the first of the table
GUIDE_SCALES = (0.5, 1, 1.5, 2, 3, 5)
GUIDE_BANDS = ((0, 100), (100, 300), (300, 500), (500, 700), (700, 850), (850, 1000))


def final_table(bench, n, path, guide=None, scale=inference.GUIDANCE_SCALE):
    """Real images, unguided samples, the defaults, the setting for speed, and a guide of one's own.

    Args:
        path: the CSV file, or None. guide: as `evaluation.variants.brought` takes it, or None.
        scale: the guidance scale of that guide.
    """
    changes = [{"guidance_scale": 0.0}, {}, FAST]
    if guide:
        changes.append({"variant": guide, "guidance_scale": scale})
        bench.draw(bench.settings(len(bench.classes), steps=2, variant=guide))  # fail early
    bench.fill(path, [bench.real(n), *(bench.settings(n, **change) for change in changes)])


def sweep_scales(bench, folder):
    """The guidance scale against all measures: the trade-off of ADM, on MNIST."""
    settings = [bench.settings(NUM_SWEEP, guidance_scale=float(scale)) for scale in SCALES]
    rows = bench.fill(folder / "scales.csv", [bench.real(NUM_SWEEP), *settings])
    figures.plot_scales(bench, folder / "scales.png", rows)
    figures.draw_scales(bench, folder / "scales_grid.png")


def sweep_samplers(bench, folder):
    """Every sampler by its number of steps."""
    settings = [
        bench.settings(NUM_SWEEP, sampler=name, steps=steps)
        for name in SAMPLERS
        for steps in SAMPLER_STEPS
    ]
    settings.append(bench.settings(NUM_SWEEP, steps=MORE_STEPS))
    rows = bench.fill(folder / "samplers.csv", [bench.real(NUM_SWEEP), *settings])
    figures.plot_samplers(bench, folder / "samplers.png", rows)


def sweep_samplers_long(bench, folder):
    """Up to 1,000 steps, at a small n with its own floor."""
    settings = [
        bench.settings(NUM_LONG, sampler=name, steps=steps)
        for name in SAMPLERS[:3]
        for steps in LONG_STEPS
    ]
    bench.fill(folder / "samplers_long.csv", [bench.real(NUM_LONG), *settings])


def sweep_controls(bench, folder):
    """The variants of the method, from the same weights and noise: a table, and a row of images."""
    bench.fill(folder / "controls.csv", [bench.real(NUM_SWEEP), *control_settings(bench)])
    shown = control_settings(bench, 2 * len(bench.classes))[:NUM_CONTROLS_SHOWN]
    figures.draw_rows(bench, folder / "controls_grid.png", shown)


def control_settings(bench, n=NUM_SWEEP):
    """The settings of the rows of the controls."""
    names = ("ADM Algorithm 2", "ADM Algorithm 1")  # these two with the sampler of Algorithm 1
    others = ("ADM Algorithm 1", "Algorithm 1 at the mean", *ASKED)
    changes = [{"variant": name} for name in variants(1) if name not in others]
    changes += [{"variant": name, "sampler": "ddpm"} for name in names]
    changes += [{"early_scale": scale} for scale in EARLY_SCALES]
    changes += [{"guidance_scale": s, "early_scale": math.inf} for s in CONSTANT_SCALES]
    rootless = "without sqrt(1 - abar_t)"
    changes += [{"variant": rootless, "guidance_scale": scale} for scale in ROOTLESS_SCALES]
    changes += [{"variant": "Algorithm 1 at the mean", "sampler": "ddpm"}]
    for name, scales in ASKED.items():
        changes += [{"variant": name}]
        changes += [{"variant": name, "guidance_scale": s, "early_scale": e} for s, e in scales]
    return [bench.settings(n, **change) for change in changes]


def sweep_guide(bench, folder):
    """How the guide changes L_simple, at each scale and in each band of t."""
    scales = (0, *GUIDE_SCALES)
    losses, t = conditional_losses(bench, bench.real_images, bench.real_labels, scales)
    rows, curves = [], {}
    for low, high in GUIDE_BANDS:
        band = losses[:, (low <= t) & (t < high)].mean(dim=1)  # (1 + len(GUIDE_SCALES),)
        curves[f"t {low} to {high - 1}"] = changes = (band / band[0] - 1).tolist()
        for scale, change in zip(GUIDE_SCALES, changes[1:]):
            row = {"t": f"{low}-{high - 1}", "guidance_scale": scale, "n": len(t)}
            row |= {"seed": bench.seed, "against": bench.split}
            row |= {"loss_unguided": f"{band[0]:.5f}", "change": f"{change:.4f}"}
            rows.append({**row, **bench.made_from})
    write_rows(folder / "guide.csv", rows)
    figures.plot_guide(bench, folder / "guide.png", scales, curves)


@torch.no_grad()
def conditional_losses(bench, x_0, y, scales, batch_size=250):
    """L_simple of eps_hat, ADM (14) without clipping, for images with their own digits.

    The best prediction of the noise is E[eps | x_t, y], which is ADM (14) at scale 1 if both
    networks are exact. So a calibrated guide lowers this loss most at scale 1, an over-confident
    one at a lower scale or not at all.

    Args:
        x_0: (N, 1, 28, 28). y: (N,). scales: numbers.

    Returns:
        losses: (len(scales), N). t: (N,).
    """
    rng = generator(bench.seed, 4)
    t = stratified_timesteps(len(x_0), rng)[torch.randperm(len(x_0), generator=rng)]
    eps = torch.randn(x_0.shape, generator=rng)
    x_t = add_noise(x_0, eps, t)
    losses = []
    for parts in zip(*(tensor.split(batch_size) for tensor in (x_t, t, y, eps))):
        x, t_part, y_part, eps_part = (part.to(bench.device) for part in parts)
        networks = bench.unet, bench.classifier.log_p
        eps, eps_1 = (
            inference.guided_noise(*networks, x, t_part, y_part, scale, clip=False)
            for scale in (0, 1)
        )
        predictions = [eps + scale * (eps_1 - eps) for scale in scales]  # ADM (14) is linear in s
        losses.append(torch.stack([simple_loss(p, eps_part) for p in predictions]).cpu())
    return torch.cat(losses, dim=1), t


SWEEPS = {
    "scales": sweep_scales,
    "samplers": sweep_samplers,
    "samplers_long": sweep_samplers_long,
    "controls": sweep_controls,
    "guide": sweep_guide,
}
