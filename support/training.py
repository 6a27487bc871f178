"""A training run: batches with a progress bar, losses, and a state that can be resumed."""

import math
import time

import torch
from tqdm import tqdm, trange

from support import UserError
from support.cli import add_run_flags, number, writable_folder
from support.files import MODELS, STATE, check_may_write, load_tensors, save_checkpoint
from support.files import save_tensors
from support.pictures import from_uint8

SAVE_SECONDS = 30  # between two saved states, and between two lines of a log
READ_EVERY = 50  # steps; reading a loss waits for the device
MIN_VALIDATE_EVERY = 400  # steps
SETTINGS = "steps", "batch_size", "lr", "seed", "channels"  # flags that determine the weights
FUSED = "cpu", "cuda"  # devices for which every torch version has a fused AdamW


class Run:
    """A training run that can be interrupted and resumed, on a CPU with bitwise identical results.

    All randomness must come from torch's CPU generator, whose state is saved.

    Args:
        checkpoint: Path of the checkpoint; the state file is saved next to it.
        network: a module; its `config` holds the constructor arguments.
        dataset: a `Dataset`, whose training images are used.
        args: parsed flags; see `add_training_flags`.
        schedule: the scheduler config that the checkpoint gets, or None.

    Attributes: `step` (from 1); `losses`, one tensor per step; `history`, one dict per validation.
    Raises UserError if the checkpoint may not be written (see `check_may_write`), or if there are
    fewer images than in a batch.
    """

    def __init__(self, checkpoint, network, dataset, args, schedule=None):
        check_may_write(checkpoint, network, schedule, dataset.info)
        self.checkpoint, self.network, self.args = checkpoint, network, args
        self.images, self.labels = dataset.splits["train"]  # uint8
        self.settings = {name: getattr(args, name) for name in SETTINGS if name in vars(args)}
        self.settings |= {"schedule": schedule, "dataset": dataset.info}
        self.state_path = checkpoint.with_suffix(STATE)
        self.batches_per_epoch = len(self.images) // args.batch_size
        if self.batches_per_epoch == 0:
            raise UserError(f"--batch-size {args.batch_size} exceeds the number of training images")
        self.step, self.losses, self.history, self.order = 0, [], [], None
        self.begin = self.saved = self.shown = time.monotonic()

    def batches(self, **parts):
        """Yield images (B, C, H, W) in [-1, 1] and labels (B,) for each remaining step.

        Saves the state every 30 seconds and after the last step. The `parts` are everything else
        that has a state_dict: optimizer, learning rate scheduler, EMA. Raises UserError if there is
        a state and --resume is not given, or if it belongs to other settings.
        """
        self.parts = {"network": self.network, **parts}
        if self.args.resume:
            self.load()
        elif self.state_path.exists():
            raise UserError(
                f"{self.state_path} belongs to a training run that was interrupted or is still "
                "running; pass --resume or delete it"
            )
        size, last = self.args.batch_size, self.args.steps
        with trange(self.step, last, desc=self.checkpoint.stem, disable=None) as bar:
            for done in bar:
                self.step, position = done + 1, done % self.batches_per_epoch * size
                if position == 0:  # a new epoch
                    self.order = torch.randperm(len(self.images))
                index = self.order[position : position + size]
                yield from_uint8(self.images[index]), self.labels[index]

                now = time.monotonic()
                if self.step % READ_EVERY == 0:
                    bar.set_postfix(loss=f"{self.mean_loss():.4f}", refresh=False)
                if bar.disable and now - self.shown > SAVE_SECONDS and self.step < last:
                    self.show(loss=self.mean_loss())  # not in a terminal
                if now - self.saved > SAVE_SECONDS or self.step == last:
                    self.save()

    @property
    def validates(self):
        """Whether to validate after this step: after an epoch, but at least 400 steps, or all."""
        every = max(self.batches_per_epoch, MIN_VALIDATE_EVERY)
        return self.step % every == 0 or self.step == self.args.steps

    def log(self, loss):
        """Add the loss of this step."""
        self.losses.append(loss.detach().clone())  # without a copy, freed memory would be pinned

    def record(self, **numbers):
        """Add the mean loss since the last validation, and other numbers, to `history`."""
        since = self.history[-1]["step"] if self.history else 0
        self.history.append({"step": self.step, "loss": self.mean_loss(self.step - since)})
        self.history[-1] |= numbers
        self.show(**self.history[-1])

    def show(self, **numbers):
        """Print the step, the time, and some numbers."""
        self.shown = time.monotonic()
        numbers = "  ".join(f"{key} {x:.4f}" for key, x in numbers.items() if key != "step")
        tqdm.write(f"step {self.step:6d}  {self.seconds():5.0f} s  {numbers}")

    def seconds(self):
        """Seconds of training so far, including before an interruption."""
        return time.monotonic() - self.begin

    def mean_loss(self, steps=READ_EVERY):
        """The mean loss of the last `steps` steps. Raises UserError if it is not finite."""
        self.losses[-steps:] = recent = [loss.cpu() for loss in self.losses[-steps:]]
        mean = torch.stack(recent).mean().item()
        if not math.isfinite(mean):
            raise UserError(f"the loss is not finite at step {self.step}; lower --lr")
        return mean

    def save(self):
        """Write the state file, if the losses are finite."""
        self.mean_loss(self.step)
        self.saved = time.monotonic()
        state = {name: getattr(self, name) for name in ("settings", "step", "history", "order")}
        state |= {"losses": torch.stack(self.losses), "seconds": self.seconds()}
        state |= {"parts": {name: part.state_dict() for name, part in self.parts.items()}}
        save_tensors(self.state_path, state | {"rng": torch.get_rng_state()})

    def load(self):
        """Continue from the state file."""
        state = load_tensors(
            self.state_path, "; there is nothing to resume; start without --resume"
        )
        before, now = state["settings"], self.settings
        others = {key: before.get(key) for key in before | now if before.get(key) != now.get(key)}
        if others:
            raise UserError(f"{self.state_path} belongs to a run with other settings: {others}")
        self.begin -= state["seconds"]
        self.step, self.history, self.order = state["step"], state["history"], state["order"]
        self.losses = list(state["losses"])
        device = next(self.network.parameters()).device
        for name, part in self.parts.items():
            part.load_state_dict(state["parts"][name])
            if hasattr(part, "to"):  # the EMA is now where the state was, on the CPU
                part.to(device)
        torch.set_rng_state(state["rng"])

    def save_checkpoint(self, **summary):
        """Save the network, with the settings and a summary of the training."""
        summary = {**self.settings, "seconds": self.seconds(), **self.history[-1], **summary}
        schedule, info = self.settings["schedule"], self.settings["dataset"]
        save_checkpoint(self.checkpoint, self.network, schedule, info, summary)

    def finish(self):
        """Delete the state file, when all results are written."""
        self.state_path.unlink(missing_ok=True)


def add_training_flags(parser, steps, batch_size, lr, channels=None):
    """Add the flags of every training script, with the script's defaults."""
    add, default = parser.add_argument, "(default: %(default)s)"
    models_help = "folder for the checkpoints (default: models)"
    add("--models", type=writable_folder, default=MODELS, metavar="DIR", help=models_help)
    add("--steps", type=number(int, 1), default=steps, help=f"optimizer steps {default}")
    size_help = f"images per step {default}"
    add("--batch-size", type=number(int, 1), default=batch_size, help=size_help)
    add("--lr", type=number(float, 0), default=lr, help=f"peak learning rate {default}")
    if channels:
        width = number(int, 8, multiple_of=8)
        add("--channels", type=width, default=channels, help=f"number of channels {default}")
    resume_help = "resume an interrupted run from its last saved state"
    add("--resume", action="store_true", help=resume_help)
    add_run_flags(parser)
