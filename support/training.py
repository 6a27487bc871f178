"""Training loop utilities: batches with a progress bar, losses, and resumable state."""

import math
import time
from pathlib import Path

import torch
from tqdm import tqdm, trange

from support import UserError
from support.cli import add_run_flags, number
from support.files import (
    MODELS,
    STATE,
    check_may_write,
    config_of,
    load_tensors,
    save_checkpoint,
    save_tensors,
)
from support.pictures import from_uint8

SAVE_SECONDS = 30  # between two saved states, and between two lines of a log
READ_EVERY = 50  # steps; reading a loss waits for the device
MIN_VALIDATE_EVERY = 400  # steps


class Run:
    """A training run that can be interrupted and resumed, on a CPU with bitwise identical results.

    See train_classifier.py: `start`, a loop over `batches` with `log` and `record`,
    `save_checkpoint`, and, after everything else is written, `finish`. All randomness, except
    dropout on a GPU, comes from torch's CPU generator, whose state is saved.

    Attributes: `step` (from 1), `losses` (one tensor per step), `history` (one dict per
    validation: after every epoch or 400 steps, whichever is longer, and after the last step).

    Args:
        checkpoint: Path of the checkpoint; the state file is saved next to it.
        dataset: a `Dataset`, whose training images are used.
        resume: continue from the state file.
        schedule: the scheduler config that the checkpoint gets, or None.
        settings: whatever else determines the weights, at least steps, batch_size, and lr. They
            are saved in the checkpoint. A run is only resumed with the same settings; changes in
            the code are not noticed.

    Raises UserError if the batch size exceeds the number of images.
    """

    def __init__(self, checkpoint, dataset, resume=False, schedule=None, **settings):
        self.checkpoint, self.dataset_info, self.schedule = checkpoint, dataset.info, schedule
        self.settings = settings | ({"schedule": schedule} if schedule else {})
        self.settings["dataset"] = dataset.info
        self.images, self.labels = dataset.splits["train"]  # uint8
        self.steps, self.batch_size = settings["steps"], settings["batch_size"]
        self.batches_per_epoch = len(self.images) // self.batch_size
        if self.batches_per_epoch == 0:
            raise UserError(
                f"--batch-size {self.batch_size} exceeds the {len(self.images)} training images"
            )
        self.validate_every = max(self.batches_per_epoch, MIN_VALIDATE_EVERY)
        self.step, self.losses, self.history, self.order = 0, [], [], None
        self.resume, self.state_path = resume, checkpoint.with_suffix(STATE)

    def start(self, network, **parts):
        """Start the run, or resume it, and put the network in train mode.

        Args:
            network: its `config` holds the constructor arguments.
            parts: everything else with a state_dict: optimizer, learning rate scheduler, EMA.

        Raises UserError if the checkpoint may not be written (see `check_may_write`), if the state
        file does not match, or if it exists and the run is not to be resumed.
        """
        check_may_write(self.checkpoint, network, self.schedule, self.dataset_info)
        config_of(network)  # fails before the training if there is none
        self.network, self.parts = network.train(), {"network": network, **parts}
        self.begin = self.saved = self.shown = time.monotonic()
        if self.resume:
            self.load()
        elif self.state_path.exists():
            raise UserError(
                f"{self.state_path} belongs to a training run that was interrupted or is still "
                "running; pass --resume or delete it"
            )

    def save_checkpoint(self, **summary):
        """Save the network with a summary of its training."""
        last = self.history[-1] if self.history else {}
        summary = {**self.settings, "seconds": self.elapsed(), **last, **summary}
        save_checkpoint(self.checkpoint, self.network, self.schedule, self.dataset_info, summary)

    def finish(self):
        """Delete the state file, when all results are written."""
        self.state_path.unlink(missing_ok=True)

    def batches(self):
        """Yield images (B, C, H, W) in [-1, 1] and labels (B,) for each remaining step.

        Saves the state every 30 seconds and after the last step.
        """
        bar = trange(self.step, self.steps, desc=self.checkpoint.stem, disable=None)
        with bar:
            for done in bar:
                self.step = done + 1
                position = done % self.batches_per_epoch * self.batch_size
                if position == 0:  # a new epoch
                    self.order = torch.randperm(len(self.images))
                index = self.order[position : position + self.batch_size]
                yield from_uint8(self.images[index]), self.labels[index]
                self.after_step(bar)

    def after_step(self, bar):
        """Show the loss, and save the state if it is time to."""
        now = time.monotonic()
        if self.step % READ_EVERY == 0:
            bar.set_postfix(loss=f"{self.mean_loss(READ_EVERY):.4f}", refresh=False)
        if bar.disable and now - self.shown > SAVE_SECONDS:  # not in a terminal
            self.shown = now
            self.show(loss=self.mean_loss(READ_EVERY))
        if self.step == self.steps or now - self.saved > SAVE_SECONDS:
            self.save()
            self.saved = now

    @property
    def validates(self):
        """Whether to validate after this step."""
        return self.step % self.validate_every == 0 or self.step == self.steps

    def log(self, loss):
        """Add the loss of this step."""
        self.losses.append(loss.detach().clone())  # a copy, which does not pin freed memory

    def mean_loss(self, steps):
        """The mean loss of the last `steps` steps. Raises UserError if it is not finite."""
        self.losses[-steps:] = recent = [loss.cpu() for loss in self.losses[-steps:]]
        mean = torch.stack(recent).mean().item()
        if not math.isfinite(mean):
            raise UserError(f"the loss is not finite at step {self.step}; lower --lr")
        return mean

    def record(self, **measures):
        """Add metrics (numbers or dicts of numbers) to `history`, and print them.

        Of a dict, only the first number is printed.
        """
        entry = {"step": self.step, "loss": self.mean_loss(self.validate_every), **measures}
        self.history.append(entry)
        firsts = {k: next(iter(v.values())) if isinstance(v, dict) else v for k, v in entry.items()}
        del firsts["step"]
        self.show(**firsts)

    def show(self, **numbers):
        """Print the step, the time, and some numbers."""
        shown = "  ".join(f"{name} {value:.4f}" for name, value in numbers.items())
        tqdm.write(f"step {self.step:6d}  {self.elapsed():5.0f} s  {shown}")

    def elapsed(self):
        """Seconds of training so far, including before an interruption."""
        return time.monotonic() - self.begin

    def save(self):
        """Write the state file, if the recent losses are finite."""
        self.mean_loss(READ_EVERY)
        state = {
            "settings": self.settings,
            "seconds": self.elapsed(),
            "step": self.step,
            "losses": torch.stack([loss.cpu() for loss in self.losses]),
            "history": self.history,
            "order": self.order,
            "rng": torch.get_rng_state(),
            "parts": {name: part.state_dict() for name, part in self.parts.items()},
        }
        save_tensors(self.state_path, state)

    def load(self):
        """Continue from the state file. Raises UserError if its settings differ."""
        state = load_tensors(
            self.state_path, "; there is nothing to resume; start without --resume"
        )
        before, now = state["settings"], self.settings
        changes = [
            f"{name} was {before.get(name, 'not set')}, is now {now.get(name, 'not set')}"
            for name in {**before, **now}
            if before.get(name) != now.get(name)
        ]
        if changes:
            raise UserError(
                f"{self.state_path} belongs to a run with other settings: {'; '.join(changes)}"
            )
        self.begin -= state["seconds"]
        self.step, self.history, self.order = state["step"], state["history"], state["order"]
        self.losses = list(state["losses"])
        for name, part in self.parts.items():
            part.load_state_dict(state["parts"][name])
        torch.set_rng_state(state["rng"])


def fused(device):
    """The argument `fused` of AdamW: True on devices for which every torch version has it."""
    return True if device.type in ("cpu", "cuda") else None


def add_training_flags(parser, steps, batch_size, lr):
    """Add the flags of every training script, with the script's defaults."""
    add = parser.add_argument
    add("--models", type=Path, default=MODELS, metavar="DIR", help="folder for the checkpoints")
    add("--steps", type=number(int, 1), default=steps, help="optimizer steps")
    add("--batch-size", type=number(int, 1), default=batch_size, help="images per step")
    add("--lr", type=number(float, 0), default=lr, help="peak learning rate")
    resume_help = "resume an interrupted run from its last saved state"
    add("--resume", action="store_true", help=resume_help)
    add_run_flags(parser)


def settings_of(args, *others):
    """The flags that determine the weights, and `others`, as keyword arguments of a `Run`."""
    return {flag: getattr(args, flag) for flag in ("steps", "batch_size", "lr", "seed", *others)}
