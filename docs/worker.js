// Computes films in its own thread, so that the page stays responsive.
//
// A job is {noise, digit, step}: a noise, and one push toward the digit in a step (none if it is null). The
// answer has the same keys and {frames, push, own}, where frames[k] is {seen, guess}, without those before the
// push, and `own` is the digit that the classifier sees in the result. Or it is {error}.

import { STEPS } from "./constants.js";
import { loadNetworks } from "./networks.js";
import { Sampler, noiseImage } from "./sampler.js";

const loading = loadNetworks().then((networks) => new Sampler(networks));
loading.catch(() => {}); // the first job reports it
const alone = {}; // the last noise, and its film without a push

self.onmessage = async ({ data: { noise, digit, step } }) => {
  try {
    const sampler = await loading;
    if (alone.noise !== noise) Object.assign(alone, { noise }, sampler.film(noiseImage(noise), 0, null));
    const pushed = () => sampler.film(alone.frames[step].x_t, step, digit);
    const { frames, push } = step === null ? alone : pushed();
    const { p } = sampler.classify(frames.at(-1).x_t, 0);
    const pictures = frames.map(({ seen, guess }) => ({ seen, guess }));
    const filled = [...Array(STEPS + 1 - frames.length), ...pictures];
    postMessage({ noise, digit, step, frames: filled, push, own: p.indexOf(Math.max(...p)) });
  } catch (error) {
    postMessage({ error: error.message });
  }
};
