"""A training that can be stopped at any step and resumed bit for bit: `for step in run:`."""

import ctypes
import math
import signal
import sys
import time
from pathlib import Path

import torch
from torch.optim.lr_scheduler import LRScheduler
from tqdm import tqdm

from support.checkpoints import read_checkpoint, save_tensors
from support.errors import UserError, require
from support.files import check_writable, make_folders

SAVED = ("step", "losses", "history", "seconds")


class Run:
    """Iterates over the steps of a training, from the first one that is not done yet.

    It owns the progress bar, the losses, the learning rate schedules, the state file, Ctrl-C and
    the end of an epoch. Random streams need no saving, since they depend on (seed, step) alone.

        for step in run:
            loss = ...
            loss.backward()
            run.record(loss, clip_grad_norm_(network.parameters(), 1.0))
            optimizer.step()

    Args:
        name: the label of the progress bar.
        settings: the flags that the weights depend on, a dict of plain values with `steps` and
            `batch_size`. A resumed run must have the same.
        parts: name -> object with `state_dict` and `load_state_dict` (network, EMA, optimizers,
            learning rate schedules). The schedules step here, everything else in the loop.
        num_images: the size of the training set.
        end_epoch: called with the run after every epoch, of MIN_STEPS or more, and after the last
            step; returns a dict of plain values for `history`.

    Raises:
        UserError: a batch is larger than the training set.

    Attributes:
        step: the step that runs now. losses: a float per step. history: a dict per epoch.
    """

    SAVE_EVERY = 45  # seconds between two state files
    MIN_STEPS = 400  # between two calls of end_epoch, where the training set is small

    def __init__(self, name, settings, parts, num_images, end_epoch):
        batch_size = settings["batch_size"]
        if batch_size > num_images:
            raise UserError(
                f"--batch-size {batch_size}: there are {num_images} images to train on; "
                f"use {num_images} or fewer"
            )
        self.name, self.settings, self.parts = name, settings, parts
        self.steps_per_epoch = max(num_images // batch_size, self.MIN_STEPS)
        self.end_epoch = end_epoch
        self.step, self.losses, self.history, self.seconds = 0, [], [], 0.0
        self.path, self.interrupted = None, False
        self._clock = self._last_save = time.monotonic()

    def keep_state(self, path, resume, made_by, *outputs):
        """Save the state to `path` at least once a minute and at Ctrl-C; with `resume`, load it.

        Without `resume`, a state that is there is kept beside it as .bak. Before that, the folders
        of the `outputs` of the training are made.

        Raises:
            UserError: there is nothing to resume, the file is damaged, or the flags differ; an
                output cannot be written.
        """
        self.path = Path(path)
        there = self.path.exists() or not resume
        require(there, f"--resume: there is no {self.path} to resume from; start without --resume")
        make_folders(self.path.parent, *(Path(output).parent for output in outputs))
        check_writable(*outputs, self.path)
        if resume:
            self._restore(read_checkpoint(self.path, made_by))
        elif self.path.is_file():
            kept = self.path.with_name(f"{self.path.name}.bak")
            self.path.replace(kept)
            print(
                f"this training starts from step 0; the state of the stopped one is kept as {kept}"
            )

    def __iter__(self):
        steps = self.settings["steps"]
        before = signal.signal(signal.SIGINT, self._interrupt)
        bar = tqdm(total=steps, initial=self.step, desc=self.name, unit="step", disable=None)
        try:
            while self.step < steps:
                yield self.step
                for part in self.parts.values():
                    if isinstance(part, LRScheduler):
                        part.step()
                bar.update()
                bar.set_postfix(loss=f"{self.losses[-1]:.4f}", refresh=False)
                if (self.step + 1) % self.steps_per_epoch == 0 or self.step + 1 == steps:
                    self.history.append({"step": self.step + 1, **self.end_epoch(self)})
                self._end_step()
        finally:
            signal.signal(signal.SIGINT, before)
            bar.close()

    def record(self, loss, grad_norm):
        """Call with the loss and the norm of the gradient, before the weights move: scalar tensors.

        Raises:
            UserError: one of them is not finite.
        """
        for name, value in (("loss", loss.item()), ("norm of the gradient", grad_norm.item())):
            if not math.isfinite(value):
                there = self.path and self.path.exists()
                kept = f"; the last good state is kept in {self.path}" if there else ""
                raise UserError(
                    f"the {name} is {value} at step {self.step}: try a lower --lr{kept}"
                )
        self.losses.append(loss.item())

    def elapsed(self):
        """Seconds of training so far, over all runs."""
        return self.seconds + time.monotonic() - self._clock

    def log(self, text):
        """Print a line for an epoch above the bar."""
        tqdm.write(f"step {self.step + 1:6d}  {self.elapsed():5.0f} s  {text}")

    def save(self):
        """Write the state file."""
        state = {name: getattr(self, name) for name in SAVED}
        parts = {name: part.state_dict() for name, part in self.parts.items()}
        seconds = self.elapsed()
        save_tensors(
            self.path, {**state, "seconds": seconds, "settings": self.settings, "parts": parts}
        )
        self._last_save = time.monotonic()

    def done(self):
        """Call when the result is written: remove the state file."""
        self.path.unlink(missing_ok=True)

    def _interrupt(self, *_):
        """Ctrl-C waits for the end of the step, when the state is consistent."""
        self.interrupted = True

    def _end_step(self):
        self.step += 1
        due = time.monotonic() - self._last_save > self.SAVE_EVERY
        if self.path and (self.interrupted or due):
            self.save()
        if self.interrupted:
            print(
                f"\nstopped after step {self.step}; continue with the same command and --resume",
                file=sys.stderr,
            )
            raise SystemExit(130)

    def _restore(self, saved):
        damaged = UserError(
            f"--resume: {self.path} is not the state of this training; start without --resume"
        )
        if not saved.keys() >= {*SAVED, "settings", "parts"}:
            raise damaged
        if saved["settings"].keys() != self.settings.keys():
            raise damaged
        for name, value in self.settings.items():
            before = saved["settings"][name]
            if before != value:
                raise UserError(
                    f"--resume: this run began with --{name.replace('_', '-')} {before}, "
                    f"not {value}; use the same value, or start without --resume"
                )
        try:
            for name, part in self.parts.items():
                part.load_state_dict(saved["parts"][name])
        except (KeyError, ValueError, RuntimeError, TypeError) as error:
            raise damaged from error
        for name in SAVED:
            setattr(self, name, saved[name])


def keep_memory():
    """Make glibc keep freed memory for the next training step. Saves a tenth of the time."""
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if hasattr(libc, "mallopt"):
        # M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD
        for parameter, value in ((-1, 2**31 - 1), (-2, 2**26), (-3, 2**25)):
            libc.mallopt(parameter, value)


def pick_precision(name, device):
    """What the layers compute in during training; the weights are always float32.

    "auto" is bfloat16 on a CPU that has instructions for it, if torch can tell. It saves a quarter
    of the time.
    """
    if name != "auto":
        return name
    told = getattr(torch.cpu, "get_capabilities", dict)  # not in torch 2.6
    capabilities = told() if device.type == "cpu" else {}
    fast = capabilities.get("avx512_bf16") or capabilities.get("amx_bf16")
    return "bfloat16" if fast else "float32"
