"""Export what the web page loads: both networks, and the map that it shows first.

    python -m docs.export    # docs/weights.bin, docs/weights.json, docs/map.png, docs/map.json

weights.bin holds float16; weights.json lists the tensors in it. Channels are last: convolutions are
(height, width, in, out), and matrices (in, out). map.png holds the pictures of `examples.when`,
map.json both verdicts on each and the threshold for the second.
"""

import json

import numpy as np
from PIL import Image

from examples.when import STEPS, WINDOWS, most_surprise, push_map
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


def export_map(folder, ddpm, classifier):
    """Column a and row 20 - b hold window (a, b); the empty corner holds the unguided image."""
    images, p, surprises = push_map(ddpm, classifier)
    sprite = np.zeros((28 * STEPS, 28 * STEPS), np.uint8)
    verdicts = []
    for (a, b), image, *verdict in zip([(0, 0), *WINDOWS], to_uint8(images), p, surprises):
        row, column = (STEPS - b, a) if b else (STEPS - 1, STEPS - 1)
        sprite[28 * row :, 28 * column :][:28, :28] = image[0]
        chances, distance = (values.double().numpy().round(3).tolist() for values in verdict)
        verdicts.append([a, b, chances, distance])
    with atomic_write(folder / "map.png") as file:
        Image.fromarray(sprite).save(file, "png", optimize=True)
    content = {"threshold": most_surprise(ddpm, classifier), "verdicts": verdicts}
    with atomic_write(folder / "map.json") as file:
        file.write(json.dumps(content).encode())


@one_line_errors
def main(argv=None):
    ArgumentParser(__doc__).parse_args(argv)
    networks = load_models()
    export_weights(ROOT / "docs", *networks)
    export_map(ROOT / "docs", *networks)


if __name__ == "__main__":
    main()
