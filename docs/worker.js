// Computes films in its own thread, so that the page stays responsive.
//
// A job is {noise, digit, step}: a noise, and one push toward the digit in a step (none if it is null). The
// answers are its frames {k, seen, guess, push}, of which the first has the push, and {own}, the digit that the
// classifier sees in the last one. Or the answer is {error}.

import { loadNetworks } from "./networks.js";
import { Sampler, noiseImage } from "./sampler.js";

const loading = loadNetworks().then((networks) => new Sampler(networks));
loading.catch(() => {}); // the first job reports it
let alone = {}; // the last noise, and its x_t in each step without a push

self.onmessage = async ({ data: { noise, digit, step } }) => {
  try {
    const sampler = await loading;
    const own = () => sampler.film(noiseImage(noise), 0, null);
    if (step !== null && alone.noise !== noise) alone = { noise, path: [...own()].map(({ x_t }) => x_t) };
    const path = [];
    for (const { x_t, ...frame } of step === null ? own() : sampler.film(alone.path[step], step, digit)) {
      path.push(x_t);
      postMessage(frame);
    }
    if (step === null) alone = { noise, path };
    const { p } = sampler.classify(path.at(-1), 0);
    postMessage({ own: p.indexOf(Math.max(...p)) });
  } catch (error) {
    postMessage({ error: error.message });
  }
};
