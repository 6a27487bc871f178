// The process, the guided noise and the samplers: diffusion.py and guidance.py, in TensorFlow.js.
//
// Functions have the names that they have there, in the same order: lay them side by side. Equations
// are those of DDPM (Ho et al. 2020) and ADM (Dhariwal & Nichol 2021). Images x_t are (B, 28, 28, 1)
// in [-1, 1]; a timestep t is one number, the same for the whole batch.

const NUM_TRAIN_TIMESTEPS = 1000;
const BETA_START = 1e-4;
const BETA_END = 0.02;
export const END = -1; // the time after the last step, where no noise is left
const ALPHAS_CUMPROD = []; // abar_t, the product of 1 - beta up to t
for (let t = 0; t < NUM_TRAIN_TIMESTEPS; t++) {
  const beta = BETA_START + ((BETA_END - BETA_START) * t) / (NUM_TRAIN_TIMESTEPS - 1);
  ALPHAS_CUMPROD.push((ALPHAS_CUMPROD[t - 1] ?? 1) * (1 - beta));
}
export const SAMPLERS = { // name -> what makes x_u, and the order: at 2, x_0 is extrapolated first
  "sde-dpmsolver++": [posterior, 2],
  "dpmsolver++": [same_noise, 2],
  ddim: [same_noise, 1],
  ddpm: [posterior, 1],
};

// --- diffusion.py ---

/** The timesteps of every sampler, from 999 down to 1000 / num_steps - 1; Python rounds halves to even, as at 16 steps. */
function sampling_timesteps(num_steps) {
  const total = NUM_TRAIN_TIMESTEPS;
  return Array.from({ length: num_steps }, (_, i) => Math.round((total * (num_steps - i)) / num_steps) - 1);
}

/** abar_t; 1 at END. */
export function abar(t) {
  return t === END ? 1 : ALPHAS_CUMPROD[t];
}

/** x_t, an image with noise: DDPM (4). */
export function add_noise(x_0, eps, t) {
  return tf.add(tf.mul(x_0, Math.sqrt(abar(t))), tf.mul(eps, Math.sqrt(1 - abar(t))));
}

/** The image in x_t if eps is its noise: DDPM (15). */
function predicted_x_0(x_t, t, eps) {
  return tf.div(tf.sub(x_t, tf.mul(eps, Math.sqrt(1 - abar(t)))), Math.sqrt(abar(t)));
}

/** The noise in x_t if x_0 is its image: DDPM (4), solved for eps. */
function implied_noise(x_t, t, x_0) {
  return tf.div(tf.sub(x_t, tf.mul(x_0, Math.sqrt(abar(t)))), Math.sqrt(1 - abar(t)));
}

/** The noise in x_t if its image is that predicted from eps, clipped to [-1, 1]. */
function clipped_noise(x_t, t, eps) {
  return implied_noise(x_t, t, tf.clipByValue(predicted_x_0(x_t, t, eps), -1, 1));
}

/** x_u with the noise that is in x_t if x_0 is its image: DDPM (4) at u. */
function same_noise(x_t, x_0, t, u, z) {
  return add_noise(x_0, implied_noise(x_t, t, x_0), u);
}

/** A draw of x_u given x_t and x_0, with fresh noise z: DDPM (6), (7). */
function posterior(x_t, x_0, t, u, z) {
  const [abar_t, abar_u] = [abar(t), abar(u)];
  const [alpha, beta] = [abar_t / abar_u, 1 - abar_t / abar_u];
  const of_x_0 = (Math.sqrt(abar_u) * beta) / (1 - abar_t);
  const of_x_t = (Math.sqrt(alpha) * (1 - abar_u)) / (1 - abar_t);
  const variance = ((1 - abar_u) / (1 - abar_t)) * beta; // beta_tilde_t
  return tf.addN([tf.mul(x_0, of_x_0), tf.mul(x_t, of_x_t), tf.mul(z, Math.sqrt(variance))]);
}

/**
 * x_u, the images at the next timestep u.
 *
 * @param x_0 the images predicted from x_t.
 * @param previous [t, x_0] of the step before, or null in the first step.
 * @param z fresh noise, as x_t.
 */
function sampler_step(sampler, x_t, x_0, t, u, previous, z) {
  const [make_x_u, order] = SAMPLERS[sampler];
  if (order === 2 && previous !== null && u !== END) x_0 = extrapolated(x_0, t, u, previous);
  return make_x_u(x_t, x_0, t, u, z);
}

/** x_0 as it may be halfway from t to u, on the line through the x_0 of the last two steps. */
function extrapolated(x_0, t, u, previous) {
  const [t_previous, x_0_previous] = previous;
  const slope = tf.div(tf.sub(x_0, x_0_previous), half_log_snr(t) - half_log_snr(t_previous));
  return tf.add(x_0, tf.mul(slope, (half_log_snr(u) - half_log_snr(t)) / 2));
}

/** lambda_t, half the logarithm of the signal-to-noise ratio. */
function half_log_snr(t) {
  return Math.log(snr(t)) / 2;
}

/** The signal-to-noise ratio (SNR). */
function snr(t) {
  return abar(t) / (1 - abar(t));
}

// --- guidance.py ---

/** eps_hat of ADM (14), scaled by s, and the gradient, which the page shows even where s is 0. */
function guided_noise(unet, log_p, x_t, t, y, s) {
  const times = tf.fill([x_t.shape[0]], t);
  const eps = clipped_noise(x_t, t, unet(x_t, times));
  if (log_p === null) return { eps_hat: eps, grad: null };
  const grad = guide_gradient(log_p, x_t, times, y);
  return { eps_hat: tf.sub(eps, tf.mul(grad, s * Math.sqrt(1 - abar(t)))), grad };
}

/** grad log p(y | x_t, t), taken at x_t: as x_t. The guide log_p is (x_t, t (B,), y (B,)) -> (B,). */
export function guide_gradient(log_p, x_t, t, y) {
  return tf.grad((x) => tf.sum(log_p(x, t, y)))(x_t);
}

/** s_t = w (1 + g abar_t / (1 - abar_t)), a function of t; 0 outside of the window. At g = 0 it is constant, as in ADM. */
export function growing_scale(w = 1, g = 24, [low, high] = [0, NUM_TRAIN_TIMESTEPS]) {
  return (t) => (low <= t && t < high ? w * (1 + g * snr(t)) : 0);
}

/**
 * DDPM Algorithm 2, or the same loop with another sampler's step; one step per `next()`.
 *
 * @param predict_noise (x_t, t) -> {eps_hat, grad, s}.
 * @param x_t pure noise, B times 784 numbers. @param rngs B times `Noise`.
 * @param times of the sampler; the last one is `END`.
 * Yields {t, u, s, x_t, x_0, grad} of each step from t to u, and at last {t: END, x_t}.
 */
function* reverse_process(predict_noise, x_t, rngs, sampler, times) {
  const shape = [rngs.length, 28, 28, 1];
  let previous = null; // t and x_0 of the step before
  for (let k = 0; times[k] !== END; k++) {
    const [t, u] = [times[k], times[k + 1]];
    const frame = { t, u, x_t };
    tf.tidy(() => {
      const x = tf.tensor(x_t, shape);
      const { eps_hat, grad, s } = predict_noise(x, t);
      const x_0 = predicted_x_0(x, t, eps_hat);
      const before = previous && [previous[0], tf.tensor(previous[1], shape)];
      x_t = sampler_step(sampler, x, x_0, t, u, before, gaussian_noise(rngs)).dataSync();
      Object.assign(frame, { s, x_0: x_0.dataSync(), grad: grad && grad.dataSync() });
      previous = [t, frame.x_0];
    });
    yield frame;
  }
  yield { t: END, x_t };
}

/**
 * Draw an image for each seed: the steps of `reverse_process`.
 *
 * @param log_p the guide, see `guide_gradient`; null draws unguided.
 * @param y digits (B).
 * @param options {scale: a function of t, sampler, steps}; with `start`,
 *   {x_0: 784 numbers, t}, it begins with this image, noised to t, instead of pure noise.
 */
export function* sample(unet, log_p, y, seeds, options) {
  const { scale = growing_scale(), sampler = "sde-dpmsolver++", steps = 20, start = null } = options;
  const predict_noise = (x_t, t) => {
    const s = scale(t);
    return { s, ...guided_noise(unet, log_p, x_t, t, tf.tensor(y, [y.length], "int32"), s) };
  };
  const rngs = seeds.map((seed) => new Noise(seed));
  const times = [...sampling_timesteps(steps), END].filter((t) => !start || t <= start.t);
  const x_T = tf.tidy(() => {
    const eps = gaussian_noise(rngs);
    return (start ? add_noise(tf.tensor(start.x_0, [1, 28, 28, 1]), eps, times[0]) : eps).dataSync();
  });
  yield* reverse_process(predict_noise, x_T, rngs, sampler, times);
}

// --- noise that is the same on every machine: in the place of support/streams.py ---

/** A seed for each image, by the seed of the page and its column. */
export function image_seeds(seed, columns) {
  return Array.from({ length: columns }, (_, column) => (seed * 0x9e3779b1 + column * 0x85ebca6b) >>> 0);
}

/** Numbers from N(0, 1), for one image. */
export class Noise {
  constructor(seed) {
    this.state = seed;
  }

  /** A number between 0 and 1: the generator mulberry32. */
  uniform() {
    this.state = (this.state + 0x6d2b79f5) >>> 0;
    let z = this.state;
    z = Math.imul(z ^ (z >>> 15), z | 1);
    z ^= z + Math.imul(z ^ (z >>> 7), z | 61);
    return (((z ^ (z >>> 14)) >>> 0) + 0.5) / 2 ** 32;
  }

  /** The next image of noise, by Box and Muller: 784 numbers. */
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

/** The next image of noise of each generator: (B, 28, 28, 1). */
export function gaussian_noise(rngs) {
  return tf.stack(rngs.map((rng) => tf.tensor(rng.image(), [28, 28, 1])));
}
