// Computes the paths of pushes in its own thread, so that the page stays responsive.
//
// The page sends a job: {id, noise, digit, strength, push, drawing, windows: [[a, b], ...]}. The worker answers each
// window with a path as in paths.js, of which the surprise comes last. A new job replaces the old one.
// {id, urgent: [a, b]} moves a window to the front, whose path is sent as it grows. {id, look: [a, b, k]} asks for
// everything that goes into step k.

import { heightOf, likeliest } from "./words.js";
import { loadNetworks } from "./networks.js";
import { DRAWING_STEP, Guided, Noise, SCALES, STEPS, TIMES, abar, add_noise } from "./sampler.js";

let guided; // once the networks are loaded
let paths = null; // those of the current job
let working = false;

class Paths {
  constructor(job) {
    Object.assign(this, job, { looks: [], urgent: job.windows[0] });
    const noise = new Noise(job.noise);
    const [first, ...noises] = Array.from({ length: STEPS + 1 }, () => noise.image());
    this.noises = noises;
    this.start = job.drawing ? DRAWING_STEP : 0;
    const x_t = job.drawing ? add_noise(job.drawing, first, abar(TIMES[this.start])) : first;
    this.alone = { [this.start]: { x_t, previous: null } }; // k -> the state before step k
    this.pushed = {}; // a -> the same, pushed since step a
  }

  scale(k) {
    return 10 ** this.strength * SCALES[this.push](TIMES[k]);
  }

  /** The states of a window, before each step and after the last one. Windows share those that they have in common. */
  async *states(a, b) {
    const [pushed, released] = [(this.pushed[a] ??= {}), {}];
    let state = this.alone[this.start];
    for (let k = this.start; ; k++) {
      yield [k, state];
      if (k === STEPS) return;
      const push = a <= k && k < b;
      const known = b === 0 || k < a ? this.alone : push ? pushed : released;
      known[k + 1] ??= guided.step(state, k, this.noises[k], this.digit, push ? this.scale(k) : 0);
      state = known[k + 1];
      await nextTurn();
      if (this !== paths) return; // there is a new job
    }
  }

  /** The digit that appears without a push. Its path is sent as it grows, at height 0 as long as the digit is not known. */
  async findUnpushed() {
    const path = { id: this.id, a: 0, b: 0, guesses: Array(this.start), heights: Array(this.start) };
    for await (const [k, state] of this.states(0, 0)) {
      if (k === STEPS) this.unpushed = likeliest(guided.chances(state, k));
      else if (this.urgent[1] === 0) {
        path.guesses.push(guided.guess(state, k));
        path.heights.push(0);
        postMessage(path);
      }
    }
  }

  /** Send the path of a window: first what it looks like, then how surprising the result is. */
  async send(a, b) {
    if (this.unpushed === undefined) await this.findUnpushed();
    const { id, unpushed } = this;
    const path = { id, a, b, unpushed, guesses: Array(this.start), heights: Array(this.start) };
    for await (const [k, state] of this.states(a, b)) {
      path.guesses.push(guided.guess(state, k));
      path.heights.push(heightOf(guided.chances(state, k), this.digit, unpushed));
      if (k === STEPS) {
        postMessage({ ...path, p: guided.chances(state, k) });
        postMessage({ id, a, b, unpushed, surprise: guided.surprise(state.x_t) });
      } else if (`${this.urgent}` === `${[a, b]}`) postMessage(path);
    }
  }

  /** Send everything that goes into step k of a window. */
  async look(a, b, k) {
    for await (const [step, state] of this.states(a, b)) {
      if (step < k) continue;
      const s = a <= k && k < b ? this.scale(k) : 0;
      const values = guided.predict_noise(state, k, this.digit, s);
      return postMessage({ id: this.id, look: { id: this.id, k, s, x_t: state.x_t, ...values } });
    }
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
    const look = paths.looks.pop();
    paths.looks.length = 0; // only the newest
    await (look ? paths.look(...look) : paths.send(...paths.windows.shift()));
    await nextTurn();
  }
  working = false;
}

self.onmessage = ({ data: { urgent, look, ...job } }) => {
  if (job.windows) paths = new Paths(job);
  if (job.id !== paths?.id) return;
  if (urgent) {
    paths.urgent = urgent;
    const index = paths.windows.findIndex((window) => `${window}` === `${urgent}`);
    if (index > 0) paths.windows.unshift(...paths.windows.splice(index, 1));
  }
  if (look) paths.looks.push(look);
  work().catch((error) => postMessage({ error: error.message }));
};
