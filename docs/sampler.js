// DDIM with one push: diffusion.py and docs/export.py in JavaScript, under the same names.
//
// Images are 784 numbers in [-1, 1]. Step k leads from timestep TIMES[k] to TIMES[k + 1]; x_t before step k is
// frame k of a film, and frame STEPS is the result.

import { ABAR, NORM, STEPS, TIMES } from "./constants.js";

/** An image of noise, 784 numbers from N(0, 1), by mulberry32 and Box-Muller. */
export function noiseImage(number) {
  let state = Math.imul(number, 0x9e3779b1) >>> 0;
  const uniform = () => { // between 0 and 1
    state = (state + 0x6d2b79f5) >>> 0;
    let z = Math.imul(state ^ (state >>> 15), state | 1);
    z ^= z + Math.imul(z ^ (z >>> 7), z | 61);
    return (((z ^ (z >>> 14)) >>> 0) + 0.5) / 2 ** 32;
  };
  const normal = () => Math.sqrt(-2 * Math.log(uniform())) * Math.cos(2 * Math.PI * uniform());
  return Float32Array.from({ length: 784 }, normal);
}

const clip = (x) => x.map((value) => Math.max(-1, Math.min(1, value)));

/** Values from -limit to limit as grays from 0 to 255; values outside are clipped. */
const grays = (x, limit = 1) => Uint8ClampedArray.from(x, (value) => 127.5 * (value / limit + 1));

/** Frame k with noise, in grays: there is more contrast where there is less noise. */
export const seen = (x_t, k) => grays(x_t, 1 + 2 * Math.sqrt(1 - ABAR[k]));

export class Sampler {
  constructor({ unet, classify }) {
    Object.assign(this, { unet, classify });
  }

  /** The image that the model predicts from x_t before step k, clipped: DDPM (15). */
  x_0(x_t, k) {
    if (k === STEPS) return clip(x_t);
    const eps = this.unet(x_t, TIMES[k]);
    return clip(x_t.map((value, i) => (value - Math.sqrt(1 - ABAR[k]) * eps[i]) / Math.sqrt(ABAR[k])));
  }

  /** x_t after step k: DDIM (12) without new noise. */
  step(x_t, x_0, k) {
    const [abar_t, abar_u] = [ABAR[k], ABAR[k + 1]];
    const eps = (i) => (x_t[i] - Math.sqrt(abar_t) * x_0[i]) / Math.sqrt(1 - abar_t);
    return x_0.map((value, i) => Math.sqrt(abar_u) * value + Math.sqrt(1 - abar_u) * eps(i));
  }

  /** The push in step k: the gradient of log p(y | x_t, t), with the norm NORM. */
  push(x_t, k, y) {
    const grad = this.classify(x_t, TIMES[k]).gradient(y);
    const norm = Math.hypot(...grad);
    return grad.map((value) => (NORM * value) / norm);
  }

  /** Yields the frames from k on, {k, x_t, seen, guess}. If y is not null, step k pushes toward it. */
  *film(x_t, k, y) {
    let push = y === null ? null : this.push(x_t, k, y);
    for (; k <= STEPS; k++) {
      const x_0 = this.x_0(x_t, k);
      yield { k, x_t, seen: seen(x_t, k), guess: grays(x_0), push: push && grays(push, 0.7) };
      if (k < STEPS) x_t = this.step(x_t, x_0, k);
      if (push) x_t = x_t.map((value, i) => value + push[i]);
      push = null;
    }
  }
}
