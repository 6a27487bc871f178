"""Export what the web page loads: constants, networks, the films of its first screen, a count.

    python -m docs.export            # docs/constants.js, weights.*, judge.bin, first.*
    python -m docs.export --count    # docs/count.json, from 30 noises: half an hour

Weights are channels last: (height, width, in, out) or (in, out). first.json is in thousandths.
"""

import json
import textwrap
from functools import lru_cache

import numpy as np
import torch
from PIL import Image
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval
from tqdm import tqdm

from data import from_uint8
from diffusion import END, sampling_times, t_batch
from evaluation.judge import load_judge
from inference import gradient, growing_scale, guided, load_models, trajectory
from support.cli import make_parser, number, one_line_errors
from support.files import MODELS, ROOT, atomic_write, sha256
from support.pictures import to_uint8

NOISE, DIGIT, START, STEPS = 0, 6, 17, 20  # of the first screen, chosen by eye; of every film
LEVEL = 3  # difference between two gray levels in first.png
ALL = torch.tensor([(y, start) for y in range(10) for start in range(STEPS)] + [(0, STEPS)])


def write(path, content):
    if path.suffix == ".json":
        content = json.dumps(content, separators=(",", ":")).encode()
    with atomic_write(path) as file:
        file.write(content)


def export_constants(folder, ddpm):
    times = [*sampling_times(ddpm.T, STEPS), END]
    values = {"NOISE": NOISE, "DIGIT": DIGIT, "START": START, "STEPS": STEPS, "TIMES": times}
    for name, part in (("ABAR", ddpm.abar[times]), ("SCALES", growing_scale(ddpm)(times[:-1]))):
        values[name] = [float(f"{value:.8g}") for value in part.tolist()]
    lines = [f"export const {name} = {json.dumps(value)};" for name, value in values.items()]
    lines = [textwrap.fill(line, 110) for line in ["// Written by export.py.", *lines, ""]]
    write(folder / "constants.js", "\n".join(lines).encode())


def channels_last(weights):
    """The weights of a layer, as a contiguous array."""
    if weights.ndim == 2 and weights.shape[1] % 49 == 0:  # (C, 7, 7) was flattened
        weights = weights.unflatten(1, (-1, 7, 7)).movedim(1, -1).flatten(1)
    if weights.ndim > 1:
        weights = weights.movedim(1, -1).movedim(0, -1)
    return weights.detach().contiguous().numpy()


def export_weights(folder, ddpm, classifier):
    networks, parts, start = {"unet": [], "classifier": []}, [], 0
    for places, network in zip(networks.values(), (ddpm.unet, classifier)):
        for name, weights in network.state_dict().items():
            x = channels_last(weights).astype(np.float16)
            places.append({"name": name, "shape": x.shape, "start": start, "length": x.size})
            parts.append(x.tobytes())
            start += x.size
    write(folder / "weights.bin", b"".join(parts))
    write(folder / "weights.json", {"networks": networks})


def export_judge(folder, judge):
    """Scales and biases (float32), then weights, one scale per output; BatchNorms are folded in."""
    convolutions, (_, hidden, norm, _) = judge.convolutions, judge.fully_connected
    layers = [fuse_conv_bn_eval(convolutions[k], convolutions[k + 1]) for k in (0, 4, 8, 11)]
    numbers, parts = [], []
    for layer in [*layers, fuse_linear_bn_eval(hidden, norm), judge.linear]:
        weights = channels_last(layer.weight)
        kind = np.int8 if weights.size > 500_000 else np.int16
        scale = abs(weights).reshape(-1, weights.shape[-1]).max(0) / np.iinfo(kind).max
        numbers += [scale, layer.bias.detach().numpy()]
        parts.append((weights / scale).round().astype(kind).tobytes())
    write(folder / "judge.bin", np.concatenate(numbers).astype("<f4").tobytes() + b"".join(parts))


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
def films(ddpm, classifier, judge, noise, y, strength=1):
    """Films from one noise of the page; y (B, 2): digits, and first pushed steps (from 0 on).

    Returns predicted images and samples (B, STEPS + 1, ...), p, gradients, the judge's p (B, 10).
    """
    grad, times = gradient(classifier.log_p), sampling_times(ddpm.T, STEPS)

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
    judged = judge(from_uint8(to_uint8(guesses[:, -1]))).softmax(dim=1)
    return guesses, logits.softmax(dim=2), pushes, judged


def export_films(folder, networks):
    """Rows of first.png: results of ten digits, film without a push, first pushes, 20 films."""
    guesses, p, pushes, q = films(*networks, NOISE, ALL)
    own = slice(DIGIT * STEPS, (DIGIT + 1) * STEPS)  # the films of DIGIT
    push = pushes[own][range(STEPS), range(STEPS)]
    rows = [*guesses[:-1, -1].split(STEPS), guesses[-1], push / push.abs().amax((1, 2, 3), True)]
    rows += [film[k + 1 : -1] for k, film in enumerate(guesses[own])]
    picture = np.zeros((len(rows), 28, STEPS + 1, 28), np.uint8)
    for place, row in zip(picture, rows):
        place[:, : len(row)] = (to_uint8(row[:, 0]) / LEVEL).round().movedim(0, 1) * LEVEL
    Image.fromarray(picture.reshape(28 * len(rows), -1)).save(folder / "first.png", optimize=True)
    p, q = ((1000 * part).round().int() for part in (p, q))
    chances = {"results": p[:-1, -1].unflatten(0, (10, STEPS)).tolist(), "alone": p[-1].tolist()}
    chances["films"] = [film[k + 1 : -1].tolist() for k, film in enumerate(p[own])]
    write(folder / "first.json", chances | {"judged": q.tolist()})


def export_count(folder, networks, noises):
    """How often the judge gives up (never sees y again) before, with, and after the classifier."""
    digits = torch.zeros(10, 3, dtype=int)
    for noise in tqdm(sorted({*range(noises + 1)} - {NOISE})[:noises], unit="noise"):
        _, p, _, q = films(*networks, noise, ALL)
        seen = torch.stack([p[:, -1].argmax(1), q.argmax(1)], dim=1)  # (B, 2)
        hits = (seen[:-1] == ALL[:-1, :1]).unflatten(0, (10, STEPS))  # (10, STEPS, 2)
        gave_up = (hits * torch.arange(1, STEPS + 1).view(-1, 1)).amax(1)  # (10, 2), first misses
        for y, order in enumerate((gave_up[:, 1] - gave_up[:, 0]).sign() + 1):
            digits[y, order] += int(y != seen[-1, 1])  # not the digit that it becomes anyway
    hashes = {name: sha256(MODELS / f"{name}.pth") for name in ("ddpm_unet", "classifier", "judge")}
    write(folder / "count.json", {"sha256": hashes, "noises": noises, "digits": digits.tolist()})


@one_line_errors
def main(argv=None):
    parser = make_parser(__doc__)
    parser.add_argument("--count", type=number(int, 1), nargs="?", const=30, metavar="NOISES")
    count, folder = parser.parse_args(argv).count, ROOT / "docs"
    networks = ddpm, classifier, judge = *load_models(), load_judge()
    for network in (ddpm.unet, classifier):
        network.half().float()  # rounded, as on the page
    ddpm.unet_eps = lru_cache(1)(ddpm.unet_eps)  # for the frame and for `guided`
    if count:
        return export_count(folder, networks, count)
    export_constants(folder, ddpm)
    export_weights(folder, ddpm, classifier)
    export_judge(folder, judge)
    export_films(folder, networks)


if __name__ == "__main__":
    main()
