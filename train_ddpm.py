"""Step 2: train the U-Net, without labels, to predict the noise.

    python train_ddpm.py
    python train_ddpm.py --steps 300 --models trial    # a short trial in another folder
    python train_ddpm.py --resume                      # continue after Ctrl-C

DDPM Algorithm 1: draw x_0, t and eps, make x_t by (4), and take a gradient step on L_simple (14).
What is kept is an exponential moving average (EMA) of the network's weights.

Writes models/ddpm_unet.pth, sample_ddpm_output.png, results/ddpm_loss.png, and samples of every
epoch to previews/. With --models DIR, all of them go to DIR.
"""

import torch
from diffusers import UNet2DModel
from diffusers.optimization import get_linear_schedule_with_warmup
from diffusers.training_utils import EMAModel
from torch.nn.utils import clip_grad_norm_

from diffusion import NUM_TRAIN_TIMESTEPS, SCHEDULE, UNET_CONFIG
from diffusion import add_noise, simple_loss, spread_timesteps
from inference import sample
from mnist import add_data_flags, training_data
from support import cli
from support.files import output_folders, prepare_outputs, provenance, save_checkpoint
from support.pictures import save_figure, save_grid
from support.streams import generator
from support.training import Run, pick_precision

TRAIN_STEPS = 5_500
BATCH_SIZE = 64
LEARNING_RATE = 2.8e-3
ADAM_BETAS = (0.9, 0.99)  # without weight decay
MUON_WEIGHT_DECAY = 0.1
WARMUP_STEPS = 200
EMA_DECAY = 0.998
VALIDATION_SEED = 1  # the same t and noise at every epoch and in every run
NUM_VALIDATION_IMAGES = 1_000


def train(run, unet, predict, ema, optimizers, lr_schedulers):
    """DDPM Algorithm 1, with the noise of a batch predicted by `predict(x_t, t, y, rng)`.

    Args:
        predict: calls `unet`; y (B,) are labels, rng is the random stream of the step.
        ema: diffusers' EMAModel of the U-Net's parameters.
        optimizers, lr_schedulers: dicts, see `make_optimizers`.
    """
    device, precision = unet.device, run.settings["precision"]
    for x_0, y, rng in run:  # (B, 1, 28, 28), (B,), and the random stream of this step
        t = torch.randint(NUM_TRAIN_TIMESTEPS, (len(x_0),), generator=rng)  # (B,)
        eps = torch.randn(x_0.shape, generator=rng)
        x_t = add_noise(x_0, eps, t)  # DDPM (4)
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
            eps_theta = predict(x_t.to(device), t.to(device), y.to(device), rng)
        loss = simple_loss(eps_theta, eps.to(device)).mean()  # DDPM (14)
        unet.zero_grad()
        loss.backward()
        clip_grad_norm_(unet.parameters(), 1.0)
        for optimizer in optimizers.values():
            optimizer.step()
        for lr_scheduler in lr_schedulers.values():
            lr_scheduler.step()
        ema.step(unet.parameters())
        run.record(loss)


class ConvMuon(torch.optim.Muon):
    """Muon for kernels of convolutions; torch's own takes matrices only.

    It gets each kernel (out, in, height, width) as a matrix (out, everything else) that shares the
    memory of the kernel: a view.
    """

    def __init__(self, kernels, **settings):
        self.kernels = kernels
        views = [kernel.detach().view(len(kernel), -1) for kernel in kernels]
        self.matrices = [torch.nn.Parameter(view) for view in views]
        super().__init__(self.matrices, **settings)

    def step(self, closure=None):
        for kernel, matrix in zip(self.kernels, self.matrices):
            matrix.grad = kernel.grad.flatten(1)
        super().step(closure)


def make_optimizers(unet, lr, steps):
    """Muon for the kernels of the convolutions between the first and the last; AdamW otherwise.

    Returns:
        two dicts, by name: both optimizers, and the schedules of their learning rates.
    """
    outer = (unet.conv_in, unet.conv_out)
    convolutions = [m for m in unet.modules() if isinstance(m, torch.nn.Conv2d) and m not in outer]
    kernels = [convolution.weight for convolution in convolutions]
    chosen = {id(kernel) for kernel in kernels}
    rest = [parameter for parameter in unet.parameters() if id(parameter) not in chosen]
    weight_decay, warmup = MUON_WEIGHT_DECAY, min(WARMUP_STEPS, steps // 2)
    muon = ConvMuon(kernels, lr=lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")
    adamw = torch.optim.AdamW(rest, lr=lr, betas=ADAM_BETAS, weight_decay=0.0, fused=True)
    lr_schedulers = {
        "lr of muon": get_linear_schedule_with_warmup(muon, warmup, steps),
        "lr of adamw": get_linear_schedule_with_warmup(adamw, warmup, steps),
    }
    return {"muon": muon, "adamw": adamw}, lr_schedulers


@torch.no_grad()
def validation_loss(unet, images, batch_size=250):
    """L_simple of images (N, 1, 28, 28) over uniform t, with the same t and noise at every call."""
    t = spread_timesteps(len(images), generator(VALIDATION_SEED, "validation", 0))
    eps = torch.randn(images.shape, generator=generator(VALIDATION_SEED, "validation", 1))
    x_t = add_noise(images, eps, t)
    total = 0.0
    for part in torch.arange(len(images)).split(batch_size):
        eps_theta = unet(x_t[part].to(unet.device), t[part].to(unet.device)).sample
        total += simple_loss(eps_theta.cpu(), eps[part]).sum().item()
    return total / len(images)


def validate(run, unet, ema, images, previews):
    """Validate the EMA weights, and draw samples from them: a dict for the history."""
    ema.store(unet.parameters())
    ema.copy_to(unet.parameters())
    unet.eval()
    entry = {"loss": run.recent_loss(), "validation_loss": validation_loss(unet, images)}
    run.log(f"loss {entry['loss']:.4f}  validation {entry['validation_loss']:.4f}")
    y = torch.arange(10).repeat_interleave(4)  # unguided: y is only the key of the noise
    samples = sample(unet, None, y, sampler="ddim", steps=20)
    save_grid(previews / f"step_{run.step:06d}.png", samples, 4, str(entry))
    unet.train()
    ema.restore(unet.parameters())
    return entry


def plot_loss(run, num_points=100):
    """Training and validation loss against steps: a matplotlib figure."""
    import matplotlib.pyplot as plt  # here, since a script starts faster without it

    size = max(1, len(run.losses) // num_points)
    means = [part.mean().item() for part in torch.tensor(run.losses).split(size)]
    steps = [entry["step"] for entry in run.history]
    losses = [entry["validation_loss"] for entry in run.history]
    figure, axes = plt.subplots(figsize=(6, 3.5), layout="constrained")
    axes.plot([size * (k + 1) for k in range(len(means))], means, label="training")
    axes.plot(steps, losses, "o", label="validation (EMA weights, fixed noise)")
    axes.set(xlabel="step", ylabel="L_simple, DDPM (14)", yscale="log")
    axes.legend()
    return figure


@cli.one_line_errors
def main(argv=None):
    parser = cli.ArgumentParser(__doc__)
    cli.add_training_flags(parser, TRAIN_STEPS, BATCH_SIZE, LEARNING_RATE)
    cli.add_precision_flag(parser)
    add_data_flags(parser)
    args = parser.parse_args(argv)
    device = cli.pick_device(args.device)
    checkpoint = args.models / "ddpm_unet.pth"
    top, results = output_folders(args.models)
    samples, figure = top / "sample_ddpm_output.png", results / "ddpm_loss.png"
    previews = top / "previews"
    prepare_outputs(checkpoint, samples, figure, previews / "step_000000.png")
    dataset = training_data(args)
    validation = dataset.load("validation")[0][:NUM_VALIDATION_IMAGES]
    print(f"reads {args.dataset}; device: {device}", flush=True)

    torch.manual_seed(args.seed)  # for the initial weights
    unet = UNet2DModel(**UNET_CONFIG).to(device)
    ema = EMAModel(unet.parameters(), decay=EMA_DECAY, foreach=True)
    optimizers, lr_schedulers = make_optimizers(unet, args.lr, args.steps)

    def predict(x_t, t, y, rng):
        return unet(x_t, t).sample  # without the label y

    def validate_now(run):
        return validate(run, unet, ema, validation, previews)

    parts = {"network": unet, "ema": ema, **optimizers, **lr_schedulers}
    precision = pick_precision(args.precision, device)
    run = Run("U-Net", checkpoint, args, dataset, parts, validate_now, precision=precision)
    with run:
        ema.to(device)
        train(run, unet, predict, ema, optimizers, lr_schedulers)
        ema.copy_to(unet.parameters())
        save_checkpoint(checkpoint, unet, SCHEDULE, dataset.info, run.summary())
        made_from = provenance([checkpoint], **run.settings)
        save_figure(figure, plot_loss(run), made_from)
        y = torch.ones(8, dtype=torch.long)  # the noise of `python inference.py`, unguided
        save_grid(samples, sample(unet.eval(), None, y), 8, made_from)
    print(f"{checkpoint}, {samples} and {figure}: {args.steps} steps in {run.elapsed():.0f} s")


if __name__ == "__main__":
    main()
