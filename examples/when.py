"""When can a push still change the digit? A map of every push window.

    python -m examples.when                                             # results/when.png
    python -m examples.when --noise 7 --digit 3 --output mine.png

Each picture of the map starts from the same noise, which is guided toward the digit from one step
(the column) to another (the row), and unguided otherwise. The web page shows the same map.
"""

from itertools import product

import numpy as np
import torch

from diffusion import add_noise, sampling_times
from examples.samplers import written_out
from examples.shared import FAST
from inference import gradient, growing_scale, guided, load_models, sample
from support import cli
from support.files import ROOT, provenance
from support.pictures import INK, INK_GRAY, PAPER, save_figure

NOISE, DIGIT = 5, 5
STEPS = 20
RENOISED_TIMES = (99, 199, 299, 399)
RENOISING = 1_000_000  # index of the noise that is added to a result
TINTS = {  # background colors, by the kind of result
    "target": (248, 217, 192),
    "alone": (228, 230, 232),
    "other": (223, 233, 198),
    "broken": (214, 209, 238),
}
WINDOWS = [(a, b) for a, b in product(range(STEPS), range(1, STEPS + 1)) if a < b]


def in_window(ddpm, grad):
    """A gradient that is 0 outside a window of steps; y (B, 3): digit, first step, end.

    The window does not include its end.
    """
    times = sampling_times(len(ddpm.abar) - 1, STEPS)

    def windowed(x_t, t, y):
        digit, first, end = y.unbind(dim=1)
        pushed = (first <= times.index(t)) & (times.index(t) < end)
        result = torch.zeros_like(x_t)
        if pushed.any():
            result[pushed] = grad(x_t[pushed], t, digit[pushed])
        return result

    return windowed


def page_noise(number, count):
    """Noise images of the web page, by mulberry32 and Box-Muller: (count, 1, 28, 28)."""
    index = np.arange(1, 784 * count + 1, dtype=np.uint64)
    state = np.uint64(number) * np.uint64(0x9E3779B1) + index * np.uint64(0x6D2B79F5)
    state = state.astype(np.uint32)  # modulo 2**32
    z = (state ^ (state >> 15)) * (state | 1)
    z ^= z + (z ^ (z >> 7)) * (z | 61)
    uniform = ((z ^ (z >> 14)) + 0.5) / 2**32
    radius, angle = np.sqrt(-2 * np.log(uniform[::2])), 2 * np.pi * uniform[1::2]
    pixels = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
    return torch.from_numpy(pixels).float().view(count, 1, 28, 28)


def on_page_noise(predict, scheduler, x_t, rngs):
    """SDE-DPM-Solver++ with the noise of the web page; the seeds are the indices of the noise."""
    numbers = [rng.initial_seed() for rng in rngs]
    noises = iter(torch.stack([page_noise(number, STEPS) for number in numbers], dim=1))
    x_T, fresh = next(noises), lambda shape, rngs: next(noises)
    return written_out(predict, scheduler, x_T, rngs, order=2, eta=1, noise=fresh)


def pushed_images(ddpm, classifier, numbers, y):
    """Sample from noise images `numbers` (N), with y (N, 3) as for `in_window`: (N, 1, 28, 28)."""
    grad = in_window(ddpm, gradient(classifier.log_p))
    eps_hat = guided(ddpm, grad, growing_scale(ddpm))
    return sample(ddpm, y, numbers, eps_hat, batch_size=105, steps=STEPS, loop=on_page_noise)


@torch.no_grad()
def surprise(ddpm, images):
    """Distance of images (N, 1, 28, 28) from their reconstructions after noise is added: (N,).

    The root mean square over pixels and four timesteps, with the same noise for every image.
    """
    squares = 0
    for t, eps in zip(RENOISED_TIMES, page_noise(RENOISING, len(RENOISED_TIMES))):
        x_0 = ddpm.x_0(add_noise(images, eps, ddpm.abar[t]), t)
        squares = squares + (x_0 - images).square().mean(dim=(1, 2, 3))
    return (squares / len(RENOISED_TIMES)).sqrt()


def most_surprise(ddpm, classifier, n=200):
    """The `surprise` that 95% of n guided samples stay below, with the default scale."""
    eps_hat = guided(ddpm, gradient(classifier.log_p), growing_scale(ddpm))
    images = sample(ddpm, torch.arange(n) % 10, range(n), eps_hat, **FAST)
    return surprise(ddpm, images).quantile(0.95).item()


def push_map(ddpm, classifier, noise=NOISE, digit=DIGIT):
    """The empty window, then `WINDOWS`: images (211, 1, 28, 28), p(y | x) (211, 10), surprise."""
    y = torch.tensor([(digit, a, b) for a, b in [(0, 0), *WINDOWS]])
    images = pushed_images(ddpm, classifier, [noise] * len(y), y)
    with torch.no_grad():
        p = classifier(images, torch.zeros(len(y), dtype=torch.long)).softmax(dim=1)
        return images, p, surprise(ddpm, images)


def kinds(p, surprises, threshold, digit):
    """The kind of each result, a key of TINTS; the first is that of the unguided image."""
    read, alone = p.argmax(dim=1).tolist(), p[0].argmax().item()
    names = {alone: "alone", digit: "target"}
    known = [names.get(number, "other") for number in read]
    return ["broken" if s > threshold else kind for kind, s in zip(known, surprises.tolist())]


def draw_map(images, p, surprises, threshold, digit):
    """The map as a matplotlib figure."""
    from matplotlib.figure import Figure  # imported here, so that scripts start faster

    side = 30
    canvas = np.full((side * STEPS, side * STEPS, 3), PAPER, dtype=float)
    tints = kinds(p, surprises, threshold, digit)
    for (a, b), image, kind in zip(WINDOWS, images[1:], tints[1:]):
        ink = (image[0, ..., None].numpy() + 1) / 2
        tint = np.array(TINTS[kind], dtype=float)
        tile = np.broadcast_to(tint, (side - 1, side - 1, 3)).copy()
        tile[:28, :28] = tint + (INK_GRAY - tint) * ink
        y, x = side * (STEPS - b), side * a
        canvas[y : y + side - 1, x : x + side - 1] = tile
    figure = Figure(figsize=(6.4, 6.4), layout="constrained", facecolor=(PAPER / 255,) * 3)
    axes = figure.add_subplot()
    axes.imshow(canvas / 255, extent=(0, STEPS, 0, STEPS), interpolation="antialiased")
    axes.set_xticks(np.arange(STEPS) + 0.5, range(1, STEPS + 1), fontsize=7, color=INK)
    axes.set_yticks(np.arange(STEPS) + 0.5, range(1, STEPS + 1), fontsize=7, color=INK)
    axes.set_xlabel(f"pushed toward {digit} from step ...", color=INK)
    axes.set_ylabel("... until step", color=INK)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return figure


@cli.one_line_errors
def main(argv=None):
    parser = cli.ArgumentParser(__doc__)
    add = parser.add_argument
    add("--noise", type=cli.number(int, 0), default=NOISE, help="index of the noise image")
    add("--digit", type=int, choices=range(10), default=DIGIT, help="target digit")
    default = ROOT / "results" / "when.png"
    add("--output", type=cli.file(".png"), default=default, help="PNG file")
    args = parser.parse_args(argv)
    ddpm, classifier = load_models()
    results = push_map(ddpm, classifier, args.noise, args.digit)
    figure = draw_map(*results, most_surprise(ddpm, classifier), args.digit)
    settings = {"noise": args.noise, "digit": args.digit}
    save_figure(args.output, figure, provenance(ddpm.unet, classifier, **settings))
    print(args.output)


if __name__ == "__main__":
    main()
