// The films that are known: those of the first screen, and those that the workers find.
//
// A film is {guesses, ps, q, push}: before each step, the model's guess of the final digit and the ten
// probabilities of the classifier (at STEPS, the result), those of the judge for the result (null without a
// judge), and the classifier's gradient in the first pushed step. Steps without a push are only in the film
// without one. A place, {noise, strength, digit, start}, says which film it is.

import { DIGIT, NOISE, STEPS } from "./constants.js";
import { grays, noiseImages } from "./sampler.js";

const [MOST_FILMS, MOST_WORKERS] = [2000, 4];
const films = new Map(); // from the oldest to the newest
const workers = [];
let wanted = []; // jobs, from the most to the least urgent
let tell = () => {};
let isRevealed = false; // whether anybody may know what the judge sees

export const revealJudge = () => (isRevealed = true);
const keyOf = (of) => `${of.start < STEPS ? [of.noise, of.strength, of.digit, of.start] : of.noise}`;

function open(key) {
  const first = () => (key.includes(",") ? [] : [grays(noiseImages(key, 1)[0], 3)]);
  if (!films.has(key)) films.set(key, { guesses: first(), ps: [] });
  if (films.size > MOST_FILMS) films.delete(films.keys().next().value);
  return films.get(key);
}

function store(key, { k, guess, p, push }) {
  const film = open(key);
  if (k > 0) film.guesses[k] = guess; // the noise is shown as it is
  film.ps[k] = p;
  film.push = push ?? film.push;
  return k === STEPS; // whether it is a result
}

/** The result of a film, {guess, p, q}, or undefined if it is not known. */
export function findResult(place) {
  const film = films.get(keyOf(place));
  if (!film?.ps[STEPS]) return undefined;
  return { guess: film.guesses[STEPS], p: film.ps[STEPS], q: isRevealed ? film.q : undefined };
}

/** The film without a push, and the pushed one, with the frames that both share. */
export function findFilms({ noise, start, ...place }) {
  const [alone, film] = [open(`${noise}`), films.get(keyOf({ noise, start, ...place }))];
  const join = (name) => Array.from({ length: STEPS + 1 }, (_, k) => (k <= start ? alone : film)?.[name][k]);
  const push = start < STEPS ? film?.push : null;
  return { alone: { ...alone }, pushed: { guesses: join("guesses"), ps: join("ps"), push } };
}

/** Whether a result, or a whole film, is known. */
function isKnown({ isWhole, ...place }) {
  const first = place.start === STEPS ? 0 : place.start + 1;
  const { ps = [], q } = films.get(keyOf(place)) ?? {};
  if (!ps[STEPS] || q === undefined) return false;
  return !isWhole || ps.slice(first).filter(Boolean).length === STEPS + 1 - first;
}

// --- workers ---

/** Start the workers. They report to `told`: {error}, {missing} (the judge), or {isResult} for each frame. */
export function startWorkers(told = tell) {
  tell = told;
  const count = Math.max(1, Math.min(MOST_WORKERS, (navigator.hardwareConcurrency ?? 2) - 1));
  while (workers.length < count) workers.push(newWorker());
}

function newWorker() {
  const worker = new Worker("worker.js", { type: "module" });
  const fail = (error) => {
    wanted = []; // until the visitor does something
    tell({ error });
  };
  worker.onmessage = ({ data: { key, isDone, q = null, missing, error, ...frame } }) => {
    if (!isDone && !error) return tell({ isResult: store(key, frame) });
    if (worker.job?.key === key) worker.job = null; // otherwise, it has another job by now
    if (error) return fail(error);
    open(key).q = q;
    tell({ missing, isResult: true });
    assign();
  };
  worker.onerror = () => {
    workers.splice(workers.indexOf(worker), 1);
    fail("worker.js cannot be loaded");
  };
  return worker;
}

/** Let the workers find films: places that may be marked as isWhole, from the most to the least urgent. */
export function order(places) {
  startWorkers();
  wanted = places.map((place) => ({ ...place, key: keyOf(place) }));
  const [urgent] = wanted;
  if (!isKnown(urgent) && !isInProgress(urgent)) give(workers.find(({ job }) => !job) ?? workers[0], urgent);
  assign();
}

const isInProgress = (its) => workers.some(({ job }) => job?.key === its.key && job.isWhole >= its.isWhole);

function assign() {
  wanted = wanted.filter((job) => !isKnown(job));
  for (const worker of workers) {
    const job = worker.job ? null : wanted.find((job) => !isInProgress(job));
    if (job) give(worker, job);
  }
}

/** Let a worker do a job, instead of its old one. */
const give = (worker, job) => worker.postMessage((worker.job = job));

// --- the first screen ---

/** Load the films of the first screen, in the order of export.py. If that fails, the workers find them. */
export async function loadFirstFilms() {
  const image = Object.assign(new Image(), { src: "first.png" });
  const chances = fetch("first.json").then((response) => response.json());
  const [first] = await Promise.all([chances, image.decode()]).catch(() => []);
  if (!first) return;
  const canvas = new OffscreenCanvas(image.width, image.height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(image, 0, 0);
  const tile = (row, k) => context.getImageData(28 * k, 28 * row, 28, 28).data.filter((_, i) => i % 4 === 0);
  const at = (digit, start) => keyOf({ noise: NOISE, strength: 1, digit, start });
  const parts = (some) => some.map((n) => n / 1000);
  const add = (digit, start, k, guess, p) => store(at(digit, start), { k, guess, p: parts(p) });
  first.alone.forEach((p, k) => add(null, STEPS, k, tile(10, k), p));
  open(`${NOISE}`).q = parts(first.judged.at(-1));
  for (let start = 0; start < STEPS; start++) {
    open(at(DIGIT, start)).push = tile(11, start);
    first.films[start].forEach((p, i) => add(DIGIT, start, start + 1 + i, tile(12 + start, i), p));
    first.results.forEach((starts, digit) => {
      add(digit, start, STEPS, tile(digit, start), starts[start]);
      open(at(digit, start)).q = parts(first.judged[digit * STEPS + start]);
    });
  }
}
