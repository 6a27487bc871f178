"""The tables of the report: one function per table.

    python -m evaluation.tables quality scales    # write results/quality.csv, results/scales.csv
    python -m evaluation.tables                   # only update the tables in the READMEs

In a README, a comment `<!-- table FILE.csv: COLUMN COLUMN ... -->` precedes each table. The first
column selects rows of results/FILE.csv by name; the other cells are filled in.
"""

import csv
import re
from functools import partial

import torch

from data import load_mnist
from diffusion import END, load_ddpm, noised_for_validation, sampling_times
from evaluation.classifier_free import SCALE, ClassifierFree
from evaluation.judge import judge_images, load_judge
from evaluation.measures import Z, accuracy_row, with_interval
from evaluation.methods import Exact, WithGradient, implied_gradient, with_norm_at_least
from evaluation.methods import with_norm_of
from evaluation.table import cell, measure, write_rows
from inference import SAMPLERS, Guided, NoisePredictor, gradient, growing_scale, load_models
from inference import sample
from support import cli
from support.files import MODELS, ROOT, atomic_write
from support.pictures import to_uint8
from train_classifier import predict_noised

RUNS = ROOT / "runs"  # networks that are not included; results/make.sh trains them
PAGES = (ROOT / "README.md", ROOT / "results" / "README.md")
TABLE = re.compile(
    r"(?P<heading><!-- table (?P<file>\S+): (?P<columns>.*) -->\n\|.*\n\|.*\n)(?P<rows>(?:\|.*\n)*)"
)


class Networks:
    """The networks in a folder, and the methods that most tables need."""

    def __init__(self, folder=MODELS):
        self.ddpm, self.classifier = load_models(folder)
        self.log_p = self.classifier.log_p
        self.conditional = load_ddpm(folder / "classifier_free.pth")
        self.unguided = NoisePredictor(self.ddpm)

    def guided(self, scale):
        """Classifier guidance."""
        return Guided(self.ddpm, self.log_p, scale)

    def growing(self, g=12):
        """Classifier guidance with s = 1 + g SNR."""
        return self.guided(growing_scale(self.ddpm.scheduler, g=g))

    def free(self, scale=SCALE):
        """Classifier-free guidance."""
        return ClassifierFree(self.conditional, scale)


def fast(rows, sampler="sde-dpmsolver++"):
    """Sample all rows in 20 steps."""
    return {
        name: partial(sample, method, sampler=sampler, steps=20) for name, method in rows.items()
    }


# --- how good are the samples? ---


def tuning_guided(path):
    """Choose g. Only the tuning tables use this seed."""
    networks = Networks()
    rows = {f"guided, g = {g}": networks.growing(g) for g in (12, 6, 24, 48, 96)}
    measure(rows, seed=4, path=path)


def tuning_classifier_free(path):
    """Choose the classifier-free scale. Only the tuning tables use this seed."""
    networks = Networks()
    rows = {f"classifier-free, s = {s}": networks.free(s) for s in (1, 1.1, 1.25, 1.5)}
    measure(rows, seed=4, path=path)


def quality(path):
    networks = Networks()
    rows = {
        "guided": networks.growing(),
        "guided, constant scale of 1": networks.guided(1),
        "guided, constant scale of 10": networks.guided(10),
        "classifier-free": networks.free(),
        "unguided": networks.unguided,
    }
    measure(rows, n=4_300, split="test", seed=0, path=path)


def training_runs(path):
    """All networks of three training runs, each with 3,800 U-Net steps."""
    rows = {}
    for run in (0, 1, 2):
        networks = Networks(RUNS / str(run))
        implied = implied_gradient(networks.free())
        rows[f"guided, run {run}"] = networks.growing()
        rows[f"classifier-free, run {run}"] = networks.free()
        rows[f"ours, s = 1, run {run}"] = networks.guided(1)
        rows[f"implied, s = 1, run {run}"] = WithGradient(networks.unguided, implied)
    measure(fast(rows), path=path)


def training_length(path):
    """Longer training. Guided samples after 3,800 steps are in `training_runs`."""
    networks = Networks()
    half, short = (load_ddpm(RUNS / name / "ddpm_unet.pth") for name in ("half", "0"))
    growing = growing_scale(half.scheduler)
    rows = {
        "unguided, 11,000 steps": NoisePredictor(half),
        "unguided, 3,800 steps": NoisePredictor(short),
        "unguided, 22,000 steps": networks.unguided,
        "guided, 11,000 steps": Guided(half, networks.log_p, growing),
        "guided, 22,000 steps": networks.growing(),
        "classifier-free, 22,000 steps": networks.free(),
    }
    measure(fast(rows), path=path)


# --- why is s = 1 not enough? ---


def gradients(networks):
    """The gradients of the ablations, by name."""
    ours = partial(gradient, networks.log_p)
    exact = partial(gradient, Exact(*load_mnist("train"), networks.ddpm.scheduler).log_p)
    implied = implied_gradient(networks.free())

    def of_next_image(x_t, t, y):
        return implied(x_t, t, y).roll(-1, dims=0)

    return {
        "ours": ours,
        "2 x ours": lambda x_t, t, y: 2 * ours(x_t, t, y),
        "ours, norm at least 1.5 below t = 550": with_norm_at_least(ours, 1.5, below=550),
        "ours, implied norm": with_norm_of(ours, implied),
        "ours, implied norm of the next image": with_norm_of(ours, of_next_image),
        "implied": implied,
        "implied, our norm": with_norm_of(implied, ours),
        "ours, exact norm": with_norm_of(ours, exact),
        "exact": exact,
    }


def interventions(path, seed=2):
    networks = Networks()
    grads = gradients(networks)
    rows = {name: WithGradient(networks.unguided, grad) for name, grad in grads.items()}
    rows["ours, on the classifier-free U-Net"] = WithGradient(networks.free(0), grads["ours"])
    rows["classifier-free, s = 1"] = networks.free(1)
    measure(fast(rows), seed=seed, path=path)


def interventions_again(path):
    interventions(path, seed=3)


def held_out(path, n=1_000):
    """How much of the U-Net's loss each gradient removes on validation images with their labels.

    If the U-Net is exact, the true gradient of log p(y | x_t, t) removes the most, because
    E[eps | x_t, y] = E[eps | x_t] - sqrt(1 - abar_t) grad log p(y | x_t, t).
    """
    networks, (x_0, y) = Networks(), load_mnist("validation")
    x_0, y, unguided = x_0[:n], y[:n], networks.unguided
    rows = {name: WithGradient(unguided, grad) for name, grad in gradients(networks).items()}
    rows["classifier-free, s = 1"] = networks.free(1)
    table = [{"gradient": name, "n": n} for name in rows]
    for t in (699, 499, 399, 299, 199, 99):
        x_t, _, eps = noised_for_validation(networks.ddpm.scheduler, x_0, torch.full((n,), t))
        errors = [
            (in_batches(method, x_t, t, y) - eps).square().mean(dim=(1, 2, 3))
            for method in (unguided, *rows.values())
        ]
        for row, after in zip(table, errors[1:]):
            removed = (errors[0] - after) / errors[0].mean()  # (n,)
            mean, error = removed.mean().item(), Z * removed.std().item() / n**0.5
            row |= with_interval(f"removed_{t}", mean, mean - error, mean + error)
        write_rows(path, table)


def factors(path, n=5_000):
    """The factor by which our gradient is too small, on validation images with their labels.

    With the right gradient, g = sqrt(1 - abar_t) grad is the expected error of the U-Net, r =
    eps(x_t, t) - eps. Of all multiples of g, that by <r, g> / <g, g> removes the most error, but
    errors in g reduce this factor. They do not affect <r, z> / <g, z> if they are uncorrelated with
    z (an instrumental variable, Wright 1928): the implied g for the label, minus that for a label
    drawn from the classifier's prediction. The difference removes the part of the implied g that
    does not depend on the label, which may be correlated with the U-Net's own error.
    """
    networks, (x_0, y) = Networks(), load_mnist("validation")
    x_0, y, grads, rng = x_0[:n], y[:n], gradients(networks), torch.Generator().manual_seed(0)
    least_squares, corrected = table = [{"factor": "least squares"}, {"factor": "corrected"}]

    for t in (899, 799, 699, 599, 499, 399, 299):
        noised = networks.ddpm.scheduler, x_0, torch.full((n,), t)
        x_t, _, eps = noised_for_validation(*noised)
        r = in_batches(networks.unguided, x_t, t, y) - eps
        p, _ = predict_noised(networks.classifier, *noised)  # of the same x_t
        other = torch.multinomial(p, 1, generator=rng)[:, 0]
        root = (1 - networks.unguided.abar[t]).sqrt()
        g, z, z_of_other = (
            root * in_batches(grads[name], x_t, t, labels)
            for name, labels in (("ours", y), ("implied", y), ("implied", other))
        )
        least_squares |= ratio(f"t_{t}", r * g, g * g)
        corrected |= ratio(f"t_{t}", r * (z - z_of_other), g * (z - z_of_other))
        write_rows(path, [row | {"n": n} for row in table])


def ratio(name, a, b):
    """The ratio of the means of a and b (N, C, H, W), with its 95% interval (delta method)."""
    a, b = (values.sum(dim=(1, 2, 3)) for values in (a, b))
    value = a.mean() / b.mean()
    error = Z * (a - value * b).std() / b.mean().abs() / len(a) ** 0.5
    return with_interval(name, *(v.item() for v in (value, value - error, value + error)))


def real_starts(path, n=1_000):
    """Accuracy if the sampler starts from validation images with noise, guided toward their labels.

    At t = 999, this is almost pure noise.
    """
    networks, judge, (x_0, y) = Networks(), load_judge(), load_mnist("validation")
    x_0, y, table = x_0[:n], y[:n], []
    for start in (999, 599, 499, 399):
        x_t, _, _ = noised_for_validation(networks.ddpm.scheduler, x_0, torch.full((n,), start))
        row = {"start": f"t = {start}", "n": n}
        for s in (1, 1.3, 2):
            torch.manual_seed(start)
            images = in_batches(partial(continued, networks.guided(s)), x_t, start, y)
            correct = judge_images(judge, to_uint8(images))[1] == y
            row |= accuracy_row(f"accuracy_s_{s}", correct)
        table.append(row)
        write_rows(path, table)


def continued(method, x_t, t, y):
    """Sample from images x_t (B, C, H, W) on, in the rest of 20 steps: (B, C, H, W)."""
    times = [u for u in sampling_times(len(method.abar) - 1, 20) if u <= t]
    *_, (_, x_0, _) = SAMPLERS["sde-dpmsolver++"](
        lambda x_u, u: method(x_u, u, y),
        method.abar, x_t, [*times, END], lambda: torch.randn_like(x_t),
    )  # fmt: skip
    return x_0


def in_batches(method, x_t, t, y, batch_size=100):
    """method(x_t, t, y) for many images x_t (N, C, H, W)."""
    parts = zip(x_t.split(batch_size), y.split(batch_size))
    return torch.cat([method(x, t, k) for x, k in parts])


# --- which scale? ---


def scales(path):
    networks = Networks()
    rows = {f"1 + {g} SNR": networks.growing(g) for g in (12, 6, 24, 48)}
    rows |= {f"s = {s}": networks.guided(s) for s in (3, 5, 10)}
    measure(fast(rows), seed=2, path=path)


def single_step(path):
    """DDIM in 20 steps, only one of which is guided, with s = 50."""
    networks = Networks()

    def only_at(time):
        return lambda t: 50 if t == time else 0

    rows = {"s = 1 at all steps": networks.guided(1), "unguided": networks.unguided}
    rows |= {f"t = {t}": networks.guided(only_at(t)) for t in range(999, 0, -100)}
    measure(fast(rows, "ddim"), n=1_000, seed=2, path=path)


TABLES = {
    table.__name__: table
    for table in (tuning_guided, tuning_classifier_free, quality, training_runs, training_length)
    + (interventions, interventions_again, held_out, factors, real_starts, scales, single_step)
}


def page_with_tables(text):
    """Fill in the tables of a page from their CSV files. The page names the rows."""

    def table(found):
        columns = found["columns"].split()
        with open(ROOT / "results" / found["file"], newline="") as file:
            rows = {row[columns[0]]: row for row in csv.DictReader(file)}
        names = [line.split("|")[1].strip() for line in found["rows"].splitlines()]
        lines = [f"| {' | '.join(cell(rows[name], key) for key in columns)} |\n" for name in names]
        return found["heading"] + "".join(lines)

    return TABLE.sub(table, text)


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
    for page in PAGES:
        text = page_with_tables(page.read_text())
        with atomic_write(page) as file:
            file.write(text.encode())
        print(page)


if __name__ == "__main__":
    main()
