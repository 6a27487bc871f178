// The map: the results of all pushes. Column a and row b, counted from below, hold the push from step a until step b.

import { clear, css, drawTile, ink } from "./pictures.js";
import { STEPS } from "./sampler.js";

const $ = (id) => document.getElementById(id);
const canvas = $("cells");
let context = null;
let size = 0; // of a cell, in device pixels

/** Draw the results of paths, {a, b, guesses, kind}; a result without a kind has no verdict yet. */
export function drawMap(paths) {
  [context] = clear(canvas);
  context.resetTransform();
  size = Math.floor(canvas.width / STEPS);
  for (const path of paths) drawCell(path);
}

export function drawCell({ a, b, guesses, kind = "waiting" }) {
  if (b === 0) return;
  const [x, y, inner] = [a * size, (STEPS - b) * size, size - Math.max(1, Math.round(size / 30))];
  drawTile(context, x, y, inner, guesses[STEPS], ink(`--${kind}`));
  if (kind !== "broken") return;
  context.save(); // hatching, for visitors who cannot tell the colors apart
  context.beginPath();
  context.rect(x, y, inner, inner);
  context.clip();
  context.globalAlpha = 0.35;
  context.strokeStyle = css("--violet");
  context.lineWidth = Math.max(1, size / 30);
  for (let d = -inner; d < inner; d += inner / 4) {
    context.moveTo(x + d, y + inner);
    context.lineTo(x + d + inner, y);
  }
  context.stroke();
  context.restore();
}

export function moveCursor(a, b) {
  $("cursor").style.transform = `translate(${100 * a}%, ${100 * (STEPS - b)}%)`;
}

/** Call `choose(a, b)` when a cell is clicked. */
export function listenToMap(choose) {
  canvas.addEventListener("click", ({ clientX, clientY }) => {
    const box = canvas.getBoundingClientRect();
    const a = Math.floor((STEPS * (clientX - box.left)) / box.width);
    const b = STEPS - Math.floor((STEPS * (clientY - box.top)) / box.height);
    if (a < b) choose(a, b);
  });
}
