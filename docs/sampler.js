// Guided sampling of one image: diffusion.py and inference.py in JavaScript, under the same names.
//
// Equations are those of DDPM (Ho et al. 2020) and ADM (Dhariwal & Nichol 2021). Images are 784 numbers
// in [-1, 1]. The sampler is "sde-dpmsolver++" with 20 steps: step k leads from timestep TIMES[k] to TIMES[k + 1].

import { ABAR, RENOISED_TIMES, RENOISING, STEPS, TIMES } from "./constants.js";

/** A drawing starts at this step: enough noise to change it, too little to forget it. */
export const DRAWING_STEP = 12;

const snr = (abar_t) => abar_t / (1 - abar_t);

// --- diffusion.py ---

/** x_t, the image x_0 with noise eps: DDPM (4). */
export function add_noise(x_0, eps, abar_t) {
  return x_0.map((value, i) => Math.sqrt(abar_t) * value + Math.sqrt(1 - abar_t) * eps[i]);
}

/** The image in x_t if its noise is eps: DDPM (15). */
function predicted_x_0(x_t, eps, abar_t) {
  return x_t.map((value, i) => (value - Math.sqrt(1 - abar_t) * eps[i]) / Math.sqrt(abar_t));
}

/** The noise in x_t if its image is x_0. */
function implied_noise(x_t, x_0, abar_t) {
  return x_t.map((value, i) => (value - Math.sqrt(abar_t) * x_0[i]) / Math.sqrt(1 - abar_t));
}

const clip = (x) => x.map((value) => Math.max(-1, Math.min(1, value)));

/** Values from -1 to 1 as grays from 0 to 255; values outside are clipped. */
export const grays = (values, limit = 1) => Uint8ClampedArray.from(values, (value) => 127.5 * (value / limit + 1));

/** The noise in x_t after clipping the x_0 predicted from eps. */
function clipped_noise(x_t, eps, abar_t) {
  return implied_noise(x_t, clip(predicted_x_0(x_t, eps, abar_t)), abar_t);
}

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
  const half_log_snr = (value) => Math.log(snr(value)) / 2; // lambda
  const ahead = (half_log_snr(abar_u) - half_log_snr(abar_t)) / 2;
  const behind = half_log_snr(abar_t) - half_log_snr(previous.abar);
  return x_0.map((value, i) => value + ((value - previous.x_0[i]) * ahead) / behind);
}

// --- inference.py ---

/** Classifier guidance. */
export class Guided {
  constructor({ unet, classify }) {
    Object.assign(this, { unet, classify });
  }

  /** The noise in the state before step k, without a push. The U-Net is called once per state. */
  noise(state, k) {
    const t = TIMES[k];
    return (state.eps ??= clipped_noise(state.x_t, this.unet(state.x_t, t), ABAR[t]));
  }

  /** The model's guess of the final digit before step k, in grays; after the last step, the result. */
  guess(state, k) {
    const { x_t } = state;
    return grays(k === STEPS ? x_t : predicted_x_0(x_t, this.noise(state, k), ABAR[TIMES[k]]));
  }

  /** The classifier's probabilities of the ten digits, in the state before step k, or in the result. */
  chances(state, k) {
    return (state.p ??= (k === STEPS ? this.classify(clip(state.x_t), 0) : this.classify(state.x_t, TIMES[k])).p);
  }

  /** The gradient of log p(y | x_t, t) in the state before step k. */
  gradient({ x_t }, k, y) {
    return this.classify(x_t, TIMES[k]).gradient(y);
  }

  /** Step k of the reverse process, from a state {x_t, previous} to the next one. With s = 0, it is not pushed. */
  step(state, k, noise, y, s) {
    const [{ x_t, previous }, abar_t, abar_u] = [state, ABAR[TIMES[k]], ABAR[TIMES[k + 1]]];
    let eps_hat = this.noise(state, k);
    if (s !== 0) {
      const grad = this.gradient(state, k, y);
      eps_hat = eps_hat.map((eps, i) => eps - s * Math.sqrt(1 - abar_t) * grad[i]); // ADM (14)
    }
    const x_0 = predicted_x_0(x_t, eps_hat, abar_t); // DDPM (15)
    const x_u = ddpm_step(x_t, halfway(x_0, abar_t, abar_u, previous), abar_t, abar_u, noise);
    return { x_t: x_u, previous: { x_0, abar: abar_t } };
  }

  /** How far an image is from its reconstructions by the U-Net after adding noise: a root mean square. */
  surprise(image) {
    const x = clip(image);
    let squares = 0;
    RENOISED_TIMES.forEach((t, k) => {
      const x_t = add_noise(x, RENOISING_NOISES[k], ABAR[t]);
      const x_0 = clip(predicted_x_0(x_t, this.unet(x_t, t), ABAR[t]));
      x_0.forEach((value, i) => (squares += (value - x[i]) ** 2));
    });
    return Math.sqrt(squares / (784 * RENOISED_TIMES.length));
  }
}

// --- noise that is the same in Python (examples/when.py) ---

/** The noise images of one number: an infinite sequence of 784 numbers from N(0, 1). */
export class Noise {
  constructor(number) {
    this.state = Math.imul(number, 0x9e3779b1) >>> 0;
  }

  /** A number between 0 and 1: the generator mulberry32. */
  uniform() {
    this.state = (this.state + 0x6d2b79f5) >>> 0;
    let z = this.state;
    z = Math.imul(z ^ (z >>> 15), z | 1);
    z ^= z + Math.imul(z ^ (z >>> 7), z | 61);
    return (((z ^ (z >>> 14)) >>> 0) + 0.5) / 2 ** 32;
  }

  /** The next image, by Box and Muller. */
  image() {
    const pixels = new Float32Array(784);
    for (let i = 0; i < 784; i += 2) {
      const radius = Math.sqrt(-2 * Math.log(this.uniform()));
      const angle = 2 * Math.PI * this.uniform();
      pixels[i] = radius * Math.cos(angle);
      pixels[i + 1] = radius * Math.sin(angle);
    }
    return pixels;
  }
}

const renoising = new Noise(RENOISING); // visitors choose smaller numbers
const RENOISING_NOISES = RENOISED_TIMES.map(() => renoising.image());
