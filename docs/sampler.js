// The process, the guided noise and the samplers: diffusion.py and guidance.py, in TensorFlow.js.
//
// Equations are those of DDPM (Ho et al. 2020) and ADM (Dhariwal & Nichol 2021). Images x_t are
// (B, 28, 28, 1) in [-1, 1]; a timestep t is one number, the same for the whole batch.

const NUM_TRAIN_TIMESTEPS = 1000;
const BETA_START = 1e-4;
const BETA_END = 0.02;
export const SAMPLERS = { // name -> the order of its step, and whether the step adds fresh noise
  "sde-dpmsolver++": [2, true],
  "dpmsolver++": [2, false],
  ddim: [1, false],
  ddpm: [1, true],
};
const END = -1; // the time after the last step, where no noise is left
export const ALPHAS_CUMPROD = alphasCumprod(); // abar_t

function alphasCumprod() {
  const abars = [];
  let product = 1;
  for (let t = 0; t < NUM_TRAIN_TIMESTEPS; t++) {
    product *= 1 - BETA_START - ((BETA_END - BETA_START) * t) / (NUM_TRAIN_TIMESTEPS - 1);
    abars.push(product);
  }
  return abars;
}

/** abar_t; 1 at END. */
export const abar = (t) => (t === END ? 1 : ALPHAS_CUMPROD[t]);

/** From 999 down to 1000 / numSteps - 1, for a numSteps that divides 1000. */
function samplingTimesteps(numSteps) {
  const stride = NUM_TRAIN_TIMESTEPS / numSteps;
  return Array.from({ length: numSteps }, (_, i) => NUM_TRAIN_TIMESTEPS - 1 - i * stride);
}

/** s_t = w (1 + g abar_t / (1 - abar_t)). At growth 0 it is ADM's constant s. */
const scaleAt = (t, w, g) => w * (1 + (g * abar(t)) / (1 - abar(t)));

/** x_t, an image with noise: DDPM (4). */
export function addNoise(x_0, eps, t) {
  return tf.add(tf.mul(x_0, Math.sqrt(abar(t))), tf.mul(eps, Math.sqrt(1 - abar(t))));
}

/** The image that x_t holds if eps is its noise: DDPM (15). */
function predictedX0(x_t, t, eps) {
  return tf.div(tf.sub(x_t, tf.mul(eps, Math.sqrt(1 - abar(t)))), Math.sqrt(abar(t)));
}

/** The noise in x_t if x_0 is its image: DDPM (4), solved for eps. */
function impliedNoise(x_t, t, x_0) {
  return tf.div(tf.sub(x_t, tf.mul(x_0, Math.sqrt(abar(t)))), Math.sqrt(1 - abar(t)));
}

/** The noise in x_t if its image is that predicted from eps, clipped. */
function clippedNoise(x_t, t, eps) {
  return impliedNoise(x_t, t, tf.clipByValue(predictedX0(x_t, t, eps), -1, 1));
}

const batchOf = (t, x) => tf.fill([x.shape[0]], t);

/** log p(y | x_t, t) of the digits y (B,): (B,). */
export function logP(logits, x_t, t, y) {
  return tf.sum(tf.mul(tf.logSoftmax(logits(x_t, batchOf(t, x_t))), tf.oneHot(y, 10)), 1);
}

/** grad log p(y | x_t), of a guide (x_t, t, y) -> (B,): as x_t. */
export function guideGradient(guide, x_t, t, y) {
  return tf.grad((x) => tf.sum(guide(x, t, y)))(x_t);
}

/** ADM (14), scaled by s: eps_hat, and the gradient, which is also shown where s is 0. No guide: null. */
function guidedNoise(unet, guide, x_t, t, y, s) {
  const eps = clippedNoise(x_t, t, unet(x_t, batchOf(t, x_t)));
  if (guide === null) return { grad: null, eps_hat: eps };
  const grad = guideGradient(guide, x_t, t, y);
  return { grad, eps_hat: tf.sub(eps, tf.mul(grad, s * Math.sqrt(1 - abar(t)))) };
}

// --- samplers: the x at the next timestep u, from the predicted image x_0 at t ---

/** A draw of x_u given x_t and x_0, with fresh noise z: DDPM (6) and (7). */
function posterior(x_t, x_0, t, u, z) {
  const ratio = abar(t) / abar(u);
  const ofX0 = (Math.sqrt(abar(u)) * (1 - ratio)) / (1 - abar(t));
  const ofXt = (Math.sqrt(ratio) * (1 - abar(u))) / (1 - abar(t));
  const deviation = Math.sqrt(((1 - abar(u)) / (1 - abar(t))) * (1 - ratio));
  return tf.addN([tf.mul(x_0, ofX0), tf.mul(x_t, ofXt), tf.mul(z, deviation)]);
}

/** x_0 as it may be halfway from t to u, on the line through the x_0 of the last two steps. */
function extrapolated(x_0, t, u, before) {
  const slope = tf.div(tf.sub(x_0, before.x_0), halfLogSnr(t) - halfLogSnr(before.t));
  return tf.add(x_0, tf.mul(slope, (halfLogSnr(u) - halfLogSnr(t)) / 2));
}

/** lambda_t, half the logarithm of the signal-to-noise ratio. */
const halfLogSnr = (t) => Math.log(abar(t) / (1 - abar(t))) / 2;

/**
 * x_u, the images at the next timestep u.
 *
 * @param x_0 the images predicted from x_t.
 * @param before {t, x_0} of the step before, or null in the first step.
 * @param z fresh noise, as x_t.
 */
function samplerStep(sampler, x_t, x_0, t, u, before, z) {
  const [order, addsNoise] = SAMPLERS[sampler];
  if (order === 2 && before !== null && u !== END) x_0 = extrapolated(x_0, t, u, before);
  if (addsNoise) return posterior(x_t, x_0, t, u, z);
  return addNoise(x_0, impliedNoise(x_t, t, x_0), u); // DDPM (4) at u, with the noise of x_t
}

// --- noise: the same on every machine ---

/** Numbers from N(0, 1), for the image in a column. */
export class Noise {
  constructor(seed, column) {
    this.state = (seed * 0x9e3779b1 + column * 0x85ebca6b) >>> 0;
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
export function noiseImages(generators) {
  return tf.stack(generators.map((generator) => tf.tensor(generator.image(), [28, 28, 1])));
}

// --- the reverse loop, one call at a time: `sample` of guidance.py ---

export class Sampling {
  /**
   * @param networks {unet, logits}.
   * @param settings {y: digits (B), w, g, low, high, told, second, sampler, steps, seed}: the guide acts
   *   at low <= t < high; it is told t, or the number `told`; `second` is a digit for the image
   *   turned by 180 degrees, or null. With `unguided`, no gradient is computed.
   * @param start null to begin with noise, or {x_0: 784 numbers, t}: this image, noised to t.
   */
  constructor(networks, settings, start = null) {
    this.networks = networks;
    this.settings = settings;
    this.timesteps = samplingTimesteps(settings.steps);
    this.noise = settings.y.map((_, column) => new Noise(settings.seed, column));
    if (start) this.timesteps = this.timesteps.filter((t) => t <= start.t);
    this.x_t = tf.tidy(() => {
      const eps = noiseImages(this.noise);
      if (!start) return eps.dataSync();
      return addNoise(tf.tensor(start.x_0, [1, 28, 28, 1]), eps, this.timesteps[0]).dataSync();
    });
    this.before = null; // t and x_0 of the last step
    this.calls = 0;
  }

  get done() {
    return this.calls === this.timesteps.length;
  }

  /** The scale s_t; 0 outside of the window. */
  scale(t) {
    const { w, g, low, high } = this.settings;
    return low <= t && t < high ? scaleAt(t, w, g) : 0;
  }

  guide(x_t, t, y) {
    const { told, second } = this.settings;
    const guideT = told ?? t;
    const log_p = logP(this.networks.logits, x_t, guideT, y);
    if (second === null) return log_p;
    const turned = tf.reverse(x_t, [1, 2]);
    return tf.add(log_p, logP(this.networks.logits, turned, guideT, tf.fill(y.shape, second, "int32")));
  }

  /** One call of the networks, and one step: {t, s, x_t, x_0, p, grad}, with x_t before the step. */
  step() {
    const { y: digits, sampler, told, unguided } = this.settings;
    const t = this.timesteps[this.calls];
    const u = this.timesteps[this.calls + 1] ?? END; // the next timestep
    const s = this.scale(t);
    return tf.tidy(() => {
      const shape = [digits.length, 28, 28, 1];
      const y = tf.tensor(digits, [digits.length], "int32");
      const x_t = tf.tensor(this.x_t, shape);
      const before = this.before && { t: this.before.t, x_0: tf.tensor(this.before.x_0, shape) };
      const guide = unguided ? null : (x_t, t, y) => this.guide(x_t, t, y);
      const { grad, eps_hat } = guidedNoise(this.networks.unet, guide, x_t, t, y, s);
      const x_0 = predictedX0(x_t, t, eps_hat);
      const x_u = samplerStep(sampler, x_t, x_0, t, u, before, noiseImages(this.noise));
      const p = tf.softmax(this.networks.logits(x_t, batchOf(told ?? t, x_t)));
      const frame = { t, s, x_t: this.x_t, x_0: x_0.dataSync(), p: p.dataSync() };
      if (grad) frame.grad = grad.dataSync();
      this.before = { t, x_0: frame.x_0 };
      this.x_t = x_u.dataSync();
      this.calls += 1;
      return frame;
    });
  }
}
