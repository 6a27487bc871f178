"""The state of a training run, which can be resumed, and the flags of the training scripts."""

import signal
import time
from collections import deque
from pathlib import Path

import torch
from tqdm import tqdm, trange

from support.cli import UserError
from support.cli import add_run_flags, number
from support.files import MODELS, check_may_write, load_tensors, save_checkpoint, save_tensors

SAVE_SECONDS = 30  # between two saved states
LOSS_STEPS = 100  # the reported loss is the mean over the last 100 steps
VALIDATE_EVERY = 400  # steps, or an epoch if that is longer
FUSED_ADAMW = "cpu", "cuda"  # devices that have it in every supported version of torch


class TrainingState:
    """Batches, progress, and everything that a resumed run needs to give the same bits on a CPU.

    All randomness must come from torch's CPU generator, whose state is saved, too.

    Args:
        checkpoint: its Path; the state file is next to it. schedule: the scheduler config.
        settings: plain values that determine the weights: steps, batch_size, and others.
        network, parts: everything with a state_dict: the network, whose `config` holds its
            constructor arguments, the optimizer, the learning rate scheduler, the EMA.

    Attributes: `step`, the number of completed steps; `order`, the indices of this epoch;
    `losses`, tensors, of the last steps; `metrics`, a dict, of the last validation.

    Raises UserError if `check_may_write` does, or if state file and `resume` do not go together.
    """

    def __init__(self, checkpoint, dataset, schedule, settings, resume, network, **parts):
        check_may_write(checkpoint, network, schedule, dataset.info)
        self.checkpoint, self.path = checkpoint, checkpoint.with_suffix(".state.pth")
        self.schedule, self.dataset, self.settings = schedule, dataset.info, settings
        self.images, self.labels = dataset.splits["train"]  # uint8 (N, C, H, W), int64 (N,)
        self.batches_per_epoch = len(self.images) // settings["batch_size"]
        self.network, self.parts = network, {"network": network, **parts}
        self.step, self.order, self.losses, self.metrics = 0, None, deque(maxlen=LOSS_STEPS), {}
        self.begin = self.saved_at = time.monotonic()
        self.interrupted = False
        if resume:
            self.load()
        elif self.path.exists():
            raise UserError(
                f"{self.path} belongs to a training run that was interrupted or is still running; "
                "pass --resume or delete it"
            )
        signal.signal(signal.SIGINT, self.interrupt)

    def batches(self):
        """Yield the remaining batches, uint8 images (B, C, H, W) and labels (B,).

        Shuffles in each epoch, shows the progress, and saves the state now and then. After each
        batch, call `count`.
        """
        first, last, size = self.step, self.settings["steps"], self.settings["batch_size"]
        bar = trange(first, last, initial=first, total=last, desc="training", disable=None)
        for step in bar:
            k = step % self.batches_per_epoch
            if k == 0:  # a new epoch
                self.order = torch.randperm(len(self.images))
            index = self.order[k * size : (k + 1) * size]
            yield self.images[index], self.labels[index]
            if self.step % LOSS_STEPS == 0:
                bar.set_postfix(loss=f"{mean(self.losses):.4f}", refresh=False)
            due = time.monotonic() - self.saved_at > SAVE_SECONDS
            if due or self.interrupted or self.step == last:
                self.save()

    def count(self, loss):
        """Count a step. Returns whether the network should be validated now."""
        self.step += 1
        self.losses.append(loss.detach())
        every = max(self.batches_per_epoch, VALIDATE_EVERY)
        return self.step % every == 0 or self.step == self.settings["steps"]

    def report(self, metrics):
        """Keep the metrics of a validation, a dict of floats, and print them."""
        self.metrics = {"loss": mean(self.losses), **metrics}
        text = "  ".join(f"{key} {value:.4f}" for key, value in self.metrics.items())
        tqdm.write(f"step {self.step:6d}  {self.seconds():5.0f} s  {text}")

    def interrupt(self, *_):
        """On Ctrl-C, stop at the end of this step; on the second one, at once."""
        self.interrupted = True
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def load(self):
        """Continue from the state file."""
        state = load_tensors(self.path, "; start without --resume")
        before, now = state["inputs"], self.inputs()
        others = {key: before.get(key) for key in before | now if before.get(key) != now.get(key)}
        if others:
            raise UserError(f"{self.path} belongs to a run with other settings: {others}")
        self.step, self.order, self.metrics = (state[key] for key in ("step", "order", "metrics"))
        device = next(self.network.parameters()).device
        self.losses.extend(state["losses"].to(device))
        for name, part in self.parts.items():
            part.load_state_dict(state["parts"][name])
            if hasattr(part, "to"):  # the EMA is now where the state was, on the CPU
                part.to(device)
        torch.set_rng_state(state["rng"])
        self.begin -= state["seconds"]

    def save(self):
        """Write the state file. Raises UserError if a loss is not finite.

        Raises KeyboardInterrupt after Ctrl-C.
        """
        losses = torch.stack([*self.losses]).cpu()
        if not losses.isfinite().all():
            raise UserError(f"the loss is not finite at step {self.step}; lower --lr")
        state = {"step": self.step, "order": self.order, "metrics": self.metrics, "losses": losses}
        state |= {"seconds": self.seconds(), "rng": torch.get_rng_state(), "inputs": self.inputs()}
        state |= {"parts": {name: part.state_dict() for name, part in self.parts.items()}}
        save_tensors(self.path, state)
        self.saved_at = time.monotonic()
        if self.interrupted:
            raise KeyboardInterrupt(f"interrupted at step {self.step}; add --resume to continue")

    def finish(self):
        """Save the checkpoint, with settings and metrics, and delete the state file."""
        signal.signal(signal.SIGINT, signal.default_int_handler)
        training = {**self.settings, "seconds": self.seconds(), **self.metrics}
        save_checkpoint(self.checkpoint, self.network, self.schedule, self.dataset, training)
        self.path.unlink(missing_ok=True)

    def inputs(self):
        """Everything that must be the same in a resumed run."""
        return {**self.settings, "schedule": self.schedule, "dataset": self.dataset}

    def seconds(self):
        """Seconds of training so far, including before an interruption."""
        return time.monotonic() - self.begin


def mean(losses):
    """The mean of tensors (), a float."""
    return torch.stack([*losses]).mean().item()


# --- flags ---


def add_training_flags(parser, steps, batch_size, lr, channels=None, bf16=False):
    """Add the flags of a training script, with the script's defaults."""
    add, default = parser.add_argument, "(default: %(default)s)"
    models_help = "folder for the checkpoints (default: models)"
    add("--models", type=Path, default=MODELS, metavar="DIR", help=models_help)
    add("--steps", type=number(int, 1), default=steps, help=f"optimizer steps {default}")
    size_help = f"images per step {default}"
    add("--batch-size", type=number(int, 1), default=batch_size, help=size_help)
    add("--lr", type=number(float, 0), default=lr, help=f"peak learning rate {default}")
    if channels:  # not for the judge
        width_help = f"number of channels {default}"
        widths = {"choices": range(8, 257, 8), "metavar": "8, 16, ..., 256"}
        add("--channels", type=int, default=channels, help=width_help, **widths)
    resume_help = "resume an interrupted run from its last saved state"
    add("--resume", action="store_true", help=resume_help)
    if bf16:
        bf16_help = "train in bfloat16 (torch.autocast); faster on GPUs and CPUs that support it"
        add("--bf16", action="store_true", help=bf16_help)
    add_run_flags(parser)


def training_settings(args, dataset):
    """The flags that determine the weights, name -> value: arguments of a script's `train`.

    Raises UserError if the dataset has fewer images than a batch.
    """
    images, _ = dataset.splits["train"]
    if args.batch_size > len(images):
        raise UserError(f"--batch-size must be at most {len(images)}, the number of images")
    names = "steps", "batch_size", "lr", "seed", "channels", "bf16", "resume"
    return {name: getattr(args, name) for name in names if name in args}
