"""Break the method on purpose, one fault at a time: the fast tests must fail for each.

    python tests/break_the_method.py

Works on a copy of the repository; a minute per fault at most.
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
        "train_classifier.py", "classifier(x_t.to(device), t", "classifier(x_0.to(device), t",
    ),
    "the last ema.copy_to is removed": (
        "train_ddpm.py", "loss_weights())\n    ema.copy_to(unet.parameters())", "loss_weights())",
    ),
    "ema.restore is removed after an epoch": (
        "train_ddpm.py", "    ema.restore(unet.parameters())\n", "",
    ),
    "the sign of Algorithm 1 is reversed": (
        "evaluation/variants.py", "y, guidance_scale * scale)", "y, -guidance_scale * scale)",
    ),
    "'wrong digits' guides to the digits asked for": (
        "evaluation/variants.py", "t, other, guidance_scale)", "t, y, guidance_scale)",
    ),
    "sampling ignores the growth of the scale": (
        "inference.py", "noise_predictor(unet, log_p, guidance_scale, scale_growth)",
        "noise_predictor(unet, log_p, guidance_scale)",
    ),
    "inference.py ignores --scale-growth": (
        "inference.py", "scale, args.scale_growth)", "scale)",
    ),
    "the scale grows with the noise": (
        "inference.py", "(abar(t) / (1 - abar(t)))", "((1 - abar(t)) / abar(t))",
    ),
    "classifier-free guidance is away from the digit": (
        "evaluation/rivals.py", "guidance_scale * (eps - eps_free)",
        "guidance_scale * (eps_free - eps)",
    ),
    "samples share the streams of the batches": (
        "support/streams.py", 'generator(seed, "samples", label, seen[label])',
        'generator(seed, "batches", seen[label])',
    ),
    "the interval is that of half of the images": (
        "evaluation/measures.py", "stable=True)][::2]", "stable=True)][::3]",
    ),
    "dpmsolver++ is of first order": (
        "diffusion.py", '1 if name == "ddim" else 2', "1",
    ),
    "abs() is taken before the bins are summed": (
        "train_classifier.py", "index_add(0, bins, gap).abs()", "index_add(0, bins, gap.abs())",
    ),
    "the sign of the guidance is reversed": (
        "inference.py", "return eps - guidance_scale", "return eps + guidance_scale",
    ),
    "the guidance lacks its root": (
        "inference.py", "guidance_scale * (1 - abar(t)).sqrt() * grad", "guidance_scale * grad",
    ),
}  # fmt: skip


def main():
    survivors = []
    for fault, (name, text, replacement) in FAULTS.items():
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder, "copy")
            ignored = shutil.ignore_patterns(".*", "mutants", "__pycache__")
            shutil.copytree(ROOT, copy, ignore=ignored)
            source = (copy / name).read_text()
            assert source.count(text) == 1, f"{name} holds {text!r} {source.count(text)} times"
            (copy / name).write_text(source.replace(text, replacement))
            command = [sys.executable, "-m", "pytest", "-q", "-x", "-n", "0", "tests/unit"]
            done = subprocess.run(command, cwd=copy, capture_output=True, text=True)
        failed = [line for line in done.stdout.splitlines() if line.startswith("FAILED")]
        print(f"{fault}: {failed[0].split(' - ')[0] if failed else 'SURVIVES'}", flush=True)
        survivors += [] if failed else [fault]
    print(f"{len(FAULTS) - len(survivors)} of {len(FAULTS)} faults are noticed")
    return len(survivors)


if __name__ == "__main__":
    sys.exit(main())
