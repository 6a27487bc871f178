#!/usr/bin/env bash
# Makes what ships, but the notebooks and docs/preview.png (see CONTRIBUTING.md), in this order: bash results/make.sh networks pictures tables
# On two cores, the networks take 75 minutes, the pictures 5 minutes, the tables three hours.
# Later parts depend on earlier ones. Each part can be run alone.
set -euo pipefail
cd "$(dirname "$0")/.."

networks() { # models/, docs/weights.*, sample_ddpm_output.png, the curves of both trainings
  python train_classifier.py
  python train_ddpm.py
  python -m evaluation.judge
  python -m evaluation.rivals
  python -m docs.export_weights
}

pictures() { # guided_output.png, all pictures of results/ but the curves
  python inference.py
  python -m examples.wishes
  python inference.py --digits all --num-samples 1 --output samples.png --gif results/guided.gif
  python inference.py --digits all --num-samples 1 --guidance-scale 0 1 5 50 500 \
    --output results/scales_grid.png
  python -m examples.ambigram
  python -m examples.inpainting
  python -m examples.not_a_digit
  python -m examples.my_guide
  python -m examples.stock_diffusers
}

table() { # table NAME FLAGS: measure results/NAME.csv again
  rm -f "results/$1.csv"
  python evaluate.py --csv "results/$1.csv" "${@:2}"
}

tables() { # the CSV files of results/ but smooth.csv, and the tables of both pages
  fast="--sampler sde-dpmsolver++ --steps 20"
  both="--method guided classifier_free --guidance-scale default 1"
  table default --n 2000 --split test --seed 0 $both
  table fast --n 2000 --split test --seed 0 $fast $both
  table validation --n 2000 --seed 1 $fast $both
  table rival_scales --n 1000 --seed 1 $fast --method classifier_free \
    --guidance-scale 1 1.1 1.25 1.5 2
  python -m evaluation.lengths
  table four --n 1000 --seed 2 $fast --guidance-scale 1 --method guided exact_denoiser \
    --guide classifier exact
  table swap --n 1000 --seed 2 $fast --guidance-scale 1 --method guided exact_length exact_direction
  table growth --n 2000 --seed 2 $fast --growth 24 6 48 96
  table scales --seed 2 $fast --guidance-scale default 3 \
    evaluation/capped.py:at_499 evaluation/capped.py:at_399 evaluation/capped.py:at_249
  table constants --n 2000 --seed 2 $fast --guidance-scale default 5 10
  table windows --n 500 --seed 1 $fast --guidance-scale default 5 \
    --window 750-1000 500-1000 250-750 0-500 0-250 0-1000
  table samplers --n 1000 --seed 1 --sampler sde-dpmsolver++ ddim ddpm --steps 20
  python train_classifier.py --max-t 0 --models clean
  table clean_guide --n 1000 --seed 1 $fast --guide classifier clean/classifier.pth \
    --method guided at_predicted_x_0
  rm -f results/train_on_samples.csv
  python -m evaluation.train_on_samples --split test --seed 0 --n 2000 $fast \
    --guidance-scale 0.25 1 --growth 24 --csv results/train_on_samples.csv
  python -m evaluation.report
}

for part in "$@"; do "$part"; done
