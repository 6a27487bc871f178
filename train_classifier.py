"""Step 1: train the guide, a classifier of MNIST digits under DDPM noise.

    python train_classifier.py
    python train_classifier.py --steps 300 --models trial    # a short trial in another folder
    python train_classifier.py --resume                      # continue after Ctrl-C
    python train_classifier.py --max-t 0 --models clean      # a guide that never saw noise

Cross-entropy on x_t of DDPM (4), with t uniform over 0 .. 999. No classifier can be right at high
noise; the guide must know how unsure it is. So validation reports the mean confidence beside the
accuracy: they should agree.

Writes models/classifier.pth and results/classifier_accuracy.png; with --models DIR, both in DIR.
"""

import torch
import torch.nn.functional as F
from diffusers.optimization import get_cosine_schedule_with_warmup

from classifier import Classifier
from diffusion import (
    NUM_TRAIN_TIMESTEPS,
    SCHEDULE,
    add_noise,
    validation_noise,
    validation_times,
)
from mnist import add_data_flags, training_data
from support import cli
from support.files import output_folder, provenance, save_checkpoint
from support.pictures import save_figure
from support.training import Run

STEPS = 6_000
BATCH_SIZE = 128
LEARNING_RATE = 2e-3
WARMUP_STEPS = 200
WEIGHT_DECAY = 0.05
MAX_T = NUM_TRAIN_TIMESTEPS - 1
T_BANDS = ((0, 1000), (0, 100), (100, 300), (300, 500), (500, 1000))


def train(run, classifier, max_t=MAX_T):
    """Minimise the cross-entropy of noised images, with t up to `max_t`."""
    device = next(classifier.parameters()).device
    for x_0, y, rng in run:  # (B, C, H, W), (B,), and the random stream of this step
        t = torch.randint(max_t + 1, (len(x_0),), generator=rng)  # (B,)
        eps = torch.randn(x_0.shape, generator=rng)
        x_t = add_noise(x_0, eps, t)  # DDPM (4)
        logits = classifier(x_t.to(device), t.to(device))  # (B, K)
        run.descend(F.cross_entropy(logits, y.to(device)))


@torch.no_grad()
def predict_noised(classifier, x_0, t, batch_size=500):
    """p(y | x_t, t) of images x_0 (N, C, H, W) noised to t (N,): (N, K), on the CPU.

    The noise is the same at every call.
    """
    device = next(classifier.parameters()).device
    x_t = add_noise(x_0, validation_noise(x_0.shape), t)
    probabilities = []
    for part in torch.arange(len(x_0)).split(batch_size):
        logits = classifier(x_t[part].to(device), t[part].to(device))
        probabilities.append(logits.softmax(dim=1).cpu())
    return torch.cat(probabilities)


def validate(run, classifier, images, labels):
    """Accuracy and mean confidence in each band of t, as a line and as a dict."""
    t = validation_times(len(images))
    p = predict_noised(classifier, images, t)
    confidence, prediction = p.max(dim=1)
    correct = (prediction == labels).float()
    bands, words = {}, []
    for low, high in T_BANDS:
        inside = (low <= t) & (t < high)
        accuracy, sureness = correct[inside].mean().item(), confidence[inside].mean().item()
        bands[f"{low}-{high - 1}"] = {"accuracy": accuracy, "confidence": sureness}
        words.append(f"t {low}-{high - 1}: {accuracy:.3f} ({sureness:.3f})")
    run.log("accuracy (confidence)  " + "  ".join(words))
    return {"validation": bands}


def plot_accuracy(classifier, images, labels):
    """Accuracy on noised images against t, with a line for chance: a matplotlib figure."""
    import matplotlib.pyplot as plt  # here, since a script starts faster without it

    timesteps = [*range(0, NUM_TRAIN_TIMESTEPS, 100), NUM_TRAIN_TIMESTEPS - 1]
    accuracy = []
    for t in timesteps:
        probabilities = predict_noised(classifier, images, torch.full((len(images),), t))
        accuracy.append((probabilities.argmax(dim=1) == labels).float().mean().item())
    figure, axes = plt.subplots(figsize=(6, 3.5), layout="constrained")
    axes.plot(timesteps, accuracy, marker=".", label="classifier")
    axes.axhline(1 / classifier.config["num_classes"], color="gray", label="chance")
    axes.set(xlabel="timestep t", ylim=(0, 1.02))
    axes.set(ylabel=f"accuracy on {len(images):,} validation images")
    axes.legend()
    return figure


@cli.one_line_errors
def main(argv=None):
    parser = cli.ArgumentParser(__doc__)
    cli.add_training_flags(parser, STEPS, BATCH_SIZE, LEARNING_RATE)
    timestep = cli.number(int, 0, MAX_T)
    parser.add_argument("--max-t", type=timestep, default=MAX_T, help="the highest t to learn")
    add_data_flags(parser)
    args = parser.parse_args(argv)
    checkpoint = args.models / "classifier.pth"
    figure = output_folder(args.models) / "results" / "classifier_accuracy.png"
    dataset = training_data(args, checkpoint, figure)
    images, labels = dataset.load("validation")

    torch.manual_seed(args.seed)  # for the initial weights
    num_classes, image_shape = len(dataset.info["classes"]), dataset.info["shape"]
    classifier = Classifier(num_classes=num_classes, image_shape=image_shape).to(args.device)
    parameters = classifier.parameters()
    optimizer = torch.optim.AdamW(parameters, args.lr, weight_decay=WEIGHT_DECAY, fused=True)
    warmup = min(WARMUP_STEPS, args.steps // 2)
    lr_scheduler = get_cosine_schedule_with_warmup(optimizer, warmup, args.steps)

    def validation(run):
        return validate(run, classifier, images, labels)

    run = Run(
        "classifier",
        checkpoint,
        cli.training_settings(args),
        dataset,
        classifier,
        [lr_scheduler],
        validation,
        resume=args.resume,
    )
    train(run, classifier, args.max_t)
    save_checkpoint(checkpoint, classifier, SCHEDULE, dataset.info, run.summary())
    plotted = plot_accuracy(classifier, images, labels)
    save_figure(figure, plotted, provenance([checkpoint], **run.settings))
    run.remove_state()
    print(f"{checkpoint} and {figure}: {args.steps} steps in {run.elapsed():.0f} s")


if __name__ == "__main__":
    main()
