"""Evaluate built-in methods, or a file of samples, with a judge that is never used for guidance.

    python -m evaluation --n 500                                  # a quick look; default n = 2,000
    python -m evaluation --guidance-scale 1 3 --growth 0          # constant scales
    python -m evaluation --method unguided guided classifier_free
    python -m evaluation --method --samples FILE.npz              # only your own samples

results/README.md explains the columns. Choose settings with the default split and seed; report
results with `--split test --seed 0`. To measure your own guide, sampler, scale, or network, call
`measure` in evaluation/measure.py.
"""

import sys
from pathlib import Path

import numpy as np
import torch

from data import Dataset, add_dataset_flags
from evaluation.classifier_free import SCALE
from evaluation.judge import load_judge
from evaluation.measure import SEED, check_dataset, load_method, measure, named_scales, scale_rows
from evaluation.measure import unguided
from inference import GROWTH, GUIDANCE_SCALE, add_sampling_flags
from support import cli
from support.cli import UserError
from support.files import MODELS


@cli.one_line_errors
def main(argv=None):
    parser = cli.make_parser(__doc__)
    add, choices = parser.add_argument, ["guided", "unguided", "classifier_free"]
    add("--method", nargs="*", choices=choices, default=["guided"], help="methods to evaluate")
    samples_help = ".npz files in openai/guided-diffusion's format, one row each"
    add("--samples", nargs="+", type=Path, default=[], metavar="FILE", help=samples_help)
    add("--n", type=cli.number(int, 100), default=2_000, help="samples per row (default: 2000)")
    add("--split", choices=["validation", "test"], default="validation", help="real images")
    add("--csv", type=cli.output(".csv"), help="file for the table")
    add_sampling_flags(parser)
    parser.set_defaults(guidance_scale=None, growth=None)  # each method has its own
    cli.add_run_flags(parser, seed=SEED)
    add_dataset_flags(parser)
    args = parser.parse_args(argv)
    dataset = Dataset(args.dataset, args.size)
    print(dataset)

    judge = args.models / "judge.pth"
    judge = load_judge(judge if judge.exists() else MODELS / "judge.pth", args.device)
    rows, columns, settings = {}, {}, {"sampler": args.sampler, "steps": args.steps}
    for method in args.method:
        ddpm, predict, networks = load_method(method, args.models, args.device)
        check_dataset(ddpm.unet, dataset, f"the network in {args.models}", "pass its --dataset")
        columns |= settings | networks
        if method == "unguided":
            rows[method] = unguided(ddpm, **settings)
            continue
        s, b = (GUIDANCE_SCALE, GROWTH) if method == "guided" else (SCALE, 0)
        b = b if args.growth is None else args.growth
        scales = named_scales(ddpm, *[(s, b) for s in args.guidance_scale or [s]])
        rows |= scale_rows(ddpm, predict, scales, f"{method.replace('_', '-')}, ", **settings)
    rows |= {str(path): read_samples(path, dataset.info) for path in args.samples}
    measure(rows, args.n, args.split, args.seed, dataset, judge, args.csv, columns)


def read_samples(path, dataset_info):
    """uint8 images (N, C, H, W) and labels (N,) or None from a file in the format of `npz`.

    Raises UserError if the file is corrupted, or does not fit the dataset.
    """
    (channels, height, width), K = dataset_info["shape"], len(dataset_info["classes"])
    try:
        arrays = dict(np.load(path))
    except Exception as error:  # NumPy raises many exception types
        raise UserError(f"cannot read {path}: {error}") from error
    images, labels = arrays.get("arr_0", np.empty(0)), arrays.get("arr_1")
    if images.dtype != np.uint8 or images.shape[1:] != (height, width, channels):
        raise UserError(f"{path}: arr_0 must be uint8 (N, {height}, {width}, {channels})")
    images = torch.from_numpy(images).permute(0, 3, 1, 2)
    if labels is None:
        return images, None
    if labels.shape != images.shape[:1] or not np.isin(labels, np.arange(K)).all():
        raise UserError(f"{path}: arr_1 must be one integer from 0 to {K - 1} per image")
    return images, torch.from_numpy(labels).long()


if __name__ == "__main__":
    sys.argv[0] = "python -m evaluation"  # the program's name in messages
    main()
