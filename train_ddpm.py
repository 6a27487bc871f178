"""Step 2: train the U-Net, without labels, to predict the noise.

    python train_ddpm.py

DDPM Algorithm 1: draw x_0, t and eps, noise x_0 to x_t by (4), and take a gradient step on L_simple (14),
|eps - eps_theta(x_t, t)|^2, weighted by t: see `loss_weights`. The weights that ship are an exponential moving
average (EMA) of those along the way.

Writes models/ddpm_unet.pth, sample_ddpm_output.png and results/ddpm_loss.png, and grids of the samples along the way
under previews/ (all of them into DIR instead, with --models DIR).
"""

import json
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from diffusers.optimization import get_linear_schedule_with_warmup
from diffusers.training_utils import EMAModel
from tqdm import tqdm

import inference
from diffusion import (
    NUM_TRAIN_TIMESTEPS,
    ArgumentParser,
    TrainingState,
    add_common_flags,
    add_training_flags,
    batch_indices,
    check_writable,
    generator,
    keep_memory,
    make_folder,
    make_scheduler,
    make_unet,
    one_line_errors,
    pick_device,
    provenance,
    results_folder,
    save_checkpoint,
    save_figure,
    stratified_timesteps,
)
from inference import draw_samples, make_labels, save_grid
from mnist import load_mnist

TRAIN_STEPS = 6_300
BATCH_SIZE = 64
LEARNING_RATE = 2.8e-3  # of AdamW
MUON_FACTOR = 3  # that of Muon is so many times higher
ADAM_BETAS = (0.9, 0.99)
WARMUP_STEPS = 200
EMA_DECAY = 0.998
MAX_LOSS_WEIGHT = 5  # at high noise
LOW_NOISE = 150  # below this t the loss counts half
VALIDATION_SEED = 1  # the noise of validation is the same at every epoch and in every run
NUM_VALIDATION_IMAGES = 1_000


class Muon(torch.optim.Optimizer):
    """Muon (Jordan et al. 2024) for kernels (out, in, ...): momentum, then a step along the nearest orthogonal matrix.

    As torch.optim.Muon, but for kernels of any dimension and in float32: that one takes matrices only and works in bfloat16,
    which most CPUs are slow at.

    Args:
        parameters: kernels, each seen as a matrix (out, everything else). lr: learning rate. momentum: of Nesterov.
        weight_decay: decoupled, times lr.
    """

    def __init__(self, parameters, lr, momentum=0.95, weight_decay=0.1):
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @staticmethod
    def orthogonalize(matrices, steps=5):
        """U V^T, nearly, of each matrix U S V^T, by Newton-Schulz iteration: singular values come to lie near 1.

        Each step multiplies x by a polynomial of x x^T. These commute, so they are gathered first, on the small side of x:
        of the same length for all of the matrices, which go through the iteration together.
        """
        wide = [matrix.T if matrix.shape[0] > matrix.shape[1] else matrix for matrix in matrices]
        wide = [x / x.norm().clamp(min=1e-7) for x in wide]
        gram = torch.stack([x @ x.T for x in wide])
        product = torch.eye(gram.shape[-1], device=gram.device).expand_as(gram)
        for _ in range(steps):
            polynomial = torch.baddbmm(gram, gram, gram, beta=-4.7750, alpha=2.0315)
            polynomial.diagonal(dim1=1, dim2=2).add_(3.4445)
            product = polynomial @ product
            gram = polynomial @ gram @ polynomial
        results = [part @ x for part, x in zip(product, wide)]
        return [x.T if matrix.shape[0] > matrix.shape[1] else x for matrix, x in zip(matrices, results)]

    @torch.no_grad()
    def step(self):
        """One step. Every parameter must have a gradient."""
        for group in self.param_groups:
            by_side = {}  # length of the small side -> kernels and the directions of momentum, as matrices
            for kernel in group["params"]:
                average = self.state[kernel].setdefault("average", torch.zeros_like(kernel))
                average.lerp_(kernel.grad, 1 - group["momentum"])
                matrix = kernel.grad.lerp(average, group["momentum"]).flatten(1)  # Nesterov
                by_side.setdefault(min(matrix.shape), []).append((kernel, matrix))
            for kernels, matrices in (zip(*pairs) for pairs in by_side.values()):
                for kernel, direction in zip(kernels, self.orthogonalize(matrices)):
                    rows, columns = direction.shape
                    kernel.mul_(1 - group["lr"] * group["weight_decay"])
                    kernel.sub_(direction.view_as(kernel), alpha=group["lr"] * max(1, rows / columns) ** 0.5)


def make_optimizers(unet, lr):
    """Muon for the kernels of the convolutions between the first and the last; AdamW for all else."""
    inner = [
        module for module in unet.modules() if isinstance(module, torch.nn.Conv2d) and module not in (unet.conv_in, unet.conv_out)
    ]
    kernels = [module.weight for module in inner]
    chosen = {id(kernel) for kernel in kernels}
    rest = [parameter for parameter in unet.parameters() if id(parameter) not in chosen]
    adamw = torch.optim.AdamW(rest, lr=lr, betas=ADAM_BETAS, weight_decay=0.0, fused=True)
    return Muon(kernels, lr=MUON_FACTOR * lr), adamw


def pick_precision(name, device):
    """What the layers compute in while they learn: what --precision names, or for "auto" bfloat16 on a CPU that has
    instructions for it, where a step takes three quarters of the time; float32 elsewhere. Weights are float32 in any case."""
    if name != "auto":
        return name
    known = device.type == "cpu" and hasattr(torch.cpu, "get_capabilities")  # newer torch only
    capabilities = torch.cpu.get_capabilities() if known else {}
    return "bfloat16" if capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") else "float32"


def loss_weights(alphas_cumprod, at_most=MAX_LOSS_WEIGHT):
    """What the squared error of eps counts at each t: 1 / abar_t, within a limit; half of it at low noise: (1000,).

    1 / abar_t makes it the squared error of v, which the layers of the U-Net compute: L_simple (14) all but leaves out t > 500,
    where the shape of the digit is decided. The limit keeps t > 500 from leaving out the rest. The half is for the t that
    sampling in few steps hardly visits, where L_simple has most of its mass.
    """
    weights = (1 / alphas_cumprod).clamp(max=at_most)
    weights[:LOW_NOISE] /= 2
    return weights


@torch.no_grad()
def validation_loss(unet, images, device="cpu", batch_size=250, weights=None):
    """L_simple (14) of images (N, 1, 28, 28) over uniform t, with the same t and noise at every call.

    With weights (1000,), the loss that training minimises: each t counts so much.
    """
    weights = torch.ones(NUM_TRAIN_TIMESTEPS) if weights is None else weights
    rng = generator(VALIDATION_SEED, 2)
    t = stratified_timesteps(len(images), rng)
    eps = torch.randn(images.shape, generator=rng)
    x_t = make_scheduler().add_noise(images, eps, t)  # DDPM (4)
    total = 0.0
    for x, t_part, eps_part in zip(x_t.split(batch_size), t.split(batch_size), eps.split(batch_size)):
        error = (unet(x.to(device), t_part.to(device)).sample.cpu() - eps_part).square().mean(dim=(1, 2, 3))  # (B,)
        total += (weights[t_part] * error).sum().item()
    return total / len(images)


def plot_loss(history):
    """Training and validation loss against steps: a matplotlib figure."""
    steps = [entry["step"] for entry in history]
    figure, axes = plt.subplots(figsize=(6, 3.5), layout="constrained")
    axes.plot(steps, [entry["loss"] for entry in history], marker=".", label="training (mean of the epoch)")
    axes.plot(steps, [entry["validation_loss"] for entry in history], marker=".", label="validation (EMA weights, fixed noise)")
    axes.set(xlabel="step", ylabel=r"$L_{\rm simple}$", yscale="log")
    axes.legend()
    return figure


def train(unet, ema, images, validation_images, state, settings, optimizers, lr_schedulers, device, preview_folder):
    """DDPM Algorithm 1, its loss weighted by t, from `state.step` to `settings["steps"]`."""
    scheduler = make_scheduler()
    weights = loss_weights(scheduler.alphas_cumprod)
    steps, batch_size, seed = settings["steps"], settings["batch_size"], settings["seed"]
    steps_per_epoch = len(images) // batch_size
    bar = tqdm(total=steps, initial=state.step, desc="U-Net", unit="step", disable=None)
    while state.step < steps:
        rng = generator(seed, 2, state.step)
        x_0 = images[batch_indices(len(images), batch_size, seed, state.step)]  # (B, 1, 28, 28)
        t = stratified_timesteps(batch_size, rng)  # (B,)
        eps = torch.randn(x_0.shape, generator=rng)
        x_t = scheduler.add_noise(x_0, eps, t)  # DDPM (4)
        with torch.autocast(device.type, torch.bfloat16, enabled=settings["precision"] == "bfloat16"):
            prediction = unet(x_t.to(device), t.to(device)).sample
        error = (prediction - eps.to(device)).square().mean(dim=(1, 2, 3))  # (B,)
        state.record(error.mean().item())  # L_simple, DDPM (14)
        unet.zero_grad()
        (weights[t].to(device) * error).mean().backward()
        torch.nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
        for part in (*optimizers, *lr_schedulers):
            part.step()
        ema.step(unet.parameters())

        bar.update()
        bar.set_postfix(loss=f"{state.losses[-1]:.4f}", refresh=False)
        if (state.step + 1) % steps_per_epoch == 0 or state.step + 1 == steps:
            end_epoch(unet, ema, validation_images, state, steps_per_epoch, device, preview_folder)
        state.end_step()
    bar.close()


def end_epoch(unet, ema, validation_images, state, steps_per_epoch, device, preview_folder):
    """Measure the EMA weights, print a line, and draw a few samples from the same noise as ever."""
    ema.store(unet.parameters())
    ema.copy_to(unet.parameters())
    unet.eval()
    step = state.step + 1
    recent = state.losses[-steps_per_epoch:]
    entry = {"step": step, "loss": sum(recent) / len(recent), "validation_loss": validation_loss(unet, validation_images, device)}
    state.history.append(entry)
    tqdm.write(f"step {step:6d}  {state.elapsed():5.0f} s  loss {entry['loss']:.4f}  validation {entry['validation_loss']:.4f}")
    images = draw_samples(unet, None, *make_labels(range(10), 4), guidance_scale=0, sampler="ddim", steps=20, device=device)
    save_grid(preview_folder / f"step_{step:06d}.png", images, 4, json.dumps(entry))
    unet.train()
    ema.restore(unet.parameters())


@one_line_errors
def main(argv=None):
    parser = ArgumentParser(__doc__)
    add_common_flags(parser)
    add_training_flags(parser, TRAIN_STEPS, BATCH_SIZE, LEARNING_RATE)
    parser.add_argument("--precision", choices=("auto", "bfloat16", "float32"), default="auto", help="of the layers in training")
    args = parser.parse_args(argv)
    device = pick_device(args.device)
    keep_memory()
    make_folder(args.models)
    results = results_folder(args.models)
    trial = args.models != Path("models")
    weights = args.models / "ddpm_unet.pth"
    sample_path = args.models / "sample_ddpm_output.png" if trial else Path("sample_ddpm_output.png")
    loss_path = results / "ddpm_loss.png"
    preview_folder = args.models / "previews" if trial else Path("previews")
    make_folder(preview_folder)
    state_path = args.models / "ddpm_unet.state.pth"
    check_writable(weights, sample_path, loss_path, state_path)
    images, _ = load_mnist("train", args.data)  # the labels are not used
    validation_images = load_mnist("validation", args.data)[0][:NUM_VALIDATION_IMAGES]

    torch.manual_seed(args.seed)  # for the initial weights
    unet = make_unet().to(device)
    ema = EMAModel(unet.parameters(), decay=EMA_DECAY, foreach=True)
    optimizers = make_optimizers(unet, args.lr)
    warmup = min(WARMUP_STEPS, args.steps // 2)
    lr_schedulers = [get_linear_schedule_with_warmup(optimizer, warmup, args.steps) for optimizer in optimizers]
    settings = {"steps": args.steps, "batch_size": args.batch_size, "lr": args.lr, "seed": args.seed}
    settings["precision"] = pick_precision(args.precision, device)
    parts = {"network": unet, "ema": ema}
    for name, optimizer, lr_scheduler in zip(("muon", "adamw"), optimizers, lr_schedulers):
        parts |= {name: optimizer, f"{name}_lr": lr_scheduler}
    state = TrainingState(state_path, settings, parts, args.resume, Path(__file__).name)
    ema.to(device)
    with state.stop_between_steps():
        train(unet, ema, images, validation_images, state, settings, optimizers, lr_schedulers, device, preview_folder)

    ema.copy_to(unet.parameters())
    summary = {**settings, "seconds": state.elapsed(), **state.history[-1]}
    save_checkpoint(weights, unet, args.seed, summary)
    save_figure(loss_path, plot_loss(state.history), provenance(args.models, [weights.name], device, **settings))
    inference.main(["--guidance-scale", "0", "--output", str(sample_path), "--models", str(args.models), "--device", args.device])
    state.done()
    print(f"{weights}, {sample_path} and {loss_path}: {args.steps} steps in {state.elapsed():.0f} s")


if __name__ == "__main__":
    main()
