// The two films on their canvas: one strip of film, which splits at the step in which the push starts.

import { STEPS } from "./constants.js";
import { $, blueAndOrange, clear, css, drawPicture, drawTile, ink } from "./pictures.js";

export const NARROW = matchMedia("(max-width: 900px)"); // as in page.css
const canvas = $("films");

/** Where everything is, in CSS pixels. A narrow film has frames of every other step, and of the result. */
function measure() {
  const [width, tall, isNarrow] = [canvas.clientWidth, $("film").clientHeight, NARROW.matches];
  const [stride, gap, edge] = width < 600 ? [2, 30, 11] : [1, 50, 12];
  const count = isNarrow ? STEPS / stride + 1 : STEPS;
  const size = (width - gap) / count;
  const half = size / 2 + edge; // of the height of a strip
  const top = (isNarrow ? 26 : 27) + half;
  const below = isNarrow ? 22 : 34 + $("question").offsetHeight;
  const bottom = tall - below - half;
  return { width, isNarrow, stride, gap, edge, count, size, half, top, bottom, middle: (top + bottom) / 2 };
}

export const between = (low, x, high) => Math.max(low, Math.min(high, x));

/** How many frames are before a fork, a step that may move. */
function framesBefore(fork, { stride }) {
  const frames = Math.min(STEPS, fork + 1) / stride;
  return stride === 1 ? frames : Math.ceil(frames - 0.01);
}

/** Draw both films. `shown` has their pictures; those that `films` lack are old. `looked` is marked. */
export function drawStage(view) {
  const [context, places] = [clear(canvas), measure()];
  const { size, gap, half, top, bottom, middle } = places;
  const fork = framesBefore(view.fork, places) * size;
  drawStrips(context, places, fork, css(view.start < STEPS ? "--film" : "--strip"));
  drawFrames(context, places, view);
  drawHandle(context, fork + gap / 2, middle);
  const tags = { alone: top - half - 27, pushed: bottom + half + 3, noise: middle - half - 27 };
  for (const [id, y] of Object.entries(tags)) $(`tag-${id}`).style.top = `${y}px`;
  placePush(view, places, fork);
  return places;
}

function drawStrips(context, { half, width, gap, top, bottom, middle }, fork, orange) {
  const [split, gray] = [fork + gap, css("--strip")];
  const fade = context.createLinearGradient(fork, 0, split, 0);
  [gray, orange].forEach((color, i) => fade.addColorStop(0.6 * i, color));
  const draw = (fillStyle, x, y, to, z) => {
    const bend = (x + to) / 2;
    Object.assign(context, { fillStyle }).beginPath();
    context.moveTo(x, y - half);
    context.bezierCurveTo(bend, y - half, bend, z - half, to, z - half);
    context.lineTo(to, z + half);
    context.bezierCurveTo(bend, z + half, bend, y + half, x, y + half);
    context.fill();
  };
  for (const [curve, color, y] of [[fade, orange, bottom], [gray, gray, top]]) {
    draw(curve, fork, middle, split, y);
    draw(color, split - 0.5, y, width, y);
  }
  draw(gray, 0, middle, fork + 0.5, middle);
}

/** The handle of the fork: a circle with two arrows. */
function drawHandle(context, x, y) {
  const [fillStyle, strokeStyle] = [css("--orange"), css("--back")];
  Object.assign(context, { fillStyle, strokeStyle, lineWidth: 3 }).beginPath();
  context.arc(x, y, 13, 0, 7);
  context.stroke();
  context.fill();
  Object.assign(context, { lineWidth: 2, lineCap: "round" }).beginPath();
  for (const side of [-1, 1]) for (const tip of [-3.5, 0, 3.5]) {
    context[tip === -3.5 ? "moveTo" : "lineTo"](x + side * (7 - Math.abs(tip)), y + tip);
  }
  context.stroke();
}

function drawFrames(context, places, { films, shown, start, fork, looked }) {
  const { stride, count, size, gap, top, bottom, middle } = places;
  Object.assign(context, { font: "600 9px system-ui", textAlign: "center", textBaseline: "middle" });
  const before = framesBefore(fork, places);
  for (let i = 0; i < count; i++) {
    const away = between(0, i - before + 1, 1); // 0 before the fork, 1 after it
    const eased = away * away * (3 - 2 * away);
    const isLooked = looked !== null && Math.floor(looked / stride) === i;
    for (const [name, y] of [["alone", top], ["pushed", bottom]]) {
      if (away === 0 && name === "pushed") continue;
      const [picture, isOld] = [shown[name][i * stride], !films[name].guesses[i * stride]];
      const isPushed = name === "pushed" && start < STEPS;
      const [x, z] = [i * size + gap * eased, middle + (y - middle) * eased];
      drawFrame(context, places, x, z, { k: i * stride, picture, isOld, isPushed, isLooked });
    }
  }
}

/** A frame with holes above, and the number of its step below. Old pictures are faded. */
function drawFrame(context, { size, half, edge }, x, y, { k, picture, isOld, isPushed, isLooked }) {
  const margin = size > 40 ? 2 : 1;
  const square = [x + margin, y - size / 2 + margin, size - 2 * margin];
  const paper = isPushed ? "--tint" : "--frame";
  context.fillStyle = css("--back");
  for (const i of [1, 3, 5]) context.fillRect(x + (i * size) / 6 - 3, y - half + edge / 2 - 2.5, 6, 5);
  context.fillStyle = css(paper);
  context.fillRect(...square, square[2]);
  context.globalAlpha = isOld ? 0.35 : 1;
  if (picture) drawTile(context, ...square, picture, ink(paper));
  context.globalAlpha = 1;
  context.fillStyle = css(isPushed ? "--on-film" : "--text");
  if (k < STEPS) context.fillText(k + 1, x + size / 2, y + half - edge / 2);
  Object.assign(context, { strokeStyle: css("--text"), lineWidth: 2 });
  if (isLooked) context.strokeRect(...square, square[2]);
}

/** Place the classifier's gradient in the fork, or below the shared film where the fork is too far right. */
function placePush({ films, start }, { isNarrow, width, gap, half, top, bottom, middle }, fork) {
  const push = $("push");
  push.hidden = !films.pushed.push;
  if (push.hidden) return;
  drawPicture($("gradient"), films.pushed.push, blueAndOrange());
  const inside = Math.min(104, bottom - top - 2 * half - 20);
  $("push-step").textContent = `push in step ${start + 1}`;
  const [words, below] = isNarrow ? [92, 56] : [110, 88];
  const isLow = inside < 60 && fork > below + words; // 60: the height of the words
  const isLate = isLow || fork + gap + inside + words > width;
  const side = isLate ? below : inside;
  const left = isLate ? Math.min(fork, width - (isNarrow ? 0 : 200)) - side - words : fork + gap;
  push.classList.toggle("before", isLate);
  push.style.setProperty("--side", `${side}px`);
  push.style.width = `${side + words}px`;
  push.style.translate = `${left}px ${isLate ? middle + half + 8 : middle - side / 2}px`;
}

/** The start to which a pointer drags the fork; null if it is not there, unless it isDragging already. */
export function startAt({ clientX }, start, isDragging) {
  const [places, x] = [measure(), clientX - canvas.getBoundingClientRect().left];
  const { size, gap, stride } = places;
  const isThere = isDragging || Math.abs(x - framesBefore(start, places) * size - gap / 2) < gap / 2;
  return isThere ? between(0, Math.round(((x - gap / 2) * stride) / size - 1), STEPS) : null;
}

/** The step of the frame under the pointer, or null. */
export function stepAt({ clientX, clientY }, start) {
  const [places, { left, top }] = [measure(), canvas.getBoundingClientRect()];
  const fork = framesBefore(start, places) * places.size;
  const [x, y] = [clientX - left, clientY - top];
  const strips = x < fork ? [places.middle] : [places.top, places.bottom];
  if (!strips.some((strip) => Math.abs(y - strip) < places.half)) return null;
  const i = Math.floor((x < fork ? x : Math.max(fork, x - places.gap)) / places.size);
  return between(0, i, places.count - 1) * places.stride;
}
