// Guided sampling of one image: diffusion.py and inference.py in JavaScript, under the same names.
//
// Equations are those of DDPM (Ho et al. 2020) and ADM (Dhariwal & Nichol 2021). Images are 784 numbers in
// [-1, 1]. The sampler is "sde-dpmsolver++": step k leads from timestep TIMES[k] to TIMES[k + 1]. The state
// before step k is {x_t, previous}, and after the last step, x_t is the result.

import { ABAR, STEPS, TIMES } from "./constants.js";

// --- export.py ---

/** Noise images that are the same in Python (export.py): `count` times 784 numbers from N(0, 1). */
export function noiseImages(number, count) {
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

// --- diffusion.py ---

/** x_t, the image x_0 with noise eps: DDPM (4). */
export function add_noise(x_0, eps, abar_t) {
  return x_0.map((value, i) => Math.sqrt(abar_t) * value + Math.sqrt(1 - abar_t) * eps[i]);
}

/** The image in x_t if its noise is eps: DDPM (15). */
function x_0_from_eps(x_t, eps, abar_t) {
  return x_t.map((value, i) => (value - Math.sqrt(1 - abar_t) * eps[i]) / Math.sqrt(abar_t));
}

/** The noise in x_t if its image is x_0. */
function eps_from_x_0(x_t, x_0, abar_t) {
  return x_t.map((value, i) => (value - Math.sqrt(abar_t) * x_0[i]) / Math.sqrt(1 - abar_t));
}

const clip = (x) => x.map((value) => Math.max(-1, Math.min(1, value)));

/** Values from -limit to limit as grays from 0 to 255; values outside are clipped. */
export const grays = (x, limit = 1) => Uint8ClampedArray.from(x, (value) => 127.5 * (value / limit + 1));

/** Sample from q(x_u | x_t, x_0): DDPM (6), (7). */
function ddpm_step(x_t, x_0, abar_t, abar_u, noise) {
  const [alpha, beta] = [abar_t / abar_u, 1 - abar_t / abar_u];
  const x_0_weight = (Math.sqrt(abar_u) * beta) / (1 - abar_t);
  const x_t_weight = (Math.sqrt(alpha) * (1 - abar_u)) / (1 - abar_t);
  const deviation = Math.sqrt(((1 - abar_u) / (1 - abar_t)) * beta);
  return x_t.map((value, i) => x_0_weight * x_0[i] + x_t_weight * value + deviation * noise[i]);
}

/** x_0 halfway from t to u, extrapolated from the last two steps: DPM-Solver++ (2M). */
function halfway(x_0, abar_t, abar_u, previous) {
  if (previous === null || abar_u === 1) return x_0;
  const half_log_snr = (abar) => Math.log(abar / (1 - abar)) / 2; // lambda
  const ahead = (half_log_snr(abar_u) - half_log_snr(abar_t)) / 2;
  const behind = half_log_snr(abar_t) - half_log_snr(previous.abar);
  return x_0.map((value, i) => value + ((value - previous.x_0[i]) * ahead) / behind);
}

// --- inference.py ---

/** Classifier guidance. Each network is called once per state. */
export class Guided {
  constructor(networks) {
    Object.assign(this, networks); // unet, classify
  }

  /** The noise in the state before step k, without a push, after clipping the predicted x_0. */
  noise(state, k) {
    const { x_t } = state;
    const x_0 = () => clip(x_0_from_eps(x_t, this.unet(x_t, TIMES[k]), ABAR[k]));
    return (state.eps ??= eps_from_x_0(x_t, x_0(), ABAR[k]));
  }

  /** The model's guess of the final digit before step k, in grays; after the last step, the result. */
  guess(state, k) {
    return grays(k === STEPS ? state.x_t : x_0_from_eps(state.x_t, this.noise(state, k), ABAR[k]));
  }

  /** What the classifier sees in the state before step k, or in the result: {p, gradient}. */
  seen(state, k) {
    const see = () => (k === STEPS ? this.classify(clip(state.x_t), 0) : this.classify(state.x_t, TIMES[k]));
    return (state.seen ??= see());
  }

  /** Step k of the reverse process, from a state to the next one. With s = 0, it is not pushed. */
  step(state, k, noise, y, s) {
    const [{ x_t, previous }, abar_t, abar_u, eps] = [state, ABAR[k], ABAR[k + 1], this.noise(state, k)];
    const grad = s === 0 ? null : this.seen(state, k).gradient(y); // of log p(y | x_t, t)
    const eps_hat = eps.map((e, i) => (grad ? e - s * Math.sqrt(1 - abar_t) * grad[i] : e)); // ADM (14)
    const x_0 = x_0_from_eps(x_t, eps_hat, abar_t); // DDPM (15)
    const x_u = ddpm_step(x_t, halfway(x_0, abar_t, abar_u, previous), abar_t, abar_u, noise);
    return { x_t: x_u, previous: { x_0, abar: abar_t }, grad };
  }
}
