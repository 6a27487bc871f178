// The paths of all pushes from one noise image: those that are shipped, and those that the workers compute.
//
// A path is {a, b, guesses, heights, p, surprise, kind}. It is pushed from step a until step b; in (0, 0), nothing is
// pushed. guesses[k] is what the model would draw from the state before step k without a push, heights[k] is where the
// fork shows this state, and guesses[STEPS] is the result. p are the classifier's ten probabilities of the result.

import { DRAWING_STEP, STEPS } from "./sampler.js";
import { kindOf, likeliest } from "./words.js";

export const WINDOWS = [[0, 0]];
for (let a = 0; a < STEPS; a++) for (let b = a + 1; b <= STEPS; b++) WINDOWS.push([a, b]);

/** All pushes of one noise image (or drawing) toward one digit. */
export class PushMap {
  static count = 0;

  constructor(settings, threshold, drawing = null) {
    Object.assign(this, { settings, threshold, drawing, id: (PushMap.count += 1), paths: new Map() });
    this.first = drawing ? DRAWING_STEP : 0; // the first step
    this.windows = WINDOWS.filter(([a, b]) => b === 0 || a >= this.first);
  }

  get(a, b) {
    return this.paths.get(`${a},${b}`);
  }

  get alone() {
    return this.get(0, 0);
  }

  /** Add what is known of a path. `unpushed` is the digit that appears without a push. */
  add({ unpushed, ...path }) {
    this.unpushed ??= unpushed;
    const known = Object.assign(this.get(path.a, path.b) ?? {}, path);
    if (known.surprise !== undefined) known.kind = kindOf(known, this);
    this.paths.set(`${known.a},${known.b}`, known);
    return known;
  }

  /** The pushes, without (0, 0), whose result is known, or also the verdict on it. */
  pushes(isKnown = ({ p }) => p) {
    return [...this.paths.values()].filter((path) => path.b > 0 && isKnown(path));
  }

  isComplete() {
    return this.windows.every((window) => this.get(...window)?.kind);
  }

  /** The fewest steps that make the chosen digit, if it is certain that fewer do not. */
  shortest() {
    for (let length = 1; length <= STEPS; length++) {
      const windows = this.windows.filter(([a, b]) => b - a === length);
      const kinds = windows.map(([a, b]) => this.get(a, b)?.kind);
      if (kinds.includes("target")) return length;
      if (kinds.includes(undefined)) return null;
    }
    return null;
  }
}

/** The map that is part of the page. Windows share the states that they have in common; see export.py. */
export async function loadShipped() {
  const response = await fetch("map.json");
  if (!response.ok) throw new Error(`map.json: ${response.status}`);
  const [shipped, pictures] = await Promise.all([response.json(), readRows("map.png")]);
  const { noise, digit, threshold } = shipped;
  const map = new PushMap({ noise, digit, strength: 0, push: "growing" }, threshold);
  const rows = new Map(); // state -> its row
  WINDOWS.forEach(([a, b], i) => {
    const [guesses, heights] = [[], []];
    for (let k = 0; k <= STEPS; k++) {
      const state = b === 0 || k <= a ? [k] : k <= b ? [a, k] : [a, b, k];
      if (!rows.has(`${state}`)) rows.set(`${state}`, rows.size);
      const row = rows.get(`${state}`);
      guesses.push(pictures(row));
      heights.push(shipped.heights[row] / 100);
    }
    const [p, surprise] = shipped.results[i];
    map.add({ a, b, guesses, heights, p, surprise, unpushed: likeliest(shipped.results[0][0]) });
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

let workers = []; // started when they are needed

/** Call `receive(path)` for each result, `inspect(values)` for what is inside a step, and `fail(message)`. */
export function startWorkers(receive, inspect, fail) {
  if (workers.length > 0) return;
  const count = Math.min(8, navigator.hardwareConcurrency || 2);
  workers = Array.from({ length: count }, () => new Worker("worker.js", { type: "module" }));
  for (const worker of workers) {
    worker.onerror = () => fail("open this page in a browser released in 2023 or later");
    worker.onmessage = ({ data: { error, look, ...path } }) => {
      if (error) fail(error);
      else if (look) inspect(look);
      else receive(path);
    };
  }
}

const workerOf = (a) => workers[a % workers.length]; // pushes with the same start share most of their states

let computing = null; // the map that the workers know

/** Compute what a map lacks, beginning with no push, the push (a, b), and pushes with the same start. */
export function compute(map, a, b) {
  if (computing === map) return;
  computing = map;
  const rank = ([c, d]) => (d === 0 ? 0 : c === a && d === b ? 1 : c === a ? 2 : c === map.first ? 3 : 4);
  const missing = map.windows.filter((window) => map.get(...window)?.kind === undefined);
  const windows = missing.sort((one, other) => rank(one) - rank(other));
  const { id, settings, drawing } = map;
  for (const worker of workers) {
    worker.postMessage({ id, ...settings, drawing, windows: windows.filter(([c]) => workerOf(c) === worker) });
  }
}

/** Compute a push next. */
export const hurry = (map, a, b) => workerOf(a)?.postMessage({ id: map.id, urgent: [a, b] });

/** Ask for what is inside step k of a push. */
export const lookInside = (map, a, b, k) => workerOf(a).postMessage({ id: map.id, look: [a, b, k] });
