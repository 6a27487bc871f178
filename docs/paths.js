// The paths of all pushes from one start: those that are shipped, and those that the workers compute.
//
// A path is {first, end, guesses, heights, p, surprise, kind}. It is pushed from step `first` until step `end`; in
// (0, 0), nothing is pushed. guesses[k] is the model's guess of the final digit before step k, heights[k] is where the
// fork shows this state, and guesses[STEPS] is the result. p are the classifier's ten probabilities of the result.

import { DIGIT, NOISE, STEPS, WINDOWS } from "./constants.js";
import { DRAWING_STEP } from "./sampler.js";
import { heightOf, kindOf, likeliest } from "./words.js";

const KEPT = 12; // maps
const newId = () => (newId.last = (newId.last ?? 0) + 1);

/** A start: the number of a noise image, or a drawing (784 numbers), and the path from there without a push. */
class Origin {
  guesses = [];
  chances = []; // the ten probabilities of each state
  states = null; // what the workers need
  unpushed = undefined; // the digit that appears without a push, when it is known

  constructor(start) {
    this.id = newId();
    this.start = start;
    this.isDrawing = typeof start === "object";
    this.isEmpty = this.isDrawing && start.every((value) => value === -1);
    this.earliest = this.isDrawing ? DRAWING_STEP : 0; // the first step
  }
}

/** All pushes from one start toward one digit, with the default scale (size = 0), or each step with the same size. */
export class PushMap {
  tried = new Set(); // the pushes that the visitor has chosen

  constructor(origin, digit, size) {
    Object.assign(this, { origin, digit, size, id: newId(), paths: new Map() });
    const { isEmpty, earliest } = origin;
    this.windows = isEmpty ? [] : WINDOWS.filter(([first, end]) => end > 0 && first >= earliest);
  }

  get(first, end) {
    return this.paths.get(`${first},${end}`);
  }

  /** Whether a push shows nothing, because the digit appears anyway. */
  get isPointless() {
    return this.digit === this.origin.unpushed;
  }

  heights(chances) {
    const { unpushed } = this.origin;
    return chances.map((p) => (unpushed === undefined ? 0 : heightOf(p, this.digit, unpushed)));
  }

  /** The path without a push, as far as it is known. */
  get alone() {
    return this.get(0, 0) ?? { guesses: this.origin.guesses, heights: this.heights(this.origin.chances) };
  }

  /** Add what is known of a path, with `chances`, the probabilities of each state, in place of its heights. */
  add({ chances, ...path }) {
    if (chances) Object.assign(path, { heights: this.heights(chances), p: chances[STEPS] });
    const known = Object.assign(this.get(path.first, path.end) ?? {}, path);
    if (known.surprise !== undefined) known.kind = kindOf(known, this);
    this.paths.set(`${known.first},${known.end}`, known);
    return known;
  }

  /** The pushes whose result is known, or of which something else is. */
  known(isKnown = ({ p }) => p) {
    return [...this.paths.values()].filter((path) => path.end > 0 && isKnown(path));
  }

  isComplete() {
    return this.windows.length > 0 && this.windows.every((window) => this.get(...window)?.kind);
  }

  /** The fewest steps that make the chosen digit, if it is certain that fewer do not. */
  shortest() {
    for (let length = 1; length <= STEPS; length++) {
      const windows = this.windows.filter(([first, end]) => end - first === length);
      const kinds = windows.map((window) => this.get(...window)?.kind);
      if (kinds.includes("target")) return length;
      if (kinds.includes(undefined)) return null;
    }
    return null;
  }
}

const maps = [];

/** The map of a start, a digit, and a size, if there is one. */
export const findMap = ({ start, digit, size }) =>
  maps.find((map) => map.origin.start === start && map.digit === digit && map.size === size);

/** The same; a new map, if there is none. */
export function openMap(state) {
  const known = findMap(state);
  if (known) return known;
  const { start, digit, size } = state;
  const origin = maps.find((other) => other.origin.start === start)?.origin ?? new Origin(start);
  const map = new PushMap(origin, digit, size);
  maps.push(map);
  if (maps.length > KEPT) maps.splice(1, 1); // the first is the shipped one
  return map;
}

/** Load the map that is part of the page; see export.py. */
export async function loadShipped() {
  const response = await fetch("map.json");
  if (!response.ok) throw new Error(`map.json: ${response.status}`);
  const [shipped, picture] = await Promise.all([response.json(), readRows("map.png")]);
  const map = openMap({ start: NOISE, digit: DIGIT, size: 0 });
  map.origin.unpushed = likeliest(shipped.p[0]);
  WINDOWS.forEach(([first, end], i) => {
    const [rows, p, surprise] = [shipped.rows[i], shipped.p[i], shipped.surprises[i]];
    const heights = rows.map((row) => shipped.heights[row] / 100);
    map.add({ first, end, guesses: rows.map(picture), heights, p, surprise });
  });
  return map;
}

/** The rows of a grayscale picture: a function of the number of the row. */
async function readRows(name) {
  const picture = new Image();
  picture.src = name;
  await picture.decode();
  const { width, height } = picture;
  const context = Object.assign(document.createElement("canvas"), { width, height }).getContext("2d");
  context.drawImage(picture, 0, 0);
  const grays = context.getImageData(0, 0, width, height).data.filter((_, i) => i % 4 === 0);
  return (row) => grays.subarray(width * row, width * (row + 1));
}

// --- the workers ---

let workers = []; // started when they are needed, and again after a failure
let current = null; // the map that the visitor sees
let view = null; // and the push: {first, end, looked}
let sent = null; // what they compute now: the path without a push of its origin, or a map

/**
 * Compute what a map lacks, first the push in view, and what happens inside its step `looked`. What is found goes to
 * `receive`, as {path, map}, {look}, or {} for a part of the path without a push; after a failure, `fail(message)` is called.
 */
export function compute(map, { first, end, looked }, listeners) {
  [current, view] = [map, { first, end, looked }];
  if (map.origin.isEmpty) return;
  if (workers.length === 0) startWorkers(listeners);
  const { states, start } = map.origin;
  if (sent !== (states ? map : map.origin)) {
    sent = states ? map : map.origin;
    const rank = ([a, b]) => (a !== first ? 2 : b !== end ? 1 : 0);
    const missing = states && !map.isPointless ? map.windows.filter((window) => !map.get(...window)?.kind) : [];
    missing.sort((one, other) => rank(one) - rank(other));
    workers.forEach((worker, number) => {
      const mine = missing.filter(([first]) => workerOf(first) === worker);
      const windows = states || number > 0 ? mine : [[0, 0]]; // the path without a push is computed once
      worker.postMessage({ id: sent.id, start, states, digit: map.digit, size: map.size, windows });
    });
  }
  workerOf(first).postMessage({ id: map.id, urgent: [first, end], look: looked === null ? null : [first, end, looked] });
}

function startWorkers({ receive, fail }) {
  const count = Math.min(8, navigator.hardwareConcurrency || 2);
  workers = Array.from({ length: count }, () => new Worker("worker.js", { type: "module" }));
  const stop = (message) => {
    for (const worker of workers) Object.assign(worker, { onmessage: null, onerror: null }).terminate();
    [workers, sent] = [[], null];
    fail(message);
  };
  for (const worker of workers) {
    worker.onerror = () => stop("it needs a connection, and a browser released in 2023 or later");
    worker.onmessage = ({ data: { error, id, ...found } }) => {
      if (error) return stop(error);
      if (id !== sent?.id) return;
      if (found.look) return receive(found);
      if (sent instanceof PushMap) return receive({ path: sent.add(found), map: sent });
      const { k, guess, p, states } = found;
      if (states) sent.states = states;
      else [sent.guesses[k], sent.chances[k]] = [guess, p];
      if (k === STEPS) sent.unpushed = likeliest(p);
      receive({});
      if (states) compute(current, view, { receive, fail });
    };
  }
}

const workerOf = (first) => workers[first % workers.length]; // pushes with the same start share most of their states
