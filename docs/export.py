"""Export what the web page loads: constants, both networks, and the map that it shows first.

    python -m docs.export    # docs/constants.js, docs/weights.*, docs/map.*

weights.bin holds float16, channels last: convolutions are (height, width, in, out), and matrices
(in, out). A row of map.png is the predicted image of a state, unguided, in 16 gray levels.
map.json lists the rows of each path, since paths share states.
"""

import json
from itertools import combinations

import numpy as np
import torch
from PIL import Image

from diffusion import END, sampling_times
from examples import when
from examples.when import DIGIT, NOISE, STEPS
from inference import load_models
from support.cli import make_parser, one_line_errors
from support.files import MODELS, ROOT, atomic_write, sha256
from support.pictures import to_uint8

WINDOWS = [(0, 0), *combinations(range(STEPS + 1), 2)]  # unguided first


def export_constants(folder, ddpm, threshold):
    """What the page has in common with Python. The threshold is that of `when.kinds`."""
    names = ("NOISE", "DIGIT", "STEPS", "SIZE", "DECADES", "CERTAIN", "RENOISED_TIMES", "RENOISING")
    times = sampling_times(len(ddpm.abar) - 1, STEPS)
    abar = {t: ddpm.abar[t].item() for t in [*times, END]}
    scales = [float(when.growing_scale(ddpm)(t)) for t in times]
    values = {name: getattr(when, name) for name in names} | {"THRESHOLD": threshold}
    values |= {"TIMES": list(abar), "ABAR": abar, "SCALES": scales, "WINDOWS": WINDOWS}
    lines = [f"export const {name} = {json.dumps(value)};\n" for name, value in values.items()]
    with atomic_write(folder / "constants.js") as file:
        file.write("".join(["// Written by export.py.\n", *lines]).encode())


def channels_last(name, weights):
    """The weights of a layer, channels last: a contiguous float16 array."""
    if name == "linear.weight":  # (C, 7, 7) is flattened as (7, 7, C)
        weights = weights.unflatten(1, (-1, 7, 7)).permute(2, 3, 1, 0).flatten(0, 2)
    elif weights.ndim == 4:
        weights = weights.permute(2, 3, 1, 0)
    elif weights.ndim == 2:
        weights = weights.T
    return np.ascontiguousarray(weights.numpy().astype(np.float16))


def export_weights(folder, ddpm, classifier):
    networks, parts, start = {"unet": [], "classifier": []}, [], 0
    for places, network in zip(networks.values(), (ddpm.unet, classifier)):
        for name, weights in network.state_dict().items():
            array = channels_last(name, weights)
            place = {"name": name, "shape": array.shape, "start": start, "length": array.size}
            places.append(place)
            parts.append(array.tobytes())
            start += array.size
    hashes = {name: sha256(MODELS / name) for name in ("ddpm_unet.pth", "classifier.pth")}
    with atomic_write(folder / "weights.bin") as file:
        file.write(b"".join(parts))
    with atomic_write(folder / "weights.json") as file:
        file.write(json.dumps({"sha256": hashes, "networks": networks}).encode())


def state(first, end, k):
    """A name of the state before step k of the push from step `first` until step `end`."""
    if end == 0 or k <= first:
        return k
    return (first, k) if k <= end else (first, end, k)


def export_map(folder, ddpm, classifier):
    y = torch.tensor([(DIGIT, *window) for window in WINDOWS])
    guesses, log_p = when.pushed_paths(ddpm, classifier, [NOISE] * len(y), y)
    heights, p = when.heights(log_p, DIGIT), log_p[:, -1].exp().double().numpy()
    paths = [[state(*window, k) for k in range(STEPS + 1)] for window in WINDOWS]
    places = {name: (push, k) for push, path in enumerate(paths) for k, name in enumerate(path)}
    pushes, ks = torch.tensor(list(places.values())).T  # of each row
    row = {name: number for number, name in enumerate(places)}
    grays = (to_uint8(guesses[pushes, ks].flatten(1)).float() / 17).round().to(torch.uint8) * 17
    heights = (100 * heights[pushes, ks]).round().int().tolist()
    with atomic_write(folder / "map.png") as file:
        Image.fromarray(grays.numpy()).save(file, "png", optimize=True)
    surprises = when.surprise(ddpm, guesses[:, -1]).double().numpy()
    content = {"p": p.round(3).tolist(), "surprises": surprises.round(5).tolist()}
    content |= {"rows": [[row[name] for name in path] for path in paths], "heights": heights}
    with atomic_write(folder / "map.json") as file:
        file.write(json.dumps(content, separators=(",", ":")).encode())


@one_line_errors
def main(argv=None):
    make_parser(__doc__).parse_args(argv)
    folder, networks = ROOT / "docs", load_models()
    export_constants(folder, networks[0], when.most_surprise(*networks))
    export_weights(folder, *networks)
    export_map(folder, *networks)


if __name__ == "__main__":
    main()
