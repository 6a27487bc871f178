"""A training that can be stopped and resumed bit for bit.

Random streams need no saving, since they depend on the seed and the step alone.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers.training_utils import EMAModel
from torch.nn.utils import clip_grad_norm_
from tqdm import tqdm

from support.errors import require
from support.files import load_tensors, save_tensors
from support.streams import batch_indices, generator

SAVE_EVERY = 200  # steps
MIN_VALIDATE_EVERY = 400  # steps; an epoch, if that is longer


@dataclass
class Run:
    """Iterates over the batches of a training, from the first one that is not done yet.

        run = Run("classifier", checkpoint, settings, dataset, network, ...)
        for x_0, y, rng in run:
            ...
            run.descend(loss)
        ...  # write the results
        run.remove_state()

    `step` counts the steps that are done, `losses` has a float for each, and `history` a dict for
    each validation: after every epoch, or 400 steps if that is longer, and after the last step.
    """

    purpose: str  # of the random streams, and the label of the progress bar
    checkpoint: Path  # what the training writes; the state is kept beside it
    settings: dict  # on which the weights depend: steps, batch_size, seed, and others
    dataset: object  # load("train") gives images (N, C, H, W) and labels (N,); `info` is a dict
    network: torch.nn.Module
    lr_schedulers: list  # of the learning rates; they hold the optimizers
    validate: Callable  # run -> a dict of plain values, with the network in eval mode, averaged
    ema: EMAModel | None = None  # the average of the network's parameters
    max_grad_norm: float = 1.0  # longer gradients are clipped to this length
    resume: bool = False  # go on from the state of a stopped training

    def __post_init__(self):
        self.settings = {**self.settings, "dataset": self.dataset.info}
        self.images, self.labels = self.dataset.load("train")
        n, batch_size = len(self.images), self.settings["batch_size"]
        require(batch_size <= n, f"--batch-size {batch_size}: there are {n} images")
        self.validate_every = max(n // batch_size, MIN_VALIDATE_EVERY)
        self.optimizers = [schedule.optimizer for schedule in self.lr_schedulers]
        self.parts = [self.network, *self.optimizers, *self.lr_schedulers]  # that have a state
        if self.ema:
            self.parts.append(self.ema)
        self.step = 0
        self.losses, self.history = [], []
        self.start = time.monotonic()
        self.state_path = self.checkpoint.with_suffix(".state.pth")
        if self.resume:
            self.load()
        else:
            stopped = f"{self.state_path} is the state of a stopped training"
            require(not self.state_path.exists(), f"{stopped}: use --resume, or delete it")

    def __iter__(self):
        """Yield x_0 (B, C, H, W), y (B,) and the random stream of each step."""
        steps = self.settings["steps"]
        batch_size = self.settings["batch_size"]
        seed = self.settings["seed"]
        with tqdm(total=steps, initial=self.step, desc=self.purpose, disable=None) as bar:
            while self.step < steps:
                index = batch_indices(len(self.images), batch_size, seed, self.step)
                rng = generator(seed, self.purpose, self.step)
                yield self.images[index], self.labels[index], rng
                self.step += 1
                bar.set_postfix(loss=f"{self.losses[-1]:.4f}", refresh=False)
                bar.update()
                if self.step % self.validate_every == 0 or self.step == steps:
                    self.add_validation()
                if self.step % SAVE_EVERY == 0:
                    self.save()

    def descend(self, loss):
        """Take a gradient step on the loss () of a batch. Raises UserError if it is not finite."""
        self.losses.append(loss.item())
        finite = math.isfinite(self.losses[-1])
        require(finite, f"the loss is not finite at step {self.step}: start with a lower --lr")
        self.network.zero_grad()
        loss.backward()
        clip_grad_norm_(self.network.parameters(), self.max_grad_norm)
        for part in (*self.optimizers, *self.lr_schedulers):
            part.step()
        if self.ema:
            self.ema.step(self.network.parameters())

    def add_validation(self):
        """Validate the network in eval mode, with its averaged parameters if it has some."""
        parameters = list(self.network.parameters())
        self.network.eval()
        if self.ema:
            self.ema.store(parameters)
            self.ema.copy_to(parameters)
        measured = self.validate(self)
        if self.ema:
            self.ema.restore(parameters)
        self.network.train()
        self.history.append({"step": self.step, "loss": self.recent_loss(), **measured})

    def recent_loss(self):
        """The mean loss of the steps between two validations, or of all if they are fewer."""
        recent = self.losses[-self.validate_every :]
        return sum(recent) / len(recent)

    def elapsed(self):
        """Seconds of training so far, over all runs."""
        return time.monotonic() - self.start

    def summary(self):
        """What a checkpoint tells of its training: settings, seconds, the last validation."""
        return {**self.settings, "seconds": self.elapsed(), **self.history[-1]}

    def log(self, text):
        """Print a line above the bar."""
        tqdm.write(f"step {self.step:6d}  {self.elapsed():5.0f} s  {text}")

    def save(self):
        """Write the state file."""
        state = {
            "settings": self.settings,
            "seconds": self.elapsed(),
            "step": self.step,
            "losses": self.losses,
            "history": self.history,
            "parts": [part.state_dict() for part in self.parts],
        }
        save_tensors(self.state_path, state)

    def remove_state(self):
        """Remove the state file, when all that the training makes is written."""
        self.state_path.unlink(missing_ok=True)

    def load(self):
        """Go on from the state file. Raises UserError if it does not fit the flags."""
        state = load_tensors(self.state_path, "start without --resume")
        other = f"{self.state_path} was made with other flags: {state.get('settings')}"
        require(state.get("settings") == self.settings, other)
        self.start -= state["seconds"]
        self.step = state["step"]
        self.losses, self.history = state["losses"], state["history"]
        for part, saved in zip(self.parts, state["parts"], strict=True):
            part.load_state_dict(saved)
        if self.ema:
            self.ema.to(next(self.network.parameters()).device)
