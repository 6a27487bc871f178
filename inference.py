"""Step 3: draw the digits that you ask for, by classifier guidance.

    python inference.py                                     # guided_output.png: the digit 1
    python inference.py --digits all --guidance-scale 0 1   # unguided above guided, same noise

The method is in guidance.py: the guided noise, ADM (14), and `sample`, the reverse loop.
"""

import re
from pathlib import Path

import torch

from classifier import load_classifier
from diffusion import NUM_TRAIN_TIMESTEPS, SAMPLERS, load_unet, sampling_timesteps
from guidance import (
    BATCH_SIZE,
    GUIDANCE_SCALE,
    SAMPLER,
    SCALE_GROWTH,
    STEPS,
    WINDOW,
    growing_scale,
    sample,
)
from mnist import check_same_dataset, class_numbers
from support import cli, pictures
from support.errors import require
from support.files import MODELS, check_outputs, output_folder, provenance
from support.streams import image_seeds

MAX_SHOWN = 20  # images of a digit in a picture
SAMPLING = ("guidance_scale", "scale_growth", "window", "sampler", "steps")  # flags of `sample`


def load_models(folder=MODELS, device="cpu"):
    """The U-Net and the guide of a folder. Raises UserError."""
    unet = load_unet(Path(folder, "ddpm_unet.pth"), device)
    classifier = load_classifier(Path(folder, "classifier.pth"), device)
    check_same_dataset(classifier.dataset, unet.dataset, classifier.path)
    return unet, classifier


def add_sampling_flags(parser, nargs=None, own_functions=False):
    """The flags of `sample`: several scales, and with nargs="+" several of the others too.

    With `own_functions`, the scale and the sampler may also be FILE.py:NAME, left as text.
    """

    def add(flag, value, help, nargs=nargs, **others):
        default = [value] if nargs else value
        parser.add_argument(flag, nargs=nargs, default=default, help=help, **others)

    number = cli.number(float, 0)

    def scale(text):
        return text if own_functions and ".py:" in text else number(text)

    scale_help = "w, s in pure noise; 0: unguided; several: a row each, same noise"
    add("--guidance-scale", GUIDANCE_SCALE, scale_help, nargs="+", type=scale)
    add("--scale-growth", SCALE_GROWTH, "g of s = w (1 + g SNR); 0: ADM's s, constant", type=number)
    window_help = "guide at LOW <= t < HIGH only, such as 250-750"
    add("--window", WINDOW, window_help, type=parse_window, metavar="LOW-HIGH")
    samplers = None if own_functions else SAMPLERS
    sampler_help = f"how x_t becomes less noisy: {', '.join(SAMPLERS)}"
    add("--sampler", SAMPLER, sampler_help, choices=samplers, metavar="NAME")
    steps = cli.number(int, 1, NUM_TRAIN_TIMESTEPS)
    add("--steps", STEPS, "of the sampler, a call of the networks each", type=steps)


def parse_window(text):
    """An argparse type: "250-750" as (250, 750)."""
    found = re.fullmatch(r"(\d+)-(\d+)", text)
    wanted = f"{text} is not LOW-HIGH, 0 <= LOW < HIGH <= 1000"
    require(found, wanted)
    low, high = map(int, found.groups())
    require(low < high <= NUM_TRAIN_TIMESTEPS, wanted)
    return low, high


def parse_args(argv):
    parser = cli.ArgumentParser(__doc__)
    add = parser.add_argument
    one_or_more = cli.number(int, 1)
    add("--digits", "--classes", nargs="+", default=["1"], help="names or numbers, or all")
    add("--num-samples", type=one_or_more, default=8, help="images of each digit")
    add_sampling_flags(parser)
    add("--batch-size", type=one_or_more, default=BATCH_SIZE, help="images at a time")
    grid_help = f"the grid, up to {MAX_SHOWN} images of each digit; without it, guided_output.png"
    add("--output", type=Path, help=grid_help)
    add("--npz", type=Path, help="all images of the last scale, with labels")
    add("--gif", type=Path, help="a film of x_t beside x_0, of the last scale")
    add("--models", type=Path, default=MODELS, metavar="DIR", help="folder of the checkpoints")
    cli.add_run_flags(parser)
    return parser.parse_args(argv)


@cli.one_line_errors
def main(argv=None):
    args = parse_args(argv)
    output = args.output or output_folder(args.models) / "guided_output.png"
    outputs = [path for path in (output, args.npz, args.gif) if path]
    check_outputs(*outputs)
    if max(args.guidance_scale) > 0:
        unet, classifier = load_models(args.models, args.device)
        log_p, paths = classifier.log_p, [unet.path, classifier.path]
    else:
        unet = load_unet(args.models / "ddpm_unet.pth", args.device)
        log_p, paths = None, [unet.path]
    digits = class_numbers(args.digits, unet.dataset["classes"])
    y = torch.tensor(digits).repeat_interleave(args.num_samples)
    seeds = image_seeds(args.seed, y.tolist())
    print(f"reads {args.models}; device: {args.device}", flush=True)

    scales = args.guidance_scale
    rows, film = [], pictures.Film(sampling_timesteps(args.steps))
    for number, scale in enumerate(scales, start=1):
        watch = film.add if args.gif and number == len(scales) else None
        images = sample(
            unet,
            log_p,
            y,
            seeds,
            scale=growing_scale(scale, args.scale_growth, args.window),
            sampler=args.sampler,
            steps=args.steps,
            batch_size=args.batch_size,
            watch=watch,
        )
        rows.append(images)

    recorded = ("scale_growth", "window", "sampler", "steps", "batch_size", "guidance_scale")
    settings = {flag: getattr(args, flag) for flag in recorded}
    settings |= {"digits": digits, "num_samples": args.num_samples}
    made_from = provenance(paths, seed=args.seed, **settings)
    shown = torch.arange(len(y)) % args.num_samples < MAX_SHOWN  # (N,)
    columns = min(args.num_samples, MAX_SHOWN)
    if columns == 1:  # one image of each digit: all in one row
        columns = len(digits)
    if len(scales) > 1:
        images = torch.cat([row[shown] for row in rows])
        labels = [f"w = {scale:g}" if scale else "unguided" for scale in scales]
        classes = [unet.dataset["classes"][digit] for digit in digits]
        pictures.save_labelled_grid(output, images, labels, classes, made_from)
    else:
        pictures.save_grid(output, rows[0][shown], columns, made_from)
    if args.npz:
        pictures.save_npz(args.npz, rows[-1], y)
    if args.gif:
        film.save(args.gif, rows[-1], shown, columns, made_from)
    print(f"images drawn: {len(y) * len(scales)}; written: {', '.join(map(str, outputs))}")


if __name__ == "__main__":
    main()
