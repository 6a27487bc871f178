"""Break the method on purpose, one fault at a time: the fast tests must fail for each.

    python tests/break_the_method.py

Works on a copy of the repository; half a minute per fault at most.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FAULTS = {  # what is broken -> file, text, replacement
    "the U-Net is trained on -eps": (
        "train_ddpm.py", "simple_loss(eps_theta, eps.to", "simple_loss(eps_theta, -eps.to",
    ),
    "the classifier is trained on clean images": (
        "train_classifier.py", "classifier(x_t.to(device), t.to(device))  # (B, 10)",
        "classifier(x_0.to(device), t.to(device))",
    ),
    "the last ema.copy_to is removed": (
        "train_ddpm.py", "        ema.copy_to(unet.parameters())\n        summary",
        "        summary",
    ),
    "ema.restore is removed after an epoch": (
        "train_ddpm.py", "    ema.restore(unet.parameters())\n", "",
    ),
    "the sign of Algorithm 1 is reversed": (
        "evaluation/variants.py", "y, s * scale)", "y, -s * scale)",
    ),
    "'wrong digits' guides to the digits asked for": (
        "evaluation/variants.py", "t, other, s)", "t, y, s)",
    ),
    "sampling ignores the growth of the scale": (
        "inference.py", "scale_at(t, guidance_scale, scale_growth)", "scale_at(t, guidance_scale)",
    ),
    "inference.py ignores --scale-growth": (
        "inference.py", '        "scale_growth": args.scale_growth,\n', "",
    ),
    "the scale grows with the noise": (
        "inference.py", "(abar(t) / (1 - abar(t)))", "((1 - abar(t)) / abar(t))",
    ),
    "classifier-free guidance is away from the digit": (
        "evaluation/rivals.py", "w * (eps - eps_free)", "w * (eps_free - eps)",
    ),
    "samples share the streams of the batches": (
        "support/streams.py", 'generator(seed, "samples", label, seen[label])',
        'generator(seed, "batches", seen[label])',
    ),
    "the interval is that of half of the images": (
        "evaluation/measures.py", "by_class[::2]", "by_class[::3]",
    ),
    "dpmsolver++ is of first order": (
        "diffusion.py", '{"solver_order": 2}', '{"solver_order": 1}',
    ),
    "abs() is taken before the bins are summed": (
        "train_classifier.py", "index_add(0, bins, gap)", "index_add(0, bins, gap.abs())",
    ),
    "the sign of the guidance is reversed": (
        "inference.py", "return eps - s *", "return eps + s *",
    ),
    "the guidance lacks its root": (
        "inference.py", "s * (1 - abar(t)).sqrt() * grad", "s * grad",
    ),
    "the predicted x_0 is not clipped": (
        "diffusion.py", "eps) / abar(t).sqrt()).clamp(-1, 1)", "eps) / abar(t).sqrt())",
    ),
    "batches share a scheduler": (
        "inference.py", " make_sampler(sampler, steps, unet.device)",
        " scheduler if start else make_sampler(sampler, steps, unet.device)",
    ),
    "watch sees the x_t of the next step": (
        "inference.py",
        "            if watch:\n                watch(t, x_t, eps_hat)\n"
        "            x_t = scheduler.step(eps_hat, t, x_t, generator=rngs).prev_sample\n",
        "            x_t = scheduler.step(eps_hat, t, x_t, generator=rngs).prev_sample\n"
        "            if watch:\n                watch(t, x_t, eps_hat)\n",
    ),
    "the guide is told that t is 0": (
        "inference.py", "x_t, t.expand(len(x_t)), y)", "x_t, 0 * t.expand(len(x_t)), y)",
    ),
    "--max-t is ignored": (
        "train_classifier.py", "torch.randint(max_t + 1", "torch.randint(MAX_T + 1",
    ),
    "a resumed training forgets its optimizer": (
        "support/training.py", "for name, part in self.parts.items():\n                part.load",
        "for name, part in list(self.parts.items())[:1]:\n                part.load",
    ),
    "every epoch has the same order": (
        "support/streams.py", "epoch_order(num_images, seed, epoch)\n    return",
        "epoch_order(num_images, seed, 0)\n    return",
    ),
    "a window guides outside of it": (
        "evaluation/variants.py", "s if inside else 0", "0 if inside else s",
    ),
    "clipping after the tilt clips before it": (
        "evaluation/variants.py", "y, s, clip=False)", "y, s)",
    ),
    "precision and recall are exchanged": (
        "evaluation/measures.py", "return covered(fake, real), covered(real, fake)",
        "return covered(real, fake), covered(fake, real)",
    ),
    "the interval of a change is not paired": (
        "evaluation/measures.py", "(self.halves - first.halves).std",
        "(self.halves - first.halves.flip(0)).std",
    ),
}  # fmt: skip


def main():
    survivors = []
    for fault, (name, text, replacement) in FAULTS.items():
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder, "copy")
            shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".*", "__pycache__"))
            source = (copy / name).read_text()
            assert source.count(text) == 1, f"{name} holds {text!r} {source.count(text)} times"
            (copy / name).write_text(source.replace(text, replacement))
            command = [sys.executable, "-m", "pytest", "-q", "-x", "-n", "0", "tests/unit"]
            done = subprocess.run(command, cwd=copy, capture_output=True, text=True)
        failed = [line for line in done.stdout.splitlines() if line.startswith("FAILED")]
        print(f"{fault}: {failed[0].split(' - ')[0] if failed else 'SURVIVES'}", flush=True)
        if not failed:
            survivors.append(fault)
    print(f"{len(FAULTS) - len(survivors)} of {len(FAULTS)} faults are noticed")
    return len(survivors)


if __name__ == "__main__":
    sys.exit(main())
