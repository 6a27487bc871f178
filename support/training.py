"""A training run: batches with a progress bar, losses, and a state that can be resumed."""

import time
from pathlib import Path

import torch
from tqdm import tqdm, trange

from support import UserError
from support.cli import add_run_flags, number
from support.files import MODELS, STATE, check_may_write, load_tensors, save_checkpoint
from support.files import save_tensors
from support.pictures import from_uint8

SAVE_SECONDS = 30  # between two saved states
LOSS_STEPS = 100  # the reported loss is the mean over the last 100 steps
MIN_VALIDATE_EVERY = 400  # steps
FUSED = "cpu", "cuda"  # devices with a fused AdamW in every supported version of torch


class Run:
    """A training run that can be interrupted and resumed, on a CPU with bitwise identical results.

    All randomness must come from torch's CPU generator, whose state is saved. Use it in a `with`
    statement, which deletes the state file when the run is complete.

    Args:
        checkpoint: Path of the checkpoint; the state file is saved next to it.
        network: a module; its `config` holds the constructor arguments.
        dataset: a `Dataset`, whose training images are used.
        schedule: the scheduler config that the checkpoint gets, or None.
        steps, batch_size: the number of steps, and of images per step.
        resume: continue from the state file.
        flags: plain values that also determine the weights, such as the seed.

    Attributes: `step` (from 1); `losses`, one tensor per step; `history`, one dict per validation.
    Raises UserError if the checkpoint may not be written (see `check_may_write`), or if there are
    fewer images than in a batch.
    """

    def __init__(
        self, checkpoint, network, dataset, schedule, steps, batch_size, resume=False, **flags
    ):
        check_may_write(checkpoint, network, schedule, dataset.info)
        self.batches_per_epoch = len(dataset.splits["train"][0]) // batch_size
        if self.batches_per_epoch == 0:
            raise UserError(f"--batch-size {batch_size} exceeds the number of training images")
        self.checkpoint, self.network, self.dataset = checkpoint, network, dataset
        self.schedule = schedule and dict(schedule)
        self.steps, self.batch_size, self.resume = steps, batch_size, resume
        self.flags = {"steps": steps, "batch_size": batch_size, **flags}
        self.state_path = checkpoint.with_suffix(STATE)
        self.step, self.losses, self.history, self.order = 0, [], [], None
        self.begin = self.saved_at = time.monotonic()

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        if kind is None:
            self.state_path.unlink(missing_ok=True)
        elif kind is KeyboardInterrupt and self.state_path.exists():
            error.args = ("interrupted; to continue, add --resume",)

    def batches(self, **parts):
        """Yield images (B, C, H, W) in [-1, 1] and labels (B,) for each remaining step.

        Saves the state every 30 seconds and after the last step. The `parts` are everything else
        that has a state_dict: optimizer, learning rate scheduler, EMA. Raises UserError if there is
        a state and --resume is not given, or if it belongs to other settings.
        """
        self.parts = {"network": self.network, **parts}
        if self.resume:
            self.load()
        elif self.state_path.exists():
            raise UserError(
                f"{self.state_path} belongs to a training run that was interrupted or is still "
                "running; pass --resume or delete it"
            )
        images, labels = self.dataset.splits["train"]  # uint8
        with trange(self.step, self.steps, desc=self.checkpoint.stem, disable=None) as bar:
            for done in bar:
                self.step, position = done + 1, done % self.batches_per_epoch * self.batch_size
                if position == 0:  # a new epoch
                    self.order = torch.randperm(len(images))
                index = self.order[position : position + self.batch_size]
                yield from_uint8(images[index]), labels[index]

                if self.step % LOSS_STEPS == 0:  # reading a loss waits for the device
                    bar.set_postfix(loss=f"{self.recent_loss():.4f}", refresh=False)
                last = self.step == self.steps
                if last or time.monotonic() - self.saved_at > SAVE_SECONDS:
                    self.save()
                    if bar.disable and not last:  # not in a terminal
                        self.show(loss=self.recent_loss())

    @property
    def validates(self):
        """Whether to validate now: after each epoch of at least 400 steps, and at the end."""
        every = max(self.batches_per_epoch, MIN_VALIDATE_EVERY)
        return self.step % every == 0 or self.step == self.steps

    def log(self, loss):
        """Add the loss of this step."""
        self.losses.append(loss.detach().clone())  # a view would keep the memory of its graph

    def recent_loss(self):
        """The mean loss of the last LOSS_STEPS steps."""
        return torch.stack(self.losses[-LOSS_STEPS:]).mean().item()

    def record(self, **numbers):
        """Add the recent loss and the numbers of a validation to `history`, and print them."""
        numbers = {"loss": self.recent_loss(), **numbers}
        self.history.append({"step": self.step, **numbers})
        self.show(**numbers)

    def show(self, **numbers):
        """Print the step, the time, and some numbers."""
        numbers = "  ".join(f"{key} {x:.4f}" for key, x in numbers.items())
        tqdm.write(f"step {self.step:6d}  {self.seconds():5.0f} s  {numbers}")

    def seconds(self):
        """Seconds of training so far, including before an interruption."""
        return time.monotonic() - self.begin

    def save(self):
        """Write the state file. Raises UserError if a loss is not finite."""
        losses = torch.stack(self.losses).cpu()
        if not losses.isfinite().all():
            raise UserError(f"the loss is not finite at step {self.step}; lower --lr")
        state = {name: getattr(self, name) for name in ("step", "history", "order")}
        state |= {"losses": losses, "seconds": self.seconds(), "rng": torch.get_rng_state()}
        state |= {"parts": {name: part.state_dict() for name, part in self.parts.items()}}
        save_tensors(self.state_path, state | {"settings": self.settings()})
        self.saved_at = time.monotonic()

    def load(self):
        """Continue from the state file. Raises UserError if it belongs to other settings."""
        if not self.state_path.exists():
            raise UserError(f"{self.state_path} is missing; start without --resume")
        state = load_tensors(self.state_path, "; delete it and start without --resume")
        before, now = state["settings"], self.settings()
        others = {key: before.get(key) for key in before | now if before.get(key) != now.get(key)}
        if others:
            raise UserError(f"{self.state_path} belongs to a run with other settings: {others}")
        self.begin -= state["seconds"]
        self.step, self.history, self.order = state["step"], state["history"], state["order"]
        device = next(self.network.parameters()).device
        self.losses = list(state["losses"].to(device))
        for name, part in self.parts.items():
            part.load_state_dict(state["parts"][name])
            if hasattr(part, "to"):  # the EMA is now where the state was, on the CPU
                part.to(device)
        torch.set_rng_state(state["rng"])

    def settings(self):
        """Everything that must be the same in a resumed run."""
        return {**self.flags, "schedule": self.schedule, "dataset": self.dataset.info}

    def save_checkpoint(self, **summary):
        """Save the network, with the flags and a summary of the training."""
        numbers = {key: value for key, value in self.history[-1].items() if key != "step"}
        summary = {**self.flags, "seconds": self.seconds(), **numbers, **summary}
        save_checkpoint(self.checkpoint, self.network, self.schedule, self.dataset.info, summary)


def add_training_flags(parser, steps, batch_size, lr, channels=None):
    """Add the flags of every training script, with the script's defaults."""
    add, default = parser.add_argument, "(default: %(default)s)"
    models_help = "folder for the checkpoints (default: models)"
    add("--models", type=Path, default=MODELS, metavar="DIR", help=models_help)
    add("--steps", type=number(int, 1), default=steps, help=f"optimizer steps {default}")
    size_help = f"images per step {default}"
    add("--batch-size", type=number(int, 1), default=batch_size, help=size_help)
    add("--lr", type=number(float, 0), default=lr, help=f"peak learning rate {default}")
    if channels:
        width_help = f"number of channels, a multiple of 8 {default}"
        widths = range(8, 257, 8)
        add("--channels", type=int, choices=widths, default=channels, metavar="C", help=width_help)
    resume_help = "resume an interrupted run from its last saved state"
    add("--resume", action="store_true", help=resume_help)
    add_run_flags(parser)


def add_bf16_flag(parser):
    """Add --bf16, for the U-Nets."""
    bf16_help = "train in bfloat16 (torch.autocast); faster on GPUs and CPUs that support it"
    parser.add_argument("--bf16", action="store_true", help=bf16_help)


def run_settings(args):
    """The flags that a `Run` needs, as its arguments."""
    names = "steps", "batch_size", "lr", "seed", "channels", "bf16", "resume"
    return {name: getattr(args, name) for name in names if name in args}
