// The fork: the path from noise to a digit, with the model's guess after each step as a thumbnail on it. Its height
// says which digit the classifier sees in the noisy image.

import { css, clear, drawTile, ink } from "./pictures.js";
import { STEPS } from "./sampler.js";

const $ = (id) => document.getElementById(id);
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

/**
 * Draw the fork of the push from step a until step b. A path is {guesses, heights, kind}, up to the state that is known.
 * `others` are those of other pushes; `noise` is the picture of the first state, which is that of step `first`.
 */
export function drawFork({ a, b, first, noise, path, alone, others }) {
  const [context, height] = clear($("fork"));
  const { left, pitch, side, slot, x, y } = places(height);
  const paper = ink();

  const line = ({ heights }, color, width, from = first, to = STEPS) => {
    [context.strokeStyle, context.lineWidth] = [css(color), width];
    context.beginPath();
    for (let k = from; k <= Math.min(to, heights.length - 1); k++) context.lineTo(x(k === first ? 0 : k), y(heights[k]));
    context.stroke();
  };
  const thumbnail = ({ x, y, side, values }, color, width) => {
    drawTile(context, x - side / 2, y - side / 2, side, values, paper);
    [context.strokeStyle, context.lineWidth] = [css(color), width];
    context.strokeRect(x - side / 2, y - side / 2, side, side);
  };
  const boxes = ({ heights, guesses }, steps) =>
    steps.filter((k) => k < heights.length).map((k) => ({ k, x: x(k), y: y(heights[k]), side, values: guesses[k] }));

  // which thumbnails have room: first those of the path, then those without a push
  const edge = slot / 2 + 22; // the noise stays between the labels
  const start = { x: x(0), y: Math.max(edge, Math.min(height - edge, y(alone?.heights[first] ?? 0))), side: slot, values: noise };
  const always = [b, b + 1];
  const ofPath = path ? fitting(boxes(path, outward(b, first)), [start], always) : [];
  const ofAlone = alone ? fitting(boxes(alone, outward(b, first)), [start, ...ofPath]) : [];

  context.lineJoin = "round";
  context.globalAlpha = 0.4;
  context.fillStyle = css("--target");
  context.fillRect(left + pitch * a, 0, pitch * (b - a), height);
  context.globalAlpha = 0.25;
  for (const other of others) line(other, "--quiet", 1.5);
  context.globalAlpha = 0.5;
  for (const box of ofAlone) thumbnail(box, "--edge", 1);
  context.globalAlpha = 1;
  context.setLineDash([2, 5]);
  if (alone) line(alone, "--quiet", 2);
  context.setLineDash([]);
  if (path) {
    line(path, "--quiet", 4, first, a);
    line(path, LINES[path.kind], 4, b);
    line(path, "--orange", 4, a, b);
  }
  for (const box of ofPath.sort((one, other) => one.k - other.k)) {
    if (a < box.k && box.k <= b) thumbnail(box, "--orange", 2.5);
    else thumbnail(box, "--quiet", 1);
  }
  thumbnail(start, "--quiet", 1);
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

/** The steps after `first` in the order in which they get a thumbnail: from the end of the push to both sides. */
function outward(b, first) {
  const steps = Array.from({ length: STEPS - first }, (_, i) => first + 1 + i);
  return steps.sort((k, l) => Math.abs(k - b - 0.4) - Math.abs(l - b - 0.4));
}
