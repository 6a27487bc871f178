// Inside one step: the values of each line of `guided` in inference.py.

import { blueAndOrange, drawPicture } from "./pictures.js";
import { TIMES, abar, grays, predicted_x_0 } from "./sampler.js";
import { short } from "./words.js";

const $ = (id) => document.getElementById(id);
let shown = null;

/** Show what the worker found inside step k. */
export function showStep(values = shown) {
  shown = values;
  if (!shown) return;
  const { k, s, x_t, eps, grad, eps_hat } = shown;
  const abar_t = abar(TIMES[k]);
  const gradient = grad ?? new Float32Array(784);
  const push = gradient.map((value) => (s * (1 - abar_t) * value) / Math.sqrt(abar_t));
  const largest = Math.max(1e-9, ...gradient.map(Math.abs));
  const pictures = {
    x_t: [grays(x_t, 2)],
    eps: [grays(predicted_x_0(x_t, eps, abar_t))],
    grad: [grays(gradient, largest), blueAndOrange()],
    push: [grays(push), blueAndOrange()],
    eps_hat: [grays(predicted_x_0(x_t, eps_hat, abar_t))],
  };
  for (const canvas of document.querySelectorAll("[data-shows]")) drawPicture(canvas, ...pictures[canvas.dataset.shows]);
  $("step").textContent = k + 1;
  $("t").textContent = TIMES[k];
  $("scale-now").textContent = short(s);
  $("root-now").textContent = Math.sqrt(1 - abar_t).toFixed(2);
}
