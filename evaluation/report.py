"""The report: one function per experiment, and the tables of README.md and results/README.md.

python -m evaluation.report scales quality    # results/scales.csv and results/quality.csv
python -m evaluation.report tables            # fills in the tables of both pages
"""

from matplotlib.figure import Figure

from data import Dataset
from evaluation.judge import load_judge
from evaluation.measure import load_method, measure, named_scales, scale_name, scale_rows
from evaluation.measure import unguided
from evaluation.tables import REAL, with_tables
from inference import GROWTH, GUIDANCE_SCALE, growing_scale
from support import cli
from support.files import MODELS, ROOT, write_files
from support.pictures import BLACK, ORANGE, png

RESULTS = ROOT / "results"
PAGES = ROOT / "README.md", RESULTS / "README.md"
RUNS = MODELS, ROOT / "runs" / "1", ROOT / "runs" / "2"  # trained with these seeds
FASHION = ROOT / "runs" / "fashion"
DEFAULT = {"sampler": "ddpm", "steps": 50}
FAST = {"sampler": "sde-dpmsolver++", "steps": 20}
CONSTANT = 4  # chosen by the rule in results/README.md
CHOSEN = GUIDANCE_SCALE, GROWTH  # s and b of the scale s (1 + b SNR); b = 0 is a constant
OTHERS = *[(s, 0) for s in (1, 2, 3, 4, 5)], *[(1, b) for b in (4, 8, 15, 30, 60)]


def quality(path):
    """How good are the samples? The only experiment with test images."""
    measure_guidance(MODELS, DEFAULT, n=4_300, split="test", seed=0, path=path)


def runs(path):
    """Does another training run give the same result? One table per run: path with _0, _1, _2."""
    for k, folder in enumerate(RUNS):
        measure_guidance(folder, FAST, f"run {k}, ", seed=3, path=path.with_stem(f"runs_{k}"))


def measure_guidance(folder, settings, prefix="", **options):
    """Measure guided samples, with the default scale and a constant one, and unguided ones."""
    ddpm, method, networks = load_method("guided", folder)
    which = [("guided", growing_scale(ddpm)), (f"guided, constant scale of {CONSTANT}", CONSTANT)]
    rows = scale_rows(ddpm, method, which, prefix, **settings)
    rows[f"{prefix}unguided"] = unguided(ddpm, **settings)
    measure(rows, columns=settings | networks, **options)


def scales(path):
    """Which scale? The default one, others of the same form, constant ones, and a mixture."""
    ddpm, method, networks = load_method("guided")
    growth = growing_scale(ddpm)
    mixture = f"{scale_name(*CHOSEN)}, constant below t = 400", lambda t: growth(max(t, 400))
    rows = scale_rows(ddpm, method, [*named_scales(ddpm, CHOSEN, *OTHERS), mixture], **FAST)
    measure(rows, seed=2, path=path, columns=FAST | networks)


def transfer(path):
    """Does a growing scale help with other images? Fashion-MNIST, and its own three networks."""
    ddpm, method, networks = load_method("guided", FASHION)
    others = [(s, 0) for s in (1, 1.5, 2, 3, 5)] + [(1, b) for b in (2, 4, 15, 30)]
    rows = scale_rows(ddpm, method, named_scales(ddpm, (1, 8), *others), **FAST)
    dataset, judge = Dataset("fashion-mnist"), load_judge(FASHION / "judge.pth")
    measure(rows, seed=2, dataset=dataset, judge=judge, path=path, columns=FAST | networks)


def classifier_free(path):
    """Both methods, with the same two kinds of scales; no other experiment uses this seed."""
    free = [(s, 0) for s in (1, 1.25, 1.5, 2, 3)] + [(1, b) for b in (0.1, 0.3, 1, 3, 10)]
    methods, rows, columns = {"guided": [CHOSEN, *OTHERS], "classifier-free": free}, {}, FAST
    for name, pairs in methods.items():
        ddpm, method, networks = load_method(name.replace("-", "_"))
        rows |= scale_rows(ddpm, method, named_scales(ddpm, *pairs), f"{name}, ", **FAST)
        columns = columns | networks
    table = measure(rows, seed=4, path=path, columns=columns)

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    places = {name: (row["frechet"], 100 * row["accuracy"]) for name, row in table.items()}
    for (name, pairs), color in zip(methods.items(), (ORANGE, BLACK)):
        for kind, style in (("growing", "o-"), ("constant", "s--")):
            curve = [scale_name(s, b) for s, b in sorted(pairs) if (b > 0) == (kind == "growing")]
            x, y = zip(*(places[f"{name}, {scale}"] for scale in curve))
            axes.plot(x, y, style, color=color, lw=1, ms=4, label=f"{name}, {kind} scales")
    axes.plot(*places[REAL], "*", color=BLACK, ms=10, label=REAL)
    axes.set(xlabel="Fréchet distance", ylabel="accuracy (%)", xlim=(0, 0.8), ylim=(90, 100.2))
    axes.legend(frameon=False)
    write_files({path.with_suffix(".png"): png(figure)})


EXPERIMENTS = {f.__name__: f for f in (scales, quality, runs, transfer, classifier_free)}


@cli.one_line_errors
def main(argv=None):
    parser, choices = cli.make_parser(__doc__), [*EXPERIMENTS, "tables"]
    parser.add_argument("names", nargs="+", choices=choices)
    for name in parser.parse_args(argv).names:
        if name != "tables":
            EXPERIMENTS[name](RESULTS / f"{name}.csv")
            continue
        texts = {page: with_tables(page.read_text()) for page in PAGES}
        write_files({page: text.encode() for page, text in texts.items()})


if __name__ == "__main__":
    main()
