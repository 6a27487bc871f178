"""Export what the web page loads: constants, both networks, and the films of its first screen.

    python -m docs.export    # docs/constants.js, docs/weights.*, docs/first.*

weights.bin holds float16, channels last: convolutions are (height, width, in, out), and matrices
(in, out). first.png holds grays from 0 to 255, and first.json probabilities in thousandths.
"""

import json
import textwrap

import numpy as np
import torch
from PIL import Image

from diffusion import END, sampling_times, t_batch
from inference import gradient, growing_scale, guided, load_models, trajectory
from support.cli import make_parser, one_line_errors
from support.files import MODELS, ROOT, atomic_write, sha256
from support.pictures import to_uint8

NOISE, DIGIT, STEPS = 5, 5, 20  # of the first screen; of every film
LEVEL = 5  # difference between two gray levels in first.png


def export_constants(folder, ddpm):
    times = [*sampling_times(len(ddpm.abar) - 1, STEPS), END]
    scales = [float(growing_scale(ddpm)(t)) for t in times[:-1]]
    values = {"NOISE": NOISE, "DIGIT": DIGIT, "STEPS": STEPS, "TIMES": times}
    for name, part in {"ABAR": ddpm.abar[times].tolist(), "SCALES": scales}.items():  # per step
        values[name] = [float(f"{value:.8g}") for value in part]
    lines = [f"export const {name} = {json.dumps(value)};" for name, value in values.items()]
    lines = ["// Written by export.py.", *lines]
    with atomic_write(folder / "constants.js") as file:
        file.writelines(f"{textwrap.fill(line, 110)}\n".encode() for line in lines)


def channels_last(name, weights):
    """The weights of a layer, channels last: a contiguous float16 array."""
    if name == "linear.weight":  # (C, 7, 7) is flattened as (7, 7, C)
        weights = weights.unflatten(1, (-1, 7, 7)).permute(2, 3, 1, 0).flatten(0, 2)
    elif weights.ndim > 1:
        weights = weights.permute((2, 3, 1, 0) if weights.ndim == 4 else (1, 0))
    return np.ascontiguousarray(weights.numpy().astype(np.float16))


def export_weights(folder, ddpm, classifier):
    networks, parts, start = {"unet": [], "classifier": []}, [], 0
    for places, network in zip(networks.values(), (ddpm.unet, classifier)):
        for name, weights in network.state_dict().items():
            x = channels_last(name, weights)
            places.append({"name": name, "shape": x.shape, "start": start, "length": x.size})
            parts.append(x.tobytes())
            start += x.size
    hashes = {name: sha256(MODELS / name) for name in ("ddpm_unet.pth", "classifier.pth")}
    manifest = json.dumps({"sha256": hashes, "networks": networks}).encode()
    for name, content in {"weights.bin": b"".join(parts), "weights.json": manifest}.items():
        with atomic_write(folder / name) as file:
            file.write(content)


def page_noise(number, count):
    """Noise images of the page, by mulberry32 and Box-Muller: (count, 1, 28, 28)."""
    state = np.arange(1, 784 * count + 1, dtype=np.uint32) * np.uint32(0x6D2B79F5)
    state += np.uint32(number * 0x9E3779B1 % 2**32)  # overflows, like the next lines
    z = (state ^ (state >> 15)) * (state | 1)
    z ^= z + (z ^ (z >> 7)) * (z | 61)
    uniform = ((z ^ (z >> 14)) + 0.5) / 2**32
    radius, angle = np.sqrt(-2 * np.log(uniform[::2])), 2 * np.pi * uniform[1::2]
    pixels = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
    return torch.from_numpy(pixels).float().view(count, 1, 28, 28)


@torch.no_grad()
def films(ddpm, classifier, noise, y, strength=1):
    """Films from one noise of the page; y (B, 2): digits, and first pushed steps (from 0 on).

    Returns the predicted images before each step and the samples (B, K, 1, 28, 28), where K is
    STEPS + 1, the classifier's probabilities (B, K, 10), and its gradients (B, K, 1, 28, 28).
    """
    grad, times = gradient(classifier.log_p), sampling_times(len(ddpm.abar) - 1, STEPS)

    def late(x_t, t, y):  # the gradient, 0 before the first pushed step
        return (y[:, 1] <= times.index(t)).view(-1, 1, 1, 1) * grad(x_t, t, y[:, 0])

    def loop(predict, scheduler, x_t, y, rngs):  # `inference.reverse` with the noise of the page
        x_t, *noises = page_noise(noise, STEPS + 1).unsqueeze(1).expand(-1, *x_t.shape)
        for t, eps in zip(times, noises):
            yield ddpm.x_0(x_t, t), classifier(x_t, t_batch(x_t, t)), late(x_t, t, y)
            x_t = scheduler.step(predict(x_t, t, y), t, x_t, variance_noise=eps).prev_sample
        x_0 = x_t.clamp(-1, 1)
        yield x_0, classifier(x_0, t_batch(x_0, 0)), torch.zeros_like(x_0)

    predict = guided(ddpm, late, lambda t: strength * growing_scale(ddpm)(t))
    frames = trajectory(ddpm, y, range(len(y)), predict, "sde-dpmsolver++", STEPS, loop)
    guesses, logits, pushes = (torch.stack(part, dim=1) for part in zip(*frames))
    return guesses, logits.softmax(dim=2), pushes


def export_films(folder, ddpm, classifier):
    """Rows of first.png: results of ten digits, film without a push, first pushes, 20 films."""
    y = [(digit, first) for digit in range(10) for first in range(STEPS)] + [(DIGIT, STEPS)]
    guesses, p, pushes = films(ddpm, classifier, NOISE, torch.tensor(y))
    own = slice(DIGIT * STEPS, (DIGIT + 1) * STEPS)  # the films of DIGIT
    push = pushes[own][range(STEPS), range(STEPS)]
    rows = [*guesses[:-1, -1].split(STEPS), guesses[-1], push / push.abs().amax((1, 2, 3), True)]
    rows += [film[k + 1 : -1] for k, film in enumerate(guesses[own])]
    picture = np.zeros((len(rows), 28, STEPS + 1, 28), np.uint8)
    for place, row in zip(picture, rows):
        place[:, : len(row)] = (to_uint8(row[:, 0]) / LEVEL).round().movedim(0, 1) * LEVEL
    with atomic_write(folder / "first.png") as file:
        Image.fromarray(picture.reshape(28 * len(rows), -1)).save(file, "png", optimize=True)
    p = (1000 * p).round().int()
    chances = {"results": p[:-1, -1].unflatten(0, (10, STEPS)).tolist(), "alone": p[-1].tolist()}
    chances["films"] = [film[k + 1 : -1].tolist() for k, film in enumerate(p[own])]
    with atomic_write(folder / "first.json") as file:
        file.write(json.dumps(chances, separators=(",", ":")).encode())


@one_line_errors
def main(argv=None):
    make_parser(__doc__).parse_args(argv)
    folder, networks = ROOT / "docs", load_models()
    export_constants(folder, networks[0])
    export_weights(folder, *networks)
    export_films(folder, *networks)


if __name__ == "__main__":
    main()
