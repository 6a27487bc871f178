// The page: what is chosen, the films that the worker computes, and how they are shown.

import { DIGIT, NOISE, NORM, PUSH, STEPS } from "./constants.js";
import { $, DARK, draw } from "./pictures.js";
import { noiseImage, seen } from "./sampler.js";

const NOISES = 1000;
const [FILM_MS, BRANCH_MS] = [160, 60]; // per frame
const CALM = matchMedia("(prefers-reduced-motion: reduce)");
const ALL = [...Array(STEPS).keys()];

const state = {}; // the address: noise, digit, and the step of the push that is shown
let films = new Map(); // of this noise and digit: step -> film with one push there; null -> without a push
let marks = new Map(); // step -> whether the result is the digit, as the visitor says
let view = {}; // frames up to `head` are shown, and those of the branch after `step`, up to `tail`
let turn = 0; // counts changes of noise and digit
let playing = 0; // counts animations

/** Change noise or digit, and forget what was computed for the old ones. */
function choose(changes) {
  Object.assign(state, changes);
  turn++;
  playing++; // ends the animation before
  films = new Map([...films].filter(([step, { noise }]) => step === null && noise === state.noise));
  marks = new Map();
  view = { head: isKnown(null) ? STEPS : 0, step: null, tail: 0 };
  writeAddress();
  show();
}

// --- films ---

const isKnown = (step) => films.get(step)?.own !== undefined;

const worker = new Worker("worker.js", { type: "module" });
let line = Promise.resolve(); // jobs wait for each other, so that old ones can be dropped

/** Let the worker compute a film, unless it is known. Its frames can be shown as they arrive. */
function compute(step) {
  const [its, known, { noise, digit }] = [turn, films, state];
  line = line.then(() => new Promise((resolve, reject) => {
    if (its !== turn || isKnown(step)) return resolve();
    known.set(step, { noise, frames: [] });
    worker.onerror = () => reject("worker.js cannot be loaded");
    worker.onmessage = ({ data }) => {
      if (data.error) return reject(data.error);
      if (data.own === undefined) return (known.get(step).frames[data.k] = data);
      known.get(step).own = data.own;
      resolve();
    };
    worker.postMessage({ noise, digit, step });
  }));
  return line;
}

/** Move `name`, head or tail, over the frames of a film. Returns whether nothing else came between. */
async function play(name, step, ms) {
  const its = ++playing;
  for (view[name] = (step ?? -1) + 1; its === playing; ) {
    show();
    if (view[name] === STEPS) return true;
    await new Promise((resolve) => setTimeout(resolve, CALM.matches ? 0 : ms));
    if (films.get(step)?.frames[view[name] + 1]) view[name]++;
  }
  return false;
}

/** Show the film, then the push, then what a push in each of the other steps becomes. */
async function start(isChosen = true) {
  const its = turn;
  say("The network removes the noise, step by step.");
  const [isShown] = await Promise.all([play("head", null, FILM_MS), compute(null)]);
  if (!isShown || its !== turn) return;
  if (films.get(null).own === state.digit && !isChosen) choose({ digit: (state.digit + 4) % 10 });
  await pushAll();
}

/** Push in the chosen step, then in all others. */
async function pushAll() {
  const its = turn;
  await push(state.step);
  for (const step of ALL) {
    await compute(step);
    if (its !== turn) return;
    show();
  }
}

/** Push once, in a step, and let the branch grow. */
async function push(step) {
  const its = turn;
  state.step = step;
  writeAddress();
  Object.assign(view, { head: STEPS, step });
  say(`A push in step ${step + 1} …`);
  const [isShown] = await Promise.all([play("tail", step, BRANCH_MS), compute(step)]);
  if (isShown && its === turn) say(result(step));
}

/** Run what a visitor asked for, and report errors. */
function run(action) {
  action().catch((error) => {
    line = Promise.resolve();
    say(`The page cannot compute this: ${error}. Reload it to try again.`);
    if (error.stack) throw error;
  });
}

// --- the address ---

const writeAddress = () => history.replaceState(
  null, "", `#noise=${state.noise}&digit=${state.digit}&push=${state.step + 1}`,
);

/** Show what the address says, with defaults for what is missing or invalid. */
function followAddress() {
  const found = new URLSearchParams(location.hash.slice(1));
  const number = (name, most, standard) => {
    const text = found.get(name) ?? "";
    return /^\d+$/.test(text) && text <= most ? Number(text) : standard;
  };
  const step = (number("push", STEPS, 0) || PUSH + 1) - 1;
  choose({ noise: number("noise", NOISES - 1, NOISE), digit: number("digit", 9, DIGIT), step });
  run(() => start(found.has("digit")));
}

// --- what is said ---

const named = (digit) => `${digit === 8 ? "an" : "a"} ${digit}`;
const say = (words) => ($("says").textContent = words);
const isRight = (step) => marks.get(step) ?? films.get(step).own === state.digit;

/** What a push did, in words. */
function result(step) {
  const [its, own] = [films.get(step).own, films.get(null).own];
  const start = `Step ${step + 1}: `;
  if (own === state.digit) return `${start}this noise becomes ${named(own)} without a push, too.`;
  if (marks.has(step)) return `${start}you see ${isRight(step) ? named(state.digit) : `no ${state.digit}`}.`;
  if (its === state.digit) return `${start}one push, and the reader sees ${named(its)}.`;
  return `${start}${its === own ? "too late. The reader still" : "it fails. The reader"} sees ${named(its)}.`;
}

// --- showing ---

function show() {
  const { head, step, tail } = view;
  const [frames, branch] = [null, step].map((its) => films.get(its)?.frames ?? []);
  const push = branch[step]?.push;
  const isOwn = isKnown(null) && films.get(null).own === state.digit; // then there is nothing to decide
  for (const k of ALL) {
    const [column, item] = [$("film").children[k], $("results").children[k]];
    const [guess, forked] = column.querySelectorAll("canvas");
    const [isFork, isBranch, isHere] = [push && k === step, push && k > step && k <= tail, isKnown(k)];
    draw(guess, k <= head && frames[k]?.guess);
    draw(forked, isFork ? push : isBranch && branch[k]?.guess, isFork);
    column.className = isFork ? "fork" : isBranch ? "branch" : "";
    Object.assign(column.firstChild, { disabled: head < STEPS, ariaCurrent: isFork ? "step" : null });
    draw(item.querySelector("canvas"), isHere && films.get(k).frames[STEPS].guess);
    item.className = `${isHere && isRight(k) ? "right" : ""} ${isFork ? "shown" : ""}`;
    item.firstChild.disabled = !isHere;
    item.firstChild.ariaLabel = isHere ? result(k) : `Step ${k + 1}: no result yet`;
  }
  $("stage").classList.toggle("alone", !push);
  const before = push ? step + 1 : head;
  const pictures = {
    before: frames[before]?.seen ?? seen(noiseImage(state.noise), 0),
    alone: frames[push ? tail : head]?.guess,
    push,
    after: branch[before]?.seen,
    pushed: branch[tail]?.guess,
  };
  for (const id in pictures) draw($(id).firstChild, pictures[id], id === "push");
  $("before").lastChild.textContent = push ? `noise after step ${step + 1}` : `after ${head} steps`;
  $("alone").lastChild.textContent = push ? "without a push" : "what the network expects";
  for (const node of document.querySelectorAll(".target")) node.textContent = named(state.digit);
  for (const node of document.querySelectorAll(".digit")) node.textContent = state.digit;
  $("digits").querySelector(`[value="${state.digit}"]`).checked = true;
  const isWrong = step !== null && isKnown(step) && !isRight(step);
  $("pushed").classList.toggle("wrong", isWrong);
  $("mark").disabled = step === null || !isKnown(step) || isOwn;
  $("mark").textContent = `I see ${isWrong ? named(state.digit) : `no ${state.digit}`}`;
  const isComplete = ALL.every(isKnown);
  const last = ALL.findLast((k) => isKnown(k) && isRight(k));
  const found = last === undefined ? "no push works" : `the last push that works is in step ${last + 1}`;
  $("verdict").textContent = isComplete && !isOwn ? `${marks.size ? "You say" : "The reader says"}: ${found}.` : "";
  if (isComplete) $("results").className = "complete";
}

/** What was measured with other noises (export.py): a bar for each step, and two paragraphs. */
function showMeasured(csv) {
  const rows = csv.trim().split("\n").slice(1).map((row) => row.split(",").map(Number)); // step, n, right, ink
  const percent = (some) => {
    const [n, right] = [1, 2].map((column) => some.reduce((sum, row) => sum + row[column], 0));
    return `${Math.round((100 * right) / n)}%`;
  };
  for (const k of ALL) $("results").children[k].style.setProperty("--p", percent([rows[k]]));
  const ink = (step) => `${rows[step - 1][3].toFixed(step < 6 ? 1 : 0)} after step ${step}`;
  $("why").textContent = `Every push has the norm ${NORM}, and the noise has 28. The ink of the finished digit is in
    the noisy image from the start, but faintly: its norm there is ${ink(4)}, ${ink(11)}, and ${ink(18)} (the mean of
    8 noises). From step ${rows.find((row) => row[3] > NORM)[0]} on, there is more of the digit than of the push.`;
  $("measured").textContent = `The bars were counted for 8 other noises and every digit that they do not become
    on their own (${rows[0][1]} pushes in each step), by a third network that never pushes: ${percent(rows.slice(0, 8))}
    of the pushes in steps 1 to 8 succeed, ${percent([rows[12]])} in step 13, and ${percent(rows.slice(16))} in
    steps 17 to 20.`;
}

// --- what visitors do ---

$("film").innerHTML = ALL.map((k) => `<li><button type="button" aria-label="Push in step ${k + 1}">${k + 1}<canvas>
  </canvas></button><canvas aria-hidden="true"></canvas></li>`).join("");
$("results").innerHTML = ALL.map(() => `<li><button type="button"><canvas></canvas></button></li>`).join("");
$("digits").innerHTML += [...Array(10).keys()].map((y) => `<label><input type="radio" name="digit"
  value="${y}"><span>${y}</span></label>`).join("");

for (const list of [$("film"), $("results")]) {
  [...list.children].forEach((item, k) => item.firstChild.addEventListener("click", () => run(() => push(k))));
}
$("digits").addEventListener("change", ({ target }) => {
  choose({ digit: Number(target.value) });
  run(isKnown(null) ? pushAll : start);
});
$("mark").addEventListener("click", () => {
  marks.set(view.step, !isRight(view.step));
  say(result(view.step));
  show();
});
$("new").addEventListener("click", () => {
  choose({ noise: Math.floor(NOISES * Math.random()), step: PUSH });
  run(() => start(false));
});
addEventListener("hashchange", followAddress);
DARK.addEventListener("change", show);

if (location.hostname.endsWith(".github.io")) { // links to files lead to the repository
  const [user, name] = [location.hostname.split(".")[0], location.pathname.split("/")[1]];
  for (const link of document.querySelectorAll("[href^='../']")) {
    link.href = `https://github.com/${user}/${name}/tree/main/${link.getAttribute("href").slice(3)}`;
  }
}

followAddress();
fetch("pushes.csv").then((response) => response.text()).then(showMeasured);
