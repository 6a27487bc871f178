"""The report: one function per experiment, and the tables in the READMEs.

python -m evaluation.report scales quality    # results/scales.csv and results/quality.csv
python -m evaluation.report                   # only update the tables in the READMEs
"""

import re
from functools import partial

import torch

from data import Dataset
from diffusion import load_ddpm, sampling_times
from evaluation.classifier_free import classifier_free as classifier_free_noise
from evaluation.judge import judge_images, load_judge
from evaluation.measure import cell, measure, read_rows, write_rows
from evaluation.nudges import fitted_b, measured_nudges
from inference import gradient, growing_scale, guided, load_models, named_scales, sample
from support import cli
from support.files import MODELS, ROOT, atomic_write, sha256
from support.pictures import ACCENT, INK, plain_figure, save_figure, save_labeled_grid, to_uint8
from support.streams import generator, image_seeds

FASHION, UNIFORM = ROOT / "runs" / "fashion", ROOT / "runs" / "uniform"  # see results/make.sh
FAST = {"sampler": "sde-dpmsolver++", "steps": 20}
DEFAULT = {"sampler": "ddpm", "steps": 50}
PAGES = ROOT / "README.md", ROOT / "results" / "README.md"
START_SEED = 0  # of the noise in starts.png
TABLE = re.compile(
    r"(?P<heading><!-- table (?P<file>\S+): (?P<columns>.*) -->\n\|.*\n\|.*\n)(?P<rows>(?:\|.*\n)*)"
)


def guided_rows(ddpm, classifier, scales, **settings):
    """Rows for `measure`: name -> function (y, seeds). scales: a list of (name, scale)."""
    grad, draw = gradient(classifier.log_p), partial(sample, ddpm, **settings)
    return {name: partial(draw, predict=guided(ddpm, grad, s)) for name, s in scales}


def with_networks(settings, *paths):
    """Columns for `measure`: the settings, and the SHA-256 of each checkpoint."""
    return settings | {f"sha256 of {path.name}": sha256(path) for path in paths}


# --- experiments ---


def scales(path):
    """Which scale? The default one, others of the same form, constant ones, and two ablations."""
    ddpm, classifier = load_models()
    growth = growing_scale(ddpm)
    ablations = [
        ("1 + 15 SNR, s = 1 below t = 400", lambda t: growth(t) if t >= 400 else 1),
        ("1 + 15 SNR, constant below t = 400", lambda t: growth(max(t, 399))),
    ]
    others = named_scales(ddpm, [1, 1.5, 2, 3, 5], [4, 8, 30, 60])
    rows = guided_rows(ddpm, classifier, named_scales(ddpm) + others + ablations, **FAST)
    columns = with_networks(FAST, MODELS / "ddpm_unet.pth", MODELS / "classifier.pth")
    measure(rows, seed=2, path=path, columns=columns)


def transfer(path):
    """Does a growing scale help with other images? Fashion-MNIST, and its own three networks."""
    ddpm, classifier = load_models(FASHION)
    others = named_scales(ddpm, [1, 1.5, 2, 3, 5], [2, 4, 15, 30])
    which = named_scales(ddpm, growths=[8]) + others
    rows = guided_rows(ddpm, classifier, which, **FAST)
    dataset, judge = Dataset("fashion-mnist"), load_judge(FASHION / "judge.pth")
    columns = with_networks(FAST, FASHION / "ddpm_unet.pth", FASHION / "classifier.pth")
    measure(rows, seed=2, dataset=dataset, judge=judge, path=path, columns=columns)


def middle(path):
    """Does it help to train more often on the middle timesteps? One U-Net with, one without."""
    rows, networks = {}, {"middle": MODELS, "uniform": UNIFORM}
    _, classifier = load_models()
    for name, folder in networks.items():
        ddpm = load_ddpm(folder / "ddpm_unet.pth")
        which = named_scales(ddpm) + named_scales(ddpm, [1])
        for label, row in guided_rows(ddpm, classifier, which, **FAST).items():
            rows[f"{name}, {label}"] = row
    uniform = {"sha256 of the uniform one": sha256(UNIFORM / "ddpm_unet.pth")}
    columns = with_networks(FAST, MODELS / "ddpm_unet.pth", MODELS / "classifier.pth") | uniform
    measure(rows, seed=5, path=path, columns=columns)


def classifier_free(path):
    """Both methods, with the same two kinds of scales; no other experiment uses this seed."""
    ddpm, classifier = load_models()
    labeled = load_ddpm(MODELS / "classifier_free.pth")
    ours = named_scales(ddpm, growths=[4, 8, 15, 30, 60]) + named_scales(ddpm, [1, 1.5, 2, 3, 5])
    theirs = named_scales(labeled, growths=[0.1, 0.3, 1, 3, 10])
    theirs += named_scales(labeled, [1, 1.25, 1.5, 2, 3])
    rows = {
        f"guided, {label}": row
        for label, row in guided_rows(ddpm, classifier, ours, **FAST).items()
    }
    for label, s in theirs:
        predict = classifier_free_noise(labeled, s)
        rows[f"classifier-free, {label}"] = partial(sample, labeled, predict=predict, **FAST)
    names = "ddpm_unet.pth", "classifier.pth", "classifier_free.pth"
    columns = with_networks(FAST, *(MODELS / name for name in names))
    table = measure(rows, seed=4, path=path, columns=columns)
    save_figure(path.with_suffix(".png"), plot_curves(table))


def plot_curves(table):
    """Accuracy against Fréchet distance, a curve for each method and kind of scale: a figure."""
    figure, axes = plain_figure(6, 4)
    for method, color in (("guided", ACCENT), ("classifier-free", INK)):
        for kind, style, label in (("1 + ", "o-", "growing scales"), ("s = ", "s--", "constant")):
            rows = [row for name, row in table.items() if name.startswith(f"{method}, {kind}")]
            x, y = [row["frechet"] for row in rows], [100 * row["accuracy"] for row in rows]
            axes.plot(x, y, style, color=color, lw=1, ms=4, label=f"{method}, {label}")
    real = table["real images"]
    axes.plot(real["frechet"], 100 * real["accuracy"], "*", color=INK, ms=10, label="real images")
    axes.set(xlabel="Fréchet distance", ylabel="accuracy (%)", xlim=(0, 0.8), ylim=(90, 100.2))
    axes.legend(frameon=False)
    return figure


def quality(path):
    """How good are the samples? The only experiment with test images."""
    ddpm, classifier = load_models()
    # of the constant scales, 2 has the lowest Fréchet distance in `scales`
    which = [("guided", growing_scale(ddpm)), ("guided, constant scale of 2", 2)]
    rows = guided_rows(ddpm, classifier, which, **DEFAULT)
    columns = with_networks(DEFAULT, MODELS / "ddpm_unet.pth", MODELS / "classifier.pth")
    measure(rows, n=4_300, split="test", seed=0, path=path, columns=columns)


def nudges(path):
    """How far does the gradient shift the predicted image, and how far should it?"""
    rows, fits, panels = [], {}, {}
    for name, folder in (("mnist", MODELS), ("fashion-mnist", FASHION)):
        ddpm, classifier = load_models(folder)
        inputs = ddpm, gradient(classifier.log_p), classifier.log_p, Dataset(name)
        panels[name] = table = dict(measured_nudges(*inputs))
        right = dict(measured_nudges(*inputs, times=[399, 199], right=True))
        digest = {"sha256 of classifier.pth": sha256(folder / "classifier.pth")}
        for labels, found in {"wrong labels": table, "right labels": right}.items():
            rows += [{"row": f"{name}, {t}, {labels}"} | r | digest for t, r in found.items()]
        sure = [t for t, row in table.items() if row["loss_of_target"] < row["loss"]]
        for column in ("r", "S", "S_of_quarters", "component"):
            fits[f"{name}, {column}"] = fitted_b(ddpm, table, column)
            fits[f"{name}, {column}, sure"] = fitted_b(ddpm, table, column, sure)
    rows += [{"row": f"{name}, b", "b": b} for name, b in fits.items()]
    write_rows(path, rows)
    save_figure(path.with_suffix(".png"), plot_scales(panels, ddpm))


def plot_scales(panels, ddpm):
    """The measured scales against t: a figure. panels: dataset -> t -> columns."""
    figure, axes = plain_figure(9, 3.6, columns=2)
    for axis, (name, table) in zip(axes, panels.items()):
        times = list(table)
        unsure = [t for t, row in table.items() if row["loss_of_target"] > row["loss"]]
        axis.axvspan(0, max(unsure, default=0) + 25, color="0.93", lw=0)
        for column, style, label in (("r", ":", "r"), ("component", "--", "r / c")):
            y = [row[column] for row in table.values()]
            axis.plot(times, y, style, color=INK, lw=1, label=label)
        low, high = ([row[f"S_{end}"] for row in table.values()] for end in ("low", "high"))
        axis.fill_between(times, low, high, color=INK, alpha=0.2, lw=0)
        axis.plot(times, [row["S"] for row in table.values()], color=INK, lw=1.5, label="S")
        default = [float(growing_scale(ddpm)(t)) for t in times]
        axis.plot(times, default, color=ACCENT, lw=1.5, label="1 + 15 SNR, the default")
        axis.set(xlabel="t: less noise to the right", xlim=(1010, 190), yscale="log", title=name)
    axes[0].set_ylabel("scale")
    axes[0].legend(frameon=False)
    return figure


@torch.no_grad()
def starts(path):
    """When does guidance matter? The same noise and ten digits, guided from one step on."""
    ddpm, classifier = load_models()
    times = sampling_times(len(ddpm.abar) - 1, FAST["steps"])
    first = torch.tensor([*times, -1])  # never
    growth, start = growing_scale(ddpm), first.repeat(10).view(-1, 1, 1, 1)
    predict = guided(ddpm, gradient(classifier.log_p), lambda t: (t <= start) * growth(t))
    y = torch.arange(10).repeat_interleave(len(first))
    images = sample(ddpm, y, [START_SEED] * len(y), predict, len(y), **FAST)
    labels = [*(f"{k}" for k in range(1, len(first))), "none"]
    rows = [(f"{k}", part) for k, part in enumerate(images.split(len(first)))]
    save_labeled_grid(path.with_suffix(".png"), rows, labels)
    sure = classifier.log_p(images, torch.zeros_like(y), y).exp().view(10, -1) > 0.9
    read = (judge_images(load_judge()[0], to_uint8(images))[1] == y).view(10, -1)
    for name, seen in (("classifier, p > 0.9", sure), ("judge", read)):
        print(f"{name}: the target for", dict(zip(labels, seen.sum(dim=0).tolist())))


def real_or_generated(path):
    """Draw a real validation image and a guided sample of each digit, one above the other."""
    ddpm, classifier = load_models()
    y = torch.arange(10)
    [draw] = guided_rows(ddpm, classifier, named_scales(ddpm), **DEFAULT).values()
    samples = draw(y, image_seeds(6, y.tolist()))
    real, labels = Dataset().load("validation")
    real = torch.stack([real[labels == k][0] for k in y])
    above = torch.randint(2, (10,), generator=generator(7, "subset")).bool()
    mask = above.view(-1, 1, 1, 1)
    rows = [("A", torch.where(mask, samples, real)), ("B", torch.where(mask, real, samples))]
    save_labeled_grid(path.with_suffix(".png"), rows, [f"{k}" for k in y])
    print("generated:", "".join("A" if a else "B" for a in above))


EXPERIMENTS = {f.__name__: f for f in (scales, transfer, middle, classifier_free, quality)}
EXPERIMENTS |= {f.__name__: f for f in (nudges, starts, real_or_generated)}


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
