// The fork: the path from noise to a digit, with the model's guess after each step as a thumbnail on it. Its height
// says which digit the classifier sees in the noisy image.

import { STEPS } from "./constants.js";
import { $ } from "./dom.js";
import { css, clear, drawTile, ink } from "./pictures.js";

const LINES = { alone: "--quiet", target: "--text", other: "--green", broken: "--violet", undefined: "--quiet" };
const [THUMBNAIL, LARGEST] = [26, 44]; // pixels

/** Places in the canvas. Step k is above its cell in the track; step 0 is the noise, to the left of it. */
function places(height) {
  const [left, pitch] = [$("track").offsetLeft, $("track").clientWidth / STEPS];
  const steps = Math.ceil(THUMBNAIL / pitch); // from one thumbnail to the next
  const side = Math.min(LARGEST, steps * pitch - 3);
  const slot = Math.min(left - 2, 76); // of the noise
  const x = (k) => (k === 0 ? slot / 2 + 1 : left + pitch * (k - 0.5));
  const y = (value) => height / 2 - value * (height / 2 - side / 2 - 4);
  return { left, pitch, side, slot, x, y };
}

/** Where a path ends: the middle of its last thumbnail. */
export const endOf = ({ heights }) => places($("fork").clientHeight).y(heights[STEPS]);

let shown = []; // the thumbnails of the path

/**
 * Draw the fork of the push from step `first` until step `end`. A path is {guesses, heights, kind}, up to the state that
 * is known. `others` are those of other pushes; `noise` is the picture of the noise, if the path begins with it.
 */
export function drawFork({ first, end, earliest, noise, path, alone, others }) {
  const [context, height] = clear($("fork"));
  const { left, pitch, side, slot, x, y } = places(height);
  const paper = ink();

  const stroke = (paths, color, width, from = earliest, to = STEPS) => { // in one stroke, so that they do not add up
    [context.strokeStyle, context.lineWidth] = [css(color), width];
    context.beginPath();
    for (const { heights } of paths) {
      for (let k = from; k <= Math.min(to, heights.length - 1); k++) {
        if (k === from) context.moveTo(x(k), y(heights[k]));
        else context.lineTo(x(k), y(heights[k]));
      }
    }
    context.stroke();
  };
  const thumbnail = ({ x, y, side, values }, color, width) => {
    drawTile(context, x - side / 2, y - side / 2, side, values, paper);
    [context.strokeStyle, context.lineWidth] = [css(color), width];
    context.strokeRect(x - side / 2, y - side / 2, side, side);
  };
  const boxes = ({ heights, guesses }) =>
    outward(end, earliest, noise)
      .filter((k) => k < heights.length)
      .map((k) => ({ k, x: x(k), y: y(heights[k]), side, values: guesses[k] }));

  // which thumbnails have room: first those of the path, then those without a push
  const edge = slot / 2 + 22; // the noise stays between the labels
  const start = { x: x(0), y: Math.max(edge, Math.min(height - edge, y(alone.heights[0] ?? 0))), side: slot, values: noise };
  const starts = noise ? [start] : [];
  shown = path ? fitting(boxes(path), starts, [end, end + 1]) : [];
  const ofAlone = fitting(boxes(alone), [...starts, ...shown]);

  context.lineJoin = "round";
  context.globalAlpha = 0.4;
  context.fillStyle = css("--target");
  context.fillRect(left + pitch * first, 0, pitch * (end - first), height);
  context.globalAlpha = 0.3;
  stroke(others, "--quiet", 1.5, first);
  context.globalAlpha = 0.5;
  for (const box of ofAlone) thumbnail(box, "--edge", 1);
  context.globalAlpha = 1;
  context.setLineDash([2, 5]);
  stroke([alone], "--quiet", 2);
  context.setLineDash([]);
  if (path) {
    stroke([path], "--quiet", 4, earliest, first);
    stroke([path], LINES[path.kind], 4, end);
    stroke([path], "--orange", 4, first, end);
  }
  for (const box of shown.sort((one, other) => one.k - other.k)) {
    if (first < box.k && box.k <= end) thumbnail(box, "--orange", 2.5);
    else thumbnail(box, "--quiet", 1);
  }
  for (const box of starts) thumbnail(box, "--quiet", 1);
}

/** Call `look(k)` when the picture after step k of the path is clicked. */
export function listenToFork(look) {
  $("fork").addEventListener("click", ({ offsetX, offsetY }) => {
    const isHit = ({ x, y, side }) => Math.max(Math.abs(offsetX - x), Math.abs(offsetY - y)) <= side / 2;
    const box = shown.findLast(isHit);
    if (box) look(box.k);
  });
}

/** The boxes that do not cover those that are taken, nor each other; those of the steps in `always` in any case. */
function fitting(boxes, taken, always = []) {
  const kept = [];
  for (const box of boxes) {
    const isFree = [...taken, ...kept].every((other) => {
      const distance = Math.max(Math.abs(box.x - other.x), Math.abs(box.y - other.y));
      return distance > (box.side + other.side) / 2;
    });
    if (isFree || always.includes(box.k)) kept.push(box);
  }
  return kept;
}

/** The states in the order in which they get a thumbnail: from the end of the push to both sides. */
function outward(end, earliest, noise) {
  const from = noise ? earliest + 1 : earliest; // the noise has its own picture
  const states = Array.from({ length: STEPS + 1 - from }, (_, i) => from + i);
  return states.sort((k, l) => Math.abs(k - end - 0.4) - Math.abs(l - end - 0.4));
}
