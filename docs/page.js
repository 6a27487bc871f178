// The page: what is chosen, the films that the worker computes, and how they are shown.

import { DIGIT, NOISE, PUSH, STEPS } from "./constants.js";
import { $, DARK, draw } from "./pictures.js";
import { noiseImage, seen } from "./sampler.js";

const NOISES = 1000;
const [FILM_MS, BRANCH_MS] = [130, 60]; // per frame
const CALM = matchMedia("(prefers-reduced-motion: reduce)");

const state = {}; // the address: noise, digit, and the pushed steps, the last of which is shown
let films = new Map(); // of this noise and digit: step -> film with one push there; null -> without a push
let marks = new Set(); // the steps whose results are not the digit, as the visitor says
let view = {}; // frames up to `head` are shown, and those of the branch after `step`, up to `tail`
let turn = 0; // counts changes of noise and digit
let playing = 0; // counts animations

/** Change noise, digit, or pushes. */
function choose(changes) {
  Object.assign(state, changes);
  turn++;
  films = new Map([...films].filter(([step, { noise }]) => step === null && noise === state.noise));
  marks = new Set();
}

// --- films ---

const worker = new Worker("worker.js", { type: "module" });
let line = Promise.resolve(); // jobs wait for each other, so that old ones can be dropped

/** Let the worker compute a film, unless it is known. */
function compute(step) {
  const [its, known, { noise, digit }] = [turn, films, state];
  line = line.then(() => new Promise((resolve, reject) => {
    if (its !== turn || known.has(step)) return resolve();
    worker.onerror = () => reject("worker.js cannot be loaded");
    worker.onmessage = ({ data }) => (data.error ? reject(data.error) : resolve(known.set(step, data)));
    worker.postMessage({ noise, digit, step });
  }));
  return line;
}

/** Compute the results of pushes, and show each. */
async function fill(steps) {
  const its = turn;
  for (const step of steps) {
    await compute(step);
    if (its !== turn) return;
    show();
  }
}

/** Move `name`, head or tail, from one frame to the last. Returns whether nothing else came between. */
async function play(name, from, ms) {
  const its = ++playing;
  for (view[name] = CALM.matches ? STEPS : from; its === playing; view[name]++) {
    show();
    if (view[name] === STEPS) return true;
    await new Promise((resolve) => setTimeout(resolve, ms));
  }
  return false;
}

/** Show the film from the beginning, then the pushes. */
async function start(isChosen = true) {
  const its = turn;
  playing++; // ends the animation before
  view = { head: 0, step: null, tail: 0 };
  show();
  await compute(null);
  if (its !== turn) return;
  const { own } = films.get(null);
  if (own === state.digit && !isChosen) choose({ digit: (own + 4) % 10 });
  say("The network removes the noise. Below each noisy image is the digit that it expects.");
  if (await play("head", 0, FILM_MS)) await push(state.pushes.at(-1) ?? PUSH);
  await fill(state.pushes);
}

/** Push once, in a step, and let the branch grow. */
async function push(step) {
  const its = turn;
  playing++; // ends the animation before
  Object.assign(view, { head: STEPS, step: null });
  state.pushes = [...state.pushes.filter((other) => other !== step), step];
  writeAddress();
  say(`A push in step ${step + 1} …`);
  await compute(step);
  if (its !== turn || step !== state.pushes.at(-1)) return;
  view.step = step;
  const { own } = films.get(null);
  say(own === state.digit
    ? `This noise becomes ${named(own)} on its own. Push it toward another digit.`
    : `One push in step ${step + 1}. Can you see it in the noise? Tap another step to push there instead.`);
  await play("tail", step + 1, BRANCH_MS);
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

function writeAddress() {
  const { noise, digit, pushes } = state;
  try {
    history.replaceState(null, "", `#noise=${noise}&digit=${digit}&pushes=${pushes.map((step) => step + 1)}`);
  } catch {
    // Safari refuses more than 100 changes in 30 seconds
  }
}

/** Show what the address says, with defaults for what is missing or invalid. */
function followAddress() {
  const found = new URLSearchParams(location.hash.slice(1));
  const number = (text, most, standard) => (/^\d+$/.test(text) && text <= most ? Number(text) : standard);
  const steps = (found.get("pushes") ?? "").split(",").map((text) => number(text, STEPS, 0) - 1);
  choose({
    noise: number(found.get("noise"), NOISES - 1, NOISE),
    digit: number(found.get("digit"), 9, DIGIT),
    pushes: [...new Set(steps.filter((step) => step >= 0))],
  });
  run(() => start(found.has("digit")));
}

// --- showing ---

const named = (digit) => `${digit === 8 ? "an" : "a"} ${digit}`;
const say = (words) => ($("says").textContent = words);

function show() {
  const { head, step, tail } = view;
  const [film, branch] = [films.get(null), films.get(step)];
  const isPushed = step !== null;
  [...$("film").children].forEach((column, k) => {
    const [noisy, guess, forked, result] = column.querySelectorAll("canvas");
    const [isFork, isBranch] = [k === step, isPushed && k > step && k <= tail];
    const isKnown = films.has(k) && (!isFork || tail === STEPS);
    draw(noisy, k <= head && film?.frames[k].seen);
    draw(guess, k <= head && film?.frames[k].guess);
    draw(forked, isFork ? branch.push : isBranch && branch.frames[k].guess, isFork);
    draw(result, isKnown && films.get(k).frames[STEPS].guess);
    column.className = isFork ? "fork" : isBranch ? "branch" : "";
    const [button, mark] = column.querySelectorAll("button");
    button.disabled = head < STEPS;
    mark.disabled = !isKnown;
    mark.ariaPressed = marks.has(k);
    const read = isKnown ? `: the second network reads ${named(films.get(k).own)}` : "";
    mark.ariaLabel = `Result of a push in step ${k + 1}${read}. It is not ${named(state.digit)}.`;
  });
  $("stage").classList.toggle("alone", !isPushed);
  const pictures = {
    alone: isPushed && film.frames[tail].guess,
    before: film ? film.frames[isPushed ? step + 1 : head].seen : seen(noiseImage(state.noise), 0),
    push: isPushed && branch.push,
    after: isPushed && branch.frames[step + 1].seen,
    pushed: isPushed && branch.frames[tail].guess,
  };
  for (const id in pictures) draw($(id).firstChild, pictures[id], id === "push");
  $("before").lastChild.textContent = isPushed ? `the noise after step ${step + 1}` : "";
  for (const node of document.querySelectorAll(".target")) node.textContent = named(state.digit);
  for (const node of document.querySelectorAll(".digit")) node.textContent = state.digit;
  $("digits").querySelector(`[value="${state.digit}"]`).checked = true;
  $("verdict").textContent = marks.size
    ? `You say: step ${Math.min(...marks) + 1} is too late.`
    : tail === STEPS ? `Under each step is its result. Tap those that are not ${named(state.digit)}.` : "";
}

/** What was measured with other noises (export.py): a bar for each step, and a sentence. */
function showMeasured(csv) {
  const rows = csv.trim().split("\n").slice(1).map((row) => row.split(",").map(Number)); // step, n, right
  const percent = (some) => {
    const [n, right] = [1, 2].map((column) => some.reduce((sum, row) => sum + row[column], 0));
    return `${Math.round((100 * right) / n)}%`;
  };
  const bar = (row) => `<li style="--p: ${parseInt(percent([row]))}px">${row[0]}</li>`;
  $("curve").innerHTML = rows.map(bar).join("");
  $("curve").ariaLabel = rows.map((row) => `step ${row[0]}: ${percent([row])}`).join(", ");
  $("measured").textContent = `Counted for 8 noises and every digit that they do not become on their own
    (${rows[0][1]} pushes in each step), by a third network that never pushes: ${percent(rows.slice(0, 8))} of
    the pushes in steps 1 to 8 succeed, ${percent([rows[12]])} in step 13, and ${percent(rows.slice(16))} in
    steps 17 to 20.`;
}

// --- what visitors do ---

$("film").innerHTML = [...Array(STEPS).keys()].map((k) => `<li>
  <button type="button" aria-label="Push in step ${k + 1}">${k + 1}<canvas></canvas><canvas></canvas></button>
  <canvas></canvas><button type="button"><canvas></canvas></button></li>`).join("");
$("digits").innerHTML += [...Array(10).keys()].map((y) => `<label><input type="radio" name="digit"
  value="${y}"><span>${y}</span></label>`).join("");

[...$("film").children].forEach((column, k) => {
  const [button, mark] = column.querySelectorAll("button");
  button.addEventListener("click", () => run(() => push(k)));
  mark.addEventListener("click", () => {
    marks[marks.has(k) ? "delete" : "add"](k);
    show();
  });
});
$("digits").addEventListener("change", ({ target }) => {
  choose({ digit: Number(target.value), pushes: state.pushes.slice(-1) });
  run(() => (films.has(null) ? push(state.pushes.at(-1) ?? PUSH) : start()));
});
$("new").addEventListener("click", () => {
  choose({ noise: Math.floor(NOISES * Math.random()), pushes: [] });
  run(() => start(false));
});
$("all").addEventListener("click", () => run(async () => {
  const missing = [...Array(STEPS).keys()].filter((step) => !state.pushes.includes(step));
  state.pushes = [...missing, ...state.pushes];
  writeAddress();
  say("Twenty films with one push each …");
  await fill(missing);
  say("Each result is that of one push, in the step above it.");
}));
$("replay").addEventListener("click", () => run(start));
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
