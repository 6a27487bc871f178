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
measure your own guide, sampler, scale, or network, call `measure` in evaluation/measure.py.
"""

from functools import partial
from pathlib import Path

import numpy as np
import torch

from data import Dataset, add_data_flags
from diffusion import load_ddpm
from evaluation.classifier_free import SCALE, classifier_free
from evaluation.judge import load_judge
from evaluation.measure import SEED, measure, name_of
from inference import SAMPLER, SAMPLERS, STEPS, gradient, guided, load_models, named_scales
from inference import sample
from support import UserError, cli
from support.files import MODELS, sha256

METHODS = ("guided", "unguided", "classifier_free")


def parse_args(argv):
    parser = cli.make_parser(__doc__)
    add = parser.add_argument
    method_help = "methods to evaluate, one row each"
    add("--method", nargs="*", choices=METHODS, default=["guided"], help=method_help)
    scale_help = "constant scales, one row each (default: each method's own)"
    scale = cli.number(float, 0)
    add("--guidance-scale", nargs="+", type=scale, default=[], metavar="S", help=scale_help)
    growing_help = "growing scales 1 + B SNR_t, one row each"
    add("--growing-scale", nargs="+", type=scale, default=[], metavar="B", help=growing_help)
    add("--sampler", choices=SAMPLERS, default=SAMPLER, help="default: %(default)s")
    add("--steps", type=cli.number(int, 1), default=STEPS, help="default: %(default)s")
    samples_help = ".npz files in openai/guided-diffusion's format, one row each"
    add("--samples", nargs="+", type=Path, default=[], metavar="FILE", help=samples_help)
    add("--n", type=cli.number(int, 100), default=2_000, help="samples per row (default: 2000)")
    splits = "validation", "test"
    add("--split", choices=splits, default=splits[0], help="default: %(default)s")
    add("--csv", type=cli.output(".csv"), help="file for the table")
    models_help = "folder of the checkpoints; without a judge.pth, the included judge is used"
    add("--models", type=Path, default=MODELS, help=models_help)
    cli.add_run_flags(parser, seed=SEED)
    add_data_flags(parser)
    return parser.parse_args(argv)


def make_rows(args, dataset):
    """The sampled rows that the flags select, for `measure`: name -> function (y, seeds)."""
    ddpm, classifier = load_models(args.models, args.device)
    if ddpm.info["dataset"] != dataset.info:
        trained_on = name_of(ddpm.info["dataset"])
        raise UserError(
            f"the networks in {args.models} are for {trained_on}, but --dataset is {args.dataset}"
        )
    draw = partial(sample, sampler=args.sampler, steps=args.steps)
    rows, scales = {}, (args.guidance_scale, args.growing_scale)
    for method in args.method:
        if method == "unguided":
            rows[method] = partial(draw, ddpm)
        elif method == "guided":
            grad = gradient(classifier.log_p)
            for label, scale in named_scales(ddpm, *scales):
                rows[f"guided, {label}"] = partial(draw, ddpm, predict=guided(ddpm, grad, scale))
        else:
            labeled = load_ddpm(args.models / "classifier_free.pth", args.device)
            for label, s in named_scales(labeled, *(scales if any(scales) else [[SCALE]])):
                predict = classifier_free(labeled, s)
                rows[f"classifier-free, {label}"] = partial(draw, labeled, predict=predict)
    return rows


def read_samples(path, shape):
    """uint8 images (N, C, H, W), and labels (N,) or None, from a file in the format of `save_npz`.

    Raises UserError if the file cannot be read or its images do not have the shape (C, H, W).
    """
    channels, height, width = shape
    try:
        arrays = np.load(path)
        images = torch.from_numpy(arrays["arr_0"])
        labels = torch.from_numpy(arrays["arr_1"]).long() if "arr_1" in arrays else None
    except Exception as error:  # NumPy raises many exception types
        raise UserError(f"cannot read {path}: {error}") from error
    if images.dtype != torch.uint8 or images.shape[1:] != (height, width, channels):
        raise UserError(f"{path}: arr_0 must be uint8 (N, {height}, {width}, {channels})")
    return images.permute(0, 3, 1, 2).contiguous(), labels


@cli.one_line_errors
def main(argv=None):
    args = parse_args(argv)
    dataset = Dataset(args.dataset, args.size)
    print(dataset, flush=True)
    judge = args.models / "judge.pth"
    judge = load_judge(judge if judge.exists() else MODELS / "judge.pth", args.device)
    rows = make_rows(args, dataset) if args.method else {}
    for path in args.samples:
        rows[str(path)] = read_samples(path, dataset.info["shape"])
    columns = {"sampler": args.sampler, "steps": args.steps}
    columns |= {f"sha256 of {path.name}": sha256(path) for path in args.models.glob("*.pth")}
    table = measure(rows, args.n, args.split, args.seed, dataset, judge, args.csv, columns)
    for name, row in table.items():
        if "error" in row:
            raise UserError(f"{name}: {row['error']}")


if __name__ == "__main__":
    main()
