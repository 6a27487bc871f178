"""Step 1: train the classifier on MNIST digits with DDPM noise.

    python train_classifier.py
    python train_classifier.py --steps 300 --models trial    # a short trial in another folder
    python train_classifier.py --resume                      # after an interruption

Minimizes the cross-entropy on noisy images x_t, DDPM (4), with t uniform over all timesteps. At
high noise levels no classifier can be accurate, but it can be calibrated: validation reports the
mean confidence next to the accuracy, and the two should agree. The checkpoint also has both for
four ranges of t.

Writes models/classifier.pth and results/classifier_accuracy.png; with --models DIR, both to DIR.
"""

import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler
from diffusers.optimization import get_cosine_schedule_with_warmup
from torch.nn.utils import clip_grad_norm_

from classifier import CHANNELS, Classifier
from data import Dataset, add_data_flags
from diffusion import SCHEDULE, noised_for_validation
from support import cli
from support.files import output_folder, provenance
from support.pictures import ACCENT, INK, plain_figure, save_figure
from support.training import Run, add_training_flags, fused, settings_of

STEPS = 6_000
BATCH_SIZE = 128
LEARNING_RATE = 2e-3
WARMUP_STEPS = 200
WEIGHT_DECAY = 0.05
MAX_GRAD_NORM = 1.0
T_BANDS = ((0, 1), (0, 0.1), (0.1, 0.3), (0.3, 0.5), (0.5, 1))  # fractions of all timesteps


def train(classifier, scheduler, run, validate, max_t=None):
    """Minimize the cross-entropy on noised images.

    Args:
        classifier: (x_t, t) -> logits.
        scheduler: a DDPMScheduler, which adds the noise.
        run: a `Run`, with the data, the number of steps, and the learning rate.
        validate: called as validate(run), with the classifier in eval mode.
        max_t: the largest timestep to train on; all of them by default.
    """
    device, lr = next(classifier.parameters()).device, run.settings["lr"]
    max_t = scheduler.config.num_train_timesteps - 1 if max_t is None else max_t
    optimizer = torch.optim.AdamW(
        classifier.parameters(), lr, weight_decay=WEIGHT_DECAY, fused=fused(device)
    )
    warmup = min(WARMUP_STEPS, run.steps // 2)
    lr_scheduler = get_cosine_schedule_with_warmup(optimizer, warmup, run.steps)
    run.start(classifier, optimizer=optimizer, lr_scheduler=lr_scheduler)

    for x_0, y in run.batches():  # (B, C, H, W), (B,)
        t = torch.randint(max_t + 1, (len(x_0),))  # (B,)
        eps = torch.randn_like(x_0)
        x_t = scheduler.add_noise(x_0, eps, t)  # DDPM (4)

        logits = classifier(x_t.to(device), t.to(device))  # (B, K)
        loss = F.cross_entropy(logits, y.to(device))

        optimizer.zero_grad()
        loss.backward()
        clip_grad_norm_(classifier.parameters(), MAX_GRAD_NORM)
        optimizer.step()
        lr_scheduler.step()

        run.log(loss)
        if run.validates:
            classifier.eval()
            validate(run)
            classifier.train()
    classifier.eval()


@torch.no_grad()
def predict_noised(classifier, scheduler, x_0, t=None, batch_size=500):
    """Add noise to images x_0 (N, C, H, W) and classify them: p(y | x_t, t) (N, K), and t (N,).

    The noise is the same in every call: see `noised_for_validation`.
    """
    device = next(classifier.parameters()).device
    x_t, t, _ = noised_for_validation(scheduler, x_0, t)
    probabilities = []
    for part in torch.arange(len(x_0)).split(batch_size):
        logits = classifier(x_t[part].to(device), t[part].to(device))
        probabilities.append(logits.softmax(dim=1).cpu())
    return torch.cat(probabilities), t


def accuracy_by_band(classifier, scheduler, images, labels):
    """Accuracy and mean confidence in each band of t: two dicts."""
    p, t = predict_noised(classifier, scheduler, images)
    confidence, prediction = p.max(dim=1)
    correct = (prediction == labels).float()
    accuracies, confidences = {}, {}
    for band in T_BANDS:
        low, high = (round(end * scheduler.config.num_train_timesteps) for end in band)
        inside = (low <= t) & (t < high)
        accuracies[f"t {low}-{high - 1}"] = correct[inside].mean().item()
        confidences[f"t {low}-{high - 1}"] = confidence[inside].mean().item()
    return accuracies, confidences


def plot_accuracy(classifier, scheduler, images, labels):
    """Accuracy on noised images against t, with chance level: a matplotlib figure."""
    last = scheduler.config.num_train_timesteps - 1
    timesteps = [*range(0, last, 100), last]
    accuracy = []
    for t in timesteps:
        p, _ = predict_noised(classifier, scheduler, images, torch.full((len(images),), t))
        accuracy.append((p.argmax(dim=1) == labels).float().mean().item())
    figure, axes = plain_figure(6, 3.5)
    axes.plot(timesteps, accuracy, "o-", color=INK, label="classifier")
    axes.axhline(1 / p.shape[1], color=ACCENT, label="chance")
    axes.set(xlabel="t: from the image to pure noise", ylim=(0, 1.02))
    axes.set(ylabel=f"accuracy on {len(images):,} validation images")
    axes.legend(frameon=False)
    return figure


@cli.one_line_errors
def main(argv=None, network_class=Classifier):
    """Train Classifier, or another network_class(channels, num_classes=..., image_shape=...)."""
    parser = cli.ArgumentParser(__doc__)
    add_training_flags(parser, STEPS, BATCH_SIZE, LEARNING_RATE)
    add, width = parser.add_argument, cli.number(int, 8, multiple_of=8)
    add("--channels", type=width, default=CHANNELS, help="number of channels")
    max_t = SCHEDULE["num_train_timesteps"] - 1
    timestep = cli.number(int, 0, max_t)
    add("--max-t", type=timestep, default=max_t, help="largest timestep to train on")
    add_data_flags(parser)
    args = parser.parse_args(argv)
    figure = output_folder(args.models) / "results" / "classifier_accuracy.png"
    scheduler = DDPMScheduler(**SCHEDULE)  # sampling reads it from the checkpoints
    dataset = Dataset(args.dataset, args.size)
    print(dataset, flush=True)
    images, labels = dataset.load("validation")

    torch.manual_seed(args.seed)
    sizes = {"num_classes": len(dataset.info["classes"]), "image_shape": dataset.info["shape"]}
    classifier = network_class(args.channels, **sizes).to(args.device)
    settings, checkpoint = settings_of(args, "channels", "max_t"), args.models / "classifier.pth"
    run = Run(checkpoint, dataset, args.resume, dict(SCHEDULE), **settings)

    def validate(run):
        accuracy, confidence = accuracy_by_band(classifier, scheduler, images, labels)
        run.record(accuracy=accuracy, confidence=confidence)

    train(classifier, scheduler, run, validate, args.max_t)
    run.save_checkpoint()
    plotted = plot_accuracy(classifier, scheduler, images, labels)
    save_figure(figure, plotted, provenance(classifier, **run.settings))
    run.finish()
    print(f"saved {checkpoint} and {figure} after {run.elapsed():.0f} s")


if __name__ == "__main__":
    main()
