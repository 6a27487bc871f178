"""The report: one function per experiment, and the tables in the READMEs.

    python -m evaluation.report nudges scales    # results/nudges.csv and results/scales.csv
    python -m evaluation.report                  # only update the tables in the READMEs

Every experiment but `nudges` measures samples: rows with the columns method, scale, and run.
"""

import re
from functools import cache, partial

import torch
from tqdm import tqdm

from classifier import Classifier
from data import Dataset
from diffusion import END, add_noise, load_ddpm, predicted_x_0, snr
from evaluation.classifier_free import SCALE, classifier_free, implied_gradient
from evaluation.judge import judge_images, load_judge
from evaluation.measure import cell, measure
from evaluation.nudges import MEASURED, compared, measured_nudges, measured_scale
from inference import SAMPLER, STEPS, gradient, guided, load_models, sample, trajectory
from support import cli
from support.files import MODELS, ROOT, atomic_write, load_checkpoint, read_rows, write_rows
from support.pictures import ACCENT, INK, plain_figure, save_figure, save_labeled_grid
from support.pictures import to_uint8
from support.streams import generator, image_seeds

RUNS = {0: MODELS} | {run: ROOT / "runs" / f"{run}" for run in (1, 2, "short", "fashion")}
loaded = cache(load_ddpm)
DEFAULT_SCALE = 1.5, 12  # a and b of a + b SNR
SCALES_OF = {"least_squares": "r c", "ratio": "r", "component": "r / c"}  # see nudges.py
PAGES = ROOT / "README.md", ROOT / "results" / "README.md"
TABLE = re.compile(
    r"(?P<heading><!-- table (?P<file>\S+): (?P<columns>.*) -->\n\|.*\n\|.*\n)(?P<rows>(?:\|.*\n)*)"
)


class Networks:
    """The networks of a training run, and rows for `measure` that sample with them.

    run is a key of `RUNS`, or a folder; with `guide`, the classifier is that of another run. A
    scale is a number, or (a, b) for a + b SNR, which grows, or a column of nudges.csv, measured.
    """

    def __init__(self, run, sampler="sde-dpmsolver++", steps=20, device="cpu", guide=None):
        self.folder, self.device, self.guide = RUNS.get(run, run), device, run
        self.ddpm, self.classifier = load_models(self.folder, device)
        if guide:
            path = RUNS[guide] / "classifier.pth"
            self.classifier, _ = load_checkpoint(path, Classifier, device)
            self.guide, run = guide, f"{run}, classifier {guide}"
        self.grad = gradient(self.classifier.log_p)
        self.settings = {"sampler": sampler, "steps": steps, "run": run}

    def row(self, method, scale, predict):
        """A row with any predicted noise. Method and scale, also as a text, become columns."""
        scale = text_of(scale) if isinstance(scale, tuple) or scale in SCALES_OF else scale
        return partial(drawn, self.ddpm, predict, method=method, scale=scale, **self.settings)

    def unguided(self):
        return self.row("unguided", 0, self.ddpm)

    def guided(self, scale=DEFAULT_SCALE):
        s = scale
        if isinstance(scale, tuple):
            a, b = scale
            s = lambda t: a + b * snr(self.ddpm.abar[t])  # noqa: E731
        if scale in SCALES_OF:
            s = measured_scale(stored_nudges(self.guide), scale)
        return self.row("guided", scale, guided(self.ddpm, self.grad, s))

    def classifier_free(self, scale=SCALE):
        conditional = loaded(self.folder / "classifier_free.pth", self.device)
        return self.row("classifier-free", scale, classifier_free(conditional, scale))


def drawn(ddpm, predict, y, seeds, sampler, steps, **key):
    """Samples. The key (method, scale, run) only becomes columns of the table."""
    return sample(ddpm, y, seeds, predict, sampler=sampler, steps=steps)


def text_of(scale):
    """A scale, a number, a pair, or a column of nudges.csv, as text."""
    if scale in SCALES_OF:
        return SCALES_OF[scale]
    if isinstance(scale, tuple):
        return "{:g} + {:g} SNR".format(*scale)
    return f"s = {scale}".removesuffix(".0")


# --- experiments ---


def tuning(path):
    """Which scales? Each training run of both methods; no other experiment uses this seed."""
    rows = {}
    for run in (0, 1, 2):
        networks = Networks(run)
        for scale in (1.5, 12), (1, 6), (1, 12), (1, 24), (1.3, 15.6), (1.5, 18):
            rows[f"guided, {text_of(scale)}, run {run}"] = networks.guided(scale)
        for scale in 1, 1.1, 1.25, 1.5, 1.75, 2:
            rows[f"classifier-free, {text_of(scale)}, run {run}"] = networks.classifier_free(scale)
    table = measure(rows, seed=4, path=path)
    save_figure(path.with_suffix(".png"), tuning_figure(table))


def tuning_figure(table):
    """Accuracy against Fréchet distance: a curve for each method and training run."""
    figure, axes = plain_figure(6, 4)
    for method, color in (("guided", ACCENT), ("classifier-free", INK)):
        for run, line in zip((0, 1, 2), ("-", "--", ":")):
            rows = [r for r in table.values() if (r.get("method"), r.get("run")) == (method, run)]
            points = sorted((100 * row["accuracy"], row["frechet"]) for row in rows)
            accuracy, frechet = zip(*points)
            style = {"color": color, "ls": line, "lw": 1, "ms": 3}
            axes.plot(frechet, accuracy, "o", label=f"{method}, run {run}", **style)
    real = table["real images"]
    axes.plot(real["frechet"], 100 * real["accuracy"], "*", color=INK, ms=10, label="real images")
    axes.set(xlabel="Fréchet distance", ylabel="accuracy (%)")
    axes.legend(frameon=False)
    return figure


def quality(path):
    """How good are the samples? The only experiment with test images."""
    networks = Networks(0, SAMPLER, STEPS)
    rows = {"guided": networks.guided(), "guided, constant scale of 1": networks.guided(1)}
    rows["unguided"] = networks.unguided()
    measure(rows, n=4_300, split="test", seed=0, path=path)


def short_run(path):
    """How good are the samples after the short training run that README.md shows?"""
    measure({"guided": Networks("short").guided()}, seed=2, path=path)


def nudges(path):
    """How far does the gradient shift the predicted image, and how far should it?"""
    networks, mnist, labeled = Networks(0), Dataset(), loaded(MODELS / "classifier_free.pth")
    half = Dataset()
    half.splits["train"] = [part[::2] for part in half.splits["train"]]
    others = {
        run: load_checkpoint(RUNS[run] / "classifier.pth", Classifier)[0]
        for run in (1, 2, "fashion")
    }

    def case(grad, dataset=mnist, **settings):
        return measured_nudges(networks.ddpm, grad, dataset, **settings)

    cases = {  # name -> t and columns
        "wrong labels": case(networks.grad),
        "right labels": case(networks.grad, right=True),
        "paths that end wrong": on_paths_that_end_wrong(networks, mnist),
        "network with labels": case(implied_gradient(labeled)),
        "classifier 1": case(gradient(others[1].log_p)),
        "classifier 2": case(gradient(others[2].log_p)),
        "fashion": case(gradient(others["fashion"].log_p), Dataset("fashion-mnist")),
        "half of the images": case(networks.grad, half),
    }
    rows = []
    for name, columns in tqdm(cases.items(), desc="nudges", disable=None):
        rows += [{"images": f"{t}, {name}", "t": t, **row} for t, row in columns]
        write_rows(path, rows)


def on_paths_that_end_wrong(networks, dataset, n=1_000):
    """Compare the nudges on the sampling paths with s = 1 whose sample the judge misclassifies."""
    ddpm, grad, y = networks.ddpm, networks.grad, torch.arange(n) % 10
    inputs = ddpm, y, image_seeds(3, y.tolist()), guided(ddpm, grad, 1)
    steps = list(trajectory(*inputs, sampler="sde-dpmsolver++", steps=20))
    wrong = judge_images(load_judge()[0], to_uint8(steps[-1][2]))[1] != y
    images, labels = dataset.load("train")
    for t, x_t, _ in steps[:MEASURED]:
        yield t, compared(ddpm, grad, x_t[wrong], t, y[wrong], images, labels)


@cache
def stored_nudges(guide):
    """The rows of nudges.csv, for wrong labels, that a scale is measured with: t -> columns."""
    name = {0: "wrong labels", "fashion": "fashion"}.get(guide, f"classifier {guide}")
    rows = read_rows(ROOT / "results" / "nudges.csv")
    return {int(row["t"]): row for row in rows if row["images"] == f"{row['t']}, {name}"}


def scales(path):
    """Which scale? The default one, constant ones, and those measured by `nudges`."""
    networks = Networks(0)
    rows = {text_of(s): networks.guided(s) for s in (DEFAULT_SCALE, 1, 1.5, 2, 3, 5, *SCALES_OF)}
    for guide in 1, 2:
        others = Networks(0, guide=guide)
        for scale in DEFAULT_SCALE, "ratio", "component":
            rows[f"{text_of(scale)}, classifier {guide}"] = others.guided(scale)
    measure(rows, seed=2, path=path)


def transfer(path):
    """Do the scales work for other images? Fashion-MNIST, after the short training run."""
    networks, dataset = Networks("fashion"), Dataset("fashion-mnist")
    scales = DEFAULT_SCALE, 1, 1.5, 2, 2.5, 3, 5, "ratio", "component"
    rows = {text_of(scale): networks.guided(scale) for scale in scales}
    judge = load_judge(networks.folder / "judge.pth")
    measure(rows, seed=2, dataset=dataset, judge=judge, path=path)


def single_step(path):
    """When does guidance matter? One of 20 steps is guided, with pushes of equal size."""
    networks = Networks(0, "ddim")

    def only_at(t, s):
        predict = guided(networks.ddpm, networks.grad, lambda u: s if u == t else 0)
        return networks.row("guided", f"{s:.4g} at t = {t}", predict)

    equal = scales_of_equal_size(networks)
    rows = {"s = 1 at all steps": networks.guided(1), "unguided": networks.unguided()}
    rows |= {f"t = {t}, equal size": only_at(t, s) for t, s in equal.items() if t % 100 == 99}
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


def real_or_generated(path):
    """Draw a real validation image and a guided sample of each digit, one above the other."""
    networks, y = Networks(0, SAMPLER, STEPS), torch.arange(10)
    samples = networks.guided()(y, image_seeds(6, y.tolist()))
    real, labels = Dataset().load("validation")
    real = torch.stack([real[labels == k][0] for k in y])
    above = torch.randint(2, (10,), generator=generator(7, "subset")).bool()
    mask = above.view(-1, 1, 1, 1)
    rows = [("A", torch.where(mask, samples, real)), ("B", torch.where(mask, real, samples))]
    save_labeled_grid(path.with_suffix(".png"), rows, [f"{k}" for k in y])
    print("generated:", "".join("A" if a else "B" for a in above))


EXPERIMENTS = {f.__name__: f for f in (nudges, scales, transfer, tuning)}
EXPERIMENTS |= {f.__name__: f for f in (quality, short_run, single_step, real_or_generated)}


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
    parser = cli.make_parser(__doc__)
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
