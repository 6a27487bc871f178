"""The report: one function per experiment, and the tables in the READMEs.

    python -m evaluation.report quality scales    # results/quality.csv and results/scales.csv
    python -m evaluation.report                   # only update the tables in the READMEs

Every experiment measures rows, which have the columns method, scale, and run.
"""

import re
from functools import cache, partial

import torch

from diffusion import END, add_noise, load_ddpm, predicted_x_0
from evaluation.classifier_free import SCALE, classifier_free, implied_gradient
from evaluation.measure import cell, measure
from inference import SAMPLER, STEPS, gradient, growing_scale, guided, load_models, sample
from inference import trajectory
from support import cli
from support.files import MODELS, ROOT, atomic_write, provenance, read_rows
from support.pictures import ACCENT, INK, plain_figure, save_figure

RUNS = {0: MODELS} | {run: ROOT / "runs" / f"{run}" for run in (1, 2, "short")}  # by make.sh
loaded = cache(load_ddpm)
DEFAULT_SCALE = 1.5, 12  # a and b, as in `growing_scale`
PAGES = ROOT / "README.md", ROOT / "results" / "README.md"
TABLE = re.compile(
    r"(?P<heading><!-- table (?P<file>\S+): (?P<columns>.*) -->\n\|.*\n\|.*\n)(?P<rows>(?:\|.*\n)*)"
)


class Networks:
    """The networks of a training run, and rows for `measure` that sample with them.

    run is a key of `RUNS`, or a folder. A scale is a number, or (a, b) for a + b SNR, which grows.
    """

    def __init__(self, run, sampler="sde-dpmsolver++", steps=20, device="cpu"):
        self.folder, self.device = RUNS.get(run, run), device
        self.ddpm, self.classifier = load_models(self.folder, device)
        self.grad = gradient(self.classifier.log_p)
        self.settings = {"sampler": sampler, "steps": steps, "run": run}

    def row(self, method, scale, predict):
        """A row with any predicted noise. Method and scale, also as a text, become columns."""
        scale = text_of(scale) if isinstance(scale, tuple) else scale
        return partial(drawn, self.ddpm, predict, method=method, scale=scale, **self.settings)

    def unguided(self):
        return self.row("unguided", 0, self.ddpm)

    def guided(self, scale=DEFAULT_SCALE):
        s = growing_scale(self.ddpm, *scale) if isinstance(scale, tuple) else scale
        return self.row("guided", scale, guided(self.ddpm, self.grad, s))

    def classifier_free(self, scale=SCALE):
        conditional = loaded(self.folder / "classifier_free.pth", self.device)
        return self.row("classifier-free", scale, classifier_free(conditional, scale))


def drawn(ddpm, predict, y, seeds, sampler, steps, **key):
    """Samples. The key (method, scale, run) only becomes columns of the table."""
    return sample(ddpm, y, seeds, predict, sampler=sampler, steps=steps)


def text_of(scale):
    """A scale, a number or a pair, as text."""
    if isinstance(scale, tuple):
        return "{} + {} SNR".format(*scale)
    return f"s = {scale}".removesuffix(".0")


# --- experiments ---


def tuning(path):
    """Which scales? Each training run of both methods; no other experiment uses this seed."""
    rows = {}
    for run in (0, 1, 2):
        networks = Networks(run)
        for scale in (1, 12), (1, 6), (1, 24), (1.3, 15.6), (1.5, 12), (1.5, 18):
            rows[f"guided, {text_of(scale)}, run {run}"] = networks.guided(scale)
        for scale in 1.1, 1, 1.25, 1.5, 1.75, 2:
            rows[f"classifier-free, {text_of(scale)}, run {run}"] = networks.classifier_free(scale)
    table = measure(rows, seed=4, path=path)
    save_figure(path.with_suffix(".png"), tuning_figure(table), provenance())


def tuning_figure(table):
    """Accuracy against Fréchet distance, for each method and training run.

    Only classifier-free guidance, which has one parameter, is drawn as curves.
    """
    figure, axes = plain_figure(6, 4)
    for method, color in (("guided", ACCENT), ("classifier-free", INK)):
        for run, marker, line in zip((0, 1, 2), "os^", ("-", "--", ":")):
            rows = [r for r in table.values() if (r.get("method"), r.get("run")) == (method, run)]
            points = sorted((100 * row["accuracy"], row["frechet"]) for row in rows)
            accuracy, frechet = zip(*points)
            style = {"color": color, "ls": line if color == INK else "", "lw": 1, "ms": 4}
            axes.plot(frechet, accuracy, marker=marker, label=f"{method}, run {run}", **style)
    real = table["real images"]
    axes.plot(real["frechet"], 100 * real["accuracy"], "*", color=INK, ms=10, label="real images")
    axes.set(xlabel="Fréchet distance", ylabel="accuracy (%)")
    axes.legend(frameon=False)
    return figure


def quality(path):
    """How good are the samples? The only experiment with test images."""
    networks = Networks(0, SAMPLER, STEPS)
    rows = {
        "guided": networks.guided(),
        "guided, constant scale of 1": networks.guided(1),
        "classifier-free": networks.classifier_free(),
        "unguided": networks.unguided(),
    }
    measure(rows, n=4_300, split="test", seed=0, path=path)


def short_run(path):
    """How good are the samples after the short training run that README.md shows?"""
    measure({"guided": Networks("short").guided()}, seed=2, path=path)


def interventions(path):
    """What makes a gradient good? Samples with s = 1 and other gradients."""
    networks = Networks(0)
    ours, implied = networks.grad, implied_gradient(loaded(MODELS / "classifier_free.pth"))
    grads = {
        "ours": ours,
        "2 x ours": lambda *inputs: 2 * ours(*inputs),
        "ours, implied norm": with_norm_of(ours, implied),
        "implied": implied,
        "implied, our norm": with_norm_of(implied, ours),
        "ours, mean implied norm": with_norm_of(ours, implied, per_image=False),
    }
    rows = {name: networks.row(name, 1, guided(networks.ddpm, g, 1)) for name, g in grads.items()}
    measure(rows, n=1_000, seed=2, path=path)


def with_norm_of(grad, other, per_image=True):
    """A gradient with the norm of another, of each image or the mean of a batch."""

    def rescaled(x_t, t, y):
        grads = grad(x_t, t, y), other(x_t, t, y)
        ours, theirs = (torch.linalg.vector_norm(g, dim=(1, 2, 3), keepdim=True) for g in grads)
        if not per_image:
            ours, theirs = ours.mean(), theirs.mean()
        return grads[0] * theirs / ours.clamp(min=1e-12)

    return rescaled


def scales(path):
    """Which scale? Growing and constant ones."""
    networks, constant = Networks(0), (1, 1.3, 1.5, 2, 3, 5, 10)
    growing = [(1, 12), (1, 6), (1, 24), (1, 48), (1.5, 12)]
    rows = {text_of(scale): networks.guided(scale) for scale in (*growing, *constant)}
    measure(rows, n=2_000, seed=2, path=path)


def single_step(path):
    """When does guidance matter? One of 20 steps is guided: s = 50, or a push of equal size."""
    networks = Networks(0, "ddim")

    def only_at(t, s):
        predict = guided(networks.ddpm, networks.grad, lambda u: s if u == t else 0)
        return networks.row("guided", f"{s:.4g} at t = {t}", predict)

    equal = {t: s for t, s in scales_of_equal_size(networks).items() if t % 100 == 99}
    rows = {"s = 1 at all steps": networks.guided(1), "unguided": networks.unguided()}
    rows |= {f"t = {t}": only_at(t, 50) for t in equal}
    rows |= {f"t = {t}, equal size": only_at(t, s) for t, s in equal.items()}
    measure(rows, n=1_000, seed=2, path=path)


@torch.no_grad()
def scales_of_equal_size(networks, n=100):
    """The scales that change the next image as much as s = 50 at t = 699, on average: t -> s.

    With DDIM in 20 steps, and n images.
    """
    ddpm, y, sizes = networks.ddpm, torch.arange(n) % 10, {}
    steps = list(trajectory(ddpm, y, range(n), sampler="ddim", steps=20))
    for (t, x_t, _), u in zip(steps, [*(t for t, _, _ in steps[1:]), END]):
        change = -(1 - ddpm.abar[t]).sqrt() * networks.grad(x_t, t, y)  # in the noise, ADM (14)
        change = add_noise(predicted_x_0(0, change, ddpm.abar[t]), change, ddpm.abar[u])  # in x_u
        sizes[t] = torch.linalg.vector_norm(change, dim=(1, 2, 3)).mean().item()
    return {t: 50 * sizes[699] / size for t, size in sizes.items()}


EXPERIMENTS = {f.__name__: f for f in (tuning, quality, short_run)}
EXPERIMENTS |= {f.__name__: f for f in (interventions, scales, single_step)}


# --- the tables in the READMEs ---


def with_tables(text):
    """The text of a page with its tables filled in from the CSV files in results/.

    In a page, a comment `<!-- table FILE.csv: COLUMN COLUMN ... -->` precedes each table. The first
    column selects rows of results/FILE.csv by name; the other cells are filled in.
    """

    def table(found):
        columns = found["columns"].split()
        rows = {row[columns[0]]: row for row in read_rows(ROOT / "results" / found["file"])}
        names = [line.split("|")[1].strip() for line in found["rows"].splitlines()]
        lines = [f"| {' | '.join(cell(rows[name], key) for key in columns)} |\n" for name in names]
        return found["heading"] + "".join(lines)

    return TABLE.sub(table, text)


@cli.one_line_errors
def main(argv=None):
    parser = cli.ArgumentParser(__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(EXPERIMENTS))
    args = parser.parse_args(argv)
    if unknown := set(args.names) - EXPERIMENTS.keys():
        parser.error(f"unknown experiments {unknown}; choose from {', '.join(EXPERIMENTS)}")
    for name in args.names:
        EXPERIMENTS[name](ROOT / "results" / f"{name}.csv")
    for page in PAGES:
        text = with_tables(page.read_text())
        with atomic_write(page) as file:
            file.write(text.encode())


if __name__ == "__main__":
    main()
