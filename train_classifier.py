"""Step 1: train the guide, a classifier of MNIST digits under DDPM noise.

    python train_classifier.py

Cross-entropy on x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps, with t uniform over 0 .. 999. At high noise no classifier
can be right: what counts is that it knows how unsure it is, so validation reports calibration beside accuracy.

Writes models/classifier.pth and results/classifier_accuracy.png (into DIR instead, both, with --models DIR).
"""

from pathlib import Path

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from diffusers.optimization import get_cosine_schedule_with_warmup
from tqdm import tqdm

from classifier import NUM_CLASSES, Classifier
from diffusion import (
    NUM_TRAIN_TIMESTEPS,
    ArgumentParser,
    TrainingState,
    add_common_flags,
    add_training_flags,
    batch_indices,
    check_writable,
    generator,
    keep_memory,
    make_folder,
    make_scheduler,
    one_line_errors,
    pick_device,
    provenance,
    results_folder,
    save_checkpoint,
    save_figure,
    stratified_timesteps,
)
from mnist import load_mnist

STEPS = 3_000
BATCH_SIZE = 128
LEARNING_RATE = 2e-3
WARMUP_STEPS = 200
WEIGHT_DECAY = 0.05
T_BANDS = ((0, 100), (100, 300), (300, 500), (500, 1000))
VALIDATION_SEED = 1  # the noise of validation is the same at every epoch and in every run


@torch.no_grad()
def predict_noised(classifier, x_0, t, device="cpu", batch_size=500):
    """Class probabilities of images noised to t, with the same noise at every call.

    Args:
        x_0: (N, 1, 28, 28) in [-1, 1]. t: (N,).

    Returns:
        (N, 10), on the CPU.
    """
    scheduler = make_scheduler()
    eps = torch.randn(x_0.shape, generator=generator(VALIDATION_SEED, 1))
    x_t = scheduler.add_noise(x_0, eps, t)  # DDPM (4)
    parts = zip(x_t.split(batch_size), t.split(batch_size))
    return torch.cat([classifier(x.to(device), t.to(device)).softmax(dim=1).cpu() for x, t in parts])


def calibration_error(probabilities, labels, num_bins=15):
    """Expected calibration error (Guo et al. 2017): the mean gap between confidence and accuracy over equal bins of confidence.

    Args:
        probabilities: (N, 10). labels: (N,).
    """
    confidence, prediction = probabilities.max(dim=1)
    gap = (prediction == labels).float() - confidence  # (N,)
    bins = (confidence * num_bins).long().clamp(max=num_bins - 1)
    return torch.zeros(num_bins).index_add(0, bins, gap).abs().sum().item() / len(labels)


def validation_timesteps(num_images):
    """A t for each image, every t equally often, the same at every call: (num_images,)."""
    t = torch.arange(num_images) * NUM_TRAIN_TIMESTEPS // num_images
    return t[torch.randperm(num_images, generator=generator(VALIDATION_SEED, 0))]


def validate(classifier, images, labels, device):
    """Accuracy and calibration error over uniform t and in each band of t: a dict of plain values."""
    t = validation_timesteps(len(images))
    probabilities = predict_noised(classifier, images, t, device)
    correct = (probabilities.argmax(dim=1) == labels).float()
    bands = {}
    for low, high in ((0, NUM_TRAIN_TIMESTEPS), *T_BANDS):
        inside = (t >= low) & (t < high)
        error = calibration_error(probabilities[inside], labels[inside])
        bands[f"{low}-{high - 1}"] = {"accuracy": correct[inside].mean().item(), "calibration_error": error}
    return bands


def accuracy_against_t(classifier, images, labels, device="cpu", every=100):
    """Accuracy on noised images at t = 0, 100, ... 900 and 999: two lists, t and accuracy."""
    timesteps = [*range(0, NUM_TRAIN_TIMESTEPS, every), NUM_TRAIN_TIMESTEPS - 1]
    accuracy = []
    for t in timesteps:
        probabilities = predict_noised(classifier, images, torch.full((len(images),), t), device)
        accuracy.append((probabilities.argmax(dim=1) == labels).float().mean().item())
    return timesteps, accuracy


def plot_accuracy(timesteps, accuracy, num_images):
    """Accuracy against t, with a line for chance: a matplotlib figure."""
    figure, axes = plt.subplots(figsize=(6, 3.5), layout="constrained")
    axes.plot(timesteps, accuracy, marker=".", label="noise-aware classifier")
    axes.axhline(1 / NUM_CLASSES, color="gray", linestyle="--", label="chance")
    axes.set(xlabel="t", ylabel=f"accuracy on {num_images:,} validation images", ylim=(0, 1.02), xlim=(0, NUM_TRAIN_TIMESTEPS))
    axes.legend()
    return figure


def train(classifier, images, labels, validation, state, settings, optimizer, lr_scheduler, device):
    """Minimise cross-entropy on noised images, from `state.step` to `settings["steps"]`."""
    scheduler = make_scheduler()
    steps, batch_size, seed = settings["steps"], settings["batch_size"], settings["seed"]
    steps_per_epoch = len(images) // batch_size
    bar = tqdm(total=steps, initial=state.step, desc="classifier", unit="step", disable=None)
    while state.step < steps:
        rng = generator(seed, 1, state.step)
        index = batch_indices(len(images), batch_size, seed, state.step)
        t = stratified_timesteps(batch_size, rng)  # (B,)
        eps = torch.randn((batch_size, *images.shape[1:]), generator=rng)
        x_t = scheduler.add_noise(images[index], eps, t)  # DDPM (4)
        logits = classifier(x_t.to(device), t.to(device))
        loss = F.cross_entropy(logits, labels[index].to(device))
        state.record(loss.item())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(classifier.parameters(), 1.0)
        optimizer.step()
        lr_scheduler.step()

        bar.update()
        bar.set_postfix(loss=f"{state.losses[-1]:.3f}", refresh=False)
        if (state.step + 1) % steps_per_epoch == 0 or state.step + 1 == steps:
            bands = validate(classifier, *validation, device)
            state.history.append({"step": state.step + 1, "bands": bands})
            log_epoch(state, bands)
        state.end_step()
    bar.close()


def log_epoch(state, bands):
    """One line an epoch: accuracy and calibration error, over uniform t first, then by band."""
    figures = "  ".join(f"t {name}: {b['accuracy']:.3f} (ECE {b['calibration_error']:.3f})" for name, b in bands.items())
    tqdm.write(f"step {state.step + 1:5d}  {state.elapsed():4.0f} s  validation  {figures}")


@one_line_errors
def main(argv=None):
    parser = ArgumentParser(__doc__)
    add_common_flags(parser)
    add_training_flags(parser, STEPS, BATCH_SIZE, LEARNING_RATE)
    args = parser.parse_args(argv)
    device = pick_device(args.device)
    keep_memory()
    make_folder(args.models)
    weights = args.models / "classifier.pth"
    figure_path = results_folder(args.models) / "classifier_accuracy.png"
    state_path = args.models / "classifier.state.pth"
    check_writable(weights, figure_path, state_path)
    images, labels = load_mnist("train", args.data)
    validation = load_mnist("validation", args.data)

    torch.manual_seed(args.seed)  # for the initial weights
    classifier = Classifier().to(device)
    optimizer = torch.optim.AdamW(classifier.parameters(), lr=args.lr, weight_decay=WEIGHT_DECAY, fused=True)
    lr_scheduler = get_cosine_schedule_with_warmup(optimizer, min(WARMUP_STEPS, args.steps // 2), args.steps)
    settings = {"steps": args.steps, "batch_size": args.batch_size, "lr": args.lr, "seed": args.seed}
    parts = {"network": classifier, "optimizer": optimizer, "lr_scheduler": lr_scheduler}
    state = TrainingState(state_path, settings, parts, args.resume, Path(__file__).name)
    with state.stop_between_steps():
        train(classifier, images, labels, validation, state, settings, optimizer, lr_scheduler, device)

    summary = {**settings, "seconds": state.elapsed(), "validation": state.history[-1]["bands"]}
    save_checkpoint(weights, classifier, args.seed, summary)
    figure = plot_accuracy(*accuracy_against_t(classifier, *validation, device), len(validation[0]))
    save_figure(figure_path, figure, provenance(args.models, [weights.name], device, **settings))
    state.done()
    print(f"{weights} and {figure_path}: {args.steps} steps in {state.elapsed():.0f} s")


if __name__ == "__main__":
    main()
