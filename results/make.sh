#!/usr/bin/env bash
# Makes what ships, but the notebooks and docs/preview.png (see CONTRIBUTING.md), in this order: bash results/make.sh networks pictures tables
# On two cores, the networks take 75 minutes, the pictures 5 minutes, the tables several hours.
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

tables() { # the CSV files of results/README.md but learned.csv, and the tables in it and in README.md
  fast="--sampler sde-dpmsolver++ --steps 20"
  look="--n 1000 --seed 1"
  table default --n 2000 --split test --seed 0 --method guided classifier_free \
    --guidance-scale default 1
  table final --split test --seed 0 $fast --method guided classifier_free --guidance-scale 1 0 1.25 \
    --growth 24 0
  python -m evaluation.judge --seed 1 --models judge1
  table second_judge --split test --seed 0 --judge judge1 $fast --method guided classifier_free
  python -m evaluation.lengths
  table two_by_two --seed 2 --guidance-scale 1 $fast \
    --method guided difference on_rival classifier_free difference_late difference_early
  table four --n 500 --seed 2 $fast --guidance-scale 1 --method guided exact_denoiser \
    --guide classifier exact
  table swap --n 500 --seed 2 $fast --guidance-scale 1 --method guided exact_length exact_direction
  table candidates --seed 2 $fast --growth 24 6 0
  table scales $look $fast --guidance-scale 1 0.5 2 3 --growth 24 6 0
  table constant_scale --split test --seed 0 $fast --guidance-scale 1 3 --growth 24 0
  table windows_by_scale --n 500 --seed 1 $fast --guidance-scale 1 5 50 \
    --window 750-1000 500-1000 250-750 0-500 0-250 0-1000
  table samplers $look --steps 20 --sampler sde-dpmsolver++ dpmsolver++ ddim ddpm
  table steps --seed 1 --sampler sde-dpmsolver++ --steps 20 10
  table more_steps $look --sampler sde-dpmsolver++ --steps 20 50
  table steps_at_1 --seed 2 --guidance-scale 1 --sampler sde-dpmsolver++ --steps 20 50 250
  table controls $look $fast \
    --method guided without_root clip_after_tilt projected at_predicted_x_0
  python train_classifier.py --max-t 0 --models clean
  table clean_guide $look $fast --guide classifier clean/classifier.pth \
    --method guided at_predicted_x_0
  table rival_samplers $look --method classifier_free --guidance-scale 1.1 \
    --sampler sde-dpmsolver++ dpmsolver++ ddim --steps 20 10
  table rival_scales $look --method classifier_free --guidance-scale 1 1.1 1.25 1.5 2 \
    --sampler sde-dpmsolver++ --steps 20 10
  rm -f results/train_on_samples*.csv
  python -m evaluation.train_on_samples $fast --guidance-scale 0.25 1 0.5 0.1 --growth 24 \
    --csv results/train_on_samples_choice.csv
  python -m evaluation.train_on_samples $fast --method classifier_free --guidance-scale 1 \
    --csv results/train_on_samples_rival.csv
  python -m evaluation.train_on_samples --split test --n 50000 --seed 3 $fast \
    --guidance-scale 0.25 0.1 --growth 24 --csv results/train_on_samples.csv
  python -m evaluation.report
}

for part in "$@"; do "$part"; done
