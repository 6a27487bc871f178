"""The numbers in running text are those of results/, of the weights, or of the code."""

import json

import pytest
import torch
from conftest import ROOT
from PIL import Image

from evaluation.measures import wilson_interval
from inference import GUIDANCE_SCALE, SCALE_GROWTH, scale_at
from mnist import load_mnist
from support.checkpoints import read_checkpoint
from support.tables import read_rows
from train_classifier import validate
from train_ddpm import NUM_VALIDATION_IMAGES, validation_loss


def row(name, **where):
    """The one row of a CSV file with these cells, numbers as floats."""
    rows = read_rows(ROOT / "results" / f"{name}.csv")
    rows = [r for r in rows if where.items() <= r.items()]
    assert len(rows) == 1, (name, where, len(rows))
    return {key: as_number(text) for key, text in rows[0].items()}


def as_number(text):
    try:
        return float(text)
    except ValueError:
        return text


def short(value):
    """.80, as the prose writes a share."""
    return f"{value:.2f}".removeprefix("0")


def examples():
    """What the judge reads of the examples: in their table, or in the pictures' provenance."""
    rows = read_rows(ROOT / "results" / "ambigrams.csv")
    right, n = sum(int(r["right"]) for r in rows), sum(int(r["n"]) for r in rows)
    low, high = wilson_interval(right, n)
    made = {name: settings_of(name) for name in ("inpainting", "not_a_1", "two_digits")}
    inpainted, shares = made["inpainting"]["right"], made["not_a_1"]["shares"]
    halfway = made["two_digits"]["read_as"]["w = 0.5"]
    short = {name: text.split(" of ")[0] for name, text in (inpainted | shares | halfway).items()}
    return [
        f"{right / n:.3f} [{low:.3f}, {high:.3f}] of {n:,} as asked both ways up",
        f"{inpainted['no class']} test digits, completed from their upper half, as what they "
        f"were; with the class, {short['with class']}.",
        f"{short['1 unguided']} of 1,000 unguided samples as 1, and {short['1 guided']} if guided "
        f"away from it; of the others, {short['others as before']} as before.",
        f"{halfway['3']} as 3 and {short['8']} as 8.",
    ]


def settings_of(picture):
    info = Image.open(ROOT / "results" / f"{picture}.png").info
    return json.loads(info["provenance"])["settings"]


def claims():
    """(page, sentence): a sentence that the page must hold, its numbers computed here."""
    final = {name: row("final_4300", **where) for name, where in {
        "default": {"variant": "ADM Algorithm 2", "guidance_scale": "1", "steps": "20"},
        "unguided": {"guidance_scale": "0"}, "limit": {"variant": "other half of the test set"},
        "others": {"variant": "validation images"}}.items()}  # fmt: skip
    default, others = final["default"], final["others"]
    one = row("scales", variant="ADM Algorithm 2", guidance_scale="1", scale_growth="0")
    low, high = 100 * one["accuracy_low"], 100 * one["accuracy_high"]
    samples, test = (row("copies", images=name) for name in ("samples", "test images"))
    real = final["limit"], others
    bolder = [100 * (default["boldness"] / r["boldness"] - 1) for r in real]
    readme = [
        f"have a Fréchet distance of {default['frechet']:.3f}, other people's digits "
        f"{others['frechet']:.3f}; they are {bolder[0]:.0f} to {bolder[1]:.0f} % bolder",
        f"With s = 1 at every t, {100 * one['accuracy']:.0f} % [{low:.0f}, {high:.0f}] of 1,000",
        f"w = {GUIDANCE_SCALE:g} and g = {SCALE_GROWTH:g}",
        f"{GUIDANCE_SCALE:g} in pure noise and {scale_at(torch.tensor(258), GUIDANCE_SCALE):.0f}",
    ]
    yield from (("README.md", sentence) for sentence in readme)
    narrower = [100 * (1 - default["boldness_spread"] / r["boldness_spread"]) for r in real]
    report = [
        f"their Fréchet distance is {default['frechet']:.3f}, that of other people's digits "
        f"{others['frechet']:.3f}, and",
        f"are {bolder[0]:.0f} to {bolder[1]:.0f} % bolder than real ones, and differ "
        f"{narrower[1]:.0f} to {narrower[0]:.0f} % less from each other",
        f"the nearest of {samples['n']:,.0f} samples is at {samples['nearest']:.2f}, of "
        f"{test['n']:,.0f} test images at {test['nearest']:.2f}",
    ]
    yield from (("results/README.md", sentence) for sentence in report + examples())
    yield from (("quick_demo_CGD.ipynb", sentence) for sentence in lesson())


def lesson():
    """The notebook's sentences on constant scales and the default."""
    guided = {"variant": "ADM Algorithm 2", "guidance_scale": "1"}
    one, growing = (row("scales", **guided, scale_growth=growth) for growth in ("0", "24"))
    constant = row("scales", **{**guided, "guidance_scale": "25", "scale_growth": "0"})
    real = row("scales", variant="other half of the validation set")
    return [
        f"only {100 * one['accuracy']:.0f} % of {one['n']:,.0f} samples are the digit asked for",
        f"{100 * constant['accuracy']:.1f} % are right, but *recall*, the share of real images "
        f"with a sample nearby, falls to {short(constant['recall'])}; real images have "
        f"{short(real['recall'])}",
        f"Accuracy is {100 * growing['accuracy']:.1f} %, and recall {short(growing['recall'])}.",
        f"where {GUIDANCE_SCALE:g} is the `guidance_scale` and {SCALE_GROWTH:g} the `scale_growth`",
    ]


def text_of(page):
    """The words of a page, one space between two."""
    text = (ROOT / page).read_text()
    if page.endswith(".ipynb"):
        text = "\n".join("".join(cell["source"]) for cell in json.loads(text)["cells"])
    return " ".join(text.split())


@pytest.mark.parametrize("page, sentence", claims())
def test_the_numbers_of_a_sentence_were_measured(page, sentence):
    assert " ".join(sentence.split()) in text_of(page)


def test_what_the_trainings_print_is_what_the_weights_that_ship_give(unet, classifier):
    """The last line of each training, as the README quotes it."""
    images, labels = load_mnist("validation")
    accuracy = validate(classifier, images, labels, "cpu")["0-999"]["accuracy"]
    loss = validation_loss(unet, images[:NUM_VALIDATION_IMAGES])
    recorded = read_checkpoint(ROOT / "models" / "ddpm_unet.pth", "?")["training"]["loss"]
    page = text_of("README.md")
    assert f"t 0-999: {accuracy:.3f}`" in page
    assert f"loss {recorded:.4f} validation {loss:.4f}`" in page
