"""When can a push still change the digit? The path of one push, as on the web page.

    python -m examples.when                                    # output/fork.png
    python -m examples.when --noise 7 --digit 3 --steps 9 12

Each push starts from the same noise, which is guided toward the digit from one step to another, and
unguided otherwise. The picture shows one push, step by step: what the model would draw, unguided,
from the image after each step, and, as the height, which digit the classifier sees in this image.
"""

import math
from itertools import combinations

import numpy as np
import torch
from tqdm import tqdm

from diffusion import add_noise, sampling_times, timesteps
from examples.samplers import written_out
from examples.shared import FAST, add_output_flag
from inference import gradient, growing_scale, guided, load_models, sample, trajectory
from support import cli
from support import UserError
from support.files import provenance
from support.pictures import ACCENT, INK, PAPER, ink_on_paper, save_figure

NOISE, DIGIT = 5, 5
STEPS = 20
DECADES = 3  # of the ratio between the digits that the fork shows, in both directions
RENOISED_TIMES = (99, 199, 299, 399)
CERTAIN = 0.8  # the least probability of a digit that the classifier recognizes
RENOISING = 1_000_000  # index of the noise that is added to a result
GRAY = "#7a828c"
TINT = tuple(channel / 255 for channel in (248, 217, 192))  # of the pushed steps
WINDOWS = [(0, 0), *combinations(range(STEPS + 1), 2)]  # unguided first


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


def on_page_noise(predict, scheduler, x_t, y, rngs):
    """SDE-DPM-Solver++ with the noise of the web page; the seeds are the indices of the noise."""
    numbers = [rng.initial_seed() for rng in rngs]
    noises = iter(torch.stack([page_noise(number, STEPS) for number in numbers], dim=1))
    x_T, fresh = next(noises), lambda shape, rngs: next(noises)
    return written_out(predict, scheduler, x_T, y, rngs, order=2, eta=1, noise=fresh)


@torch.no_grad()
def pushed_paths(ddpm, classifier, numbers, y):
    """Sample from noise images `numbers` (N), with y (N, 3) as for `in_window`, step by step.

    Returns:
        guesses: (N, STEPS + 1, 1, 28, 28), what the model would draw, unguided, from the image
            before each step, and the sample.
        log_p: (N, STEPS + 1, 10), the classifier's log p of every digit for the same images.
    """
    grad = in_window(ddpm, gradient(classifier.log_p))
    predict = guided(ddpm, grad, growing_scale(ddpm))
    steps = trajectory(ddpm, y, numbers, predict, steps=STEPS, loop=on_page_noise)
    guesses, logits = [], []
    for t, x_t, x_0 in tqdm(steps, total=STEPS, unit="step", disable=None):
        guesses.append(ddpm.x_0(x_t, t))
        logits.append(classifier(x_t, timesteps(x_t, t)))
        images = x_0.clamp(-1, 1)
    guesses.append(images)
    logits.append(classifier(images, timesteps(images, 0)))
    return torch.stack(guesses, dim=1), torch.stack(logits, dim=1).log_softmax(dim=2)


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
    """The 95th percentile of the `surprise` of n guided samples, with the default scale."""
    predict = guided(ddpm, gradient(classifier.log_p), growing_scale(ddpm))
    images = sample(ddpm, torch.arange(n) % 10, range(n), predict, **FAST)
    return surprise(ddpm, images).quantile(0.95).item()


def push_map(ddpm, classifier, noise=NOISE, digit=DIGIT):
    """`pushed_paths` of all `WINDOWS`."""
    y = torch.tensor([(digit, a, b) for a, b in WINDOWS])
    return pushed_paths(ddpm, classifier, [noise] * len(y), y)


def heights(log_p, digit):
    """log10 p(digit) / p(unguided digit) of each state (N, STEPS + 1), clipped, from -1 to 1."""
    alone = log_p[0, -1].argmax()
    ratio = (log_p[..., digit] - log_p[..., alone]) / math.log(10)
    return (ratio / DECADES).clamp(-1, 1)


def kinds(log_p, surprises, threshold, digit, alone):
    """The kind of each result: "target", "alone" (the unguided digit), "other", or "broken".

    It is broken if the model would not draw it, or if the classifier is undecided. On 200 results
    (tests/readable.csv), this agrees with a reader in 177.

    Args:
        log_p: (N, 10), of the results; surprises: (N,), their `surprise`.
        threshold: `most_surprise`.
        digit, alone: the target digit, and the unguided one.
    """
    names = {alone: "alone", digit: "target"}
    known = [names.get(number, "other") for number in log_p.argmax(dim=1).tolist()]
    broken = (surprises > threshold) | (log_p.amax(dim=1) < math.log(CERTAIN))
    return ["broken" if is_broken else kind for kind, is_broken in zip(known, broken.tolist())]


def draw_fork(noise, guesses, log_p, digit, first, last):
    """The path of the push in steps `first` to `last`, and the unguided one, as a figure."""
    from matplotlib.figure import Figure  # imported here, so that scripts start faster
    from matplotlib.patches import Rectangle

    steps, ys = range(STEPS + 1), 3 * heights(log_p, digit)
    pushed = WINDOWS.index((first - 1, last))
    alone = log_p[0, -1].argmax().item()
    figure = Figure(figsize=(10.4, 4), layout="constrained", facecolor=(PAPER / 255,) * 3)
    axes = figure.add_subplot(facecolor=(PAPER / 255,) * 3, aspect="equal")
    axes.set(xlim=(-1.6, STEPS + 0.6), ylim=(-3.9, 3.9))

    def thumbnail(x, y, image, radius, color, width):
        extent = (x - radius, x + radius, y - radius, y + radius)
        axes.imshow(
            ink_on_paper(image[None])[0, 0], cmap="gray", vmin=0, vmax=255, extent=extent, zorder=3
        )
        axes.add_patch(
            Rectangle(extent[::2], 2 * radius, 2 * radius, fill=False, ec=color, lw=width, zorder=4)
        )

    axes.axvspan(first - 0.5, last + 0.5, color=TINT, alpha=0.5, lw=0)
    for window, y in zip(WINDOWS, ys):
        if window[0] == first - 1:
            axes.plot(steps, y, color=GRAY, lw=0.8, alpha=0.5)
    axes.plot(steps, ys[0], ":", color=GRAY, lw=1.5)
    axes.plot(steps, ys[pushed], color=INK, lw=2.5)
    axes.plot(steps[first - 1 : last + 1], ys[pushed, first - 1 : last + 1], color=ACCENT, lw=2.5)
    for k in steps[1:]:
        if abs(ys[0, k] - ys[pushed, k]) > 1:
            thumbnail(k, ys[0, k], guesses[0, k], 0.42, GRAY, 0.5)
        color, width = (ACCENT, 1.8) if first <= k <= last else (INK, 0.8)
        thumbnail(k, ys[pushed, k], guesses[pushed, k], 0.42, color, width)
    thumbnail(-0.7, ys[0, 0], noise / 2, 0.8, GRAY, 0.8)
    axes.set_xticks(steps[1:], steps[1:], fontsize=8, color=INK)
    axes.set_yticks([])
    for y, arrow, seen in ((3, "↑", digit), (-3, "↓", alone)):
        axes.text(-1.5, y, f"{arrow} classifier: {seen}", color=INK, va="center")
    axes.set_xlabel(f"step (orange: pushed toward {digit})", color=INK)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return figure


@cli.one_line_errors
def main(argv=None):
    parser = cli.ArgumentParser(__doc__)
    add = parser.add_argument
    add("--noise", type=cli.number(int, 0), default=NOISE, help="index of the noise image")
    add("--digit", type=int, choices=range(10), default=DIGIT, help="target digit")
    step = cli.number(int, 1, STEPS)
    steps_help = "first and last pushed step of the fork"
    add("--steps", type=step, nargs=2, default=(11, 11), metavar=("FIRST", "LAST"), help=steps_help)
    add_output_flag(parser)
    args = parser.parse_args(argv)
    first, last = args.steps
    if first > last:
        raise UserError(f"--steps must be increasing, got {first} {last}")
    ddpm, classifier = load_models()
    guesses, log_p = push_map(ddpm, classifier, args.noise, args.digit)
    [noise] = page_noise(args.noise, 1)
    figure = draw_fork(noise, guesses, log_p, args.digit, first, last)
    settings = {"noise": args.noise, "digit": args.digit, "steps": [first, last]}
    path = args.output / "fork.png"
    save_figure(path, figure, provenance(ddpm.unet, classifier, **settings))
    print(f"saved {path}")


if __name__ == "__main__":
    main()
