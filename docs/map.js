// The map of all push windows, the result of one of them, and its film. Colors come from page.css.

import { STEPS } from "./sampler.js";

const $ = (id) => document.getElementById(id);
const tile = document.createElement("canvas");
[tile.width, tile.height] = [28, 28];
const tileContext = tile.getContext("2d", { willReadFrequently: true });
const style = getComputedStyle(document.documentElement);

/** A color of page.css, #rrggbb, as three numbers. */
export function rgb(name) {
  return style.getPropertyValue(name).match(/[\da-f]{2}/gi).map((hex) => parseInt(hex, 16));
}

/** Draw 784 values into a square of a canvas. `color` maps a value to [red, green, blue]. */
export function drawTile(context, x, y, size, values, color) {
  const picture = tileContext.createImageData(28, 28);
  values.forEach((value, i) => picture.data.set([...color(value), 255], 4 * i));
  tileContext.putImageData(picture, 0, 0);
  context.imageSmoothingEnabled = size < 28 || size > 56;
  context.imageSmoothingQuality = "high";
  context.drawImage(tile, x, y, size, size);
}

/** Draw 784 values as a picture of its own. */
export function drawPicture(canvas, values, color) {
  [canvas.width, canvas.height] = [28, 28];
  drawTile(canvas.getContext("2d"), 0, 0, 28, values, color);
}

/** Ink on paper of a color: 0 is paper, 255 is ink. */
export function ink(paper = "--card") {
  const [from, to] = [rgb(paper), rgb("--ink")];
  return (value) => from.map((channel, i) => channel + ((to[i] - channel) * value) / 255);
}

/** Ink for values in [-1, 1]; values outside are clipped. */
export const inkOf = () => {
  const color = ink();
  return (value) => color(127.5 * (Math.max(-1, Math.min(1, value)) + 1));
};

/** Orange adds ink, blue removes it; `largest` has the full color. */
export function orangeAndBlue(largest) {
  const [paper, orange, blue] = [rgb("--card"), rgb("--orange"), rgb("--blue")];
  return (value) => {
    const share = Math.min(1, Math.abs(value) / largest);
    return paper.map((channel, i) => channel + ((value > 0 ? orange : blue)[i] - channel) * share);
  };
}

// --- the map: column a, row b counted from below ---

let size = 0; // of a cell, in device pixels

/** Prepare an empty map, as sharp as the screen. */
export function clearMap() {
  const canvas = $("cells");
  size = Math.round((canvas.clientWidth * devicePixelRatio) / STEPS);
  [canvas.width, canvas.height] = [STEPS * size, STEPS * size];
}

/** Draw the picture of window (a, b), 784 numbers from 0 to 255. `kind` is that of `kindOf` in page.js. */
export function drawCell(a, b, values, kind) {
  const context = $("cells").getContext("2d");
  const [x, y, inner] = [a * size, (STEPS - b) * size, size - Math.max(1, Math.round(size / 30))];
  drawTile(context, x, y, inner, values, ink(`--${kind}`));
  if (kind !== "broken") return;
  context.save(); // hatching, for visitors who cannot tell the colors apart
  context.beginPath();
  context.rect(x, y, inner, inner);
  context.clip();
  context.globalAlpha = 0.35;
  context.strokeStyle = `rgb(${rgb("--violet")})`;
  context.lineWidth = Math.max(1, size / 30);
  for (let d = -inner; d < inner; d += inner / 4) {
    context.moveTo(x + d, y + inner);
    context.lineTo(x + d + inner, y);
  }
  context.stroke();
  context.restore();
}

/** The window at a place of the page, or null outside of the triangle. */
export function windowAt({ clientX, clientY }) {
  const box = $("cells").getBoundingClientRect();
  const a = Math.floor((STEPS * (clientX - box.left)) / box.width);
  const b = STEPS - Math.floor((STEPS * (clientY - box.top)) / box.height);
  return 0 <= a && a < b && b <= STEPS ? [a, b] : null;
}

export function moveCursor(a, b) {
  $("cursor").style.transform = `translate(${100 * a}%, ${100 * (STEPS - b)}%)`;
}

// --- the film: the predicted image at each step, and the bracket around those that are pushed ---

export function drawFilm(film, a, b) {
  const canvas = $("film");
  const frame = Math.round((canvas.clientWidth * devicePixelRatio) / STEPS);
  if (canvas.width !== STEPS * frame) [canvas.width, canvas.height] = [STEPS * frame, frame];
  const context = canvas.getContext("2d");
  if (!film) return context.clearRect(0, 0, canvas.width, canvas.height);
  for (let k = 0; k < STEPS; k++) {
    const color = ink(a <= k && k < b ? "--target" : "--card");
    drawTile(context, k * frame, 0, frame, film.subarray(784 * k, 784 * (k + 1)), color);
  }
}

/** Move the bracket and its handles, which are sliders. */
export function moveBracket(a, b, describe) {
  const percent = (k) => `${(100 * k) / STEPS}%`;
  Object.assign($("bracket").style, { left: percent(a), right: percent(STEPS - b) });
  for (const [id, k] of [["begin", a], ["end", b]]) {
    $(id).style.left = percent(k);
    $(id).setAttribute("aria-valuenow", k);
    $(id).setAttribute("aria-valuetext", describe(id, k));
  }
}
