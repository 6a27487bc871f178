"""The experiments of the report: one function per table.

python -m evaluation.tables quality scales    # write results/quality.csv, results/scales.csv
python -m evaluation.tables                   # only update the tables in the READMEs
"""

from functools import cached_property, partial

import torch

from classifier import load_classifier
from data import load_mnist
from diffusion import END, load_ddpm, noised_for_validation
from evaluation import figures, pages
from evaluation.classifier_free import SCALE, classifier_free
from evaluation.measures import product_of_powers, rank_correlation
from evaluation.methods import Exact, change_of_next, implied_gradient, mean_norm, norm
from evaluation.methods import with_norm_of
from evaluation.table import measure
from inference import gradient, growing_scale, guided, load_models, sample, trajectory
from support import cli
from support.files import MODELS, ROOT, provenance, read_rows, write_rows
from support.pictures import save_figure
from train_classifier import predict_noised

RUNS = {0: MODELS, 1: ROOT / "runs" / "1", 2: ROOT / "runs" / "2"}  # trained by results/make.sh
LAST = "classifier_free.pth"  # of the networks in a folder
SHORT_RUN = ROOT / "runs" / "short"


class Networks:
    """The networks in a folder, and the predicted noise that most tables need."""

    def __init__(self, folder=MODELS):
        self.folder, (self.ddpm, self.classifier) = folder, load_models(folder)
        self.ours = gradient(self.classifier.log_p)

    @cached_property
    def conditional(self):
        """The classifier-free network, which not every folder has."""
        return load_ddpm(self.folder / LAST)

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
    """The training runs that are complete on this machine: pairs (run, networks)."""
    complete = {run: folder for run, folder in RUNS.items() if (folder / LAST).exists()}
    return [(run, Networks(folder)) for run, folder in complete.items()]


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


def short_run(path):
    """Networks from the short training run that README.md shows."""
    networks = Networks(SHORT_RUN)
    rows = {"guided": networks.growing()}
    measure(sampled(networks.ddpm, rows, **FAST), seed=2, path=path)


# --- what makes a gradient good? ---


NO_EXACT_BELOW = 499  # there, the exact gradient has memorized the training images
OTHER_CLASSIFIERS = {  # name -> folder in runs/
    "32 channels": "wide",
    "fine-tuned, 300 steps": "fine_tuned_300",
    "fine-tuned, 1,500 steps": "fine_tuned_1500",
}


def gradients(networks):
    """The gradients that we compare, by name. Some classifiers are in runs/ (results/make.sh)."""
    ours, implied = networks.ours, implied_gradient(networks.conditional)
    exact = gradient(Exact(*load_mnist("train"), networks.ddpm.abar).log_p)
    runs = [gradient(load_classifier(folder / "classifier.pth").log_p) for folder in RUNS.values()]
    others = {
        name: gradient(load_classifier(ROOT / "runs" / folder / "classifier.pth").log_p)
        for name, folder in OTHER_CLASSIFIERS.items()
    }

    def of_next_image(x_t, t, y):
        return implied(x_t, t, y).roll(-1, dims=0)

    def average(x_t, t, y):
        return sum(grad(x_t, t, y) for grad in runs) / len(runs)

    return {
        "ours": ours,
        **{f"{k} x ours": times(k, ours) for k in (0.8, 1.3, 1.5, 2)},
        "ours, implied norm": with_norm_of(ours, implied),
        "ours, implied norm of the next image": with_norm_of(ours, of_next_image),
        "ours, mean implied norm": with_norm_of(ours, implied, mean_norm),  # added after the others
        "implied": implied,
        "implied, our norm": with_norm_of(implied, ours),
        "ours, exact norm": with_norm_of(ours, exact),
        "exact": exact,
        "run 1": runs[1],
        "run 2": runs[2],
        "average of three runs": average,
        **others,
    }


def times(k, grad):
    """A multiple of a gradient."""
    return lambda x_t, t, y: k * grad(x_t, t, y)


def interventions(path):
    """Samples with s = 1 and each of the gradients.

    Prediction, written down before the new gradients were sampled: over all gradients, accuracy has
    a higher rank correlation with the component along the true gradient (`held_out`, t = 499) than
    with the error that the gradient removes there.
    """
    networks = Networks()
    rows = {name: guided(networks.ddpm, grad, 1) for name, grad in gradients(networks).items()}
    measure(sampled(networks.ddpm, rows, **FAST), n=1_000, seed=2, path=path)


def held_out(path, n=3_000):
    """How each gradient differs from the true one, on validation images with their labels.

    Adds the accuracies from the table `interventions`, and draws both against each other.

    With the true gradient, g = sqrt(1 - abar_t) grad is the expected error of the U-Net, r =
    eps(x_t, t) - eps, because E[eps | x_t, y] = E[eps | x_t] - g. Columns, for each t:

    removed: the fraction of the squared error that g removes, (<r, r> - <r - g, r - g>) / <r, r>.
    norm: the norm of g, divided by that of our g.
    component: <g, z> / <r, z>, the component of g along the true gradient, divided by the true
        norm. Here, z is an instrumental variable (Wright 1928): errors in g that are uncorrelated
        with z do not matter. If they are positively correlated, the true component is smaller.
    by_exact: the same with another z.

    z is the implied g for the label, minus the implied g for a label drawn from the classifier's
    prediction. The difference removes the part of the implied g that does not depend on the label,
    which may be correlated with the U-Net's own error. For gradients that contain the implied one,
    and in by_exact, it is made from the exact g.
    """
    networks, (x_0, y) = Networks(), load_mnist("validation")
    x_0, y, ddpm, rng = x_0[:n], y[:n], networks.ddpm, torch.Generator().manual_seed(0)
    grads = gradients(networks)
    rows = {row["images"]: row for row in read_rows(path.with_name("interventions.csv"))}
    table, times = {}, (699, 599, 499, 399)
    for name in grads:
        accuracy = {key: rows[name][key] for key in ("accuracy", "accuracy_low", "accuracy_high")}
        table[name] = {"gradient": name, "n": n} | accuracy

    for t in times:
        noised = ddpm.scheduler, x_0, torch.full((n,), t)
        x_t, _, eps = noised_for_validation(*noised)
        r = in_batches(ddpm, x_t, t, y) - eps
        p, _ = predict_noised(networks.classifier, *noised)  # of the same x_t
        other = torch.multinomial(p, 1, generator=rng)[:, 0]
        root = (1 - ddpm.abar[t]).sqrt()
        all_g = {name: root * in_batches(grad, x_t, t, y) for name, grad in grads.items()}
        instruments = {
            name: all_g[name] - root * in_batches(grads[name], x_t, t, other)
            for name in (["implied", "exact"] if t >= NO_EXACT_BELOW else ["implied"])
        }
        rr, gg_of_ours = dot(r, r), dot(all_g["ours"], all_g["ours"])
        for name, g in all_g.items():
            gg = dot(g, g)
            columns = {"removed": [(2 * dot(r, g) - gg, 1), (rr, -1)]}
            columns["norm"] = [(gg, 0.5), (gg_of_ours, -0.5)]
            by = {
                instrument: [(dot(g, z), 1), (dot(r, z), -1)]
                for instrument, z in instruments.items()
                if instrument not in name
            }
            if by:
                columns["component"] = next(iter(by.values()))
            if "exact" in by:
                columns["by_exact"] = by["exact"]
            for column, powers in columns.items():
                table[name] |= product_of_powers(f"{column}_{t}", powers)
        write_rows(path, table.values())
    rows = read_rows(path)
    save_figure(path.with_suffix(".png"), figures.gradients(rows), provenance())
    for t in times:
        some = [row for row in rows if f"component_{t}" in row]
        shown = [
            f"{key} {rank_correlation(some, f'{key}_{t}', 'accuracy'):.2f}"
            for key in ("removed", "component", "norm")
        ]
        print(f"t = {t}, rank correlations of {len(some)} gradients: {', '.join(shown)}")


def dot(a, b):
    """The inner products of images (N, C, H, W): (N,)."""
    return (a * b).flatten(1).sum(dim=1)


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
    for table in (tuning, quality, short_run) + (interventions, held_out, scales, single_step)
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
