"""Draw results/guided.gif, in which noise becomes the ten digits: python -m examples.animate

Bottom row: the classifier's gradient. Orange adds ink, blue removes it.
"""

import torch
from PIL import Image

from inference import gradient, growing_scale, guided, load_models, trajectory
from support.figures import BLUE, ORANGE
from support.files import ROOT, atomic_write
from support.pictures import PAPER, ink_on_paper, labeled_grid
from support.seeds import image_seeds

NUM_FRAMES = 13
COLORS = 64
FRAME_MS, LAST_FRAME_MS = 160, 3_000


def in_colors(grad):
    """Gradients (N, 1, H, W) as uint8 colors (N, 3, H, W), each scaled by its largest value."""
    values = grad / grad.abs().amax(dim=(1, 2, 3), keepdim=True)
    orange, blue = (torch.tensor(color).view(3, 1, 1) for color in (ORANGE, BLUE))
    color = torch.where(values > 0, orange, blue)
    return (PAPER + (color - PAPER) * values.abs()).round().to(torch.uint8)


def frame(t, x_t, x_0, grad):
    """A PIL image of one step."""
    rows = (f"t = {t}", ink_on_paper(x_t)), ("predicted", ink_on_paper(x_0))
    grid = labeled_grid([*rows, ("gradient", in_colors(grad))], [""] * len(x_t))
    return grid.quantize(COLORS, Image.Quantize.FASTOCTREE)


def main(path=ROOT / "results/guided.gif"):
    ddpm, classifier = load_models()
    grad, y = gradient(classifier.log_p), torch.arange(10)
    predict = guided(ddpm, grad, growing_scale(ddpm))
    steps = list(trajectory(ddpm, y, image_seeds(0, y.tolist()), predict))
    shown = torch.linspace(0, len(steps) - 1, NUM_FRAMES).round().int().tolist()
    frames = [frame(t, x_t, x_0, grad(x_t, t, y)) for t, x_t, x_0 in [steps[k] for k in shown]]
    t, x_t, x_0 = steps[-1]
    end = frame("end", x_0, x_0, grad(x_t, t, y))
    durations = [LAST_FRAME_MS] + [FRAME_MS] * (len(frames) + 1)
    with atomic_write(path) as file:  # viewers that do not play animations show the first frame
        end.save(
            file, "gif", save_all=True, append_images=[*frames, end], duration=durations, loop=0
        )


if __name__ == "__main__":
    main()
