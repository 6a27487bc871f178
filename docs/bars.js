// The push in numbers: a level of a bar, the strength s_t that it stands for, and bars that the story paints.

import { growing_scale } from "./sampler.js";

export const STEPS = 20;
export const TIMES = Array.from({ length: STEPS }, (_, k) => 999 - 50 * k); // t of each frame: those of the sampler
export const frameAt = (t) => (999 - t) / 50;

/** Levels go from 0, no push, to 60. Ten levels are a factor of ten, because useful pushes lie between 0.1 and 1,000. */
export const HIGHEST = 60;
export const strengthOf = (level) => (level === 0 ? 0 : 10 ** (level / 10 - 1));
export const levelOf = (strength) => (strength === 0 ? 0 : Math.min(HIGHEST, Math.round(10 * Math.log10(strength) + 10)));

/** A strength in words, to two digits. */
export function inWords(strength) {
  return strength === 0 ? "none" : Number(strength.toPrecision(2)).toLocaleString("en");
}

const PAINTINGS = { // name -> strength, a function of t
  nowhere: growing_scale(0),
  everywhere: growing_scale(),
  early: growing_scale(1, 24, [750, 1000]),
  midway: growing_scale(1, 24, [250, 750]),
  late: growing_scale(1, 24, [0, 250]),
  hard: growing_scale(1000),
  hardest: () => strengthOf(HIGHEST),
};

/** The twenty levels of a painting. */
export const paintingOf = (name) => TIMES.map((t) => levelOf(PAINTINGS[name](t)));

// --- digits in words ---

export const named = (digit) => `${digit === 8 ? "an" : "a"} ${digit}`;

/** The digit that p, ten numbers, says is likeliest. */
export const likeliest = (p) => p.indexOf(Math.max(...p));
