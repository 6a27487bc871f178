// Both networks, in a thread of their own, so that the page stays free to be painted on.
//
// The page asks for a run, {name, number, seed, y, strengths, start}, and gets a message per step, {name, number, frame}.
// A new run of the same name takes the place of the old one. After each step, the most urgent run goes on.

import "./vendor/tf.min.js";
import "./vendor/tf-backend-wasm.min.js";
import { STEPS, frameAt } from "./bars.js";
import { loadNetworks } from "./networks.js";
import { END, Guided, draw } from "./sampler.js";

const URGENT = ["pushed", "alone"]; // the names of urgent runs, the most urgent last
const MOST_REMEMBERED = 3000; // steps, of 6 KB each
const remembered = new Map();
const runs = [];
let networks;

/**
 * `Guided` for a single image, which remembers each step by all that led to it. A run whose first bars are as before
 * comes without delay to the first bar that is not: this is why the picture follows the finger.
 */
class RememberingGuided {
  constructor({ seed, y, strengths, start }) {
    this.guided = new Guided(networks.unet, networks.log_p, (t) => strengths[frameAt(t)]);
    this.y = y;
    this.path = `${seed} ${start?.number}`;
    this.p = null; // what the guide read in the last x_t: ten numbers
  }

  predict_noise(x_t, t, y) {
    const s = this.guided.scale(t);
    this.path += s === 0 ? " 0" : ` ${s}:${this.y}`;
    if (!remembered.has(this.path)) {
      if (remembered.size === MOST_REMEMBERED) remembered.clear();
      const { eps_hat, grad } = this.guided.predict_noise(x_t, t, y);
      remembered.set(this.path, { eps_hat: eps_hat.dataSync(), grad: grad && grad.dataSync(), p: read(x_t, t) });
    }
    const { eps_hat, grad, p } = remembered.get(this.path);
    this.p = p;
    const tensor = (values) => values && tf.tensor(values, x_t.shape);
    return { eps_hat: tensor(eps_hat), s, grad: tensor(grad) };
  }
}

/** p(y | x_t) of all ten digits. */
function read(x_t, t) {
  return tf.tidy(() => tf.softmax(networks.logits(x_t, tf.fill([1], t))).dataSync());
}

/** The frames of a run, each with what the guide reads in it. */
function* framesOf(run) {
  const method = new RememberingGuided(run);
  for (const frame of draw(method, [run.y], [run.seed], STEPS, run.start)) {
    const p = frame.t === END ? tf.tidy(() => read(tf.tensor(frame.x_t, [1, 28, 28, 1]), 0)) : method.p;
    yield { ...frame, p };
  }
}

/** Let messages in: a promise of the next turn of the event loop, without the delay of a timer. */
const turn = new MessageChannel();
function nextTurn() {
  return new Promise((resolve) => {
    turn.port1.onmessage = resolve;
    turn.port2.postMessage(null);
  });
}

let working = false;
async function work() {
  if (working) return;
  working = true;
  await loaded;
  while (runs.length > 0) {
    const { name, number, frames } = runs[0];
    const { value: frame, done } = frames.next();
    if (done) runs.shift();
    else postMessage({ name, number, frame });
    await nextTurn();
  }
  working = false;
}

async function load() {
  networks = await loadNetworks();
  postMessage({ sha256: networks.sha256 });
}

const loaded = load();
self.onmessage = ({ data: run }) => {
  const known = runs.findIndex(({ name }) => name === run.name);
  if (known >= 0) runs.splice(known, 1);
  runs.push({ ...run, frames: framesOf(run) });
  runs.sort((a, b) => URGENT.indexOf(b.name) - URGENT.indexOf(a.name));
  work().catch((error) => postMessage({ error: error.message }));
};
