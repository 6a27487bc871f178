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

from pathlib import Path

import numpy as np
import torch

from data import Dataset, add_data_flags
from evaluation.judge import load_judge
from evaluation.measure import SEED, measure, name_of
from evaluation.report import Networks, text_of
from inference import GROWTH, SAMPLER, SAMPLERS, STEPS
from support import UserError, cli
from support.files import MODELS

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
    """The sampled rows that the flags select, for `measure`; names say what is not the default."""
    run = 0 if args.models.resolve() == MODELS else args.models
    networks = Networks(run, args.sampler, args.steps, args.device)
    info = networks.ddpm.info["dataset"]
    if info != dataset.info:
        trained_on = name_of(info)
        raise UserError(
            f"the networks in {args.models} are for {trained_on}, but --dataset is {args.dataset}"
        )
    others = {
        args.sampler: SAMPLER,
        f"{args.steps} steps": f"{STEPS} steps",
        f"seed {args.seed}": f"seed {SEED}",
        str(args.models.resolve()): str(MODELS),
    }
    suffix = "".join(f", {text}" for text, default in others.items() if text != default)
    rows = {}
    for name in args.method:
        make, scales = getattr(networks, name), list(args.guidance_scale)
        scales += [(1, b) for b in args.growing_scale]
        if name == "unguided" or not scales:
            default = [(1, GROWTH)] if name == "guided" else []
            rows[name + suffix] = make(*default)
        else:
            rows |= {f"{name}, {text_of(scale)}{suffix}": make(scale) for scale in scales}
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
    table = measure(rows, args.n, args.split, args.seed, dataset, judge, args.csv)
    for name, row in table.items():
        if "error" in row:
            raise UserError(f"{name}: {row['error']}")


if __name__ == "__main__":
    main()
