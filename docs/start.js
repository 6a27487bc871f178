// What a film starts from, as a text in the address: the number of a noise image, or a drawing.

import { ABAR, NOISE, STEPS } from "./constants.js";
import { add_noise, grays } from "./sampler.js";

const DRAWING_STEP = 12; // of a drawing: enough noise to change it, too little to forget it

export const isDrawing = (from) => /^1[\da-f]{392}$/.test(from);
/** The first step of the films from a start. */
export const firstStep = (from) => (isDrawing(from) ? DRAWING_STEP : 0);

/** A drawing, 784 numbers in [-1, 1], as a hexadecimal number: a 1, and 2 bits for each pixel. */
export function encode(drawing) {
  const bits = Array.from(drawing, (value) => (4 + Math.round(1.5 * (value + 1))).toString(2).slice(1));
  return BigInt(`0b1${bits.join("")}`).toString(16);
}

export function decode(text) {
  return Float32Array.from(BigInt(`0x${text}`).toString(4).slice(1), (level) => level / 1.5 - 1);
}

/** The image before the first step, the noise of each step, and the frames that need no network. */
export function beginning(from) {
  const [noise, ...noises] = noiseImages(isDrawing(from) ? NOISE : Number(from), STEPS + 1);
  if (!isDrawing(from)) return { x_t: noise, noises, frames: [grays(noise, 3)] };
  const covered = (k) => add_noise(decode(from), noise, ABAR[k]);
  const later = (k) => STEPS - Math.round(((STEPS - DRAWING_STEP) * k) / DRAWING_STEP);
  const frames = Array.from({ length: DRAWING_STEP }, (_, k) => grays(covered(later(k))));
  return { x_t: covered(DRAWING_STEP), noises, frames };
}

/** Noise images that are the same in Python (export.py): `count` times 784 numbers from N(0, 1). */
function noiseImages(number, count) {
  let state = Math.imul(number, 0x9e3779b1) >>> 0;
  const uniform = () => { // between 0 and 1, by mulberry32
    state = (state + 0x6d2b79f5) >>> 0;
    let z = Math.imul(state ^ (state >>> 15), state | 1);
    z ^= z + Math.imul(z ^ (z >>> 7), z | 61);
    return (((z ^ (z >>> 14)) >>> 0) + 0.5) / 2 ** 32;
  };
  const pair = () => { // Box-Muller
    const [radius, angle] = [Math.sqrt(-2 * Math.log(uniform())), 2 * Math.PI * uniform()];
    return [radius * Math.cos(angle), radius * Math.sin(angle)];
  };
  return Array.from({ length: count }, () => Float32Array.from(Array.from({ length: 392 }, pair).flat()));
}
