"""The experiments of the report: one function per table.

python -m evaluation.tables quality scales    # write results/quality.csv, results/scales.csv
python -m evaluation.tables                   # only update the tables in the READMEs
"""

from functools import partial

import torch

from data import load_mnist
from diffusion import END, load_ddpm, noised_for_validation, sampling_times
from evaluation import figures, pages
from evaluation.classifier_free import SCALE, classifier_free
from evaluation.judge import judge_images, load_judge
from evaluation.measures import Z, accuracy_row, product_of_powers, with_interval
from evaluation.methods import Exact, Unlabeled, change_of_next, implied_gradient, norm
from evaluation.methods import with_norm_of
from evaluation.table import measure
from inference import SAMPLERS, gradient, growing_scale, guided, load_models, reverse, sample
from inference import trajectory
from support import cli
from support.files import MODELS, ROOT, provenance, read_rows, write_rows
from support.pictures import save_figure, to_uint8
from train_classifier import predict_noised

RUNS = {0: MODELS, 1: ROOT / "runs" / "1", 2: ROOT / "runs" / "2"}  # trained by results/make.sh
SHORT_RUNS = ROOT / "runs" / "short"


class Networks:
    """The networks in a folder, and the predicted noise that most tables need."""

    def __init__(self, folder=MODELS):
        self.ddpm, self.classifier = load_models(folder)
        self.conditional = load_ddpm(folder / "classifier_free.pth")
        self.ours = gradient(self.classifier.log_p)

    def guided(self, scale):
        """Classifier guidance."""
        return guided(self.ddpm, self.ours, scale)

    def growing(self, *w_and_g):
        """Classifier guidance with s = w (1 + g SNR)."""
        return self.guided(growing_scale(self.ddpm, *w_and_g))

    def free(self, scale=SCALE):
        """Classifier-free guidance."""
        return classifier_free(self.conditional, scale)


def sampled(ddpm, rows, **settings):
    """Rows for `measure`: name -> eps_hat, sampled with these settings."""
    return {
        name: partial(sample, ddpm, eps_hat=eps_hat, **settings) for name, eps_hat in rows.items()
    }


FAST = {"sampler": "sde-dpmsolver++", "steps": 20}


# --- which settings? ---

W_AND_G = (1, 12), (1, 6), (1, 24), (1.3, 12), (1.5, 8), (1.5, 12)
FREE_SCALES = 1.1, 1, 1.25, 1.5, 1.75, 2


def candidates(networks):
    """The settings to choose from: method -> name -> eps_hat."""
    return {
        "guided": {f"{w} (1 + {g} SNR)": networks.growing(w, g) for w, g in W_AND_G},
        "classifier-free": {f"s = {s}": networks.free(s) for s in FREE_SCALES},
    }


def tuning(path):
    """All candidates in each training run. No other table uses this seed."""
    rows = {}
    for run, networks in training_runs_here():
        for method, settings in candidates(networks).items():
            rows |= {f"{method}, {name}, run {run}": settings[name] for name in settings}
    measure(sampled(networks.ddpm, rows, **FAST), seed=4, path=path)
    rows = read_rows(path)
    curves = {
        (method, run): of_method(rows, method, run).values()
        for method in ("guided", "classifier-free")
        for run in RUNS
    }
    figure = figures.tuning(curves, rows[0])
    save_figure(path.with_suffix(".png"), figure, provenance())


def of_method(rows, method, run):
    """The rows of one method and training run in the table `tuning`: name of the setting -> row."""
    start, end = f"{method}, ", f", run {run}"
    return {
        row["images"].removeprefix(start).removesuffix(end): row
        for row in rows
        if row["images"].startswith(start) and row["images"].endswith(end)
    }


def chosen(rows, method, run):
    """The setting of a method that is used in a training run: its name in `candidates`.

    Of the settings whose accuracy is not clearly below that of real images, the one with the lowest
    Fréchet distance; if there is none, the most accurate. `rows` is the table `tuning`.
    """
    real, mine = rows[0]["accuracy"], of_method(rows, method, run)
    good = [name for name, row in mine.items() if float(row["accuracy_high"]) >= float(real)]
    if good:
        return min(good, key=lambda name: float(mine[name]["frechet"]))
    return max(mine, key=lambda name: float(mine[name]["accuracy"]))


def training_runs_here():
    """The training runs whose networks are on this machine: pairs (run, networks)."""
    return [(run, Networks(folder)) for run, folder in RUNS.items() if folder.exists()]


# --- how good are the samples? ---


def quality(path):
    networks = Networks()
    rows = {
        "guided": networks.growing(),
        "guided, constant scale of 1": networks.guided(1),
        "classifier-free": networks.free(),
        "unguided": networks.ddpm,
    }
    measure(sampled(networks.ddpm, rows), n=4_300, split="test", seed=0, path=path)


def short_runs(path):
    """All networks of three short training runs, each with 3,800 U-Net steps.

    The scales are not tuned for these networks.
    """
    rows = {}
    for run in (0, 1, 2):
        networks = Networks(SHORT_RUNS / str(run))
        implied = implied_gradient(networks.conditional)
        rows[f"guided, run {run}"] = networks.growing(1, 12)
        rows[f"classifier-free, run {run}"] = networks.free(1.1)
        rows[f"ours, s = 1, run {run}"] = networks.guided(1)
        rows[f"implied, s = 1, run {run}"] = guided(networks.ddpm, implied, 1)
    measure(sampled(networks.ddpm, rows, **FAST), path=path)


# --- why is s = 1 not enough? ---


def gradients(networks):
    """The gradients of the ablations, by name."""
    ours, implied = networks.ours, implied_gradient(networks.conditional)
    exact = gradient(Exact(*load_mnist("train"), networks.ddpm.abar).log_p)

    def of_next_image(x_t, t, y):
        return implied(x_t, t, y).roll(-1, dims=0)

    return {
        "ours": ours,
        "2 x ours": lambda x_t, t, y: 2 * ours(x_t, t, y),
        "ours, implied norm": with_norm_of(ours, implied),
        "ours, implied norm of the next image": with_norm_of(ours, of_next_image),
        "implied": implied,
        "implied, our norm": with_norm_of(implied, ours),
        "ours, exact norm": with_norm_of(ours, exact),
        "exact": exact,
    }


def interventions(path, seed=2):
    networks = Networks()
    unlabeled = Unlabeled(networks.conditional.unet, networks.conditional.scheduler)
    rows = {name: guided(networks.ddpm, grad, 1) for name, grad in gradients(networks).items()}
    rows["ours, on the classifier-free U-Net"] = guided(unlabeled, networks.ours, 1)
    rows["classifier-free, s = 1"] = networks.free(1)
    measure(sampled(networks.ddpm, rows, **FAST), seed=seed, path=path)


def interventions_again(path):
    interventions(path, seed=3)


def held_out(path, n=1_000):
    """How much of the U-Net's loss each gradient removes on validation images with their labels.

    If the U-Net is exact, the true gradient of log p(y | x_t, t) removes the most, because
    E[eps | x_t, y] = E[eps | x_t] - sqrt(1 - abar_t) grad log p(y | x_t, t).
    """
    networks, (x_0, y) = Networks(), load_mnist("validation")
    x_0, y, ddpm = x_0[:n], y[:n], networks.ddpm
    rows = {name: guided(ddpm, grad, 1) for name, grad in gradients(networks).items()}
    rows["classifier-free, s = 1"] = networks.free(1)
    table = [{"gradient": name, "n": n} for name in rows]
    for t in (699, 499, 399, 299, 199, 99):
        x_t, _, eps = noised_for_validation(ddpm.scheduler, x_0, torch.full((n,), t))
        errors = [
            (in_batches(eps_hat, x_t, t, y) - eps).square().mean(dim=(1, 2, 3))
            for eps_hat in (ddpm, *rows.values())
        ]
        for row, after in zip(table, errors[1:]):
            removed = (errors[0] - after) / errors[0].mean()  # (n,)
            mean, error = removed.mean().item(), Z * removed.std().item() / n**0.5
            row |= with_interval(f"removed_{t}", mean, mean - error, mean + error)
        write_rows(path, table)


def factors(path, n=5_000):
    """How our gradient differs from the true one, on validation images with their labels.

    With the true gradient, g = sqrt(1 - abar_t) grad is the expected error of the U-Net, r =
    eps(x_t, t) - eps. The multiple of g that removes the most error is b = <r, g> / <g, g>, but
    errors in g that are uncorrelated with r reduce this factor. They do not affect the corrected
    factor, <r, z> / <g, z>, if they are uncorrelated with z (an instrumental variable, Wright
    1928): the implied g for the label, minus the implied g for a label drawn from the classifier's
    prediction. The difference removes the part of the implied g that does not depend on the label,
    which may be correlated with the U-Net's own error. The root of the product of both factors is
    the norm of the true gradient divided by ours, and the root of their ratio is the cosine.
    """
    networks, (x_0, y) = Networks(), load_mnist("validation")
    x_0, y, rng = x_0[:n], y[:n], torch.Generator().manual_seed(0)
    ours, implied = networks.ours, implied_gradient(networks.conditional)
    names = ("least squares", "corrected", "ratio of norms", "cosine")
    table = {name: {"factor": name, "n": n} for name in names}

    for t in (899, 799, 699, 599, 499, 399, 299):
        noised = networks.ddpm.scheduler, x_0, torch.full((n,), t)
        x_t, _, eps = noised_for_validation(*noised)
        r = in_batches(networks.ddpm, x_t, t, y) - eps
        p, _ = predict_noised(networks.classifier, *noised)  # of the same x_t
        other = torch.multinomial(p, 1, generator=rng)[:, 0]
        root = (1 - networks.ddpm.abar[t]).sqrt()
        g, z, z_of_other = (
            root * in_batches(grad, x_t, t, labels)
            for grad, labels in ((ours, y), (implied, y), (implied, other))
        )
        rg, gg, rz, gz = (
            (a * b).flatten(1).sum(dim=1)
            for a, b in ((r, g), (g, g), (r, z - z_of_other), (g, z - z_of_other))
        )
        powers = {
            "least squares": [(rg, 1), (gg, -1)],
            "corrected": [(rz, 1), (gz, -1)],
            "ratio of norms": [(rg, 0.5), (gg, -0.5), (rz, 0.5), (gz, -0.5)],
            "cosine": [(rg, 0.5), (gg, -0.5), (rz, -0.5), (gz, 0.5)],
        }
        for name in names:
            table[name] |= product_of_powers(f"t_{t}", powers[name])
        write_rows(path, table.values())


def real_starts(path, n=1_000):
    """Accuracy if the sampler starts from noised validation images, guided toward their labels.

    At t = 999, this is almost pure noise.
    """
    networks, judge, (x_0, y) = Networks(), load_judge(), load_mnist("validation")
    x_0, y, table = x_0[:n], y[:n], []
    for start in (999, 599, 499, 399):
        x_t, _, _ = noised_for_validation(networks.ddpm.scheduler, x_0, torch.full((n,), start))
        row = {"start": f"t = {start}", "n": n}
        for s in (1, 1.3, 2):
            torch.manual_seed(start)
            rest_of = partial(continued, networks.ddpm, networks.guided(s))
            images = in_batches(rest_of, x_t, start, y)
            correct = judge_images(judge, to_uint8(images))[1] == y
            row |= accuracy_row(f"accuracy_s_{s}", correct)
        table.append(row)
        write_rows(path, table)


def continued(ddpm, eps_hat, x_t, t, y):
    """Sample from images x_t (B, C, H, W) on, in the rest of 20 steps: (B, C, H, W)."""
    scheduler = SAMPLERS[FAST["sampler"]](ddpm.scheduler)
    scheduler.set_timesteps(timesteps=[u for u in sampling_times(1000, FAST["steps"]) if u <= t])
    *_, (_, _, x_0) = reverse(lambda x_u, u: eps_hat(x_u, u, y), scheduler, x_t, rngs=None)
    return x_0


@torch.no_grad()
def in_batches(function, x_t, t, y, batch_size=100):
    """function(x_t, t, y) for many images x_t (N, C, H, W)."""
    parts = zip(x_t.split(batch_size), y.split(batch_size))
    return torch.cat([function(x, t, k) for x, k in parts])


# --- which scale? ---


def scales(path):
    networks = Networks()
    rows = {f"1 + {g} SNR": networks.growing(1, g) for g in (12, 6, 24, 48)}
    rows["1.5 (1 + 8 SNR)"] = networks.growing()
    rows |= {f"s = {s}": networks.guided(s) for s in (1, 1.3, 1.5, 2, 3, 5, 10)}
    measure(sampled(networks.ddpm, rows, **FAST), seed=2, path=path)


def single_step(path):
    """DDIM in 20 steps, only one of which is guided: with s = 50, or with pushes of equal size."""
    networks, times = Networks(), range(999, 0, -100)
    sizes = push_sizes(networks)

    def only_at(time, s):
        return lambda t: s if t == time else 0

    rows = {"s = 1 at all steps": networks.guided(1), "unguided": networks.ddpm}
    rows |= {f"t = {t}": networks.guided(only_at(t, 50)) for t in times}
    equal = {t: 50 * sizes[699] / sizes[t] for t in times}
    rows |= {f"t = {t}, equal size": networks.guided(only_at(t, equal[t])) for t in times}
    rows = sampled(networks.ddpm, rows, sampler="ddim", steps=20)
    measure(rows, n=1_000, seed=2, path=path)


@torch.no_grad()
def push_sizes(networks, n=100):
    """The mean norm of the change in the next image per unit of s, with DDIM: t -> number."""
    ddpm, y, sizes = networks.ddpm, torch.arange(n) % 10, {}
    steps = list(trajectory(ddpm, y, range(n), sampler="ddim", steps=20))
    for (t, x_t, _), u in zip(steps, [*(t for t, _, _ in steps[1:]), END]):
        sizes[t] = norm(change_of_next(ddpm, networks.ours, t, u, x_t, y)).mean().item()
    return sizes


TABLES = {
    table.__name__: table
    for table in (tuning, quality, short_runs)
    + (interventions, interventions_again, held_out, factors, real_starts, scales, single_step)
}


@cli.one_line_errors
def main(argv=None):
    parser = cli.ArgumentParser(__doc__)
    parser.add_argument(
        "tables", nargs="*", metavar="NAME", help=f"tables to measure: {', '.join(TABLES)}"
    )
    args = parser.parse_args(argv)
    for name in args.tables:
        if name not in TABLES:
            parser.error(f"unknown table {name}; choose from {', '.join(TABLES)}")
    for name in args.tables:
        TABLES[name](ROOT / "results" / f"{name}.csv")
    pages.update()


if __name__ == "__main__":
    main()
