"""Completes test digits from their upper half: the guide is the likelihood of the seen pixels.

    python examples/inpainting.py    # results/inpainting.png

With the class's log p too, the sum is not exact at t > 0. Variance: chosen on validation digits."""

import sys
from functools import partial
from pathlib import Path
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from diffusion import abar, predicted_x_0
from evaluation.examples import one_line_errors, parse_args, read, save_rows, share
from inference import load_models, sample
from mnist import load_mnist


def seen(unet, log_p, x_t, t, y):
    """log p of the pixels y[:, :392], and by log_p of the label y[:, 392], y (B, 393): (B,)."""
    error = predicted_x_0(x_t, t, unet(x_t, t).sample)[:, 0, :14].flatten(1) - y[:, :392]
    pixels = -error.square().sum(dim=1) / (2 * (0.02 + 0.1 * (1 - abar(t)).flatten()))
    return pixels + log_p(x_t, t, y[:, 392].long()) if log_p else pixels


@one_line_errors
def main(argv=None):
    args, (unet, classifier) = parse_args(__doc__, argv, "inpainting.png", n=200), load_models()
    x_0, labels = (part[: args.n] for part in load_mnist("test"))
    y = torch.cat([x_0[:, 0, :14].flatten(1), labels[:, None]], dim=1)
    rows, right = {"digit": x_0, "seen": x_0 * (torch.arange(28) < 14)[:, None]}, {}
    for name, log_p in (("no class", None), ("with class", classifier.log_p)):
        rows[name] = sample(unet, partial(seen, unet, log_p), y, scale_growth=0, steps=50)  # s = 1
        right[name] = share(read(rows[name]) == labels)
        print(f"{name}: read as its label: {right[name]}")
    save_rows(args.folder / "inpainting.png", rows, labels.tolist(), n=args.n, right=right)


if __name__ == "__main__":
    main()
