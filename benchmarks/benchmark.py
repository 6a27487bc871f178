"""Speed, memory and size, side by side with the configuration that MNIST notebooks usually take.

    python benchmarks/benchmark.py

The reference, rebuilt here in a few lines: a U-Net of 63.5 million parameters (64, 128, 256, 512 channels, two layers a
block, attention) on 32x32 images, ten epochs in batches of 128, AdamW; 1000 ancestral steps for 8 images of a digit,
guided by two convolutions with max-pooling and t beside the last linear layer. Some of its steps are timed and scaled to
all, for the whole would take days. Ours is what the scripts do by default, its training timed and scaled likewise: the U-Net's in
bfloat16 where the CPU has it. The reference trains in float32, as those notebooks do.

Each measurement runs in a process of its own, in turn, on an otherwise idle machine. Some ten minutes on two cores.
Writes benchmarks/benchmark.csv and prints it as tables for README.md.
"""

import argparse
import io
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler, UNet2DModel
from diffusers.training_utils import EMAModel
from torch import nn

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import inference  # noqa: E402
import train_classifier  # noqa: E402
import train_ddpm  # noqa: E402
from classifier import Classifier  # noqa: E402
from diffusion import UNet, keep_memory, load_checkpoint, make_scheduler, make_unet, sha256  # noqa: E402
from evaluate import FAST, write_rows  # noqa: E402

OUTPUT = Path(__file__).with_suffix(".csv")
REFERENCE_EPOCH, REFERENCE_EPOCHS, REFERENCE_BATCH = 60_000, 10, 128
REFERENCE_STEPS, REFERENCE_SCALE = 1_000, 15.0
NUM_IMAGES = (8, 100)  # as many as one command draws by default, here and there; and a batch
CALLS = (5, 50)  # beside the default's and FAST's
SCRIPTS = (
    ("inference.py", "--output", "TMP/o.png"),
    ("train_classifier.py", "--steps", "30", "--models", "TMP"),
    ("train_ddpm.py", "--steps", "30", "--models", "TMP"),
    ("evaluate.py", "--quick"),
)


class ReferenceClassifier(nn.Module):
    """Two convolutions with max-pooling; t as a number beside the last linear layer. 315 thousand parameters."""

    def __init__(self):
        super().__init__()
        self.convolutions = nn.Sequential(
            nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64 * 8 * 8, 72), nn.ReLU(),
        )  # fmt: skip
        self.linear = nn.Linear(72 + 1, 10)

    def forward(self, x_t, t):
        return self.linear(torch.cat([self.convolutions(x_t), t[:, None].float()], dim=1))


def reference_unet():
    return UNet2DModel(sample_size=32, in_channels=1, out_channels=1, layers_per_block=2, block_out_channels=(64, 128, 256, 512))


def median_seconds(work, times):
    """The median time of a call, after one that is not counted."""
    seconds = []
    for _ in range(times + 1):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return sorted(seconds[1:])[times // 2]


# --- sampling: seconds an image -------------------------------------------------------------------------------------


def sample_reference(num_images):
    """Guided ancestral steps, a few of them timed and scaled to 1000."""
    unet, classifier = reference_unet().eval().requires_grad_(False), ReferenceClassifier().eval().requires_grad_(False)
    scheduler = DDPMScheduler(num_train_timesteps=REFERENCE_STEPS)
    x_t, y = torch.randn(num_images, 1, 32, 32), torch.ones(num_images, dtype=torch.long)
    timesteps = iter(scheduler.timesteps)

    def step():
        t = next(timesteps)
        grad = inference.classifier_gradient(classifier, x_t, t.expand(num_images), y)
        eps = unet(x_t, t).sample - REFERENCE_SCALE * (1 - scheduler.alphas_cumprod[t]).sqrt() * grad
        x_t.copy_(scheduler.step(eps, t, x_t).prev_sample)

    return median_seconds(step, 5) * REFERENCE_STEPS / num_images


def our_networks():
    unet, _ = load_checkpoint(ROOT / "models" / "ddpm_unet.pth", UNet, "train_ddpm.py")
    classifier, _ = load_checkpoint(ROOT / "models" / "classifier.pth", Classifier, "train_classifier.py")
    return unet, classifier


def sample_ours(num_images, sampler=inference.SAMPLER, steps=inference.STEPS):
    """The images whole, the default settings but for what is named."""
    labels, numbers = inference.make_labels([1], num_images)
    networks = our_networks()
    return (
        median_seconds(lambda: inference.draw_samples(*networks, labels, numbers, sampler=sampler, steps=steps), 3) / num_images
    )


def guided_and_unguided_step(num_images, times=40):
    """The median times of a step's networks with guidance and without, taken in turn."""
    networks, alphas_cumprod = our_networks(), make_scheduler().alphas_cumprod
    x_t, y, t = torch.randn(num_images, 1, 28, 28), torch.arange(num_images) % 10, torch.tensor(500)
    seconds = {inference.GUIDANCE_SCALE: [], 0.0: []}
    for _ in range(times):
        for scale, taken in seconds.items():
            start = time.perf_counter()
            inference.guided_noise(*networks, alphas_cumprod, x_t, t, y, scale)
            taken.append(time.perf_counter() - start)
    return [sorted(taken)[times // 2] for taken in seconds.values()]


# --- training: seconds a step ---------------------------------------------------------------------------------------


def train_step(network, images, optimizers, loss_of, times, after=lambda: None, precision="float32"):
    """The median time of a step as DDPM Algorithm 1 has it: noise images, predict, backward, optimizer."""
    scheduler = make_scheduler()
    keep_memory()

    def step():
        t = torch.randint(0, 1000, (len(images),))
        eps = torch.randn_like(images)
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
            output = network(scheduler.add_noise(images, eps, t), t)
        loss = loss_of(output, eps)
        network.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        after()

    return median_seconds(step, times)


def noise_loss(output, eps):
    """Ours weights it by t, too, which takes no time to speak of."""
    return F.mse_loss(output.sample, eps)


def class_loss(logits, eps):
    return F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long))


def adamw(network):
    return [torch.optim.AdamW(network.parameters(), lr=1e-4, fused=True)]


def train_reference_unet():
    unet = reference_unet()
    return train_step(unet, torch.randn(REFERENCE_BATCH, 1, 32, 32), adamw(unet), noise_loss, 3)


def train_reference_classifier():
    classifier = ReferenceClassifier()
    return train_step(classifier, torch.randn(REFERENCE_BATCH, 1, 32, 32), adamw(classifier), class_loss, 30)


def train_our_unet(precision):
    unet = make_unet()
    ema = EMAModel(unet.parameters(), decay=train_ddpm.EMA_DECAY, foreach=True)
    images, optimizers = torch.randn(train_ddpm.BATCH_SIZE, 1, 28, 28), train_ddpm.make_optimizers(unet, train_ddpm.LEARNING_RATE)
    return train_step(unet, images, optimizers, noise_loss, 60, lambda: ema.step(unet.parameters()), precision)


def train_our_classifier():
    classifier = Classifier()
    return train_step(classifier, torch.randn(train_classifier.BATCH_SIZE, 1, 28, 28), adamw(classifier), class_loss, 30)


# --- the whole scripts ----------------------------------------------------------------------------------------------


def script(*argv):
    """Seconds from the start of a process to its end, and its peak resident memory in MB."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        command = [sys.executable, *(word.replace("TMP", folder) for word in argv)]
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        assert status == 0, command
        return time.perf_counter() - start, megabytes(usage)


def megabytes(usage):
    return usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def weights_reference():
    file = io.BytesIO()
    torch.save(reference_unet().state_dict(), file)
    return len(file.getvalue()) / 1e6


def measure(function, *args):
    """What a function of this file returns in a process of its own, and that process's peak memory in MB."""
    command = [sys.executable, __file__, "--measure", function.__name__, json.dumps(args)]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True, text=True)
    value, peak = json.loads(done.stdout.splitlines()[-1])
    print(f"{function.__name__}{args}: {value}, peak {peak:.0f} MB", file=sys.stderr)
    return value, peak


def compare():
    """The rows of the table: (what, ours, reference or None, unit)."""
    rows = []
    for num_images in NUM_IMAGES:
        theirs, their_memory = measure(sample_reference, num_images)
        ours, our_memory = measure(sample_ours, num_images)
        fast, _ = measure(sample_ours, num_images, *FAST)
        rows.append((f"a guided image, {num_images} at a time", ours, theirs, "s"))
        rows.append((f"a guided image, {num_images} at a time, `--sampler {FAST[0]} --steps {FAST[1]}`", fast, theirs, "s"))
        rows.append((f"peak memory, {num_images} images at a time", our_memory, their_memory, "MB"))
    (their_unet, their_memory), (their_guide, _) = measure(train_reference_unet), measure(train_reference_classifier)
    precisions = (train_ddpm.pick_precision("auto", torch.device("cpu")), "float32")
    (our_unet, our_memory), (in_float32, _) = (measure(train_our_unet, precision) for precision in precisions)
    our_guide, _ = measure(train_our_classifier)
    ours = our_unet * train_ddpm.TRAIN_STEPS + our_guide * train_classifier.STEPS
    theirs = (their_unet + their_guide) * REFERENCE_EPOCHS * REFERENCE_EPOCH / REFERENCE_BATCH
    rows.append(("the whole training of both networks", ours / 60, theirs / 60, "min"))
    rows.append(("an image in the U-Net's training", our_unet / train_ddpm.BATCH_SIZE, their_unet / REFERENCE_BATCH, "s"))
    in_float32 /= train_ddpm.BATCH_SIZE
    rows.append(("the same with `--precision float32`", in_float32, their_unet / REFERENCE_BATCH, "s"))
    rows.append(("peak memory, a step of the U-Net's training", our_memory, their_memory, "MB"))
    ours = (ROOT / "models" / "ddpm_unet.pth").stat().st_size / 1e6
    rows.append(("weights of the U-Net", ours, measure(weights_reference)[0], "MB"))
    for argv in SCRIPTS:
        seconds, memory = measure(script, *argv)[0]
        if argv[0] == "inference.py":
            rows.append(("`python inference.py`, from cold to the PNG", seconds, None, "s"))
        rows.append((f"`python {argv[0]}`, peak memory", memory, None, "MB"))
    others = [(sampler, inference.STEPS) for sampler in inference.SAMPLERS if sampler != inference.SAMPLER]
    for sampler, steps in [*others, *((inference.SAMPLER, steps) for steps in CALLS)]:
        seconds, _ = measure(sample_ours, 100, sampler, steps)
        rows.append((f"a guided image, 100 at a time, `--sampler {sampler} --steps {steps}`", seconds, None, "s"))
    (guided, unguided), _ = measure(guided_and_unguided_step, 100)
    rows.append(("the networks of a guided step, 100 images", guided, None, "s"))
    rows.append(("the networks of an unguided step, 100 images", unguided, None, "s"))
    return rows


def three_digits(value):
    """As %.3g, but without an exponent."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--measure", nargs=2, metavar=("FUNCTION", "ARGS"), help="one measurement, in this process")
    args = parser.parse_args()
    if args.measure:
        value = globals()[args.measure[0]](*json.loads(args.measure[1]))
        return print(json.dumps([value, megabytes(resource.getrusage(resource.RUSAGE_SELF))]))

    made_from = {
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "ddpm_unet": sha256(ROOT / "models" / "ddpm_unet.pth"),
        "classifier": sha256(ROOT / "models" / "classifier.pth"),
    }
    rows = [
        {
            "what": what,
            "ours": three_digits(ours),
            "reference": three_digits(reference) if reference else "",
            "unit": unit,
            "ratio": three_digits(reference / ours) if reference else "",
            **made_from,
        }
        for what, ours, reference, unit in compare()
    ]
    write_rows(OUTPUT, rows)
    print("| | ours | reference | reference / ours |\n|---|---|---|---|")
    for row in rows:
        reference = f"{row['reference']} {row['unit']}" if row["reference"] else ""
        print(f"| {row['what']} | {row['ours']} {row['unit']} | {reference} | {row['ratio']} |")


if __name__ == "__main__":
    main()
