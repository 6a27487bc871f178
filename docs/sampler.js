// The process, the guided noise and the sampler: diffusion.py and inference.py, in TensorFlow.js.
//
// Functions have the names that they have there, in the same order: lay them side by side. Equations
// are those of DDPM (Ho et al. 2020) and ADM (Dhariwal & Nichol 2021). Images x_t are (B, 28, 28, 1)
// in [-1, 1]; a timestep t is one number, the same for the whole batch, and so is abar_t.

const SCHEDULE = { num_train_timesteps: 1000, beta_start: 1e-4, beta_end: 0.02 }; // DDPM, section 4
export const END = -1; // the time after the last step, where no noise is left: abar.at(END) is 1
export const abar = abar_table(SCHEDULE);

// --- diffusion.py ---

/** x_t, an image with noise: DDPM (4). */
export function add_noise(x_0, eps, abar_t) {
  return tf.add(tf.mul(x_0, Math.sqrt(abar_t)), tf.mul(eps, Math.sqrt(1 - abar_t)));
}

/** The image in x_t if eps is its noise: DDPM (15). It may leave [-1, 1]. */
function predicted_x_0(x_t, eps, abar_t) {
  return tf.div(tf.sub(x_t, tf.mul(eps, Math.sqrt(1 - abar_t))), Math.sqrt(abar_t));
}

/** The noise in x_t if x_0 is its image: DDPM (4), solved for eps. */
function implied_noise(x_t, x_0, abar_t) {
  return tf.div(tf.sub(x_t, tf.mul(x_0, Math.sqrt(abar_t))), Math.sqrt(1 - abar_t));
}

/** The noise in x_t if its image is that predicted from eps, clipped to [-1, 1]. */
function clipped_noise(x_t, eps, abar_t) {
  return implied_noise(x_t, tf.clipByValue(predicted_x_0(x_t, eps, abar_t), -1, 1), abar_t);
}

/** The signal-to-noise ratio (SNR) of x_t. */
function snr(abar_t) {
  return abar_t / (1 - abar_t);
}

/** A draw of x_u given x_t and x_0: DDPM (6), (7). `noise()` is fresh noise, as x_t. */
function posterior(x_t, x_0, abar_t, abar_u, noise) {
  const [alpha, beta] = [abar_t / abar_u, 1 - abar_t / abar_u];
  const of_x_0 = (Math.sqrt(abar_u) * beta) / (1 - abar_t);
  const of_x_t = (Math.sqrt(alpha) * (1 - abar_u)) / (1 - abar_t);
  const variance = ((1 - abar_u) / (1 - abar_t)) * beta; // beta_tilde_t
  return tf.addN([tf.mul(x_0, of_x_0), tf.mul(x_t, of_x_t), tf.mul(noise(), Math.sqrt(variance))]);
}

/** abar_t, the product of 1 - beta up to t, for t = 0 .. T - 1, and 1 at END: T + 1 numbers. */
function abar_table({ num_train_timesteps: T, beta_start, beta_end }) {
  const table = [];
  for (let t = 0; t < T; t++) {
    const beta = beta_start + ((beta_end - beta_start) * t) / (T - 1);
    table.push((table[t - 1] ?? 1) * (1 - beta));
  }
  return [...table, 1];
}

/** The falling times of the sampler, from T - 1 to T / steps - 1; Python rounds halves to even, as at 16 steps. */
function sampling_times(num_timesteps, steps) {
  const T = num_timesteps;
  return Array.from({ length: steps }, (_, i) => Math.round((T * (steps - i)) / steps) - 1);
}

// --- inference.py ---

/** Classifier guidance, ADM (14). `scale` is a function of t. */
export class Guided {
  constructor(unet, log_p, scale) {
    Object.assign(this, { unet, log_p, scale });
  }

  /** {eps_hat, s, grad}: the guided noise, and what guided it. At s = 0, it is unguided, and grad is null. */
  predict_noise(x_t, t, y) {
    const times = tf.fill([x_t.shape[0]], t);
    const eps = clipped_noise(x_t, this.unet(x_t, times), abar.at(t));
    const s = this.scale(t);
    if (s === 0) return { eps_hat: eps, s, grad: null };
    const grad = gradient(this.log_p, x_t, times, y);
    return { eps_hat: tf.sub(eps, tf.mul(grad, s * Math.sqrt(1 - abar.at(t)))), s, grad }; // ADM (14), scaled by s
  }
}

/** grad log p(y | x_t, t), taken at x_t: as x_t. The guide log_p is (x_t, t (B,), y (B,)) -> (B,). */
function gradient(log_p, x_t, t, y) {
  return tf.grad((x) => tf.sum(log_p(x, t, y)))(x_t);
}

/**
 * DDPM Algorithm 2, with `posterior` as its step. One step per `next()`.
 *
 * Unlike Python's, it yields where a step from t to u begins: {t, u, s, x_t, x_0, grad}; and at last {t: END, x_t}.
 *
 * @param predict_noise (x_t, t) -> {eps_hat, s, grad}.
 * @param x_t pure noise, B times 784 numbers: no tensor outlives a step, so that a run can be given up at any time.
 * @param times falling, and END. @param noise () -> fresh noise.
 */
function* first_order(step, predict_noise, abar, x_t, times, noise) {
  for (let k = 0; times[k] !== END; k++) {
    const [t, u] = [times[k], times[k + 1]];
    const frame = { t, u, x_t };
    tf.tidy(() => {
      const x = tf.tensor(x_t, [x_t.length / 784, 28, 28, 1]);
      const { eps_hat, s, grad } = predict_noise(x, t);
      const x_0 = predicted_x_0(x, eps_hat, abar.at(t)); // DDPM (15)
      x_t = step(x, x_0, abar.at(t), abar.at(u), noise).dataSync(); // DDPM (6), (7)
      Object.assign(frame, { s, x_0: x_0.dataSync(), grad: grad && grad.dataSync() });
    });
    yield frame;
  }
  yield { t: END, x_t };
}

/**
 * An image for each seed, step by step: the frames of `first_order`. The sampler is Python's sde-dpmsolver++.
 *
 * @param method such as a `Guided`.
 * @param y digits (B).
 * @param steps how many.
 * @param start {x_0: 784 numbers, t}: begin with this image, noised to t, instead of pure noise; or null.
 */
export function* draw(method, y, seeds, steps, start = null) {
  const rngs = seeds.map((seed) => new Noise(seed));
  const noise = () => gaussian_noise(rngs);
  const predict_noise = (x_t, t) => method.predict_noise(x_t, t, tf.tensor(y, [y.length], "int32"));
  const times = [...sampling_times(abar.length - 1, steps), END].filter((t) => !start || t <= start.t);
  const x_t = tf.tidy(() => {
    const eps = noise();
    return (start ? add_noise(tf.tensor(start.x_0, [1, 28, 28, 1]), eps, abar.at(times[0])) : eps).dataSync();
  });
  yield* multistep(posterior, predict_noise, abar, x_t, times, noise);
}

/** s_t = w (1 + g abar_t / (1 - abar_t)), a function of t; 0 outside of the window. At g = 0 it is constant, as in ADM. */
export function growing_scale(w = 1, g = 24, [low, high] = [0, SCHEDULE.num_train_timesteps]) {
  return (t) => (low <= t && t < high ? w * (1 + g * snr(abar.at(t))) : 0);
}

/**
 * DPM-Solver++ (2M) of Lu et al. 2022, Algorithm 2, with `posterior` as its step: SDE-DPM-Solver++. As `first_order`.
 *
 * The step takes x_0 as it may be halfway from t to u, on the line through the x_0 of the last two steps. The line
 * is in lambda, half the logarithm of the SNR. Python writes the loop out again; here it is that of `first_order`.
 */
function multistep(step, ...others) {
  const half_log_snr = (abar_t) => Math.log(snr(abar_t)) / 2; // lambda
  let previous = null; // abar_t and x_0 of the step before
  const multistep_step = (x_t, x_0, abar_t, abar_u, noise) => {
    let halfway = x_0;
    if (previous !== null && abar_u < 1) { // at END, lambda is infinite
      const [abar_before, x_0_before] = previous;
      const change = tf.sub(x_0, tf.tensor(x_0_before, x_0.shape));
      const slope = tf.div(change, half_log_snr(abar_t) - half_log_snr(abar_before));
      halfway = tf.add(x_0, tf.mul(slope, (half_log_snr(abar_u) - half_log_snr(abar_t)) / 2));
    }
    previous = [abar_t, x_0.dataSync()];
    return step(x_t, halfway, abar_t, abar_u, noise);
  };
  return first_order(multistep_step, ...others);
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
