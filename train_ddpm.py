"""Step 2: train the U-Net, without labels, to predict the noise.

    python train_ddpm.py
    python train_ddpm.py --steps 300 --models trial    # a short trial in another folder
    python train_ddpm.py --resume                      # continue after Ctrl-C

DDPM Algorithm 1: draw x_0, t and eps, make x_t by (4), and take a gradient step on L_simple (14).
What is kept is an exponential moving average (EMA) of the network's weights.

Writes models/ddpm_unet.pth, sample_ddpm_output.png, results/ddpm_loss.png, and samples of every
epoch to previews/. With --models DIR, all of them are in DIR.
"""

import torch
from diffusers.optimization import get_linear_schedule_with_warmup
from diffusers.training_utils import EMAModel

from diffusion import (
    NUM_TRAIN_TIMESTEPS,
    SCHEDULE,
    add_noise,
    make_unet,
    simple_loss,
    validation_noise,
    validation_times,
)
from guidance import sample
from mnist import add_data_flags, training_data
from support import cli
from support.files import output_folder, provenance, save_checkpoint
from support.pictures import save_figure, save_grid
from support.streams import image_seeds
from support.training import Run

STEPS = 5_500
BATCH_SIZE = 64
LEARNING_RATE = 2.8e-3
ADAM_BETAS = (0.9, 0.99)  # without weight decay
MUON_WEIGHT_DECAY = 0.1
WARMUP_STEPS = 200
EMA_DECAY = 0.998
NUM_VALIDATION_IMAGES = 1_000


def no_label(y, rng):
    """What our U-Net is told of the labels y (B,): nothing."""
    return None


def train(run, unet, told=no_label):
    """DDPM Algorithm 1. A U-Net that takes labels is given `told(y, rng)` of those of a batch."""
    device = next(unet.parameters()).device
    in_bfloat16 = run.settings["precision"] == "bfloat16"
    for x_0, y, rng in run:  # (B, C, H, W), (B,), and the random stream of this step
        t = torch.randint(NUM_TRAIN_TIMESTEPS, (len(x_0),), generator=rng)  # (B,)
        eps = torch.randn(x_0.shape, generator=rng)
        x_t = add_noise(x_0, eps, t)  # DDPM (4)
        with torch.autocast(device.type, torch.bfloat16, enabled=in_bfloat16):
            eps_theta = unet(x_t.to(device), t.to(device), told(y.to(device), rng)).sample
        run.descend(simple_loss(eps_theta, eps.to(device)).mean())  # DDPM (14)


def train_unet(args, dataset, checkpoint, unet, validate, told=no_label):
    """Train a U-Net, and write the moving average of its weights: the finished `Run`.

    For `told` see `train`, and for the others `Run`.
    """
    unet.to(args.device)
    lr_schedulers = make_lr_schedulers(unet, args.lr, args.steps)
    ema = EMAModel(unet.parameters(), decay=EMA_DECAY, foreach=True)
    run = Run(
        "U-Net",
        checkpoint,
        cli.training_settings(args),
        dataset,
        unet,
        lr_schedulers,
        validate,
        ema=ema,
        resume=args.resume,
    )
    train(run, unet, told)
    ema.copy_to(unet.parameters())
    save_checkpoint(checkpoint, unet.eval(), SCHEDULE, dataset.info, run.summary())
    run.remove_state()
    return run


class ConvMuon(torch.optim.Muon):
    """Muon for kernels of convolutions (out, in, height, width); torch's own takes matrices only.

    It gets each kernel as a matrix (out, everything else), a view of the same memory.
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


def make_lr_schedulers(unet, lr, steps):
    """Muon for the kernels of convolutions between the first and the last; AdamW for all else.

    Returns:
        the schedules of the learning rates of the optimizers, which they hold: a list.
    """
    kernels = [parameter for parameter in unet.parameters() if parameter.ndim == 4][1:-1]
    rest = [p for p in unet.parameters() if all(p is not kernel for kernel in kernels)]
    optimizers = [torch.optim.AdamW(rest, lr=lr, betas=ADAM_BETAS, weight_decay=0.0, fused=True)]
    if kernels:  # other networks may have none
        muon = {"weight_decay": MUON_WEIGHT_DECAY, "adjust_lr_fn": "match_rms_adamw"}
        optimizers.insert(0, ConvMuon(kernels, lr=lr, **muon))
    warmup = min(WARMUP_STEPS, steps // 2)
    return [get_linear_schedule_with_warmup(each, warmup, steps) for each in optimizers]


@torch.no_grad()
def validation_loss(unet, images, batch_size=250):
    """L_simple of images (N, C, H, W) over uniform t, with the same t and noise at every call."""
    t, eps = validation_times(len(images)), validation_noise(images.shape)
    x_t = add_noise(images, eps, t)
    total = 0.0
    for part in torch.arange(len(images)).split(batch_size):
        eps_theta = unet(x_t[part].to(unet.device), t[part].to(unet.device)).sample
        total += simple_loss(eps_theta.cpu(), eps[part]).sum().item()
    return total / len(images)


def plot_loss(run):
    """Training and validation loss against steps: a matplotlib figure."""
    import matplotlib.pyplot as plt  # here, since a script starts faster without it

    size = max(1, len(run.losses) // 100)  # steps of a point
    means = [part.mean().item() for part in torch.tensor(run.losses).split(size)]
    steps = [entry["step"] for entry in run.history]
    losses = [entry["validation_loss"] for entry in run.history]
    figure, axes = plt.subplots(figsize=(6, 3.5), layout="constrained")
    axes.plot([size * (k + 1) for k in range(len(means))], means, label="training")
    axes.plot(steps, losses, "o", label="validation (EMA weights, fixed noise)")
    axes.set(xlabel="step", ylabel="L_simple, DDPM (14)", yscale="log")
    axes.legend()
    return figure


def has_bfloat16(device):
    """Whether it is a CPU that has instructions for bfloat16, as far as torch can tell."""
    if device.type != "cpu" or not hasattr(torch.cpu, "get_capabilities"):  # not in torch 2.9
        return False
    capabilities = torch.cpu.get_capabilities()
    return capabilities.get("avx512_bf16") or capabilities.get("amx_bf16")


def parse_args(docstring, steps, argv):
    """The flags of a script that trains a U-Net, by default for so many steps."""
    parser = cli.ArgumentParser(docstring)
    cli.add_training_flags(parser, steps, BATCH_SIZE, LEARNING_RATE)
    precisions = ("auto", "bfloat16", "float32")
    parser.add_argument("--precision", choices=precisions, default="auto", help="of the layers")
    add_data_flags(parser)
    args = parser.parse_args(argv)
    if args.precision == "auto":
        args.precision = "bfloat16" if has_bfloat16(args.device) else "float32"
    return args


@cli.one_line_errors
def main(argv=None):
    args = parse_args(__doc__, STEPS, argv)
    checkpoint = args.models / "ddpm_unet.pth"
    top = output_folder(args.models)
    samples_path, figure = top / "sample_ddpm_output.png", top / "results" / "ddpm_loss.png"
    dataset = training_data(args, checkpoint, samples_path, figure)
    validation = dataset.load("validation")[0][:NUM_VALIDATION_IMAGES]

    torch.manual_seed(args.seed)  # for the initial weights
    unet = make_unet(dataset.info["shape"])

    def validate(run):
        """The loss of validation images, and samples in the folder previews/."""
        loss = validation_loss(unet, validation)
        run.log(f"loss {run.recent_loss():.4f}  validation {loss:.4f}")
        samples = sample(unet, None, None, range(40), sampler="ddim")
        made_from = provenance([], step=run.step, **run.settings)
        save_grid(top / "previews" / f"step_{run.step:06d}.png", samples, 4, made_from)
        return {"validation_loss": loss}

    run = train_unet(args, dataset, checkpoint, unet, validate)
    made_from = provenance([checkpoint], **run.settings)
    save_figure(figure, plot_loss(run), made_from)
    seeds = image_seeds(0, [1] * 8)  # the noise of `python inference.py`
    save_grid(samples_path, sample(unet, None, None, seeds), 8, made_from)
    files = f"{checkpoint}, {samples_path} and {figure}"
    print(f"{files}: {args.steps} steps in {run.elapsed():.0f} s")


if __name__ == "__main__":
    main()
