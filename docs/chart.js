// The chart on the slider's axis: who sees the digit in the final picture, for each start of the push.

import { STEPS } from "./constants.js";
import { findResult } from "./films.js";
import { $, clear, css } from "./pictures.js";
import { between } from "./stage.js";
import { likeliest, named } from "./words.js";

/** The steps in which a push may start; STEPS is "never". */
export const STARTS = [...Array(STEPS + 1).keys()];
const THUMB = 24; // of the slider, as in page.css
const [TOP, BASE] = [24, 94]; // where 100% and 0 are
const NAMED = 70; // the width of "classifier"
const canvas = $("chart");
const answers = new Map(); // what the visitor sees

const keyOf = ({ noise, digit, strength, start }) => [noise, digit, strength, start].join();

/** Remember what the visitor sees in the result of a place; the same answer again takes it back. */
export function answer(place, isSeen) {
  const key = keyOf(place);
  if (answers.get(key) === isSeen) answers.delete(key);
  else answers.set(key, isSeen);
}

/** For each start: {start, p, q, you}, what classifier, judge, and visitor see, as far as it is known. */
export function opinions(state) {
  return STARTS.map((start) => {
    const place = { ...state, start };
    return { ...findResult(place), start, you: answers.get(keyOf(place)) };
  });
}

/** Draw the chart of `opinions` on the places of the films, the judge's part up to `unrolled`, 0 to 1. */
export function drawChart({ digit, start: chosen }, all, { size, stride, gap, isNarrow }, unrolled) {
  const context = clear(canvas);
  const x = (start) => ((start + 1) * size) / stride + gap / 2;
  const y = (value) => BASE - (BASE - TOP) * value;
  const [first, last] = [x(0), x(STEPS)];
  const draw = (color, lineWidth, lines, finish = "stroke") => { // or "fill"
    Object.assign(context, { strokeStyle: css(color), fillStyle: css(color), lineWidth }).beginPath();
    for (const [start, ...rest] of lines) {
      context.moveTo(...start);
      rest.forEach((point) => context.lineTo(...point));
    }
    context[finish]();
  };
  const write = (words, color, font, textAlign, ...at) => {
    Object.assign(context, { fillStyle: css(color), font, textAlign }).fillText(words, ...at);
  };
  const point = (one, name) => [x(one.start), y(one[name][digit])];
  const dot = (color, width, [left, top]) => draw(color, width, [[[left, top], [left, top + 0.1]]]);
  const neighbors = (...names) => all.slice(1).map((one, i) => [all[i], one]) // both of which are known
    .filter((pair) => pair.every((one) => names.every((name) => one[name])));
  const drawLine = (name, color) => {
    draw(color, 2.5, neighbors(name).map((pair) => pair.map((one) => point(one, name))));
    const known = all.filter((one) => one[name]);
    if (known.length < all.length) known.forEach((one) => dot(color, 6, point(one, name)));
  };

  placeSlider(chosen, x);
  Object.assign(context, { lineJoin: "round", lineCap: "round", textBaseline: "middle" });
  for (const value of [0, 1]) {
    draw("--waiting", 1, [[[first, y(value)], [last, y(value)]]]);
    if (!isNarrow) write(`${100 * value}%`, "--quiet", "12px system-ui", "left", last + 12, y(value));
  }
  draw("--orange", 1, [[[x(chosen), 0], [x(chosen), BASE + 10]]]);
  context.save();
  context.beginPath();
  context.rect(0, 0, first + unrolled * (last + 9 - first), canvas.clientHeight);
  context.clip();
  shade();
  drawLine("q", "--text");
  context.restore();
  drawLine("p", "--orange");
  const now = all[chosen];
  if (now.q && unrolled === 1) dot("--text", 10, point(now, "q"));
  if (now.p) dot("--orange", 10, point(now, "p"));
  [["classifier", "p", "--orange"], ["judge", "q", "--text"]].forEach(([words, name, color], i) => {
    if (!all.some((one) => one[name])) return;
    const place = first > NAMED ? ["right", first - 6, 15 * i - 6] : ["left", first + 2, 16 * i + 14];
    const [textAlign, left, below] = place;
    write(words, color, "600 13px system-ui", textAlign, left, y(all[0][name]?.[digit] ?? 1) + below);
  });
  drawAnswers();

  /** The gap between classifier and judge. */
  function shade() {
    const edge = ({ start, p, q }) => [[x(start), y(p[digit])], [x(start), y(Math.min(p[digit], q[digit]))]];
    draw("--mark", 1, neighbors("p", "q").map(([a, b]) => [...edge(a), ...edge(b).reverse()]), "fill");
    const isFooled = ({ p, q }) => likeliest(p) === digit && likeliest(q) !== digit;
    const fooled = neighbors("p", "q").filter((pair) => pair.every(isFooled)).flat();
    const mean = (f) => fooled.reduce((sum, one) => sum + f(one), 0) / fooled.length;
    const [at, middle] = [mean(({ start }) => x(start)), mean(({ p, q }) => (p[digit] + q[digit]) / 2)];
    const font = `italic 600 ${isNarrow ? 13 : 17}px Georgia, serif`;
    if (fooled.length) write("fooled", "--orange", font, "center", at, y(middle));
  }

  /** A tick or a cross for each answer. */
  function drawAnswers() {
    const given = all.filter(({ you }) => you !== undefined);
    if (given.length) write("you", "--you", "600 13px system-ui", "right", x(given[0].start) - 14, 9);
    for (const { start, you } of given) {
      const [a, b] = [x(start), 10];
      const cross = [-5, 5].map((d) => [[a - 5, b - d], [a + 5, b + d]]);
      draw("--you", 3, you ? [[[a - 6, b], [a - 2, b + 5], [a + 6, b - 6]]] : cross);
    }
  }

  const see = (name) => all.filter((one) => one[name] && likeliest(one[name]) === digit).length;
  const count = all.filter(({ p }) => p).length;
  canvas.ariaLabel = `Of ${count} starts, the classifier sees ${named(digit)} after ${see("p")}`
    + (all.some(({ q }) => q) ? `, the judge after ${see("q")}` : "");
}

/** Place the slider, whose thumb is below the fork, and its words. */
function placeSlider(start, x) {
  const [slider, text] = [$("start"), $("start-text")];
  const width = x(STEPS) - x(0) + THUMB;
  Object.assign(slider.style, { left: `${x(0) - THUMB / 2}px`, width: `${width}px` });
  slider.style.setProperty("--at", `${(100 * start) / STEPS}%`);
  $("who").style.left = `${x(0) + 12}px`;
  const room = x(STEPS) - 40 - text.offsetWidth;
  text.style.left = `${between(0, x(start) - text.offsetWidth / 2, room)}px`;
  $("never").style.left = `${x(STEPS) - 6}px`;
}
