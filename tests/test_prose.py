"""The numbers in running text are those of results/, of the weights, or of the code."""

import json

import pytest
import torch
from conftest import ROOT
from PIL import Image

from evaluation.measures import wilson_interval
from inference import GUIDANCE_SCALE, scale_at
from support.checkpoints import read_checkpoint
from support.tables import read_rows


def row(name, **where):
    """The one row of a CSV file with these cells, numbers as floats."""
    folder = ROOT / ("benchmarks" if name == "benchmark" else "results")
    rows = [r for r in read_rows(folder / f"{name}.csv") if where.items() <= r.items()]
    assert len(rows) == 1, (name, where, len(rows))
    return {key: as_number(text) for key, text in rows[0].items()}


def as_number(text):
    try:
        return float(text)
    except ValueError:
        return text


def training(name):
    return read_checkpoint(ROOT / "models" / f"{name}.pth", "?")["training"]


def short(value):
    """.80, as the prose writes a share."""
    return f"{value:.2f}".removeprefix("0")


def wrong(cells):
    """What is left to 100 %, in percent."""
    return f"{100 * (1 - cells['accuracy']):.0f}"


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
    default = {"variant": "ADM Algorithm 2", "sampler": "sde-dpmsolver++", "steps": "20"}
    default |= {"guidance_scale": "25", "early_scale": "1.5"}
    real = {"variant": "real images"}
    final = row("final_5000", **default)
    unguided = row("final_5000", guidance_scale="0")
    real_5000 = row("final_5000", **real)
    one = row("scales", guidance_scale="1")
    low, high = 100 * one["accuracy_low"], 100 * one["accuracy_high"]
    last = scale_at(torch.tensor(49), GUIDANCE_SCALE)
    readme = [
        f"recall is {short(final['recall'])}, of real images {short(real_5000['recall'])}",
        f"At scale 1 (at every t), {100 * one['accuracy']:.0f} % [{low:.0f}, {high:.0f}] of 2,000",
        f"Unguided precision is {short(unguided['precision'])}, of real images "
        f"{short(real_5000['precision'])}.",
        f"1.5 in pure noise, 25 where ᾱ_t = 1/2, {last:.0f} at the last step",
        f"t 0-999: {training('classifier')['validation']['0-999']['accuracy']:.3f}`",
        f"loss {training('ddpm_unet')['loss']:.4f}  "
        f"validation {training('ddpm_unet')['validation_loss']:.4f}`",
    ]
    yield from (("README.md", sentence) for sentence in readme)

    ten, ten_real = row("final_10000", **default), row("final_10000", **real)
    fast = row("final_10000", steps="10")
    judge_wrong = 100 * (1 - training("judge")["test_accuracy"])
    scales = {s: row("scales", guidance_scale=s) for s in ("15", "25", "50")}
    real_2000, fifty = row("scales", **real), scales["50"]
    seeds = [row("seeds", training_seed=s) for s in "012"]

    def span(column):
        values = [r[column] for r in seeds]
        return max(values) - min(values) + 1e-9  # a half rounds up

    control = {name: row("controls", **{**default, **changes}) for name, changes in {
        "default": {}, "25": {"early_scale": "inf"}, "early 1": {"early_scale": "1"},
        "5": {"guidance_scale": "5", "early_scale": "inf"},
        "early": {"variant": "guide t >= 500 only"}, "ddpm": {"sampler": "ddpm"},
        "Algorithm 1": {"variant": "ADM Algorithm 1", "sampler": "ddpm"},
    }.items()}  # fmt: skip

    def change(name, column, beside="default"):
        return abs(control[name][column] - control[beside][column])

    asked = {name: row("controls", **{**default, "variant": name, **changes}) for name, changes in {
        "clean guide at x_t": {}, "clean guide at predicted x_0": {}, "guide at t = 0": {},
        "gradient at the mean": {}, "raw-t guide": {},
        "Algorithm 1 at the mean": {"sampler": "ddpm"},
    }.items()}  # fmt: skip
    control |= asked | {"raw-t 100": row("controls", variant="raw-t guide", guidance_scale="100")}
    raw_t = [control[name] for name in ("raw-t guide", "raw-t 100")]
    at_t_0 = asked["guide at t = 0"]
    four = {4: "four"}[round(at_t_0["frechet"] / control["default"]["frechet"])]
    image = row("benchmark", what="a guided image, 100 at a time")
    step = [row("benchmark", what=f"the networks of {a} step, 100 images")["ours"]
            for a in ("a guided", "an unguided")]  # fmt: skip
    report = [
        f"in {ten['accuracy']:.4f} [{ten['accuracy_low']:.4f}, {ten['accuracy_high']:.4f}] of",
        f"errs on {judge_wrong:.2f} % of the real test digits and rejects "
        f"{100 * (1 - ten['accuracy']):.2f} % of the samples",
        f"The Fréchet distance is {ten['frechet'] / ten_real['frechet']:.1f} times that of real",
        f"Half the calls cost {fast['frechet'] - ten['frechet']:.2f} of Fréchet distance and "
        f"{ten['recall'] - fast['recall']:.2f} of recall",
        f"differ by {span('frechet'):.3f} in Fréchet distance, {span('precision'):.3f} in "
        f"precision and {span('recall'):.3f} in recall",
        f"Unguided Fréchet distance spans {span('frechet_unguided'):.2f}.",
        f"Its precision is {scales['25']['precision'] / real_2000['precision']:.3f} of that of",
        f"Scale 50 costs {fifty['frechet'] - scales['25']['frechet']:.2f} of Fréchet distance and "
        f"{scales['25']['recall'] - fifty['recall']:.3f} of recall",
        f"yet {wrong(one)} % of the samples are not the digit asked for",
        f"A constant scale of 25 has {change('25', 'recall'):.2f} less recall than the default",
        f"A constant scale of 5 has {change('5', 'frechet'):.2f} more Fréchet distance and "
        f"{change('5', 'recall'):.2f} less recall",
        f"An early scale of 1 has {change('early 1', 'frechet'):.2f} less Fréchet distance, "
        f"{change('early 1', 'recall'):.2f} more recall and "
        f"{change('early 1', 'precision'):.2f} less precision",
        f"Guidance at t ≥ 500 alone leaves {wrong(control['early'])} % of the digits wrong",
        f"has {change('Algorithm 1', 'frechet', 'ddpm'):.2f} less Fréchet distance and "
        f"{change('Algorithm 1', 'recall', 'ddpm'):.2f} more recall than Algorithm 2",
        f"ADM (14) has {change('gradient at the mean', 'recall'):.2f} more recall and less "
        "precision; Algorithm 1 (`ddpm`) has "
        f"{change('Algorithm 1 at the mean', 'recall', 'Algorithm 1'):.2f} less recall.",
        f"At x_t, {wrong(asked['clean guide at x_t'])} % are wrong",
        f"through the U-Net, {wrong(asked['clean guide at predicted x_0'])} % are wrong",
        f"gets t = 0, {at_t_0['accuracy']:.3f} are right, with {four} times the Fréchet distance",
        f"gets {raw_t[0]['accuracy']:.3f} right, and {raw_t[1]['accuracy']:.3f} at scale 100, with "
        f"{change('raw-t guide', 'frechet'):.2f} and {change('raw-t 100', 'frechet'):.2f} more",
        f"cost {step[0] / step[1]:.2f} times those of an unguided one",
        f"takes {image['ours']:.2f} s on two CPU cores, some {round(image['ratio'], -2):,.0f} ",
        f"{training('classifier')['validation']['0-999']['accuracy']:.3f} over uniform t",
        f"{training('classifier')['validation']['0-99']['accuracy']:.3f} at t < 100",
    ]
    yield from (("results/README.md", sentence) for sentence in report + examples())

    constant = control["25"]
    lesson = [
        f"only {100 * one['accuracy']:.0f} % of 2,000 samples are the digit asked for",
        f"{100 * constant['accuracy']:.1f} % are right, but *recall*, the share of real images "
        f"with a sample nearby, falls to "
        f"{short(constant['recall'])}; real images have {short(real_2000['recall'])}",
        f"Accuracy is {100 * control['default']['accuracy']:.1f} %, and recall "
        f"{short(control['default']['recall'])}.",
    ]
    yield from (("quick_demo_CGD.ipynb", sentence) for sentence in lesson)


def text_of(page):
    """The words of a page, one space between two."""
    text = (ROOT / page).read_text()
    if page.endswith(".ipynb"):
        text = "\n".join("".join(cell["source"]) for cell in json.loads(text)["cells"])
    return " ".join(text.split())


@pytest.mark.parametrize("page, sentence", claims())
def test_the_numbers_of_a_sentence_were_measured(page, sentence):
    assert " ".join(sentence.split()) in text_of(page)
