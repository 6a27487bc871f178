"""Write exercise.ipynb, the student's copy of the notebook: some lines become blanks to fill in.

    python -m examples.make_exercise

Each line of `BLANKS` loses what is right of its `=`, each `guess` its number, and all cells their
outputs. The checks stay, and say what is still blank.
"""

import re

import nbformat

from support.cli import ROOT, ArgumentParser, one_line_errors
from support.files import atomic_write

BLANKS = {  # a line of the notebook -> the hint in its place
    "log_p = -distance / (2 * variance)": "the log of a Gaussian, up to a constant",
    "score_here = -mean_eps / (1 - a).sqrt()": "the score, from the mean noise",
    "eps = -(1 - ALPHAS_CUMPROD[t]).sqrt() * score": "the mean noise, from the score",
    "loss = F.cross_entropy(logits, y)": "the mean of -log p(y)",
    "x_0 = (x_t - (1 - a).sqrt() * eps) / a.sqrt()": "DDPM (15)",
    "x_t = a_next.sqrt() * x_0 + (1 - a_next).sqrt() * eps": "DDPM (4), at the next t",
    "grad = torch.autograd.grad(log_p(x_t, t, y).sum(), x_t)[0]": "by torch.autograd.grad",
    "eps_hat = eps - s * (1 - abar(t)).sqrt() * grad": "ADM (14)",
    "log_p = log_w_of_y.logsumexp(dim=1) - log_w.logsumexp(dim=1)": "log p(y | x_t), by Bayes",
    "eps_hat = eps + s * (eps_y - eps)": "ADM (14), with this difference",
}


def blanked(source):
    """The source of a cell with its blanks."""
    source = re.sub(r"^guess = .*$", "guess = None  # your guess", source, flags=re.MULTILINE)
    for line, hint in BLANKS.items():
        name = line.split(" = ")[0]
        blank = rf"\1{name} = None  # your code: {hint}"
        source = re.sub(rf"^( *){re.escape(line)}$", blank, source, flags=re.MULTILINE)
    return source


def make_exercise(notebook):
    """Blank the lines of a notebook, in place, and clear its outputs: the notebook."""
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.source = blanked(cell.source)
            cell.outputs, cell.execution_count = [], None
    return notebook


@one_line_errors
def main(argv=None):
    ArgumentParser(__doc__).parse_args(argv)
    notebook = nbformat.read(ROOT / "quick_demo_CGD.ipynb", as_version=4)
    with atomic_write(ROOT / "exercise.ipynb") as file:
        file.write(f"{nbformat.writes(make_exercise(notebook))}\n".encode())
    print(ROOT / "exercise.ipynb")


if __name__ == "__main__":
    main()
