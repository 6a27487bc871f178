"""Step 1: train the guide, a classifier of MNIST digits under DDPM noise.

    python train_classifier.py
    python train_classifier.py --steps 300 --models trial    # a short trial in another folder
    python train_classifier.py --resume                      # continue after Ctrl-C
    python train_classifier.py --max-t 0 --models clean      # a guide that never saw noise

Cross-entropy on x_t of DDPM (4), with t uniform over all timesteps. No classifier can be right at
high noise; the guide must know how unsure it is. So validation reports the mean confidence beside
the accuracy: they should agree.

Writes models/classifier.pth and results/classifier_accuracy.png; with --models DIR, both in DIR.
"""

import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler
from diffusers.optimization import get_cosine_schedule_with_warmup
from torch.nn.utils import clip_grad_norm_

from classifier import CHANNELS, Classifier
from diffusion import SCHEDULE, check_folder, noised_for_validation, schedule_of
from mnist import add_data_flags, training_data
from support import cli
from support.errors import UserError
from support.files import output_folder, provenance, save_checkpoint
from support.pictures import ACCENT, INK, save_figure
from support.training import Run

STEPS = 6_000
BATCH_SIZE = 128
LEARNING_RATE = 2e-3
WARMUP_STEPS = 200
WEIGHT_DECAY = 0.05
MAX_GRAD_NORM = 1.0
MAX_T = SCHEDULE["num_train_timesteps"] - 1
T_BANDS = ((0, 1), (0, 0.1), (0.1, 0.3), (0.3, 0.5), (0.5, 1))  # of all timesteps


def train(args, dataset, checkpoint, classifier, scheduler, validate):
    """Minimise the cross-entropy of noised images, with t up to --max-t: the finished `Run`.

    `validate(run)` is called with the classifier in eval mode, see `Run.validates`.
    """
    parameters = classifier.parameters()
    optimizer = torch.optim.AdamW(parameters, args.lr, weight_decay=WEIGHT_DECAY, fused=True)
    warmup = min(WARMUP_STEPS, args.steps // 2)
    lr_scheduler = get_cosine_schedule_with_warmup(optimizer, warmup, args.steps)
    parts = {"classifier": classifier, "optimizer": optimizer, "lr_scheduler": lr_scheduler}
    settings = cli.training_settings(args) | {"schedule": schedule_of(scheduler)}
    settings["network"] = type(classifier).__name__
    run = Run("classifier", checkpoint, settings, dataset, args.resume, **parts)

    for x_0, y, rng in run.batches():  # (B, C, H, W), (B,); rng is the stream of this step
        t = torch.randint(args.max_t + 1, (len(x_0),), generator=rng)  # (B,)
        eps = torch.randn(x_0.shape, generator=rng)
        x_t = scheduler.add_noise(x_0, eps, t)  # DDPM (4)

        logits = classifier(x_t.to(args.device), t.to(args.device))  # (B, K)
        loss = F.cross_entropy(logits, y.to(args.device))

        optimizer.zero_grad()
        loss.backward()
        clip_grad_norm_(classifier.parameters(), MAX_GRAD_NORM)
        optimizer.step()
        lr_scheduler.step()

        run.losses.append(loss.detach())
        if run.validates:
            classifier.eval()
            validate(run)
            classifier.train()
    classifier.eval()
    return run


@torch.no_grad()
def predict_noised(classifier, scheduler, x_0, t=None, batch_size=500):
    """p(y | x_t, t) of images x_0 (N, C, H, W) noised to t (N,), by default all t: (N, K), and t.

    The noise is the same at every call.
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
    """Accuracy on noised images against t, with a line for chance: a matplotlib figure."""
    import matplotlib.pyplot as plt  # here, since a script starts faster without it

    timesteps = [*range(0, MAX_T, 100), MAX_T]
    accuracy = []
    for t in timesteps:
        p, _ = predict_noised(classifier, scheduler, images, torch.full((len(images),), t))
        accuracy.append((p.argmax(dim=1) == labels).float().mean().item())
    figure, axes = plt.subplots(figsize=(6, 3.5), layout="constrained")
    axes.plot(timesteps, accuracy, "o-", color=INK, label="classifier")
    axes.axhline(1 / classifier.config["num_classes"], color=ACCENT, label="chance")
    axes.set(xlabel="t: from the image to pure noise", ylim=(0, 1.02))
    axes.set(ylabel=f"accuracy on {len(images):,} validation images")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    return figure


@cli.one_line_errors
def main(argv=None, network=Classifier):
    parser = cli.ArgumentParser(__doc__)
    cli.add_training_flags(parser, STEPS, BATCH_SIZE, LEARNING_RATE)
    channels, timestep = cli.multiple_of(8), cli.number(int, 0, MAX_T)
    parser.add_argument("--channels", type=channels, default=CHANNELS, help="width of the CNN")
    parser.add_argument("--max-t", type=timestep, default=MAX_T, help="the highest t to learn")
    add_data_flags(parser)
    args = parser.parse_args(argv)
    checkpoint = args.models / "classifier.pth"
    figure = output_folder(args.models) / "results" / "classifier_accuracy.png"
    scheduler = DDPMScheduler(**SCHEDULE)  # the same in all three scripts
    check_folder(args.models, checkpoint, scheduler)
    dataset = training_data(args, network, checkpoint, figure)
    images, labels = dataset.load("validation")

    torch.manual_seed(args.seed)  # for the initial weights
    num_classes, image_shape = len(dataset.info["classes"]), dataset.info["shape"]
    if num_classes < 2:
        raise UserError(f"--dataset {args.dataset}: one class only, there is nothing to classify")
    classifier = network(args.channels, num_classes=num_classes, image_shape=image_shape)
    classifier.to(args.device)

    def validate(run):
        accuracy, confidence = accuracy_by_band(classifier, scheduler, images, labels)
        run.record(accuracy=accuracy, confidence=confidence)

    run = train(args, dataset, checkpoint, classifier, scheduler, validate)
    schedule = schedule_of(scheduler)
    save_checkpoint(checkpoint, classifier, schedule, dataset.info, run.summary())
    plotted = plot_accuracy(classifier, scheduler, images, labels)
    save_figure(figure, plotted, provenance([checkpoint], **run.settings))
    run.remove_state()
    print(f"{checkpoint} and {figure}: {args.steps} steps in {run.elapsed():.0f} s")


if __name__ == "__main__":
    main()
