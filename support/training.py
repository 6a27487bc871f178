"""A training that can be stopped and resumed bit for bit."""

import math
import sys
import time
from pathlib import Path

import torch
from torch.nn.utils import clip_grad_norm_
from tqdm import tqdm

from support.cli import UserError, require
from support.files import load_tensors, save_tensors
from support.streams import batch_indices, generator

SAVE_EVERY = 200  # steps
MIN_VALIDATE_EVERY = 400  # steps; an epoch, if that is longer


class Run:
    """Iterates over the batches of a training, from the first one that is not done yet.

    Random streams need no saving, since they depend on the seed and the step alone. Leaving the
    `with` block without an error removes the state file.

        with Run("classifier", checkpoint, args, dataset, network=..., ...) as run:
            for x_0, y, rng in run:
                ...
                run.descend(loss)
            ...  # write the results

    Args:
        purpose: of the random streams, and the label of the progress bar.
        checkpoint: the file that the training writes; the state is kept beside it.
        args: the flags of `support.cli.add_training_flags`.
        dataset: `load("train")` gives its images (N, C, H, W) and labels (N,); `info` is a dict.
        network, optimizers, lr_schedulers: a module, and two lists.
        validate: called with the run after every epoch, or 400 steps if that is longer, and after
            the last step, with the network in eval mode; returns a dict of plain values.
        ema: diffusers' EMAModel of the network's parameters, or None. `validate` sees the average.
        max_grad_norm: longer gradients are clipped to this length.
        more_settings: what the weights depend on besides the flags of every training.

    Attributes:
        step: how many steps are done. losses: a float per step. history: a dict per validation.
        settings: what the weights depend on, a dict. A resumed run must have the same.

    Raises UserError if a batch is larger than the training set, or if --resume or its lack does not
    fit the state file.
    """

    def __init__(
        self,
        purpose,
        checkpoint,
        args,
        dataset,
        *,
        network,
        optimizers,
        lr_schedulers,
        validate,
        ema=None,
        max_grad_norm=1.0,
        **more_settings,
    ):
        self.purpose = purpose
        self.args = args
        self.images, self.labels = dataset.load("train")
        self.network, self.ema = network, ema
        self.optimizers, self.lr_schedulers = optimizers, lr_schedulers
        self.validate = validate
        self.max_grad_norm = max_grad_norm
        flags = ("steps", "batch_size", "lr", "seed")
        self.settings = {flag: getattr(args, flag) for flag in flags}
        self.settings |= {"dataset": dataset.info, **more_settings}
        num_images = len(self.images)
        if args.batch_size > num_images:
            raise UserError(
                f"--batch-size {args.batch_size}: there are {num_images} images to train on"
            )
        self.validate_every = max(num_images // args.batch_size, MIN_VALIDATE_EVERY)
        self.step, self.losses, self.history = 0, [], []
        self.start = time.monotonic()
        self.state_path = Path(checkpoint).with_suffix(".state.pth")
        if args.resume:
            self.load()
        elif self.state_path.exists():
            raise UserError(
                f"{self.state_path} is the state of a stopped training: continue it with "
                "--resume, or delete it"
            )
        self.bar = tqdm(
            total=args.steps, initial=self.step, desc=purpose, unit="step", disable=None
        )

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        self.bar.close()
        if kind is None:
            self.state_path.unlink(missing_ok=True)
        elif kind is KeyboardInterrupt and self.state_path.exists():
            print(
                f"\n{self.state_path} is kept: the same command with --resume goes on",
                file=sys.stderr,
            )

    def __iter__(self):
        """Yield x_0 (B, C, H, W), y (B,) and the random stream of each step."""
        args = self.args
        while self.step < args.steps:
            index = batch_indices(len(self.images), args.batch_size, args.seed, self.step)
            rng = generator(args.seed, self.purpose, self.step)
            yield self.images[index], self.labels[index], rng
            self.step += 1
            self.bar.update()
            if self.step % self.validate_every == 0 or self.step == args.steps:
                self.add_validation()
            if self.step % SAVE_EVERY == 0:
                self.save()

    def descend(self, loss):
        """Take a gradient step on the loss () of a batch. Raises UserError if it is not finite."""
        value = loss.item()
        if not math.isfinite(value):
            raise UserError(
                f"the loss is {value} at step {self.step}: delete {self.state_path} if it is "
                "there, and start with a lower --lr"
            )
        self.network.zero_grad()
        loss.backward()
        clip_grad_norm_(self.network.parameters(), self.max_grad_norm)
        for optimizer in self.optimizers:
            optimizer.step()
        for lr_scheduler in self.lr_schedulers:
            lr_scheduler.step()
        if self.ema:
            self.ema.step(self.network.parameters())
        self.losses.append(value)
        self.bar.set_postfix(loss=f"{value:.4f}", refresh=False)

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

    def parts(self):
        """All that has a state of its own."""
        average = [self.ema] if self.ema else []
        return [self.network, *self.optimizers, *self.lr_schedulers, *average]

    def save(self):
        """Write the state file."""
        state = {
            "settings": self.settings,
            "seconds": self.elapsed(),
            "step": self.step,
            "losses": self.losses,
            "history": self.history,
            "parts": [part.state_dict() for part in self.parts()],
        }
        save_tensors(self.state_path, state)

    def load(self):
        """Go on from the state file."""
        path = self.state_path
        require(path.exists(), f"--resume: there is no {path}; start without it")
        state = load_tensors(path, "delete it, and start without --resume")
        made_with = state.get("settings")
        if made_with != self.settings:
            raise UserError(
                f"--resume: {path} was made with other flags, {made_with}; use the same ones"
            )
        try:
            self.start -= state["seconds"]
            self.step, self.losses, self.history = state["step"], state["losses"], state["history"]
            for part, saved in zip(self.parts(), state["parts"], strict=True):
                part.load_state_dict(saved)
            if self.ema:
                self.ema.to(self.args.device)
        except (KeyError, ValueError, RuntimeError) as error:
            raise UserError(f"--resume: {path} is damaged: delete it") from error


def pick_precision(name, device):
    """What the layers compute in during training; the weights are always float32.

    "auto" is bfloat16 on a CPU that has instructions for it, if torch can tell.
    """
    if name != "auto":
        return name
    if device.type != "cpu" or not hasattr(torch.cpu, "get_capabilities"):  # not in torch 2.9
        return "float32"
    capabilities = torch.cpu.get_capabilities()
    fast = capabilities.get("avx512_bf16") or capabilities.get("amx_bf16")
    return "bfloat16" if fast else "float32"
