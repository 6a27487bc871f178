"""The tables of the report: one function per table.

    python -m evaluation.tables default growth    # write results/default.csv, results/growth.csv
    python -m evaluation.tables                   # only insert the CSV files into the pages

On a page, `<!-- table FILE.csv: COLUMN COLUMN ... -->` precedes the two header lines of a
table whose rows come from results/FILE.csv.
"""

import csv
import re
from functools import partial

from classifier import load_classifier
from data import load_mnist
from diffusion import load_ddpm
from evaluation.classifier_free import ClassifierFree
from evaluation.methods import AtPredictedX0, Exact, ExactDenoiser, Hybrid
from evaluation.table import cell, measure
from inference import Guided, growing_scale, load_models, sample
from support import cli
from support.cli import UserError
from support.files import MODELS, ROOT, atomic_write

PAGES = (ROOT / "README.md", ROOT / "results" / "README.md")
TABLE = re.compile(
    r"(?P<heading><!-- table (?P<file>\S+): (?P<columns>.*) -->\n\|.*\n\|.*\n)(?P<rows>(?:\|.*\n)*)"
)


class Shipped:
    """The shipped networks, and the methods that most tables need."""

    def __init__(self):
        self.ddpm, classifier = load_models()
        self.log_p = classifier.log_p
        self.conditional = load_ddpm(MODELS / "classifier_free.pth")

    def guided(self, w=1, g=0, log_p=None, **window):
        """Classifier guidance with s = w (1 + g SNR), by our classifier or another guide."""
        scale = growing_scale(self.ddpm.scheduler, w, g, **window)
        return Guided(self.ddpm, log_p or self.log_p, scale)

    def free(self, scale):
        """Classifier-free guidance."""
        return ClassifierFree(self.conditional, scale)

    def main_rows(self):
        """Both kinds of guidance, each with its default scale and with s = 1."""
        return {
            "guided, 1 + 24 SNR": self.guided(g=24),
            "guided, s = 1": self.guided(),
            "classifier-free, s = 1.25": self.free(1.25),
            "classifier-free, s = 1": self.free(1),
        }


def fast(rows):
    """Sample all rows with the fast sampler."""
    settings = {"sampler": "sde-dpmsolver++", "steps": 20}
    return {name: partial(sample, method, **settings) for name, method in rows.items()}


def default(shipped):
    return shipped.main_rows(), {"n": 2_000, "split": "test", "seed": 0}


def fast_sampler(shipped):
    return fast(shipped.main_rows()), {"n": 2_000, "split": "test", "seed": 0}


def validation(shipped):
    return fast(shipped.main_rows()), {"n": 2_000}


def classifier_free_scales(shipped):
    scales = (1, 1.1, 1.25, 1.5, 2)
    return fast({f"classifier-free, s = {s}": shipped.free(s) for s in scales}), {"n": 1_000}


def growth(shipped):
    rows = {f"1 + {g} SNR": shipped.guided(g=g) for g in (24, 6, 48, 96)}
    return fast(rows), {"n": 2_000, "seed": 2}


def constants(shipped):
    rows = {
        "1 + 24 SNR": shipped.guided(g=24),
        "s = 5": shipped.guided(5),
        "s = 10": shipped.guided(10),
    }
    return fast(rows), {"n": 2_000, "seed": 2}


def scales(shipped):
    growing = growing_scale(shipped.ddpm.scheduler)
    rows = {"1 + 24 SNR": shipped.guided(g=24), "s = 3": shipped.guided(3)}
    for stop in (499, 399, 249):
        capped = partial(lambda t, stop: growing(max(t, stop)), stop=stop)
        rows[f"1 + 24 SNR, no growth below t = {stop}"] = Guided(
            shipped.ddpm, shipped.log_p, capped
        )
    return fast(rows), {"seed": 2}


def windows(shipped):
    rows = {}
    for low, high in ((750, 1000), (500, 1000), (250, 750), (0, 500), (0, 250), (0, 1000)):
        for name, w, g in (("1 + 24 SNR", 1, 24), ("s = 5", 5, 0)):
            rows[f"{name}, {low} <= t < {high}"] = shipped.guided(w, g, low=low, high=high)
    return fast(rows), {"n": 500}


def samplers(shipped):
    method = shipped.guided(g=24)
    rows = {}
    for name in ("sde-dpmsolver++", "ddim", "ddpm"):
        rows[f"{name}, 20 steps"] = partial(sample, method, sampler=name, steps=20)
    return rows, {"n": 1_000}


def clean_guide(shipped):
    """Run `python train_classifier.py --max-t 0 --models clean` first."""
    clean = load_classifier(ROOT / "clean" / "classifier.pth").log_p
    rows = {}
    for name, log_p in (("our classifier", shipped.log_p), ("clean classifier", clean)):
        method = shipped.guided(g=24, log_p=log_p)
        rows[name] = method
        rows[f"{name}, at the predicted x_0"] = AtPredictedX0(shipped.ddpm, log_p, method.scale)
    return fast(rows), {"n": 1_000}


def exact_networks(shipped):
    exact = Exact(*load_mnist("train"), shipped.ddpm.scheduler)
    rows = {
        "our guide, our U-Net": shipped.guided(),
        "exact guide, our U-Net": shipped.guided(log_p=exact.log_p),
        "our guide, exact denoiser": ExactDenoiser(shipped.ddpm, shipped.log_p, 1, exact),
        "exact guide, exact denoiser": ExactDenoiser(shipped.ddpm, exact.log_p, 1, exact),
    }
    return fast(rows), {"n": 1_000, "seed": 2}


def hybrids(shipped):
    exact = Exact(*load_mnist("train"), shipped.ddpm.scheduler)
    rows = {
        "our gradient": shipped.guided(),
        "our direction, exact norm": Hybrid(shipped.ddpm, shipped.log_p, exact.log_p, 1),
        "exact direction, our norm": Hybrid(shipped.ddpm, exact.log_p, shipped.log_p, 1),
    }
    return fast(rows), {"n": 1_000, "seed": 2}


TABLES = {
    table.__name__: table
    for table in (default, fast_sampler, validation, classifier_free_scales, growth, constants)
    + (scales, windows, samplers, clean_guide, exact_networks, hybrids)
}


def page_with_tables(text):
    """Insert the rows of the CSV files into the tables of a page.

    Raises UserError if a file or a column is missing, or if a table would lose rows.
    """

    def table(found):
        columns = found["columns"].split()
        try:
            with open(ROOT / "results" / found["file"], newline="") as file:
                rows = list(csv.DictReader(file))
        except OSError as error:
            raise UserError(f"cannot read {error.filename}: {error.strerror}") from error
        before = found["rows"].count("\n")
        if len(rows) < before:
            raise UserError(f"{found['file']} has {len(rows)} rows, but the page has {before}")
        for column in columns:
            if not any(column in row for row in rows):
                raise UserError(f"{found['file']} has no column {column!r}")
        lines = [f"| {' | '.join(cell(row, column) for column in columns)} |\n" for row in rows]
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
    shipped = Shipped() if args.tables else None
    for name in args.tables:
        rows, settings = TABLES[name](shipped)
        measure(rows, **settings, path=ROOT / "results" / f"{name}.csv")
    for page in PAGES:
        text = page_with_tables(page.read_text())
        with atomic_write(page) as file:
            file.write(text.encode())
        print(page)


if __name__ == "__main__":
    main()
