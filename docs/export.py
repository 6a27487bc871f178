"""Export what the web page loads: both networks, and the map that it shows first.

    python -m docs.export    # docs/weights.bin, docs/weights.json, docs/map.png, docs/map.json

weights.bin holds float16; weights.json lists the tensors in it. Channels are last: convolutions are
(height, width, in, out), and matrices (in, out). map.png and map.json hold the map of
`examples.when` with all paths. Pushes share states, so each state is stored once: a row of map.png
is what the model would draw from it, unguided, in 16 gray levels.
"""

import json

import numpy as np
import torch
from PIL import Image

from examples.when import DIGIT, NOISE, STEPS, WINDOWS, heights, most_surprise, push_map
from examples.when import surprise
from inference import load_models
from support.cli import ArgumentParser, one_line_errors
from support.files import ROOT, atomic_write
from support.pictures import to_uint8


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
    hashes = {network.checkpoint: network.sha256 for network in (ddpm.unet, classifier)}
    with atomic_write(folder / "weights.bin") as file:
        file.write(b"".join(parts))
    with atomic_write(folder / "weights.json") as file:
        file.write(json.dumps({"sha256": hashes, "networks": networks}).encode())


def state(a, b, k):
    """A name of the state before step k of the push from step a until step b."""
    if b == 0 or k <= a:
        return k
    return (a, k) if k <= b else (a, b, k)


def export_map(folder, ddpm, classifier):
    guesses, log_p = push_map(ddpm, classifier)
    surprises = surprise(ddpm, guesses[:, -1])
    rows, pictures, places, all_places = set(), [], [], heights(log_p, DIGIT)
    for push, (a, b) in enumerate(WINDOWS):
        for k in range(STEPS + 1):
            if state(a, b, k) not in rows:
                rows.add(state(a, b, k))
                pictures.append(guesses[push, k].flatten())
                places.append(round(100 * all_places[push, k].item()))
    grays = (to_uint8(torch.stack(pictures)).float() / 17).round().to(torch.uint8) * 17
    with atomic_write(folder / "map.png") as file:
        Image.fromarray(grays.numpy()).save(file, "png", optimize=True)
    p = log_p[:, -1].exp().double().numpy().round(3).tolist()
    content = {
        "noise": NOISE,
        "digit": DIGIT,
        "threshold": most_surprise(ddpm, classifier),
        "results": list(zip(p, surprises.double().numpy().round(5).tolist())),
        "heights": places,
    }
    with atomic_write(folder / "map.json") as file:
        file.write(json.dumps(content, separators=(",", ":")).encode())


@one_line_errors
def main(argv=None):
    ArgumentParser(__doc__).parse_args(argv)
    networks = load_models()
    export_weights(ROOT / "docs", *networks)
    export_map(ROOT / "docs", *networks)


if __name__ == "__main__":
    main()
