"""What every script must agree on: the noise schedule, the U-Net, the random streams, the checkpoints.

Images are float tensors (B, 1, 28, 28) in [-1, 1]; t is an integer 0 .. 999, alphas_cumprod[t] the abar_t of Ho et al.
2020 ("DDPM"). Here too is how a script tells a person what is wrong: one line, exit status 2.
"""

import argparse
import contextlib
import ctypes
import functools
import glob
import hashlib
import io
import json
import math
import os
import platform
import signal
import sys
import time
from pathlib import Path

import diffusers
import numpy as np
import torch
from diffusers import DDPMScheduler, UNet2DModel
from diffusers.models.upsampling import Upsample2D

LEFTOVER_SECONDS = 3_600  # a half-written file of that age is nobody's any more
IMAGE_SHAPE = (1, 28, 28)
NUM_TRAIN_TIMESTEPS = 1000
SCHEDULE = {  # Ho et al. 2020, section 4
    "num_train_timesteps": NUM_TRAIN_TIMESTEPS,
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "prediction_type": "epsilon",
}
UNET_CONFIG = {
    "sample_size": 28,
    "in_channels": 1,
    "out_channels": 1,
    "block_out_channels": (16, 32, 64),  # at 28x28, 14x14, 7x7
    "down_block_types": ("DownBlock2D",) * 3,
    "up_block_types": ("UpBlock2D",) * 3,
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "resnet_time_scale_shift": "scale_shift",  # t scales the channels, too
    "add_attention": False,  # it won nothing: at 7x7 the convolutions see the whole digit
}


# --- the model ------------------------------------------------------------------------------------------------------


def make_scheduler():
    """The noise schedule: `add_noise` is DDPM (4), x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps."""
    return DDPMScheduler(**SCHEDULE, variance_type="fixed_small", clip_sample=True)


class UNet(UNet2DModel):
    """eps(x_t, t): diffusers' U-Net, with a way past it for what x_t says of its noise without any network.

    At t = 999 x_t is noise to 1 part in 157, and a network that must hand it through unharmed puts errors into eps that
    are 157 times as large in the image predicted from it. So eps = sqrt(1 - abar_t) x_t + sqrt(abar_t) v, where v is what
    the layers compute (Salimans & Ho 2022). What it returns, and what the loss compares, is still eps.

    And it upsamples without the convolution that diffusers puts behind, for the next layer is one: a fifth less arithmetic.

    Args:
        config: as of UNet2DModel.
    """

    def __init__(self, **config):
        super().__init__(**config)
        for block in self.up_blocks:
            if block.upsamplers is not None:
                block.upsamplers = torch.nn.ModuleList([Upsample2D(block.upsamplers[0].channels)])
        self.register_buffer("alphas_cumprod", make_scheduler().alphas_cumprod, persistent=False)

    def forward(self, x_t, t):
        """x_t: (B, 1, 28, 28). t: integer timesteps, (B,) or a single one. Returns an object with `sample`: eps (B, 1, 28, 28)."""
        abar = self.alphas_cumprod[t].view(-1, 1, 1, 1)
        output = super().forward(x_t, t)
        output.sample = (1 - abar).sqrt() * x_t + abar.sqrt() * output.sample
        return output


def make_unet():
    """The U-Net of `UNET_CONFIG`. Its last layer starts at zero: its first guess is v = 0."""
    unet = UNet(**UNET_CONFIG)
    torch.nn.init.zeros_(unet.conv_out.weight)
    torch.nn.init.zeros_(unet.conv_out.bias)
    return unet


def generator(*key):
    """A random stream of its own for each key of integers >= 0, so that no draw depends on what was drawn before it."""
    seed = np.random.SeedSequence(key).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(seed))


def stratified_timesteps(batch_size, rng):
    """t uniform over 0 .. 999, one from each of B equal slices: (B,). Lowers the variance of the loss, not its mean."""
    u = (torch.arange(batch_size) + torch.rand(batch_size, generator=rng)) / batch_size
    return (u * NUM_TRAIN_TIMESTEPS).long().clamp(max=NUM_TRAIN_TIMESTEPS - 1)


@functools.lru_cache(maxsize=1)
def epoch_order(num_images, seed, epoch):
    """The order in which an epoch shows the training images: (num_images,)."""
    return torch.randperm(num_images, generator=generator(seed, 0, epoch))


def batch_indices(num_images, batch_size, seed, step):
    """Which training images step number `step` sees: (B,). Each epoch is a new permutation; its remainder is dropped."""
    steps_per_epoch = num_images // batch_size
    epoch, position = divmod(step, steps_per_epoch)
    return epoch_order(num_images, seed, epoch)[position * batch_size : (position + 1) * batch_size]


def to_uint8(images):
    """Images (..., 1, 28, 28) in [-1, 1], clipped to it, as uint8 0 .. 255 of the same shape."""
    return images.clamp(-1, 1).add(1).mul(127.5).round().to(torch.uint8)


# --- faults that a person can mend ----------------------------------------------------------------------------------


class UserError(Exception):
    """Something a person can mend. A script prints its one line and exits with status 2; other errors keep their traceback."""


class ArgumentParser(argparse.ArgumentParser):
    """argparse with every default in --help, and one line, without the usage text, for a bad flag."""

    def __init__(self, description):
        description = description.strip().split("\n")[0]
        super().__init__(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter, allow_abbrev=False)

    def error(self, message):
        raise UserError(message)


def number(kind, low, high=math.inf, exclusive=False):
    """An argparse type: a finite int or float from low (itself excluded if `exclusive`) to high."""

    def parse(text):
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not (low <= value <= high and math.isfinite(value)) or (exclusive and value == low):
            name = {int: "a whole number", float: "a number"}[kind]
            bounds = f"above {low}" if exclusive else f"of {low} or more" if high == math.inf else f"from {low} to {high}"
            raise argparse.ArgumentTypeError(f"{text!r} is not {name} {bounds}")
        return value

    return parse


def one_line_errors(main):
    """Decorate a script's `main(argv=None)`: a UserError becomes one line on stderr and exit status 2."""

    @functools.wraps(main)
    def wrapped(argv=None):
        try:
            return main(argv)
        except UserError as error:
            message = " ".join(str(error).split())
            print(f"{Path(main.__code__.co_filename).name}: error: {message}", file=sys.stderr)
            raise SystemExit(2) from None

    return wrapped


def add_common_flags(parser):
    """The flags that all scripts share."""
    parser.add_argument("--models", type=Path, default=Path("models"), metavar="DIR", help="folder of the checkpoints")
    parser.add_argument("--seed", type=number(int, 0, 2**63 - 1), default=0, help="where every random stream begins")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda", "mps"), default="auto", help="auto: cuda, else mps, else cpu")


def add_training_flags(parser, steps, batch_size, lr):
    """The flags that all training scripts share, with the script's own defaults."""
    parser.add_argument("--data", type=Path, default=Path("data"), metavar="DIR", help="folder that holds MNIST/raw/*.gz")
    parser.add_argument("--steps", type=number(int, 1), default=steps, help="optimizer steps")
    parser.add_argument("--batch-size", type=number(int, 1, 55_000), default=batch_size, help="images a step")
    parser.add_argument("--lr", type=number(float, 0, exclusive=True), default=lr, help="peak learning rate")
    parser.add_argument("--resume", action="store_true", help="go on with a training that was stopped")


def results_folder(models):
    """Where a script's figures go: results/, but beside the weights in a trial run that --models sends elsewhere."""
    folder = Path("results") if Path(models) == Path("models") else Path(models)
    make_folder(folder)
    return folder


def keep_memory():
    """Have glibc keep a training step's memory for the next step, not hand it back and fault it in anew: a tenth of the time."""
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if hasattr(libc, "mallopt"):
        for parameter, value in ((-1, 2**31 - 1), (-2, 2**26), (-3, 2**25)):  # M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD
            libc.mallopt(parameter, value)


def pick_device(name):
    """The torch.device that --device names. Raises UserError where this machine has none."""
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(device for device, there in available.items() if there)
    if not available[name]:
        raise UserError(f"--device {name}: torch {torch.__version__} finds no such device here; use --device cpu or auto")
    return torch.device(name)


# --- files: whole or not at all -------------------------------------------------------------------------------------


def check_writable(*paths):
    """Say before the work begins that a file could not be written at its end. Raises UserError."""
    for path in map(Path, paths):
        folder = path.parent
        if path.is_dir():
            raise UserError(f"cannot write {path}: it is a directory; name a file")
        if not folder.is_dir():
            raise UserError(f"cannot write {path}: the folder {folder} does not exist; make it first")
        try:  # os.access is no answer for root, nor on a read-only file system
            probe = folder / f".{path.name}.{os.getpid()}.probe"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise UserError(f"cannot write {path}: {error.strerror}; name another place") from error


def make_folder(folder):
    """Make a folder of outputs if it is not there. Raises UserError."""
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the folder {folder}: {error.strerror}; name another place") from error


def save_figure(path, figure, made_from):
    """Write a matplotlib figure as a PNG, whole or not at all, with its provenance inside."""
    with atomic_write(path) as file:
        figure.savefig(file, format="png", dpi=120, metadata={"provenance": made_from})


@contextlib.contextmanager
def atomic_write(path):
    """Open a temporary file beside `path` for writing bytes; rename it over `path` only when all is on disk.

    Whatever goes wrong, `path` is what it was before. Raises UserError if the disk is full or the folder unwritable.
    """
    path = Path(path)
    temporary = path.parent / f".{path.name}.{os.getpid()}.tmp"
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):  # of a process that was killed as it wrote
        with contextlib.suppress(OSError):
            if time.time() - leftover.stat().st_mtime > LEFTOVER_SECONDS:
                leftover.unlink()
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def save_tensors(path, content):
    """torch.save, whole or not at all. By way of memory: a full disk inside torch.save would be a RuntimeError of its own."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    with atomic_write(path) as file:
        file.write(buffer.getbuffer())


def sha256(path):
    """The SHA-256 of a file, in hexadecimal."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def provenance(models, names, device, **settings):
    """What made a file, as one line of JSON: the SHA-256 of the weights in the folder `models`, the settings, the versions."""
    weights = {name: sha256(Path(models, name)) for name in names}
    versions = {"python": platform.python_version(), "torch": torch.__version__, "diffusers": diffusers.__version__}
    return json.dumps({"weights": weights, "settings": settings, "versions": versions, "device": str(device)})


# --- checkpoints ----------------------------------------------------------------------------------------------------


def save_checkpoint(path, network, seed, training):
    """Write a `.pth` from which `load_checkpoint` rebuilds the network: tensors and plain values only.

    Args:
        path: the file; appears whole or not at all.
        network: the module; its `config` holds its constructor's arguments.
        seed: what the run was seeded with.
        training: a dict of plain values that sums the run up (steps, seconds, settings, final metrics).
    """
    checkpoint = {
        "network": type(network).__name__,
        # diffusers keeps its own bookkeeping in the config under names with an underscore
        "config": {key: value for key, value in dict(network.config).items() if not key.startswith("_")},
        "schedule": SCHEDULE,
        "seed": seed,
        "training": training,
        "state_dict": {key: value.detach().cpu() for key, value in network.state_dict().items()},
    }
    save_tensors(path, checkpoint)


def read_checkpoint(path, made_by):
    """A dict of tensors and plain values from a file that anyone may have made: `weights_only`, so no code in it runs.

    Raises:
        UserError: missing, unreadable, or not such a file. It names `made_by`, the script that makes one.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(
            f"{path} is missing: make it with `python {made_by}`, or bring it back with `git checkout -- models`"
        ) from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    except Exception as error:  # garbage can raise anything in the unpickler
        raise UserError(f"{path} is not a checkpoint, or is damaged: make it anew with `python {made_by}`") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} is not a checkpoint of this project: make one with `python {made_by}`")
    return content


def load_checkpoint(path, network_class, made_by, device="cpu"):
    """Rebuild a network from its checkpoint alone.

    Args:
        path: a `.pth` that `save_checkpoint` wrote.
        network_class: the class that the checkpoint must hold.
        made_by: the script that makes it, for the error message.
        device: where the network goes.

    Returns:
        network: in eval mode, its parameters without gradients; and checkpoint: the dict, without the `state_dict`.

    Raises:
        UserError: the file is missing, damaged, another network's, another schedule's, or not finite.
    """
    checkpoint = read_checkpoint(path, made_by)
    if not {"network", "config", "schedule", "seed", "training", "state_dict"} <= checkpoint.keys():
        raise UserError(f"{path} is not a checkpoint of this project: make one with `python {made_by}`")
    if checkpoint["network"] != network_class.__name__:
        raise UserError(
            f"{path} holds a {checkpoint['network']}, not a {network_class.__name__}: make it with `python {made_by}`"
        )
    if checkpoint["schedule"] != SCHEDULE:
        raise UserError(f"{path} was trained on another noise schedule than this code's: make it anew with `python {made_by}`")
    try:
        network = network_class(**checkpoint["config"])
        network.load_state_dict(checkpoint.pop("state_dict"))
    except (TypeError, ValueError, RuntimeError, AttributeError, KeyError) as error:
        raise UserError(f"{path} does not fit the network of this code: make it anew with `python {made_by}`") from error
    if not all(parameter.isfinite().all() for parameter in network.parameters()):
        raise UserError(f"{path} holds weights that are not finite: make it anew with `python {made_by}`")
    return network.eval().requires_grad_(False).to(device), checkpoint


# --- a training that can be stopped at any point --------------------------------------------------------------------


class TrainingState:
    """The state of a training, on disk at least once a minute and at Ctrl-C, so that --resume goes on bit for bit.

    Random streams need no saving, for they depend on (seed, step) alone: see `generator`.

    Args:
        path: the state file, removed when the training is done.
        settings: the run's flags, a dict of plain values; a resumed run must have the same.
        parts: name -> object with `state_dict` and `load_state_dict` (network, EMA, optimizer, learning rate).
        resume: go on from the file.

    Attributes:
        step: the number of steps done. losses: one float a step. history: one dict of plain values an epoch.

    Raises:
        UserError: there is nothing to resume, it is damaged, or the flags differ.
    """

    SAVE_EVERY = 45  # seconds

    def __init__(self, path, settings, parts, resume, made_by):
        self.path, self.settings, self.parts = Path(path), settings, parts
        self.step, self.losses, self.history, self.seconds = 0, [], [], 0.0
        self.interrupted = False
        if resume:
            if not self.path.exists():
                raise UserError(f"--resume: there is no {self.path} to go on from; start without --resume")
            self._restore(read_checkpoint(self.path, made_by))
        self._clock = self._last_save = time.monotonic()

    def _restore(self, saved):
        damaged = UserError(f"--resume: {self.path} is not the state of this training; start without --resume")
        known = {"settings", "step", "losses", "history", "seconds", "parts"} <= saved.keys()
        if not known or saved["settings"].keys() != self.settings.keys():
            raise damaged
        for name, value in self.settings.items():
            before = saved["settings"][name]
            if before != value:
                raise UserError(
                    f"--resume: this run began with --{name.replace('_', '-')} {before}, not {value}; give the same, or start anew"
                )
        try:
            for name, part in self.parts.items():
                part.load_state_dict(saved["parts"][name])
        except (KeyError, ValueError, RuntimeError, TypeError) as error:
            raise damaged from error
        self.step, self.losses, self.history, self.seconds = (saved[name] for name in ("step", "losses", "history", "seconds"))

    def elapsed(self):
        """Seconds trained so far, all runs together."""
        return self.seconds + time.monotonic() - self._clock

    def save(self):
        """Write the state, whole or not at all."""
        state = {
            "settings": self.settings,
            "step": self.step,
            "losses": self.losses,
            "history": self.history,
            "seconds": self.elapsed(),
            "parts": {name: part.state_dict() for name, part in self.parts.items()},
        }
        save_tensors(self.path, state)
        self._last_save = time.monotonic()

    def record(self, loss):
        """Call with the loss of a step, a float, before the weights move. Raises UserError if it is not finite."""
        if not math.isfinite(loss):
            kept = f"; the last good state is kept in {self.path}" if self.path.exists() else ""
            raise UserError(f"the loss is {loss} at step {self.step}, so training stops: try a lower --lr{kept}")
        self.losses.append(loss)

    def end_step(self):
        """Call when all of a step is done. Saves now and then; stops here after Ctrl-C, with exit status 130."""
        self.step += 1
        if self.interrupted or time.monotonic() - self._last_save > self.SAVE_EVERY:
            self.save()
        if self.interrupted:
            print(f"\nstopped after step {self.step}; the same command with --resume goes on", file=sys.stderr)
            raise SystemExit(130)

    @contextlib.contextmanager
    def stop_between_steps(self):
        """While training, Ctrl-C waits for the end of the step, when the state is consistent."""

        def interrupt(*_):
            self.interrupted = True

        before = signal.signal(signal.SIGINT, interrupt)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    def done(self):
        """The result is written: the state is not needed any more."""
        self.path.unlink(missing_ok=True)
