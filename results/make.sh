#!/usr/bin/env bash
# Regenerates the included files, on an otherwise idle machine: bash results/make.sh networks runs pictures tables
# Later parts depend on earlier ones. The notebooks and docs/preview.png are not included.
set -euo pipefail
cd "$(dirname "$0")/.."

networks() { # models/, sample_ddpm_output.png: about four hours on two cores
  python train_classifier.py
  python train_ddpm.py --bf16
  python -m evaluation.judge
  python -m evaluation.classifier_free --bf16
}

runs() { # networks for the report that are not included: about five hours
  for seed in 1 2; do
    python train_classifier.py --seed $seed --models runs/$seed
    python train_ddpm.py --bf16 --seed $seed --models runs/$seed
  done
  python train_classifier.py --dataset fashion-mnist --models runs/fashion
  python train_ddpm.py --steps 11000 --batch-size 64 --dataset fashion-mnist --models runs/fashion
  python -m evaluation.judge --dataset fashion-mnist --models runs/fashion
}

pictures() { # guided_output.png, the other pictures in results/, and what docs/ loads
  python inference.py
  python inference.py --digits all --num-samples 1 --output results/digits.png
  python -m examples.animate
  python inference.py --digits all --num-samples 1 --guidance-scale 0 0.3 1 3 10 \
    --output results/scales_grid.png
  python -m docs.export
  python -m docs.export --measure
}

tables() { # the CSV files in results/, classifier_free.png, and the tables of both pages
  python -m evaluation.report scales quality runs transfer classifier_free tables
}

for part in "$@"; do "$part"; done
