#!/usr/bin/env bash
# Regenerates what is shipped, on an otherwise idle machine: bash results/make.sh networks pictures tables
# Later parts depend on earlier ones. The notebooks and docs/preview.png are not included.
set -euo pipefail
cd "$(dirname "$0")/.."

networks() { # models/, docs/weights.*, sample_ddpm_output.png, the training curves
  python train_classifier.py
  python train_ddpm.py
  python -m evaluation.judge
  python -m evaluation.classifier_free
  python -m docs.export_weights
}

pictures() { # guided_output.png and the other pictures in results/
  python inference.py
  python inference.py --digits all --num-samples 1 --output samples.png --gif results/guided.gif
  python inference.py --digits all --num-samples 1 --guidance-scale 0 1 5 50 500 \
    --output results/scales_grid.png
  for name in same_noise ambigram inpainting not_a_digit my_guide stock_diffusers; do
    python -m "examples.$name"
  done
}

tables() { # the CSV files in results/, and the tables of both pages
  python train_classifier.py --max-t 0 --models clean
  python -m evaluation.gradient_norms
  python -m evaluation.train_on_samples
  python -m evaluation.tables default fast_sampler validation classifier_free_scales growth \
    constants scales windows samplers clean_guide exact_networks hybrids
}

for part in "$@"; do "$part"; done
