"""Export both networks for the web page: 1.5 MB.

    python -m docs.export_weights    # docs/weights.bin, docs/weights.json

weights.bin holds float16; weights.json lists the tensors in it. TensorFlow.js has channels last, so
convolutions become (height, width, in, out), and matrices (in, out).
"""

import json

import numpy as np

from inference import load_models
from support.cli import ArgumentParser, one_line_errors
from support.files import ROOT, atomic_write


def for_tensorflow(name, weights):
    """The weights of a layer in TensorFlow.js order: a contiguous float16 array."""
    if name == "linear.weight":  # (C, 7, 7) is flattened as (7, 7, C)
        weights = weights.unflatten(1, (-1, 7, 7)).permute(2, 3, 1, 0).flatten(0, 2)
    elif weights.ndim == 4:
        weights = weights.permute(2, 3, 1, 0)
    elif weights.ndim == 2:
        weights = weights.T
    return np.ascontiguousarray(weights.numpy().astype(np.float16))


def export(folder):
    """Write both files to a folder; returns the size of weights.bin in bytes."""
    ddpm, classifier = load_models()
    networks, parts, start = {"unet": [], "classifier": []}, [], 0
    for places, network in zip(networks.values(), (ddpm.unet, classifier)):
        for name, weights in network.state_dict().items():
            array = for_tensorflow(name, weights)
            place = {"name": name, "shape": array.shape, "start": start, "length": array.size}
            places.append(place)
            parts.append(array.tobytes())
            start += array.size
    hashes = {network.checkpoint: network.sha256 for network in (ddpm.unet, classifier)}
    with atomic_write(folder / "weights.bin") as file:
        file.write(b"".join(parts))
    with atomic_write(folder / "weights.json") as file:
        file.write(json.dumps({"sha256": hashes, "networks": networks}).encode())
    return 2 * start


@one_line_errors
def main(argv=None):
    ArgumentParser(__doc__).parse_args(argv)
    print(f"docs/weights.bin, docs/weights.json: {export(ROOT / 'docs'):,} bytes")


if __name__ == "__main__":
    main()
