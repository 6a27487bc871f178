"""Step 1: train the guide, a classifier of MNIST digits under DDPM noise.

    python train_classifier.py
    python train_classifier.py --steps 300 --models trial    # a short trial in another folder
    python train_classifier.py --resume                      # continue after Ctrl-C

Cross-entropy on x_t of DDPM (4), with t uniform over 0 .. 999. No classifier can be right at high
noise; the guide must know how unsure it is. So validation reports calibration beside accuracy.

Writes models/classifier.pth and results/classifier_accuracy.png; with --models DIR, both to DIR.
"""

import torch
import torch.nn.functional as F
from diffusers.optimization import get_cosine_schedule_with_warmup
from torch.nn.utils import clip_grad_norm_

from classifier import Classifier
from diffusion import NUM_TRAIN_TIMESTEPS, SCHEDULE, add_noise, stratified_timesteps
from mnist import add_data_flags, open_dataset
from support import cli
from support.checkpoints import provenance, save_checkpoint
from support.files import results_folder
from support.pictures import line_plot, save_figure
from support.streams import batch_indices, generator
from support.training import Run, keep_memory

STEPS = 3_000
BATCH_SIZE = 128
LEARNING_RATE = 2e-3
WARMUP_STEPS = 200
WEIGHT_DECAY = 0.05
T_BANDS = ((0, 100), (100, 300), (300, 500), (500, 1000))
VALIDATION_SEED = 1  # the same t and noise at every epoch and in every run


def train(run, classifier, optimizer, images, labels, draw_t=stratified_timesteps, smoothing=0.0):
    """Minimise the cross-entropy of noised images (N, 1, 28, 28) and their labels (N,)."""
    device = next(classifier.parameters()).device
    batch_size, seed = run.settings["batch_size"], run.settings["seed"]
    for step in run:
        rng = generator(seed, "classifier", step)
        index = batch_indices(len(images), batch_size, seed, step)
        x_0, y = images[index], labels[index].to(device)  # (B, 1, 28, 28), (B,)
        t = draw_t(batch_size, rng)  # (B,)
        x_t = add_noise(x_0, torch.randn(x_0.shape, generator=rng), t)  # DDPM (4)
        logits = classifier(x_t.to(device), t.to(device))  # (B, 10)
        loss = F.cross_entropy(logits, y, label_smoothing=smoothing)
        optimizer.zero_grad()
        loss.backward()
        run.record(loss, clip_grad_norm_(classifier.parameters(), 1.0))
        optimizer.step()


@torch.no_grad()
def predict_noised(classifier, x_0, t, device="cpu", batch_size=500):
    """p(y | x_t, t) of images x_0 (N, 1, 28, 28) noised to t (N,): (N, 10), on the CPU.

    The noise is the same at every call.
    """
    eps = torch.randn(x_0.shape, generator=generator(VALIDATION_SEED, "validation", 1))
    parts = zip(add_noise(x_0, eps, t).split(batch_size), t.split(batch_size))
    return torch.cat(
        [classifier(x.to(device), t.to(device)).softmax(dim=1).cpu() for x, t in parts]
    )


def calibration_error(probabilities, labels, num_bins=15):
    """Expected calibration error (Guo et al. 2017): the mean gap of confidence and accuracy.

    Args:
        probabilities: (N, 10). labels: (N,). num_bins: equal bins of confidence.
    """
    confidence, prediction = probabilities.max(dim=1)
    gap = (prediction == labels).float() - confidence  # (N,)
    bins = (confidence * num_bins).long().clamp(max=num_bins - 1)
    return torch.zeros(num_bins).index_add(0, bins, gap).abs().sum().item() / len(labels)


def validation_timesteps(num_images):
    """A t for each image, every t equally often, the same at every call: (num_images,)."""
    t = torch.arange(num_images) * NUM_TRAIN_TIMESTEPS // num_images
    return t[torch.randperm(num_images, generator=generator(VALIDATION_SEED, "validation", 0))]


def validate(classifier, images, labels, device):
    """Accuracy and calibration error over uniform t and in each band of t: a dict."""
    t = validation_timesteps(len(images))
    probabilities = predict_noised(classifier, images, t, device)
    correct = (probabilities.argmax(dim=1) == labels).float()
    bands = {}
    for low, high in ((0, NUM_TRAIN_TIMESTEPS), *T_BANDS):
        inside = (t >= low) & (t < high)
        error = calibration_error(probabilities[inside], labels[inside])
        accuracy = correct[inside].mean().item()
        bands[f"{low}-{high - 1}"] = {"accuracy": accuracy, "calibration_error": error}
    return bands


def measure_epoch(run, classifier, validation, device):
    """Validate, and print a line: a dict for the history."""
    bands = validate(classifier, *validation, device)
    shown = (
        f"t {t}: {b['accuracy']:.3f} (ECE {b['calibration_error']:.3f})" for t, b in bands.items()
    )
    run.log(f"validation  {'  '.join(shown)}")
    return {"bands": bands}


def accuracy_against_t(classifier, images, labels, device="cpu"):
    """Accuracy on noised images at t = 0, 100, ... 900 and 999: two lists, t and accuracy."""
    timesteps = [*range(0, NUM_TRAIN_TIMESTEPS, 100), NUM_TRAIN_TIMESTEPS - 1]
    accuracy = []
    for t in timesteps:
        probabilities = predict_noised(classifier, images, torch.full((len(images),), t), device)
        accuracy.append((probabilities.argmax(dim=1) == labels).float().mean().item())
    return timesteps, accuracy


def plot_accuracy(timesteps, accuracy, num_images, num_classes):
    """Accuracy against t, with a line for chance: a matplotlib figure."""
    curves = {"noise-aware classifier": accuracy, "chance": [1 / num_classes] * len(timesteps)}
    ylabel = f"accuracy on {num_images:,} validation images"
    return line_plot(timesteps, curves, xlabel="timestep t", ylabel=ylabel, ylim=(0, 1.02))


def fit(args, name, network, made_by, train, seconds, outputs=()):
    """Train a classifier of noisy images by the flags, and write its checkpoint, `name`.pth.

    Args:
        network: its class. made_by: the script, for messages. train: such as `train`.
        seconds: per image, for the first line. outputs: other files that must be writable.

    Returns the run, the classifier and the validation set; the state stays until `run.done()`.
    """
    device = cli.pick_device(args.device)
    keep_memory()
    dataset = open_dataset(args)
    (images, labels), validation = dataset.load("train"), dataset.load("validation")
    weights, state = args.models / f"{name}.pth", args.models / f"{name}.state.pth"

    torch.manual_seed(args.seed)  # for the initial weights
    classifier = network(num_classes=len(dataset.info["classes"])).to(device)
    optimizer = torch.optim.AdamW(
        classifier.parameters(), lr=args.lr, weight_decay=WEIGHT_DECAY, fused=True
    )
    warmup = min(WARMUP_STEPS, args.steps // 2)
    lr_scheduler = get_cosine_schedule_with_warmup(optimizer, warmup, args.steps)
    settings = cli.training_settings(args, dataset.info)
    parts = {"network": classifier, "optimizer": optimizer, "lr_scheduler": lr_scheduler}

    run = Run(name, settings, parts, len(images),
              lambda run: measure_epoch(run, classifier, validation, device))  # fmt: skip
    run.keep_state(state, args.resume, made_by, weights, *outputs)
    cli.say_start(args.dataset, device, args.steps * args.batch_size * seconds)
    train(run, classifier, optimizer, images, labels)
    summary = {**settings, "seconds": run.elapsed(), "validation": run.history[-1]["bands"]}
    save_checkpoint(weights, classifier, SCHEDULE, dataset.info, args.seed, summary)
    return run, classifier, validation


@cli.one_line_errors
def main(argv=None):
    parser = cli.ArgumentParser(__doc__)
    cli.add_training_flags(parser, STEPS, BATCH_SIZE, LEARNING_RATE)
    add_data_flags(parser)
    args = parser.parse_args(argv)
    weights = args.models / "classifier.pth"
    figure = results_folder(args.models) / "classifier_accuracy.png"
    run, classifier, validation = fit(
        args, "classifier", Classifier, "train_classifier.py", train, 5.5e-4, [figure]
    )
    device = next(classifier.parameters()).device
    made_from = provenance(args.models, [weights.name], device, **run.settings)
    t, accuracy = accuracy_against_t(classifier, *validation, device)
    plotted = plot_accuracy(t, accuracy, len(validation[0]), classifier.linear.out_features)
    save_figure(figure, plotted, made_from)
    run.done()
    print(f"{weights} and {figure}: {args.steps} steps in {run.elapsed():.0f} s")


if __name__ == "__main__":
    main()
