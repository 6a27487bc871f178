"""What the examples share: what the judge reads of their samples, and how they draw them."""

from evaluation.judge import judge_images, load_judge
from support.cli import MODELS, ROOT
from support.files import provenance
from support.pictures import save_labelled_grid

NUM_SHOWN = 20  # images of a row


def read(images):
    """The digits (N,) that the judge, which never guides, reads of images (N, 1, 28, 28)."""
    return judge_images(load_judge(), images)[1]


def save_rows(name, rows, columns=()):
    """Write results/NAME.png: the first images (N, 1, 28, 28) of each label of `rows`, a dict."""
    path = ROOT / "results" / f"{name}.png"
    images = [image for row in rows.values() for image in row[:NUM_SHOWN]]
    weights = [MODELS / "ddpm_unet.pth", MODELS / "classifier.pth"]
    columns = [str(label) for label in columns[:NUM_SHOWN]]
    save_labelled_grid(path, images, list(rows), columns, provenance(weights, seed=0))
    print(path)
