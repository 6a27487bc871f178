"""Measure step 3 with a judge that never guides.

    python evaluate.py                      # the final table: n = 5,000, on the test set -> results/final_5000.csv
    python evaluate.py --quick              # n = 500, printed only
    python evaluate.py --sweep scales       # ... samplers, controls: n = 2,000, on the validation set -> results/*.csv, *.png
    python evaluate.py --sweep guide        # is the guide's gradient right? -> results/guide.csv, guide.png
    python evaluate.py --train-judge        # models/judge.pth: a classifier of clean digits, another network than the guide

Accuracy is the share of samples that the judge finds to be the asked digit. Fréchet distance, precision and recall
compare the judge's features of samples and of real images. Each stands beside what real images get at the same n.

Needs `pip install -r requirements-dev.txt`. With --models DIR, everything is written to DIR.
"""

import csv
import functools
import io
import math
from pathlib import Path

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from diffusers.optimization import get_cosine_schedule_with_warmup
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

try:
    from torchmetrics.image.fid import FrechetInceptionDistance
except ModuleNotFoundError:  # said in one line by `main`: only evaluate.py needs it
    FrechetInceptionDistance = None

import inference
from classifier import NUM_CLASSES, Classifier
from diffusion import (
    ArgumentParser,
    TrainingState,
    UNet,
    UserError,
    add_common_flags,
    add_training_flags,
    atomic_write,
    batch_indices,
    check_writable,
    generator,
    load_checkpoint,
    make_folder,
    make_scheduler,
    number,
    one_line_errors,
    pick_device,
    provenance,
    results_folder,
    save_checkpoint,
    save_figure,
    sha256,
    stratified_timesteps,
)
from inference import (
    classifier_gradient,
    clipped_noise,
    draw_samples,
    guided_noise,
    make_labels,
    reverse_process,
    save_grid,
    scale_at,
)
from mnist import load_mnist

JUDGE_STEPS = 5_148  # twelve epochs
JUDGE_BATCH_SIZE = 128
JUDGE_LEARNING_RATE = 2e-3
JUDGE_EMA_DECAY = 0.999

NUM_NEIGHBOURS = 3  # k of precision and recall, as Kynkäänniemi et al. 2019
FAST = ("sde-dpmsolver++", 10)  # sampler and steps that README names for speed
NUM_FINAL, NUM_SWEEP, NUM_QUICK, NUM_LONG = 5_000, 2_000, 500, 100
SCALES = (0, 1, 2, 5, 10, 15, 20, 25, 30, 50, 100)
SCALE_TICKS = (0, 1, 2, 5, 10, 25, 50, 100)
SAMPLER_STEPS = (5, 10, 20)
MORE_STEPS = 50  # of the default sampler only
LONG_STEPS = (50, 1_000)
EARLY_SCALES = (1.0, 2.0, math.inf)  # beside the default
ROOTLESS_SCALES = (10.0,)  # without sqrt(1 - abar_t), beside the default
ONE_SCALE = (5.0, 10.0)  # the same at every t
WITH_ABAR = {"guidance_scale": 30.0, "early_scale": math.inf}  # of "s grows with abar_t", which has a limit of its own
NUM_CONTROLS_SHOWN = 12  # the first rows of the controls: the picture
GUIDE_SCALES = (0.5, 1, 1.5, 2, 3, 5)
GUIDE_BANDS = ((0, 100), (100, 300), (300, 500), (500, 700), (700, 850), (850, 1000))
PICTURE_SCALES = (0, 1, 2, 5, 20, 100, 10_000, 100_000)


# --- the judge ------------------------------------------------------------------------------------------------------


class Judge(nn.Module):
    """A classifier of clean digits: plain convolutions, BatchNorm, ReLU, max-pooling; nothing that the guide has.

    Args:
        num_features: width of the features before the last layer, in which distances are measured.
    """

    def __init__(self, num_features=128):
        super().__init__()
        self.config = {"num_features": num_features}
        self.num_features = num_features
        self.convolutions = nn.Sequential(
            *self._block(1, 32, 5), nn.MaxPool2d(2), *self._block(32, 64, 3), nn.MaxPool2d(2),
            *self._block(64, 64, 3), *self._block(64, 128, 3), nn.Flatten(),
        )  # fmt: skip
        self.fully_connected = nn.Sequential(
            nn.Dropout(0.3), nn.Linear(128 * 7 * 7, num_features), nn.BatchNorm1d(num_features), nn.ReLU()
        )
        self.linear = nn.Linear(num_features, NUM_CLASSES)

    @staticmethod
    def _block(in_channels, out_channels, size):
        return nn.Conv2d(in_channels, out_channels, size, padding=size // 2, bias=False), nn.BatchNorm2d(out_channels), nn.ReLU()

    def features(self, x_0):
        """(B, 1, 28, 28) in [-1, 1] -> (B, num_features)."""
        return self.fully_connected(self.convolutions(x_0))

    def forward(self, x_0):
        """(B, 1, 28, 28) in [-1, 1] -> logits (B, 10)."""
        return self.linear(self.features(x_0))


def random_affine(images, rng, degrees=12.0, scale=0.12, shear=0.15, shift=0.1):
    """Turn, scale, shear and shift each image by its own random amounts: (B, 1, 28, 28) in [-1, 1], to the same."""
    u = torch.rand(5, len(images), generator=rng) * 2 - 1
    angle, log_scale, shear = u[0] * math.radians(degrees), u[1] * scale, u[2] * shear
    cos, sin, zoom = angle.cos(), angle.sin(), log_scale.exp()
    rows = [
        torch.stack([zoom * cos, zoom * (shear * cos - sin), u[3] * 2 * shift], 1),
        torch.stack([zoom * sin, zoom * (shear * sin + cos), u[4] * 2 * shift], 1),
    ]
    theta = torch.stack(rows, dim=1)  # (B, 2, 3)
    grid = F.affine_grid(theta, images.shape, align_corners=False)
    return F.grid_sample(images + 1, grid, align_corners=False) - 1  # what comes in from outside is background, -1


@torch.no_grad()
def judge_images(judge, images, device="cpu", batch_size=500):
    """The judge's features (N, D) and predictions (N,) of images (N, 1, 28, 28) in [-1, 1]; on the CPU."""
    parts = [judge.features(batch.to(device)) for batch in images.split(batch_size)]
    features = torch.cat(parts)
    return features.cpu(), judge.linear(features).argmax(dim=1).cpu()


def accuracy_of(judge, images, labels, device="cpu"):
    """The share of images that the judge finds to be their label."""
    return (judge_images(judge, images, device)[1] == labels).float().mean().item()


def fit_judge(judge, ema, best, images, labels, validation, state, optimizer, lr_scheduler, device):
    """Minimise cross-entropy on randomly turned and shifted images; `best` keeps the averaged weights that validate best."""
    steps, batch_size, seed = (state.settings[name] for name in ("steps", "batch_size", "seed"))
    bar = tqdm(total=steps, initial=state.step, desc="judge", unit="step", disable=None)
    while state.step < steps:
        torch.manual_seed(seed + state.step)  # for dropout
        index = batch_indices(len(images), batch_size, seed, state.step)
        x_0 = random_affine(images[index], generator(seed, 3, state.step))
        loss = F.cross_entropy(judge(x_0.to(device)), labels[index].to(device), label_smoothing=0.05)
        state.record(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        lr_scheduler.step()
        ema.update_parameters(judge)

        bar.update()
        bar.set_postfix(loss=f"{state.losses[-1]:.3f}", refresh=False)
        if (state.step + 1) % (len(images) // batch_size) == 0 or state.step + 1 == steps:
            accuracy = accuracy_of(ema.module.eval(), *validation, device)
            if accuracy >= max((entry["validation_accuracy"] for entry in state.history), default=0):
                best.load_state_dict(ema.module.state_dict())
            state.history.append({"step": state.step + 1, "validation_accuracy": accuracy})
            tqdm.write(f"step {state.step + 1:5d}  {state.elapsed():4.0f} s  validation accuracy {accuracy:.4f}")
        state.end_step()
    bar.close()


def train_judge(args, device):
    """Train the judge on the 55,000 training images, choose its epoch by validation accuracy, report it on the test set."""
    make_folder(args.models)
    path, state_path = args.models / "judge.pth", args.models / "judge.state.pth"
    check_writable(path, state_path)
    images, labels = load_mnist("train", args.data)
    torch.manual_seed(args.seed)  # for the initial weights
    judge, best = Judge().to(device), Judge().to(device)
    ema = AveragedModel(judge, multi_avg_fn=get_ema_multi_avg_fn(JUDGE_EMA_DECAY), use_buffers=True)
    optimizer = torch.optim.AdamW(judge.parameters(), lr=args.lr, weight_decay=0.02, fused=True)
    lr_scheduler = get_cosine_schedule_with_warmup(optimizer, args.steps // 20, args.steps)
    settings = {"steps": args.steps, "batch_size": args.batch_size, "lr": args.lr, "seed": args.seed}
    parts = {"network": judge, "ema": ema, "best": best, "optimizer": optimizer, "lr_scheduler": lr_scheduler}
    state = TrainingState(state_path, settings, parts, args.resume, "evaluate.py --train-judge")
    with state.stop_between_steps():
        fit_judge(judge, ema, best, images, labels, load_mnist("validation", args.data), state, optimizer, lr_scheduler, device)

    chosen = max(reversed(state.history), key=lambda entry: entry["validation_accuracy"])
    test_accuracy = accuracy_of(best.eval(), *load_mnist("test", args.data), device)
    summary = {**settings, "seconds": state.elapsed(), "chosen": chosen, "test_accuracy": test_accuracy}
    save_checkpoint(path, best, args.seed, summary)
    state.done()
    print(f"{path}: {args.steps} steps in {state.elapsed():.0f} s; that of step {chosen['step']} is kept: "
          f"validation accuracy {chosen['validation_accuracy']:.4f}, test accuracy {test_accuracy:.4f}")  # fmt: skip


# --- the measures ---------------------------------------------------------------------------------------------------


def wilson_interval(correct, n, z=1.96):
    """The 95 % interval of a share (Wilson 1927): low and high."""
    share = correct / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return centre - half, centre + half


def frechet_distance(real, fake):
    """Fréchet distance (Heusel et al. 2017) between two sets of the judge's features, (N, D) each."""
    identity = nn.Identity().eval()  # the features are the judge's already
    identity.num_features = real.shape[1]
    metric = FrechetInceptionDistance(feature=identity)
    metric.update(real.double(), real=True)
    metric.update(fake.double(), real=False)
    return metric.compute().item()


def covered(points, manifold, k=NUM_NEIGHBOURS, chunk=1_000):
    """The share of points (N, D) on a manifold of points (M, D): nearer to one of these than its k-th neighbour is to it."""
    radius = torch.cat([torch.cdist(part, manifold).kthvalue(k + 1, dim=1).values for part in manifold.split(chunk)])
    inside = [(torch.cdist(part, manifold) <= radius).any(dim=1) for part in points.split(chunk)]
    return torch.cat(inside).float().mean().item()


def precision_recall(real, fake):
    """Kynkäänniemi et al. 2019: the share of samples among the real images, and the share of real images among the samples."""
    return covered(fake, real), covered(real, fake)


def measure(judge, images, labels, real_features, device="cpu"):
    """All measures of images (N, 1, 28, 28) that were asked to be `labels` (N,): a dict of strings, rounded for the table."""
    features, prediction = judge_images(judge, images, device)
    correct = prediction == labels
    low, high = wilson_interval(correct.sum().item(), len(labels))
    precision, recall = precision_recall(real_features, features)
    per_digit = " ".join(f"{correct[labels == y].float().mean():.3f}" if (labels == y).any() else "-" for y in range(NUM_CLASSES))
    return {
        "accuracy": f"{correct.float().mean():.4f}",
        "accuracy_low": f"{low:.4f}",
        "accuracy_high": f"{high:.4f}",
        "frechet": f"{frechet_distance(real_features, features):.4f}",
        "precision": f"{precision:.4f}",
        "recall": f"{recall:.4f}",
        "accuracy_per_digit": per_digit,
    }


def balanced_subset(images, labels, n, seed=0):
    """Random images of each digit, n in all: as class-balanced as the samples. (MNIST's order goes by writer.)"""
    order = torch.randperm(len(labels), generator=generator(seed))
    index = torch.cat([order[labels[order] == y][: n // NUM_CLASSES] for y in range(NUM_CLASSES)])
    return images[index], labels[index]


# --- controls: the method's variants --------------------------------------------------------------------------------


def noise_without_root(unet, classifier, alphas_cumprod, x_t, t, y, guidance_scale):
    """Equation (14) as it is often written: without sqrt(1 - abar_t), far too strong at low noise."""
    eps = clipped_noise(alphas_cumprod, x_t, t, unet(x_t, t).sample)
    return eps - guidance_scale * classifier_gradient(classifier, x_t, t.expand(len(x_t)), y)


def noise_not_clipped(unet, classifier, alphas_cumprod, x_t, t, y, guidance_scale):
    """Equation (14) with nothing clipped before the tilt."""
    eps = unet(x_t, t).sample
    return eps - guidance_scale * (1 - alphas_cumprod[t]).sqrt() * classifier_gradient(classifier, x_t, t.expand(len(x_t)), y)


def noise_growing_with_abar(unet, classifier, alphas_cumprod, x_t, t, y, guidance_scale, low):
    """Equation (14) with s from `low` in pure noise to `guidance_scale` in none, as abar_t grows: see WITH_ABAR."""
    scale = low + (guidance_scale - low) * alphas_cumprod[t].item()
    return guided_noise(unet, classifier, alphas_cumprod, x_t, t, y, scale)


def noise_on_interval(unet, classifier, alphas_cumprod, x_t, t, y, guidance_scale, low, high):
    """Guide only where low <= t < high."""
    if low <= t < high:
        return guided_noise(unet, classifier, alphas_cumprod, x_t, t, y, guidance_scale)
    return clipped_noise(alphas_cumprod, x_t, t, unet(x_t, t).sample)


def wrong_digits(unet, classifier, alphas_cumprod, x_t, t, y, guidance_scale):
    """Guide to the digits in another order than the one asked for: accuracy must fall to chance."""
    wrong = torch.randint(NUM_CLASSES, y.shape, generator=generator(len(y), int(y.sum()))).to(y.device)
    return guided_noise(unet, classifier, alphas_cumprod, x_t, t, wrong, guidance_scale)


def mean_shift_process(
    unet, classifier, scheduler, x_T, y, guidance_scale, generators, watch=None, early_scale=inference.EARLY_SCALE
):
    """ADM Algorithm 1 / equation (10): an unguided DDPM step, its x_0 clipped; then its mean is shifted by s * Sigma * grad."""
    x_t = x_T
    for t in scheduler.timesteps:
        eps = unet(x_t, t).sample
        grad = classifier_gradient(classifier, x_t, t.expand(len(x_t)), y)
        if watch is not None:
            watch(x_t, t, eps)
        shift = scale_at(scheduler.alphas_cumprod, t, guidance_scale, early_scale) * scheduler._get_variance(t) * grad
        x_t = scheduler.step(eps, t, x_t, generator=generators).prev_sample + shift
    return x_t


def with_noise(noise, **settings):
    return {"process": functools.partial(reverse_process, noise=functools.partial(noise, **settings))}


VARIANTS = {
    "ADM Algorithm 2": {},
    "without sqrt(1 - abar_t)": with_noise(noise_without_root),
    "ADM Algorithm 1": {"process": mean_shift_process, "sampler_clips": True},
    "clip after the tilt": {**with_noise(noise_not_clipped), "sampler_clips": True},
    "no clipping": with_noise(noise_not_clipped),
    "guide t >= 500 only": with_noise(noise_on_interval, low=500, high=1000),
    "guide t < 500 only": with_noise(noise_on_interval, low=0, high=500),
    "wrong digits": with_noise(wrong_digits),
    "s grows with abar_t": with_noise(noise_growing_with_abar, low=2.0),
}


# --- tables that go on where they stopped ---------------------------------------------------------------------------


def read_rows(path):
    """The rows of a CSV, dicts of strings; none if there is no such file."""
    if not Path(path).exists():
        return []
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def write_rows(path, rows):
    """Write dicts as a CSV, whole or not at all."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), restval="", extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    with atomic_write(path) as file:
        file.write(text.getvalue().encode())


class Bench:
    """The networks, the judge, and the real images that samples are measured against.

    Args:
        split: "validation", to choose by, or "test", to report.
    """

    def __init__(self, args, split, device):
        self.device, self.seed, self.split, self.models = device, args.seed, split, args.models
        self.unet, _ = load_checkpoint(args.models / "ddpm_unet.pth", UNet, "train_ddpm.py", device)
        self.classifier, _ = load_checkpoint(args.models / "classifier.pth", Classifier, "train_classifier.py", device)
        self.judge, _ = load_checkpoint(args.models / "judge.pth", Judge, "evaluate.py --train-judge", device)
        self.hashes = {name: sha256(args.models / f"{name}.pth") for name in ("ddpm_unet", "classifier", "judge")}
        self.made_from = {"torch": torch.__version__, "device": str(device), **self.hashes}
        self.real_images, self.real_labels = load_mnist(split, args.data)
        self.real_features, _ = judge_images(self.judge, self.real_images, device)
        self.train_images, self.train_labels = load_mnist("train", args.data)

    def settings(self, n, **changes):
        """The settings of a row, as the CSV shows them."""
        settings = {
            "variant": "ADM Algorithm 2",
            "sampler": inference.SAMPLER,
            "steps": inference.STEPS,
            "guidance_scale": inference.GUIDANCE_SCALE,
            "early_scale": inference.EARLY_SCALE,
        }
        settings = {**settings, **changes, "n": n, "seed": self.seed, "against": self.split}
        return {name: f"{value:g}" if isinstance(value, float) else str(value) for name, value in settings.items()}

    def draw(self, settings):
        """Class-balanced samples by a row's settings: images and labels."""
        labels, numbers = make_labels(range(NUM_CLASSES), int(settings["n"]) // NUM_CLASSES)
        scale, steps = float(settings["guidance_scale"]), int(settings["steps"])
        how = {**VARIANTS[settings["variant"]], "early_scale": float(settings["early_scale"])}
        images = draw_samples(
            self.unet, self.classifier, labels, numbers, scale, settings["sampler"], steps, self.seed, self.device, **how
        )
        return images, labels

    def row(self, settings):
        """Draw, measure, and say what made the row."""
        if settings["variant"] == "real images":  # the floor and ceiling: training images as if they were samples
            images, labels = balanced_subset(self.train_images, self.train_labels, int(settings["n"]))
        else:
            images, labels = self.draw(settings)
        measures = measure(self.judge, images, labels, self.real_features, self.device)
        return {**settings, **measures, **self.made_from}

    def real(self, n):
        """The settings of the row that real training images get at the same n."""
        return self.settings(n, variant="real images", sampler="-", steps="-", guidance_scale="-", early_scale="-")

    def fill(self, path, all_settings):
        """Measure the rows that neither this CSV nor another beside it holds; drop those of other weights. Returns the rows."""
        tables = {other: read_rows(other) for other in sorted(path.parent.glob("*.csv"))} if path else {}
        known, beside = tables.get(path, []), [row for table in tables.values() for row in table]
        rows = []
        for settings in all_settings:
            wanted = {**settings, **self.hashes}
            row = next((row for row in beside if all(row.get(name) == value for name, value in wanted.items())), None)
            row = row or self.row(settings)
            rows.append(row)
            print_row(row)
            if path:
                write_rows(path, rows + [old for old in known if old not in rows and {**old, **self.hashes} == old])
        if path:
            write_rows(path, rows)
        return rows


def print_row(row):
    name = f"{row['variant']}, {row['sampler']}, {row['steps']} steps, scale {row['guidance_scale']}, early {row['early_scale']}"
    tqdm.write(
        f"{name:68s} n {row['n']}: accuracy {row['accuracy']} [{row['accuracy_low']}, {row['accuracy_high']}]  "
        f"Fréchet {row['frechet']}  precision {row['precision']}  recall {row['recall']}"
    )


# --- what it can be asked -------------------------------------------------------------------------------------------


def final_table(bench, n, path):
    """The final table: real images, unguided, the default settings, and those for speed."""
    fast = bench.settings(n, sampler=FAST[0], steps=FAST[1])
    bench.fill(path, [bench.real(n), bench.settings(n, guidance_scale=0.0), bench.settings(n), fast])


def nearest_picture(bench, folder):
    """A guided sample of each digit above the three training images nearest to it, pixel by pixel: is it copying?"""
    images, _ = bench.draw(bench.settings(NUM_CLASSES))
    distance = torch.cdist(images.flatten(1), bench.train_images.flatten(1))  # (10, 55000)
    nearest = bench.train_images[distance.topk(3, largest=False).indices.T.flatten()]
    save_grid(folder / "nearest.png", torch.cat([images, nearest]), NUM_CLASSES, bench_provenance(bench))


def scales_picture(bench, folder):
    """A row a scale, the same noise, up to where it visibly fails."""
    rows = [bench.draw(bench.settings(2 * NUM_CLASSES, guidance_scale=float(scale)))[0] for scale in PICTURE_SCALES]
    save_grid(folder / "scales_grid.png", torch.cat(rows), 2 * NUM_CLASSES, bench_provenance(bench, scales=PICTURE_SCALES))


def sweep_scales(bench, folder):
    """Guidance scale against accuracy, Fréchet distance, precision and recall: ADM's trade-off, on MNIST."""
    settings = [bench.settings(NUM_SWEEP, guidance_scale=float(scale)) for scale in SCALES]
    real, *rows = bench.fill(folder / "scales.csv", [bench.real(NUM_SWEEP), *settings])
    figure, axes = plt.subplots(1, 3, figsize=(11, 3.4), layout="constrained")
    for ax, names in zip(axes, (["accuracy"], ["frechet"], ["precision", "recall"])):
        for name, color in zip(names, ("tab:blue", "tab:orange")):
            ax.plot(
                [float(row["guidance_scale"]) for row in rows],
                [float(row[name]) for row in rows],
                marker=".",
                label=name,
                color=color,
            )
            ax.axhline(float(real[name]), color=color, linestyle="--", linewidth=0.8, label=f"{name}, real images")
        ax.set_xscale("symlog", linthresh=1, linscale=0.5)
        ax.set(xlabel="guidance scale", xlim=(-0.2, 1.2 * SCALES[-1]))
        ax.set_xticks(SCALE_TICKS, SCALE_TICKS, fontsize="small")
        ax.minorticks_off()
        ax.legend(fontsize="small", loc="center left" if len(names) > 1 else "best")
    save_figure(folder / "scales.png", figure, bench_provenance(bench))
    scales_picture(bench, folder)


def sampler_settings(bench):
    """The settings of each row of the samplers."""
    settings = [bench.settings(NUM_SWEEP, sampler=name, steps=steps) for name in inference.SAMPLERS for steps in SAMPLER_STEPS]
    return [*settings, bench.settings(NUM_SWEEP, steps=MORE_STEPS)]


def sweep_samplers(bench, folder):
    """Steps by sampler: quality against network calls; and what a thousand calls give, at a smaller n with its own floor."""
    real, *rows = bench.fill(folder / "samplers.csv", [bench.real(NUM_SWEEP), *sampler_settings(bench)])
    figure, axes = plt.subplots(1, 3, figsize=(11, 3.4), layout="constrained")
    for ax, name in zip(axes, ("accuracy", "frechet", "recall")):
        for sampler in inference.SAMPLERS:
            of = [row for row in rows if row["sampler"] == sampler]
            ax.plot([int(row["steps"]) for row in of], [float(row[name]) for row in of], marker=".", label=sampler)
        ax.axhline(float(real[name]), color="gray", linestyle="--", linewidth=0.8, label="real images")
        ax.set_xscale("log")
        ax.minorticks_off()
        shown = (*SAMPLER_STEPS, MORE_STEPS)
        ax.set(xlabel="network calls an image", ylabel=name, xticks=shown, xticklabels=shown)
    axes[0].legend(fontsize="small")
    axes[1].set_yscale("log")
    save_figure(folder / "samplers.png", figure, bench_provenance(bench))
    settings = [bench.settings(NUM_LONG, sampler=name, steps=steps) for name in inference.SAMPLERS[:3] for steps in LONG_STEPS]
    bench.fill(folder / "samplers_long.csv", [bench.real(NUM_LONG), *settings])


def control_settings(bench, n=NUM_SWEEP):
    """The settings of each row of the controls."""
    elsewhere = ("ADM Algorithm 1", "s grows with abar_t")  # at settings of their own
    settings = [bench.settings(n, variant=name) for name in VARIANTS if name not in elsewhere]
    settings += [bench.settings(n, variant=name, sampler="ddpm") for name in ("ADM Algorithm 2", "ADM Algorithm 1")]
    settings += [bench.settings(n, early_scale=scale) for scale in EARLY_SCALES]
    settings += [bench.settings(n, guidance_scale=scale, early_scale=math.inf) for scale in ONE_SCALE]
    settings += [bench.settings(n, variant="s grows with abar_t", **WITH_ABAR)]
    return settings + [bench.settings(n, variant="without sqrt(1 - abar_t)", guidance_scale=scale) for scale in ROOTLESS_SCALES]


def sweep_controls(bench, folder):
    """The formula's variants on the same weights and noise: a table, and a picture with a row a variant."""
    bench.fill(folder / "controls.csv", [bench.real(NUM_SWEEP), *control_settings(bench)])
    shown = control_settings(bench, 2 * NUM_CLASSES)[:NUM_CONTROLS_SHOWN]
    images = torch.cat([bench.draw(settings)[0] for settings in shown])
    save_grid(folder / "controls_grid.png", images, 2 * NUM_CLASSES, bench_provenance(bench, rows=shown))


@torch.no_grad()
def conditional_losses(bench, x_0, y, scales, batch_size=250):
    """L_simple of eps_hat, ADM (14), nothing clipped, with each image's own digit as y: (len(scales), N), and t (N,).

    The noise is best predicted by E[eps | x_t, y], which is (14) at scale 1 if both networks are exact. So a guide that
    knows what it says lowers this loss, and most so at scale 1; an over-confident one does at a lower scale, or not at all.
    """
    rng = generator(bench.seed, 4)
    alphas_cumprod = make_scheduler().alphas_cumprod
    t = stratified_timesteps(len(x_0), rng)[torch.randperm(len(x_0), generator=rng)]
    eps = torch.randn(x_0.shape, generator=rng)
    x_t = make_scheduler().add_noise(x_0, eps, t)  # DDPM (4)
    losses = []
    for parts in zip(*(tensor.split(batch_size) for tensor in (x_t, t, y, eps))):
        x_part, t_part, y_part, eps_part = (part.to(bench.device) for part in parts)
        predicted = bench.unet(x_part, t_part).sample
        grad = classifier_gradient(bench.classifier, x_part, t_part, y_part)
        root = (1 - alphas_cumprod.to(bench.device)[t_part]).sqrt()[:, None, None, None]
        errors = [(predicted - scale * root * grad - eps_part).square().mean(dim=(1, 2, 3)) for scale in scales]
        losses.append(torch.stack(errors).cpu())
    return torch.cat(losses, dim=1), t


def sweep_guide(bench, folder):
    """How the guide's gradient, at each scale and in each band of t, changes the loss of the noise that it tilts."""
    losses, t = conditional_losses(bench, bench.real_images, bench.real_labels, (0, *GUIDE_SCALES))
    rows = []
    figure, ax = plt.subplots(figsize=(6, 3.5), layout="constrained")
    for low, high in GUIDE_BANDS:
        band = losses[:, (low <= t) & (t < high)].mean(dim=1)  # (1 + len(GUIDE_SCALES),)
        changes = (band[1:] / band[0] - 1).tolist()
        for scale, change in zip(GUIDE_SCALES, changes):
            settings = {
                "t": f"{low}-{high - 1}",
                "guidance_scale": scale,
                "n": len(t),
                "seed": bench.seed,
                "against": bench.split,
            }
            rows.append({**settings, "loss_unguided": f"{band[0]:.5f}", "change": f"{change:.4f}", **bench.made_from})
        ax.plot((0, *GUIDE_SCALES), [0, *changes], marker=".", label=f"t {low} to {high - 1}")
    ax.set(xlabel="guidance scale", ylabel=r"change of $L_{\rm simple}$ for the true digit", ylim=(-0.25, 0.3))
    ax.axhline(0, color="gray", linestyle="--", linewidth=0.8)
    ax.legend(fontsize="small")
    write_rows(folder / "guide.csv", rows)
    save_figure(folder / "guide.png", figure, bench_provenance(bench))


def bench_provenance(bench, **settings):
    return provenance(bench.models, ["ddpm_unet.pth", "classifier.pth", "judge.pth"], bench.device, **settings)


SWEEPS = {"scales": sweep_scales, "samplers": sweep_samplers, "controls": sweep_controls, "guide": sweep_guide}


@one_line_errors
def main(argv=None):
    parser = ArgumentParser(__doc__)
    parser.add_argument("--n", type=number(int, 20), default=NUM_FINAL, help="samples of the final table, class-balanced")
    parser.add_argument("--quick", action="store_true", help=f"n = {NUM_QUICK}, printed and not written")
    parser.add_argument("--sweep", choices=SWEEPS, help="a table and figure, measured on the validation set")
    parser.add_argument("--train-judge", action="store_true", help="train the judge; the next four flags are its")
    add_training_flags(parser, JUDGE_STEPS, JUDGE_BATCH_SIZE, JUDGE_LEARNING_RATE)
    add_common_flags(parser)
    args = parser.parse_args(argv)
    device = pick_device(args.device)
    if args.train_judge:
        return train_judge(args, device)
    if FrechetInceptionDistance is None:
        raise UserError("torchmetrics is missing: `pip install -r requirements-dev.txt`")
    folder = results_folder(args.models)
    check_writable(folder / "final.csv")
    bench = Bench(args, "validation" if args.sweep else "test", device)
    if args.sweep:
        SWEEPS[args.sweep](bench, folder)
    else:
        final_table(bench, NUM_QUICK if args.quick else args.n, None if args.quick else folder / f"final_{args.n}.csv")
        if not args.quick:
            nearest_picture(bench, folder)


if __name__ == "__main__":
    main()
