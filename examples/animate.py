"""Draw results/guided.gif, in which noise becomes the ten digits: python -m examples.animate

Rows: x_t, the U-Net's prediction of x_0, and the shift that guidance makes in this prediction,
s_t (1 - abar_t) / sqrt(abar_t) grad log p(y | x_t, t), on one color scale from -1 to 1.
"""

import io

import torch
from matplotlib.figure import Figure
from PIL import Image

from inference import gradient, growing_scale, guided, load_models, trajectory
from support.files import ROOT, write_files
from support.pictures import draw_rows, png

SEED = 7
NUM_FRAMES = 16
COLORS = 64
FRAME_MS, LAST_FRAME_MS = 300, 2_000


def frame(title, x_t, x_0, shift):
    """A PIL image of one step."""
    rows = {f"noisy image\n{title}": x_t, "expected\ndigit": x_0, "push of the\nclassifier": shift}
    draw_rows(figure := Figure(), rows, range(10), signed=["push of the\nclassifier"])
    picture = Image.open(io.BytesIO(png(figure)))
    return picture.convert("RGB").quantize(COLORS, Image.Quantize.FASTOCTREE)


def main(path=ROOT / "results/guided.gif"):
    ddpm, classifier = load_models()
    grad, y = gradient(classifier.log_p), torch.arange(10)
    scale, frames = growing_scale(ddpm), []
    steps = list(trajectory(ddpm, y, [SEED] * len(y), guided(ddpm, grad, scale)))  # one noise
    for k in torch.linspace(0, len(steps) - 1, NUM_FRAMES).round().int().tolist():
        t, x_t, x_0 = steps[k]
        abar_t = ddpm.abar[t]
        shift = scale(t) * (1 - abar_t) / abar_t.sqrt() * grad(x_t, t, y)
        frames.append(frame(f"t = {t}", x_t, ddpm.x_0(x_t, t), shift))
    end = frame("done", x_0, x_0, shift)
    durations = [LAST_FRAME_MS] + [FRAME_MS] * NUM_FRAMES + [LAST_FRAME_MS]
    file, many = io.BytesIO(), {"save_all": True, "append_images": [*frames, end], "loop": 0}
    end.save(file, "gif", duration=durations, **many)  # a still viewer shows the first frame
    write_files({path: file.getvalue()})


if __name__ == "__main__":
    main()
