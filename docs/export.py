"""Export what the web page loads: constants, networks, and how often one push decides the digit.

    python -m docs.export            # docs/constants.js, weights.json, weights.bin
    python -m docs.export --measure  # docs/pushes.csv

Weights are channels last: (height, width, in, out) or (in, out).
"""

import json
import textwrap

import numpy as np
import torch

from diffusion import END, sampling_times
from evaluation.judge import read_digits
from evaluation.tables import write_rows
from inference import gradient, load_models, sample
from support.cli import make_parser, one_line_errors
from support.files import ROOT, write_files

NOISE, DIGIT, PUSH = 0, 6, 3  # of the first screen; the pushed step counts from 0
SAMPLING = {"sampler": "ddim", "steps": 20}
NORM = 6  # of a push


def export_constants(folder, ddpm):
    times = [*sampling_times(ddpm.T, SAMPLING["steps"]), END]
    values = {"NOISE": NOISE, "DIGIT": DIGIT, "PUSH": PUSH, "NORM": NORM, "STEPS": len(times) - 1}
    values |= {"TIMES": times, "ABAR": [float(f"{x:.8g}") for x in ddpm.abar[times].tolist()]}
    lines = [f"export const {name} = {json.dumps(value)};" for name, value in values.items()]
    lines = [textwrap.fill(line, 110) for line in ["// Written by export.py.", *lines, ""]]
    write_files({folder / "constants.js": "\n".join(lines).encode()})


def channels_last(weights):
    """The weights of a layer, as a contiguous array."""
    if weights.ndim == 2 and weights.shape[1] % 49 == 0:  # (C, 7, 7) was flattened
        weights = weights.unflatten(1, (-1, 7, 7)).movedim(1, -1).flatten(1)
    if weights.ndim > 1:
        weights = weights.movedim(1, -1).movedim(0, -1)
    return weights.contiguous().numpy()


def export_weights(folder, ddpm, classifier):
    networks, parts, start = {"unet": [], "classifier": []}, [], 0
    for places, network in zip(networks.values(), (ddpm.unet, classifier)):
        for name, weights in network.state_dict().items():
            x = channels_last(weights).astype(np.float16)
            places.append({"name": name, "shape": x.shape, "start": start, "length": x.size})
            parts.append(x.tobytes())
            start += x.size
    write_files({folder / "weights.bin": b"".join(parts)})
    write_files({folder / "weights.json": json.dumps(networks, separators=(",", ":")).encode()})


def pushed_once(ddpm, grad, step):
    """A function (x_t, t, y) -> noise, for DDIM: guided in one step only.

    The scale in ADM (14) is the one that changes the next image by the norm NORM.
    """
    times = [*sampling_times(ddpm.T, SAMPLING["steps"]), END]
    t_pushed, u = times[step : step + 2]

    def predict(x_t, t, y):
        eps = ddpm(x_t, t)
        if t != t_pushed:
            return eps
        push = grad(x_t, t, y)
        push *= NORM / push.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        abar_t, abar_u = ddpm.abar[[t, u]]  # next: the coefficient of eps in DDIM (12)
        return eps + push / ((1 - abar_u).sqrt() - (abar_u * (1 - abar_t) / abar_t).sqrt())

    return predict


def measure(folder, ddpm, classifier, noises=8):
    """For each step, count pushes toward y, and those after which the judge reads y.

    Digits that a noise becomes without a push are left out. `ink` is the mean norm of the ink of
    the finished digit, x_0 + 1, as far as it is in the noisy image after the step.
    """
    images = sample(ddpm, None, range(noises), **SAMPLING)
    own, ink = read_digits(images), (images + 1).flatten(1).norm(dim=1).mean().item()
    abar = ddpm.abar[[*sampling_times(ddpm.T, SAMPLING["steps"]), END]].tolist()
    seeds, y = zip(*[(seed, y) for seed in range(noises) for y in range(10) if y != own[seed]])
    rows, grad = [], gradient(classifier.log_p)
    for step in range(SAMPLING["steps"]):
        images = sample(ddpm, y, seeds, pushed_once(ddpm, grad, step), **SAMPLING)
        right = (read_digits(images) == torch.tensor(y)).sum().item()
        row = {"step": step + 1, "pushes": len(y), "read_as_y": right}
        rows.append(row | {"ink": ink * abar[step + 1] ** 0.5})
    write_rows(folder / "pushes.csv", rows)


@one_line_errors
def main(argv=None):
    parser = make_parser(__doc__)
    parser.add_argument("--measure", action="store_true", help="measure; see above")
    ddpm, classifier = load_models()
    if parser.parse_args(argv).measure:
        return measure(ROOT / "docs", ddpm, classifier)
    export_constants(ROOT / "docs", ddpm)
    export_weights(ROOT / "docs", ddpm, classifier)


if __name__ == "__main__":
    main()
