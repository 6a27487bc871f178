"""Evaluate built-in methods, or a file of samples, with a judge that is never used for guidance.

    python -m evaluation --n 500                                  # a quick look; default n = 2,000
    python -m evaluation --guidance-scale 1 3 --sampler ddim      # constant scales
    python -m evaluation --method unguided guided classifier_free
    python -m evaluation --method --samples FILE.npz              # only your own samples

Accuracy is the fraction of samples that the judge classifies as the target digit. Frechet distance,
precision, and recall compare the samples with half of the real images of --split, in the judge's
feature space. The other half has its own row for comparison, as do the validation images with
--split test. In the CSV file, changes are relative to the first sampled row.

Choose settings with the default split and seed; report results with `--split test --seed 0`. To
measure your own guide, sampler, scale, or network, call `measure` in evaluation/table.py.
"""

from functools import partial
from pathlib import Path

import numpy as np
import torch

from data import Dataset, add_data_flags
from diffusion import load_ddpm
from evaluation.classifier_free import SCALE, classifier_free
from evaluation.judge import load_judge
from evaluation.table import measure
from inference import SAMPLER, SAMPLERS, STEPS, gradient, growing_scale, guided, load_models
from inference import sample
from support import cli
from support.cli import UserError
from support.files import MODELS

METHODS = ("guided", "unguided", "classifier_free")


def parse_args(argv):
    parser = cli.ArgumentParser(__doc__)
    add = parser.add_argument
    add(
        "--method",
        nargs="*",
        choices=METHODS,
        default=["guided"],
        help="methods to evaluate, one row each",
    )
    scale_help = "constant scales, one row each (default: each method's own)"
    add("--guidance-scale", nargs="+", type=cli.number(float, 0), metavar="S", help=scale_help)
    add("--sampler", choices=SAMPLERS, default=SAMPLER, help="sampling algorithm")
    add("--steps", type=cli.number(int, 1), default=STEPS, help="sampling steps")
    samples_help = ".npz files in openai/guided-diffusion's format, one row each"
    add("--samples", nargs="+", type=Path, default=[], metavar="FILE", help=samples_help)
    add("--n", type=cli.number(int, 100), default=2_000, help="samples per row")
    add(
        "--split",
        choices=("validation", "test"),
        default="validation",
        help="split of the real images",
    )
    add("--csv", type=cli.file(".csv"), help="file for the table")
    models_help = "folder of the checkpoints; without a judge.pth, the included judge is used"
    add("--models", type=Path, default=MODELS, help=models_help)
    cli.add_run_flags(parser, seed=1)
    add_data_flags(parser)
    return parser.parse_args(argv)


def make_rows(args):
    """The sampled rows that the flags select, for `measure`."""
    rows, names = {}, set(args.method)
    settings = {"sampler": args.sampler, "steps": args.steps}
    if names & {"guided", "unguided"}:
        ddpm, classifier = load_models(args.models, args.device)
        grad = gradient(classifier.log_p)
    if "classifier_free" in names:
        conditional = load_ddpm(args.models / "classifier_free.pth", args.device)
    for name in args.method:
        if name == "unguided":
            rows[name] = partial(sample, ddpm, **settings)
            continue
        for scale in args.guidance_scale or [None]:
            label = name if scale is None else f"{name}, s = {scale:g}"
            if name == "guided":
                eps_hat = guided(ddpm, grad, growing_scale(ddpm) if scale is None else scale)
                rows[label] = partial(sample, ddpm, eps_hat=eps_hat, **settings)
            else:
                eps_hat = classifier_free(conditional, SCALE if scale is None else scale)
                rows[label] = partial(sample, conditional, eps_hat=eps_hat, **settings)
    return rows


def read_samples(path, shape):
    """uint8 images (N, C, H, W), and labels (N,) or None, from a file in the format of `save_npz`.

    Raises UserError if the file cannot be read or its images do not have the shape (C, H, W).
    """
    try:
        arrays = np.load(path)
        images = torch.from_numpy(arrays["arr_0"]).permute(0, 3, 1, 2).contiguous()
        labels = torch.from_numpy(arrays["arr_1"]).long() if "arr_1" in arrays else None
    except Exception as error:  # NumPy raises many exception types
        raise UserError(f"cannot read {path}: {error}") from error
    if images.dtype != torch.uint8 or list(images.shape[1:]) != shape:
        channels, height, width = shape
        raise UserError(f"{path}: arr_0 must be uint8 (N, {height}, {width}, {channels})")
    if labels is not None and len(labels) != len(images):
        raise UserError(f"{path}: got {len(labels)} labels for {len(images)} images")
    return images, labels


@cli.one_line_errors
def main(argv=None):
    args = parse_args(argv)
    dataset = Dataset(args.dataset, args.size)
    print(dataset, flush=True)
    judge = args.models / "judge.pth"
    judge = load_judge(judge if judge.exists() else MODELS / "judge.pth", args.device)
    rows = make_rows(args)
    for path in args.samples:
        rows[str(path)] = read_samples(path, dataset.info["shape"])
    table = measure(rows, args.n, args.split, args.seed, dataset, judge, args.csv)
    for name, row in table.items():
        if "error" in row:
            raise UserError(f"{name}: {row['error']}")


if __name__ == "__main__":
    main()
