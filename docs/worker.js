// Computes paths in its own thread, so that the page stays responsive.
//
// The page sends a job: {id, start} for the path without a push, from the number of a noise image or from a drawing.
// The worker sends it state by state, {id, k, guess, p}, and then {id, states}. Or, {id, start, states, digit, size,
// windows} for pushed paths: {id, first, end, guesses, chances}, and then {id, first, end, surprise}. A new job replaces
// the old one. {id, urgent: [first, end]} moves a window to the front, whose path is sent as it grows.
// {id, look: [first, end, k]} asks what happens inside step k: {id, look: {k, before, gradient, after}}, as grays.

import { ABAR, NOISE, SCALES, STEPS, TIMES } from "./constants.js";
import { loadNetworks } from "./networks.js";
import { DRAWING_STEP, Guided, Noise, add_noise, grays } from "./sampler.js";

let guided; // once the networks are loaded
let paths; // those of the current job
let working = false;

class Paths {
  constructor(job) {
    Object.assign(this, { look: null, windows: [[0, 0]], scales: [], pushed: {} }, job);
    const isDrawing = typeof this.start === "object";
    const noise = new Noise(isDrawing ? NOISE : this.start);
    const [first, ...noises] = Array.from({ length: STEPS + 1 }, () => noise.image());
    this.noises = noises;
    this.earliest = isDrawing ? DRAWING_STEP : 0;
    const x_t = isDrawing ? add_noise(this.start, first, ABAR[TIMES[DRAWING_STEP]]) : first;
    this.alone = job.states ?? { [this.earliest]: { x_t, previous: null } }; // k -> the state before step k
    this.urgent = this.windows[0];
  }

  /** The scale of step k. With a size, a push in this step alone changes the next image by this norm. */
  scale(k) {
    if (!this.size) return SCALES[k];
    if (!this.scales[k]) {
      const pushed = guided.step(this.alone[k], k, this.noises[k], this.digit, 1);
      const changes = pushed.x_t.map((value, i) => value - this.alone[k + 1].x_t[i]);
      this.scales[k] = this.size / Math.hypot(...changes); // the next image is linear in the scale
    }
    return this.scales[k];
  }

  /** The state after step k, in the window or not. */
  after(state, k, isPushed) {
    return guided.step(state, k, this.noises[k], this.digit, isPushed ? this.scale(k) : 0);
  }

  /** The states of a window, before each step and after the last one. Windows share those that they have in common. */
  async *walk(first, end) {
    const [pushed, released] = [(this.pushed[first] ??= {}), {}];
    let state = this.alone[this.earliest];
    for (let k = this.earliest; ; k++) {
      yield [k, state];
      if (k === STEPS) return;
      const isPushed = first <= k && k < end;
      const known = end === 0 || k < first ? this.alone : isPushed ? pushed : released;
      state = known[k + 1] ??= this.after(state, k, isPushed);
      await nextTurn();
      if (this !== paths) return; // there is a new job
    }
  }

  async sendUnpushed() {
    const { id } = this;
    for await (const [k, state] of this.walk(0, 0)) {
      postMessage({ id, k, guess: guided.guess(state, k), p: guided.chances(state, k) });
      if (k === STEPS) postMessage({ id, states: this.alone });
    }
  }

  async send(first, end) {
    const path = { id: this.id, first, end, guesses: Array(this.earliest), chances: Array(this.earliest) };
    for await (const [k, state] of this.walk(first, end)) {
      path.guesses.push(guided.guess(state, k));
      path.chances.push(guided.chances(state, k));
      if (k === STEPS || `${this.urgent}` === `${[first, end]}`) postMessage(path);
      if (k === STEPS) postMessage({ id: this.id, first, end, surprise: guided.surprise(state.x_t) });
    }
  }

  async sendLook([first, end, k]) {
    for await (const [step, state] of this.walk(first, end)) {
      if (step < k) continue;
      const gradient = guided.gradient(state, k, this.digit);
      const [before, { previous }] = [guided.guess(state, k), this.after(state, k, first <= k && k < end)];
      const look = { k, before, gradient: grays(gradient, Math.max(...gradient.map(Math.abs))), after: grays(previous.x_0) };
      return postMessage({ id: this.id, look });
    }
  }

  isBusy() {
    return this.look || this.windows.length > 0;
  }

  async next() {
    const { look } = this;
    this.look = null;
    if (look) return this.sendLook(look);
    const [first, end] = this.windows.shift();
    return end === 0 ? this.sendUnpushed() : this.send(first, end);
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
  try {
    guided ??= new Guided(await loadNetworks());
    while (paths.isBusy()) {
      await paths.next();
      await nextTurn();
    }
  } finally {
    working = false;
  }
}

self.onmessage = ({ data: { urgent, look, ...job } }) => {
  if (job.start !== undefined) paths = new Paths(job);
  if (job.id !== paths?.id) return;
  if (urgent) {
    paths.urgent = urgent;
    const index = paths.windows.findIndex((window) => `${window}` === `${urgent}`);
    if (index > 0) paths.windows.unshift(...paths.windows.splice(index, 1));
  }
  if (look) paths.look = look;
  work().catch((error) => postMessage({ error: error.message }));
};
