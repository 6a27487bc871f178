// Computes films in its own thread, so that the page stays responsive.
//
// A job, {key, noise, digit, start, strength, isWhole}, is a film that is pushed toward the digit from step
// `start` on. A new job replaces the old one. The worker sends frames, {key, k, guess, p}: those without a
// push under the key `noise`, and the others, or only the result unless isWhole. At the end, it sends
// {key, isDone, q}, where q is what the judge sees in the result, {key, isDone, missing}, or {key, error}.

import { SCALES, STEPS } from "./constants.js";
import { loadJudge, loadNetworks } from "./networks.js";
import { Guided, grays, noiseImages } from "./sampler.js";

let [guided, job] = [null, null]; // once the networks are loaded
let judge = null; // a promise, from the first result on: loading it delays no film
let shared = {}; // of all films from the same noise: the noise of each step, and the states without a push

async function compute(its) {
  const { key, noise, digit, start, strength, isWhole } = its;
  if (shared.noise !== noise) {
    const [x_t, ...noises] = noiseImages(noise, STEPS + 1);
    shared = { noise, noises, states: [{ x_t, previous: null }] };
  }
  const { states, noises } = shared;
  const send = (state, k, more) => {
    postMessage({ k, guess: guided.guess(state, k), p: guided.seen(state, k).p, ...more });
  };
  let state = states[0];
  for (let k = 0; its === job; k++) { // before step k, or at the end
    if (k <= start) {
      state = states[k] ??= guided.step(state, k - 1, noises[k - 1], digit, 0);
      if (!state.isSent) send(state, k, { key: `${noise}` });
      state.isSent = true;
    } else {
      state = guided.step(state, k - 1, noises[k - 1], digit, strength * SCALES[k - 1]);
      const push = k > start + 1 ? null : grays(state.grad, Math.max(...state.grad.map(Math.abs)));
      if (isWhole || k === STEPS) send(state, k, { key, push });
    }
    if (k === STEPS) return postMessage({ key, isDone: true, ...(await judged(guided.guess(state, k))) });
    await nextTurn();
  }
}

/** What the judge sees in a result, {q}, or {missing}, why there is no judge. */
function judged(guess) {
  judge ??= loadJudge();
  return judge.then((see) => ({ q: see(guess) }), ({ message }) => ({ missing: message }));
}

/** Let new messages be handled. A timer would be slower. */
const { port1, port2 } = new MessageChannel();
const nextTurn = () => new Promise((resolve) => ((port1.onmessage = resolve), port2.postMessage(null)));

let loading = loadNetworks(); // before the first job, which reports errors
loading.catch(() => {});
self.onmessage = async ({ data }) => {
  job = data;
  try {
    guided ??= new Guided(await (loading ?? loadNetworks()));
    if (job === data) await compute(data);
  } catch (error) {
    loading = null; // try again with the next job
    postMessage({ key: data.key, error: error.message });
  }
};
