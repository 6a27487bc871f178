// The map: the results of all pushes. The column is the first step, and the row, counted from below, the end.

import { clear, css, drawTile, ink } from "./pictures.js";
import { STEPS } from "./constants.js";
import { $ } from "./dom.js";

const canvas = $("cells");
let context = null;
let size = 0; // of a cell, in device pixels

/** Draw all cells of a map; those that are not known are empty. */
export function drawMap(map) {
  [context] = clear(canvas);
  context.resetTransform();
  size = Math.floor(canvas.width / STEPS);
  context.fillStyle = css("--cell");
  for (const [first, end] of map.windows) context.fillRect(...place({ first, end }));
  for (const path of map.known()) drawCell(path);
}

/** Where a cell is: x, y, and twice the length of its sides. */
function place({ first, end }) {
  const side = size - Math.max(1, Math.round(size / 30));
  return [first * size, (STEPS - end) * size, side, side];
}

/** Draw the result of a path. Without a kind, it has no verdict yet. */
export function drawCell({ kind = "waiting", guesses, ...push }) {
  const [x, y, inner] = place(push);
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

export function moveCursor(first, end) {
  $("cursor").style.transform = `translate(${100 * first}%, ${100 * (STEPS - end)}%)`;
}

/** Call `choose(first, end)` when a cell is clicked. */
export function listenToMap(choose) {
  canvas.addEventListener("click", ({ clientX, clientY }) => {
    const box = canvas.getBoundingClientRect();
    const first = Math.floor((STEPS * (clientX - box.left)) / box.width);
    const end = STEPS - Math.floor((STEPS * (clientY - box.top)) / box.height);
    if (first < end) choose(first, end);
  });
}
