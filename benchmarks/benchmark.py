"""Speed, memory and size, side by side with the U-Net of the usual MNIST notebook.

    python -m benchmarks.benchmark

The reference is rebuilt here in a few lines: a U-Net of 63.5 million parameters (64, 128, 256, 512
channels, two layers a block, attention) on 32x32 images, ten epochs in batches of 128 with AdamW,
and 1000 ancestral steps for 8 images of a digit, guided by two convolutions with max-pooling and t
beside the last linear layer. A few of its steps are timed and scaled to all, since the whole would
take days. Ours is what the scripts do by default; its training is timed and scaled likewise, the
U-Net in bfloat16 where the CPU has it. The reference trains in float32, as those notebooks do.

Each measurement runs in a process of its own, in turn, on an otherwise idle machine: ten minutes
on two cores. Writes benchmarks/benchmark.csv and prints it as a table.
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

import inference
import train_classifier
import train_ddpm
from classifier import Classifier
from diffusion import SAMPLERS, add_noise, make_unet, simple_loss
from evaluation.tables import FAST
from support.files import sha256
from support.tables import write_rows
from support.training import keep_memory, pick_precision

ROOT = Path(__file__).resolve().parent.parent
OUTPUT = Path(__file__).with_suffix(".csv")
REFERENCE_EPOCH, REFERENCE_EPOCHS, REFERENCE_BATCH = 60_000, 10, 128
REFERENCE_STEPS, REFERENCE_SCALE = 1_000, 15.0
NUM_IMAGES = (8, 100)  # what one command draws by default, and a batch
CALLS = (5, 50)  # beside the defaults and FAST
SCRIPTS = (
    ("inference.py", "--output", "TMP/o.png"),
    ("train_classifier.py", "--steps", "30", "--models", "TMP"),
    ("train_ddpm.py", "--steps", "30", "--models", "TMP"),
    ("evaluate.py", "--quick"),
)


class ReferenceClassifier(nn.Module):
    """Two convolutions with max-pooling; raw t beside the last linear layer. 315 k parameters."""

    def __init__(self):
        super().__init__()
        self.convolutions = nn.Sequential(
            nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(), nn.Linear(64 * 8 * 8, 72), nn.ReLU(),
        )  # fmt: skip
        self.linear = nn.Linear(72 + 1, 10)

    def forward(self, x_t, t):
        return self.linear(torch.cat([self.convolutions(x_t), t[:, None].float()], dim=1))

    log_p = Classifier.log_p


def reference_unet():
    channels = {"in_channels": 1, "out_channels": 1, "block_out_channels": (64, 128, 256, 512)}
    return UNet2DModel(sample_size=32, layers_per_block=2, **channels)


def median_seconds(work, times):
    """The median time of a call, after one that is not counted."""
    seconds = []
    for _ in range(times + 1):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return sorted(seconds[1:])[times // 2]


# --- sampling: seconds an image ---


def sample_reference(num_images):
    """Guided ancestral steps, a few of them timed and scaled to 1000."""
    unet, classifier = reference_unet().eval(), ReferenceClassifier().eval()
    for network in (unet, classifier):
        network.requires_grad_(False)
    scheduler = DDPMScheduler(num_train_timesteps=REFERENCE_STEPS)
    x_t, y = torch.randn(num_images, 1, 32, 32), torch.ones(num_images, dtype=torch.long)
    timesteps = iter(scheduler.timesteps)

    def step():
        t, log_p = next(timesteps), classifier.log_p
        eps = inference.guided_noise(unet, log_p, x_t, t, y, REFERENCE_SCALE, clip=False)
        x_t.copy_(scheduler.step(eps, t, x_t).prev_sample)

    return median_seconds(step, 5) * REFERENCE_STEPS / num_images


def sample_ours(num_images, sampler=inference.SAMPLER, steps=inference.STEPS):
    """Whole images, with the default settings except for what is named."""
    unet, classifier = inference.load_models(ROOT / "models")
    y, settings = torch.ones(num_images, dtype=torch.long), {"sampler": sampler, "steps": steps}

    def draw():
        inference.sample(unet, classifier.log_p, y, **settings)

    return median_seconds(draw, 3) / num_images


def guided_and_unguided_step(num_images, times=40):
    """The median times of a step's networks with guidance and without, taken in turn."""
    unet, classifier = inference.load_models(ROOT / "models")
    x_t, y = torch.randn(num_images, 1, 28, 28), torch.arange(num_images) % 10
    seconds = {inference.GUIDANCE_SCALE: [], 0.0: []}
    for _ in range(times):
        for scale, taken in seconds.items():
            start = time.perf_counter()
            inference.guided_noise(unet, classifier.log_p, x_t, torch.tensor(500), y, scale)
            taken.append(time.perf_counter() - start)
    return [sorted(taken)[times // 2] for taken in seconds.values()]


# --- training: seconds a step ---


def train_step(network, images, optimizers, loss_of, times, after=None, precision="float32"):
    """The median time of a step of DDPM Algorithm 1: noise, predict, backward, optimizer."""
    keep_memory()

    def step():
        t = torch.randint(0, 1000, (len(images),))
        eps = torch.randn_like(images)
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
            output = network(add_noise(images, eps, t), t)
        loss = loss_of(output, eps)
        network.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        if after is not None:
            after()

    return median_seconds(step, times)


def noise_loss(output, eps):
    """Without the weights of train_ddpm.py, which take no time to speak of."""
    return simple_loss(output.sample, eps).mean()


def class_loss(logits, eps):
    return F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long))


def adamw(network):
    return [torch.optim.AdamW(network.parameters(), lr=1e-4, fused=True)]


def train_reference_unet():
    unet = reference_unet()
    return train_step(unet, torch.randn(REFERENCE_BATCH, 1, 32, 32), adamw(unet), noise_loss, 3)


def train_reference_classifier():
    classifier = ReferenceClassifier()
    return train_step(
        classifier, torch.randn(REFERENCE_BATCH, 1, 32, 32), adamw(classifier), class_loss, 30
    )


def train_our_unet(precision):
    unet = make_unet()
    ema = EMAModel(unet.parameters(), decay=train_ddpm.EMA_DECAY, foreach=True)
    images = torch.randn(train_ddpm.BATCH_SIZE, 1, 28, 28)
    optimizers = train_ddpm.make_optimizers(unet, train_ddpm.LEARNING_RATE)

    def after():
        ema.step(unet.parameters())

    return train_step(unet, images, optimizers, noise_loss, 60, after, precision)


def train_our_classifier():
    classifier = Classifier()
    images = torch.randn(train_classifier.BATCH_SIZE, 1, 28, 28)
    return train_step(classifier, images, adamw(classifier), class_loss, 30)


# --- the whole scripts ---


def script(*argv):
    """Seconds from the start of a process to its end, and its peak resident memory in MB."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        command = [sys.executable, *(word.replace("TMP", folder) for word in argv)]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        process = subprocess.Popen(command, cwd=ROOT, **quiet)
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
    """What a function of this file returns in a new process, and the peak memory of that in MB."""
    command = [sys.executable, "-m", "benchmarks.benchmark", "--measure", function.__name__]
    command.append(json.dumps(args))
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True, text=True)
    value, peak = json.loads(done.stdout.splitlines()[-1])
    print(f"{function.__name__}{args}: {value}, peak {peak:.0f} MB", file=sys.stderr)
    return value, peak


def compare():
    """The rows of the table: (what, ours, reference or None, unit)."""
    return [*sampling_rows(), *training_rows(), *script_rows(), *sampler_rows()]


def sampling_rows():
    rows = []
    fast_flags = f"`--sampler {FAST['sampler']} --steps {FAST['steps']}`"
    for num_images in NUM_IMAGES:
        theirs, their_memory = measure(sample_reference, num_images)
        ours, our_memory = measure(sample_ours, num_images)
        fast, _ = measure(sample_ours, num_images, *FAST.values())
        at_a_time = f"{num_images} at a time"
        rows.append((f"a guided image, {at_a_time}", ours, theirs, "s"))
        rows.append((f"a guided image, {at_a_time}, {fast_flags}", fast, theirs, "s"))
        rows.append((f"peak memory, {num_images} images at a time", our_memory, their_memory, "MB"))
    return rows


def training_rows():
    their_unet, their_memory = measure(train_reference_unet)
    their_guide, _ = measure(train_reference_classifier)
    precision = pick_precision("auto", torch.device("cpu"))
    our_unet, our_memory = measure(train_our_unet, precision)
    in_float32, _ = measure(train_our_unet, "float32")
    our_guide, _ = measure(train_our_classifier)
    ours = our_unet * train_ddpm.TRAIN_STEPS + our_guide * train_classifier.STEPS
    their_steps = REFERENCE_EPOCHS * REFERENCE_EPOCH / REFERENCE_BATCH
    theirs = (their_unet + their_guide) * their_steps
    an_image = their_unet / REFERENCE_BATCH
    batch_size = train_ddpm.BATCH_SIZE
    size = (ROOT / "models" / "ddpm_unet.pth").stat().st_size / 1e6
    return [
        ("the whole training of both networks", ours / 60, theirs / 60, "min"),
        ("an image in the U-Net's training", our_unet / batch_size, an_image, "s"),
        ("the same with `--precision float32`", in_float32 / batch_size, an_image, "s"),
        ("peak memory, a step of the U-Net's training", our_memory, their_memory, "MB"),
        ("weights of the U-Net", size, measure(weights_reference)[0], "MB"),
    ]


def script_rows():
    rows = []
    for argv in SCRIPTS:
        seconds, memory = measure(script, *argv)[0]
        if argv[0] == "inference.py":
            rows.append(("`python inference.py`, from cold to the PNG", seconds, None, "s"))
        rows.append((f"`python {argv[0]}`, peak memory", memory, None, "MB"))
    return rows


def sampler_rows():
    rows = []
    default = inference.SAMPLER
    others = [(sampler, inference.STEPS) for sampler in SAMPLERS if sampler != default]
    for sampler, steps in [*others, *((default, steps) for steps in CALLS)]:
        seconds, _ = measure(sample_ours, 100, sampler, steps)
        what = f"a guided image, 100 at a time, `--sampler {sampler} --steps {steps}`"
        rows.append((what, seconds, None, "s"))
    (guided, unguided), _ = measure(guided_and_unguided_step, 100)
    rows.append(("the networks of a guided step, 100 images", guided, None, "s"))
    rows.append(("the networks of an unguided step, 100 images", unguided, None, "s"))
    return rows


def three_digits(value):
    """Three significant digits, without an exponent."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    metavar = ("FUNCTION", "ARGS")
    parser.add_argument("--measure", nargs=2, metavar=metavar, help="one measurement, here")
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
