// Computes push windows in its own thread, so that the page stays responsive.
//
// The page sends a job: {id, noise, digit, strength, drawing, windows: [[a, b], ...]}. A window is pushed
// from step a until step b; in [0, 0], nothing is pushed. The worker answers each window with
// {id, a, b, film, p, surprise}. A new job replaces the old one. {id, urgent: [a, b]} moves a window to
// the front, and {id, look: {a, b, k}} asks for everything that goes into step k.

import { loadNetworks } from "./networks.js";
import { DRAWING_STEP, Guided, Noise, STEPS, SURPRISE_TIMES, TIMES, abar, add_noise, clip, growing_scale } from "./sampler.js";

const SURPRISE_NOISE = 1_000_000; // visitors choose smaller numbers

const surpriseNoise = new Noise(SURPRISE_NOISE);
const surpriseNoises = SURPRISE_TIMES.map(() => surpriseNoise.image());
let guided; // once the networks are loaded
let paths = null; // those of the current job
let working = false;

/** The states of a job. Windows share the steps that they have in common. */
class Paths {
  constructor(job) {
    this.job = job;
    const noise = new Noise(job.noise);
    const [first, ...noises] = Array.from({ length: STEPS + 1 }, () => noise.image());
    this.noises = noises;
    this.start = job.drawing ? DRAWING_STEP : 0;
    const x_t = job.drawing ? add_noise(job.drawing, first, abar(TIMES[this.start])) : first;
    this.alone = { [this.start]: { x_t, previous: null } }; // k -> the state before step k
    this.pushed = {}; // a -> the same, pushed since step a
  }

  strength(k) {
    return this.job.strength * growing_scale(TIMES[k]);
  }

  /** The states before each step of a window, and after the last one. */
  async states(a, b) {
    const states = { [this.start]: this.alone[this.start] };
    const pushed = (this.pushed[a] ??= {});
    for (let k = this.start; k < STEPS; k++) {
      const push = a <= k && k < b;
      const known = k < a || b === 0 ? this.alone : push ? pushed : states;
      if (!known[k + 1]) {
        known[k + 1] = guided.step(states[k], k, this.noises[k], this.job.digit, push ? this.strength(k) : 0);
        await nextTurn();
        if (this !== paths) return null; // there is a new job
      }
      states[k + 1] = known[k + 1];
    }
    return states;
  }

  /** What a window becomes: the predicted x_0 of each step and the image, and both verdicts on it. */
  async window([a, b]) {
    const states = await this.states(a, b);
    if (!states) return null;
    const film = new Uint8ClampedArray(784 * (STEPS + 1)).fill(0);
    for (let k = this.start; k <= STEPS; k++) {
      const shown = k < STEPS ? states[k + 1].x_0 : states[k].x_t;
      film.set(shown.map((value) => 127.5 * (value + 1)), 784 * k);
    }
    const image = clip(states[STEPS].x_t);
    const { p } = guided.classify(image, 0);
    return { a, b, film, p, surprise: guided.surprise(image, surpriseNoises) };
  }

  /** Everything that goes into step k of a window. */
  async look({ a, b, k }) {
    const states = await this.states(a, b);
    if (!states) return null;
    const { x_t } = states[k];
    const s = a <= k && k < b ? this.strength(k) : 0;
    return { k, s, x_t, ...guided.predict_noise(x_t, TIMES[k], this.job.digit, s) };
  }
}

/** Let new messages be handled. A timer would be slower. */
const channel = new MessageChannel();
function nextTurn() {
  return new Promise((resolve) => {
    channel.port1.onmessage = resolve;
    channel.port2.postMessage(null);
  });
}

async function work() {
  if (working) return;
  working = true;
  guided ??= new Guided(await loadNetworks());
  while (paths.looks.length + paths.windows.length > 0) {
    const current = paths;
    const look = current.looks.pop();
    current.looks.length = 0; // only the newest
    const answer = look ? await current.look(look) : await current.window(current.windows.shift());
    if (current === paths) postMessage({ id: current.job.id, ...(look ? { look: answer } : answer) });
    await nextTurn();
  }
  working = false;
}

self.onmessage = ({ data }) => {
  if (data.windows) paths = Object.assign(new Paths(data), { windows: data.windows, looks: [] });
  if (data.id !== paths?.job.id) return;
  if (data.urgent) {
    const index = paths.windows.findIndex(([a, b]) => a === data.urgent[0] && b === data.urgent[1]);
    if (index > 0) paths.windows.unshift(...paths.windows.splice(index, 1));
  }
  if (data.look) paths.looks.push(data.look);
  work().catch((error) => postMessage({ error: error.message }));
};
