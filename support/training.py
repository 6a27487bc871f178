"""What a training loop calls: batches with a bar, losses, and a state from which it resumes.

Bit for bit: random streams need no saving, since they depend on the seed and the step alone.
"""

import math
import time

from tqdm import tqdm

from support.errors import UserError
from support.files import load_tensors, save_tensors
from support.streams import batch_indices, generator

SAVE_EVERY = 200  # steps
READ_EVERY = 50  # steps; reading a loss waits for the device
MIN_VALIDATE_EVERY = 400  # steps; an epoch, if that is longer


class Run:
    """A training that can be stopped and resumed.

        run = Run("classifier", checkpoint, settings, dataset, resume, network=..., optimizer=...)
        for x_0, y, rng in run.batches():
            ...  # a step
            run.losses.append(loss.detach())
            if run.validates:
                run.record(accuracy=...)
        ...  # write the results
        run.remove_state()

    `step` is the number of the step, from 1; `losses` has the loss of each; `history` a dict for
    each validation: after every epoch, or 400 steps if that is longer, and after the last step.

    Args:
        purpose: of the random streams, and the label of the bar.
        checkpoint: the Path of what the training writes; the state is kept beside it.
        settings: on which the weights depend: steps, batch_size, seed, and others.
        dataset: load("train") gives images (N, C, H, W) and labels (N,); `info` is a dict.
        resume: go on from the state of a stopped training.
        parts: what has a state: networks, optimizers, schedules, averages.

    Raises UserError if the state does not fit.
    """

    def __init__(self, purpose, checkpoint, settings, dataset, resume=False, **parts):
        self.purpose, self.parts = purpose, parts
        self.settings = {**settings, "dataset": dataset.info}
        self.images, self.labels = dataset.load("train")
        self.batch_size, self.last_step = settings["batch_size"], settings["steps"]
        n = len(self.images)
        if self.batch_size > n:
            raise UserError(f"--batch-size {self.batch_size}: there are {n} images")
        self.validate_every = max(n // self.batch_size, MIN_VALIDATE_EVERY)
        self.step, self.losses, self.history = 0, [], []
        self.num_read = 0  # losses that are floats already; the others are on their device
        self.start = time.monotonic()
        self.state_path = checkpoint.with_suffix(".state.pth")
        if resume:
            self.load()
        elif self.state_path.exists():
            stopped = f"{self.state_path} is of a training that was stopped, or still runs"
            raise UserError(f"{stopped}: use --resume, or delete it")

    def batches(self):
        """Yield x_0 (B, C, H, W), y (B,) and the random stream of each step that is left."""
        seed, first = self.settings["seed"], self.step
        with tqdm(total=self.last_step, initial=first, desc=self.purpose, disable=None) as bar:
            for number in range(first, self.last_step):
                self.step = number + 1
                index = batch_indices(len(self.images), self.batch_size, seed, number)
                yield self.images[index], self.labels[index], generator(seed, self.purpose, number)
                bar.update()
                if self.step % READ_EVERY == 0 or self.step == self.last_step:
                    bar.set_postfix(loss=f"{self.recent_loss(READ_EVERY):.4f}", refresh=False)
                if self.step % SAVE_EVERY == 0:
                    self.save()

    @property
    def validates(self):
        """Whether this step is one after which to validate."""
        return self.step % self.validate_every == 0 or self.step == self.last_step

    def recent_loss(self, steps):
        """The mean loss of the last steps. Raises UserError if a loss is not finite."""
        while self.num_read < len(self.losses):
            loss = self.losses[self.num_read] = float(self.losses[self.num_read])
            self.num_read += 1
            if not math.isfinite(loss):
                raise UserError(f"the loss is not finite at step {self.num_read}: use a lower --lr")
        recent = self.losses[-steps:]
        return sum(recent) / len(recent) if recent else math.nan

    def record(self, **measured):
        """Add a validation, and print its line: the loss since the last one, and what is measured.

        What is measured is a number, or a dict of numbers.
        """
        entry = {"step": self.step, "loss": self.recent_loss(self.validate_every), **measured}
        self.history.append(entry)
        words = [f"{name} {in_words(value)}" for name, value in entry.items() if name != "step"]
        tqdm.write(f"step {self.step:6d}  {self.elapsed():5.0f} s  {'  '.join(words)}")

    def elapsed(self):
        """Seconds of training so far, over all runs."""
        return time.monotonic() - self.start

    def summary(self):
        """What a checkpoint tells of its training: settings, seconds, the last validation."""
        return {**self.settings, "seconds": self.elapsed(), **self.history[-1]}

    def save(self):
        """Write the state file."""
        self.recent_loss(SAVE_EVERY)  # raises if one is not finite: that state would be useless
        state = {
            "settings": self.settings,
            "seconds": self.elapsed(),
            "step": self.step,
            "losses": self.losses,
            "history": self.history,
            "parts": {name: part.state_dict() for name, part in self.parts.items()},
        }
        save_tensors(self.state_path, state)

    def remove_state(self):
        """Remove the state file, when all that the training makes is written."""
        self.state_path.unlink(missing_ok=True)

    def load(self):
        """Go on from the state file. Raises UserError if it does not fit the flags."""
        state = load_tensors(self.state_path, "start without --resume")
        if state.get("settings") != self.settings:
            other = f"{self.state_path} was made with other flags: {state.get('settings')}"
            raise UserError(other)
        self.start -= state["seconds"]
        self.step = state["step"]
        self.losses, self.history = state["losses"], state["history"]
        self.num_read = len(self.losses)
        for name, part in self.parts.items():
            part.load_state_dict(state["parts"][name])


def in_words(value):
    """A number, or a dict of numbers, for a line."""
    if isinstance(value, dict):
        return "  ".join(f"{name}: {in_words(number)}" for name, number in value.items())
    return f"{value:.4f}"
