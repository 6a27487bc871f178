// One step looked into: what goes in, what the model and the guide make of it, and the terms of the equation.

import { inWords, likeliest, named } from "./bars.js";
import { drawImage, grey, wanted } from "./pictures.js";
import { abar } from "./sampler.js";

const EARLY = 850; // above this t, what is expected is magnified noise, and so is the push
const SMALL = 0.02; // the root mean square of a push that hardly changes a picture
const $ = (id) => document.getElementById(id);

/**
 * Draw the pictures of a step, each canvas by its `data-shows`.
 *
 * By DDPM (15), its x_0 is that of the model alone, plus s (1 - abar_t) / sqrt(abar_t) grad: the push.
 */
export function showStep({ t, s, x_t, x_0, grad, p }, wish) {
  const [signal, noise] = [Math.sqrt(abar.at(t)), Math.sqrt(1 - abar.at(t))];
  const gradient = grad ?? new Float32Array(784); // where no bar is, there is none
  const push = gradient.map((value) => ((s * noise ** 2) / signal) * value);
  const alone = x_0.map((value, i) => value - push[i]);
  const eps = (image) => x_t.map((value, i) => (value - signal * image[i]) / noise); // DDPM (4), solved for eps
  const pictures = {
    x_t: [x_t, grey],
    alone: [alone, grey],
    push: [push, wanted(1)],
    x_0: [x_0, grey],
    eps_hat: [eps(x_0), grey],
    eps: [eps(alone), grey],
    grad: [gradient, wanted(Math.max(1e-9, ...gradient.map(Math.abs)))],
  };
  for (const canvas of document.querySelectorAll("[data-shows]")) drawImage(canvas, ...pictures[canvas.dataset.shows]);
  $("scale-now").textContent = inWords(s);
  $("level-now").textContent = noise.toFixed(2);
  const size = Math.sqrt(push.reduce((sum, value) => sum + value ** 2, 0) / push.length);
  $("reading").textContent = sentence(t, s, p, size, named(wish));
}

/** What the guide does at a step: it read p(y | x_t) of all digits, and was asked for one. */
function sentence(t, s, p, size, asked) {
  const digit = likeliest(p);
  const sees = p[digit] < 0.3 ? "The guide cannot read anything yet" : `The guide reads ${named(digit)} (${Math.round(100 * p[digit])} %)`;
  if (s === 0) return `${sees}. No bar is painted here, so it is not asked.`;
  if (t > EARLY) return `${sees}. Its push toward ${asked} looks large only because it is magnified: almost everything here is noise.`;
  if (size < SMALL) return `${sees} and was asked for ${asked}: it is satisfied, and barely pushes.`;
  return `${sees} and was asked for ${asked}, so it adds ink where the push is orange, and takes ink where it is blue.`;
}
