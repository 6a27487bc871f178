"""When can a push still change the digit? The path of one push, as on the web page.

    python -m examples.when                                    # output/fork.png
    python -m examples.when --noise 7 --digit 3 --steps 9 12 --size 3.5

The noise is guided toward the digit from one step to another, and unguided otherwise. The picture
shows the predicted image after each step, and, as the height, which digit the classifier sees in
the noisy one. With --size, a push in any one step is equally large; by default, late pushes are
larger.
"""

import numpy as np
import torch

from diffusion import add_noise, sampling_times, snr, timesteps
from examples.samplers import written_out
from examples.shared import FAST, add_output_flag
from inference import gradient, guided, load_models, sample, trajectory
from support import cli
from support.pictures import ACCENT, INK, PAPER, ink_on_paper, save_figure

NOISE, DIGIT = 5, 5
STEPS = 20
SIZE = 3.5  # of a push in one step, on the web page
DECADES = 3  # of the ratio between the digits that the fork shows, in both directions
RENOISED_TIMES = (99, 199, 299, 399)
CERTAIN = 0.8  # the least probability of a digit that the classifier recognizes
RENOISING = 1_000_000  # index of the noise that is added to a result
GRAY = "#7a828c"
TINT = tuple(channel / 255 for channel in (248, 217, 192))  # of the pushed steps


def growing_scale(ddpm):
    """The scale of the map: 1.5 + 12 SNR_t."""
    return lambda t: 1.5 + 12 * snr(ddpm.abar[t])


def in_window(ddpm, grad):
    """A gradient that is 0 before a first step and from an end on; y (B, 3): digit, first, end."""
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


def steps_of(ddpm, classifier, numbers, y, scale):
    """Sample from noise images `numbers` (N), with y (N, 3) as for `in_window`: (t, x_t, x_0)."""
    predict = guided(ddpm, in_window(ddpm, gradient(classifier.log_p)), scale)
    return trajectory(ddpm, y, numbers, predict, steps=STEPS, loop=on_page_noise)


def equal_scale(ddpm, classifier, noise=NOISE, digit=DIGIT, size=SIZE):
    """The scale with which a push in one step moves the next image by `size`: a function of t.

    `size` is the norm of the change along the unpushed path, which is linear in the scale.
    """
    y = torch.tensor([(digit, 0, 0), *((digit, k, k + 1) for k in range(STEPS))])
    times, x_t, x_0 = zip(*steps_of(ddpm, classifier, [noise] * len(y), y, scale=1))
    after = enumerate([*x_t[1:], x_0[-1]])  # x_u of step k, if step k is pushed, and without a push
    norms = {times[k]: (x_u[k + 1] - x_u[0]).norm().item() for k, x_u in after}
    return lambda t: size / norms[t]


@torch.no_grad()
def pushed_paths(ddpm, classifier, numbers, y, scale=None):
    """The paths from noise images `numbers` (N), with y (N, 3) as for `in_window`.

    The scale is a function of t, by default the growing one. Returns:
        guesses: (N, STEPS + 1, 1, 28, 28), the predicted images before each step, and the sample.
        log_p: (N, STEPS + 1, 10), the classifier's log p of every digit for the same images.
    """
    steps = steps_of(ddpm, classifier, numbers, y, scale or growing_scale(ddpm))
    guesses, logits = [], []
    for t, x_t, x_0 in steps:
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


def heights(log_p, digit):
    """log10 p(digit) / p(unguided digit) of each state (N, STEPS + 1), clipped, from -1 to 1."""
    alone = log_p[0, -1].argmax()
    ratio = (log_p[..., digit] - log_p[..., alone]) / np.log(10)
    return (ratio / DECADES).clamp(-1, 1)


def kinds(log_p, surprises, threshold, digit, alone):
    """The kind of each result: "target", "alone" (the unguided digit), "other", or "broken".

    It is broken if the classifier is undecided, or if its `surprise` is above the threshold,
    `most_surprise`. On 200 results (tests/readable.csv), this agrees with a reader in 177.
    """
    names = {alone: "alone", digit: "target"}
    known = [names.get(number, "other") for number in log_p.argmax(dim=1).tolist()]
    broken = (surprises > threshold) | (log_p.amax(dim=1) < np.log(CERTAIN))
    return ["broken" if is_broken else kind for kind, is_broken in zip(known, broken.tolist())]


def draw_fork(noise, guesses, log_p, digit, first, last):
    """The unguided path, and that of the push in steps `first` to `last`, as a figure."""
    from matplotlib.figure import Figure  # imported here, so that scripts start faster
    from matplotlib.patches import Rectangle

    steps, (alone, pushed) = range(STEPS + 1), 3 * heights(log_p, digit)
    figure = Figure(figsize=(10.4, 4), layout="constrained", facecolor=(PAPER / 255,) * 3)
    axes = figure.add_subplot(facecolor=(PAPER / 255,) * 3, aspect="equal")
    axes.set(xlim=(-1.6, STEPS + 0.6), ylim=(-3.9, 3.9), yticks=[])

    def thumbnail(x, y, image, radius, color, width):
        extent = (x - radius, x + radius, y - radius, y + radius)
        picture = ink_on_paper(image[None])[0, 0]
        axes.imshow(picture, cmap="gray", vmin=0, vmax=255, extent=extent, zorder=3)
        frame = {"fill": False, "ec": color, "lw": width, "zorder": 4}
        axes.add_patch(Rectangle(extent[::2], 2 * radius, 2 * radius, **frame))

    axes.axvspan(first - 0.5, last + 0.5, color=TINT, alpha=0.5, lw=0)
    axes.plot(steps, alone, ":", color=GRAY, lw=1.5)
    axes.plot(steps, pushed, color=INK, lw=2.5)
    axes.plot(steps[first - 1 : last + 1], pushed[first - 1 : last + 1], color=ACCENT, lw=2.5)
    for k in steps[1:]:
        if abs(alone[k] - pushed[k]) > 1:
            thumbnail(k, alone[k], guesses[0, k], 0.42, GRAY, 0.5)
        color, width = (ACCENT, 1.8) if first <= k <= last else (INK, 0.8)
        thumbnail(k, pushed[k], guesses[1, k], 0.42, color, width)
    thumbnail(-0.7, alone[0], noise / 2, 0.8, GRAY, 0.8)
    axes.set_xticks(steps[1:], steps[1:], fontsize=8, color=INK)
    for y, arrow, seen in ((3, "↑", digit), (-3, "↓", log_p[0, -1].argmax().item())):
        axes.text(-1.5, y, f"{arrow} classifier: {seen}", color=INK, va="center")
    axes.set_xlabel(f"step (orange: pushed toward {digit})", color=INK)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return figure


@cli.one_line_errors
def main(argv=None):
    parser = cli.make_parser(__doc__)
    add = parser.add_argument
    add("--noise", type=cli.number(int, 0), default=NOISE, help="index of the noise image")
    add("--digit", type=int, choices=range(10), default=DIGIT, help="target digit")
    step, steps_help = cli.number(int, 1, STEPS), "first and last pushed step"
    add("--steps", type=step, nargs=2, default=(11, 11), metavar=("FIRST", "LAST"), help=steps_help)
    add("--size", type=cli.number(float, 0), help="norm of the change by a push in one step")
    add_output_flag(parser)
    args = parser.parse_args(argv)
    (first, last), noise, digit = sorted(args.steps), args.noise, args.digit
    ddpm, classifier = load_models()
    scale = equal_scale(ddpm, classifier, noise, digit, args.size) if args.size else None
    y = torch.tensor([(digit, 0, 0), (digit, first - 1, last)])
    guesses, log_p = pushed_paths(ddpm, classifier, [noise] * 2, y, scale)
    figure = draw_fork(page_noise(noise, 1)[0], guesses, log_p, digit, first, last)
    path = args.output / "fork.png"
    save_figure(path, figure)
    print(f"saved {path}")


if __name__ == "__main__":
    main()
