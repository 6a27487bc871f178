// The page: its settings, the two workers that fill the map, and the story.

import { drawing, isEmpty, listenToDrawing, showDrawing } from "./drawing.js";
import { clearMap, drawCell, drawFilm, drawPicture, ink, inkOf, moveBracket, moveCursor, orangeAndBlue, windowAt } from "./map.js";
import { DRAWING_STEP, STEPS, TIMES, abar, predicted_x_0 } from "./sampler.js";

const DEFAULTS = { noise: 5, digit: 5, strength: 0, a: 0, b: 10 }; // strength is a power of ten
const NOISES = 1000;
const SURPRISE_RANGE = [0.1, 0.36]; // real digits; pushed a thousand times too hard
const SLIDE_MS = 260; // per step of the first animation
const CALM = matchMedia("(prefers-reduced-motion: reduce)").matches;

const $ = (id) => document.getElementById(id);
const all = (selector) => [...document.querySelectorAll(selector)];
const settings = { ...DEFAULTS };
let results = new Map(); // "a,b" -> {image, film, p, surprise}
let drawn = null; // the visitor's drawing, 784 numbers, in place of the noise
let job = 0; // its number; answers to older jobs are ignored
let looked = 10; // the step that part 3 looks into
let threshold = Infinity; // of the surprise: 95% of 200 guided samples are below it

const key = (a, b) => `${a},${b}`;
const result = () => results.get(key(settings.a, settings.b));
const firstStep = () => (drawn ? DRAWING_STEP : 0);
const likeliest = (p) => p.indexOf(Math.max(...p));
const named = (digit) => `${digit === 8 ? "an" : "a"} ${digit}`;

// --- computing ---

const workers = [0, 1].map(() => new Worker("worker.js", { type: "module" }));
const workerOf = (a, b) => workers[(a === firstStep() ? b : a) % 2]; // both share the left column

/** All windows, in the order in which they are computed: the current one, no push, left column, top row, interior. */
function windows() {
  const list = [];
  for (let a = firstStep(); a < STEPS; a++) for (let b = a + 1; b <= STEPS; b++) list.push([a, b]);
  const { a, b } = settings;
  const rank = ([c, d]) => (c === a && d === b ? 0 : c === firstStep() ? 1 : d === STEPS ? 2 : 3);
  return [[0, 0], ...list.sort((one, other) => rank(one) - rank(other))];
}

/** Compute the whole map. Known pictures stay until they are replaced. */
function compute() {
  job += 1;
  const { noise, digit, strength } = settings;
  const list = windows();
  const request = { id: job, noise, digit, strength: 10 ** strength, drawing: drawn };
  workers.forEach((worker, i) => worker.postMessage({ ...request, windows: list.filter(([a, b]) => b === 0 || workerOf(a, b) === workers[i]) }));
  progress(list.length - 1);
}

/** Forget the map of other settings, and compute the new one. Without a push, the same noise becomes the same digit. */
function restart() {
  results = new Map([...results].filter(([name]) => name === "0,0"));
  clearMap();
  compute();
  show();
}

function progress(total = windows().length - 1) {
  const done = [...results].filter(([name, { film }]) => film && name !== "0,0").length;
  $("progress").textContent = done < total ? `${done} of ${total} computed` : "";
  $("progress").hidden = results.size > total; // the map that is part of the page
}

function receive({ data }) {
  if (data.error) return say(`Computation failed: ${data.error}`);
  if (data.id !== job) return;
  if (data.look) return showStep(data.look);
  const { a, b, film, p, surprise } = data;
  const first = b === 0 && !results.has("0,0");
  const shipped = results.get(key(a, b)); // near the threshold, rounding must not change its verdict
  results.set(key(a, b), { p, surprise, ...shipped, image: film.subarray(784 * STEPS), film });
  if (first) redraw(); // the colors depend on what happens without a push
  else if (b > 0) drawCell(a, b, film.subarray(784 * STEPS), kindOf(results.get(key(a, b))));
  if (b === 0 || (a === settings.a && b === settings.b)) show();
  progress();
}

// --- verdicts ---

/** The kind of a result: "broken", "target", "alone" (the digit that appears without a push), or "other". */
function kindOf({ p, surprise }) {
  const digit = likeliest(p);
  if (surprise > threshold) return "broken";
  if (digit === settings.digit) return "target";
  const alone = results.get("0,0");
  return alone && digit === likeliest(alone.p) ? "alone" : "other";
}

const SENTENCES = {
  broken: () => "It breaks up.",
  target: (digit) => `It becomes ${named(digit)}.`,
  alone: (digit) => `Forgotten: still ${named(digit)}.`,
  other: (digit) => `It becomes ${named(digit)} instead.`,
};

function showVerdict(shown) {
  const { p, surprise } = shown;
  const [digit, kind] = [likeliest(p), kindOf(shown)];
  const sure = Math.round(100 * p[digit]);
  const [least, most] = SURPRISE_RANGE;
  const percent = (value) => `${Math.max(3, Math.min(100, (100 * (most - value)) / (most - least)))}%`;
  $("sentence").textContent = p[digit] < 0.5 ? "Hard to tell." : SENTENCES[kind](digit);
  $("classifier").textContent = `“${named(digit)}, ${sure}%”`;
  $("sure").style.width = `${sure}%`;
  $("model").textContent = surprise > threshold ? "“I would not draw this”" : "“I could have drawn this”";
  $("likely").style.width = percent(surprise);
  $("limit").style.setProperty("--limit", percent(threshold));
  $("verdict").className = kind;
}

// --- showing ---

const describe = (id, k) => (id === "begin" ? `pushing begins at step ${k + 1}` : `pushing ends after step ${k}`);

/** Show the current window: cursor, bracket, film, result, verdict. */
function show() {
  const { a, b, digit } = settings;
  moveCursor(a, b);
  moveBracket(a, b, describe);
  const shown = result();
  $("stage").classList.toggle("waiting", !shown);
  drawFilm(shown?.film, a, b);
  if (shown) {
    drawPicture($("result"), shown.image, ink());
    drawPicture($("small"), shown.image, ink());
    showVerdict(shown);
  }
  for (const node of all(".digit")) node.textContent = named(digit);
  const alone = results.get("0,0");
  $("source").textContent = drawn ? "drawing" : "noise";
  $("alone").textContent = alone ? named(likeliest(alone.p)) : "…";
  const strength = 10 ** settings.strength;
  $("strength").value = settings.strength;
  $("times").textContent = `× ${Number(strength.toPrecision(2)).toLocaleString("en")}`;
  $(`digit-${digit}`).checked = true;
  look();
}

/** Draw the whole map again, for example after a change of colors or size. */
function redraw() {
  clearMap();
  for (const [place, shown] of results) {
    const [a, b] = place.split(",").map(Number);
    if (b > 0) drawCell(a, b, shown.image, kindOf(shown));
  }
  show();
}

const say = (text) => ($("status").textContent = text);

// --- choosing a window ---

/** Move the bracket. Each end stays on its side of the other. */
function choose(a, b) {
  const first = firstStep();
  settings.a = Math.max(first, Math.min(a, STEPS - 1));
  settings.b = Math.max(settings.a + 1, Math.min(b, STEPS));
  if (!result()?.film) workerOf(settings.a, settings.b).postMessage({ id: job, urgent: [settings.a, settings.b] });
  show();
}

/** Move one end, which does not pass the other. */
function moveEnd(id, k) {
  const { a, b } = settings;
  if (id === "begin") choose(Math.min(k, b - 1), b);
  else choose(a, Math.max(k, a + 1));
}

function listenToMap() {
  const pick = (event) => {
    const window = windowAt(event);
    if (window && window[0] >= firstStep()) choose(...window);
  };
  $("cells").addEventListener("pointermove", (event) => (event.pointerType === "mouse" || event.buttons) && pick(event));
  $("cells").addEventListener("pointerdown", pick);
  $("cells").addEventListener("pointerup", () => {
    remember();
    $("end").focus({ preventScroll: true }); // so that the arrow keys work
  });
  $("cells").addEventListener("pointerleave", () => history.replaceState(null, "", address()));
}

function listenToBracket() {
  const step = ({ clientX }) => {
    const box = $("time").getBoundingClientRect();
    return Math.round((STEPS * (clientX - box.left)) / box.width);
  };
  let held = null; // an end, or the bracket: {id, from, a, b}
  const hold = (event) => {
    const id = event.currentTarget.id;
    held = { id, from: step(event), a: settings.a, b: settings.b };
    $("time").setPointerCapture(event.pointerId);
    event.stopPropagation();
  };
  for (const id of ["begin", "end", "bracket"]) $(id).addEventListener("pointerdown", hold);
  $("time").addEventListener("pointerdown", (event) => { // outside of the bracket: the nearer end jumps here
    const k = step(event);
    const id = Math.abs(k - settings.a) < Math.abs(k - settings.b) ? "begin" : "end";
    held = { id };
    $("time").setPointerCapture(event.pointerId);
    moveEnd(id, k);
  });
  $("time").addEventListener("pointermove", (event) => {
    if (!held) return;
    if (held.id !== "bracket") return moveEnd(held.id, step(event));
    const width = held.b - held.a;
    const a = Math.max(firstStep(), Math.min(STEPS - width, held.a + step(event) - held.from));
    choose(a, a + width);
  });
  for (const type of ["pointerup", "pointercancel"]) {
    $("time").addEventListener(type, () => {
      if (!held) return;
      remember();
      $(held.id === "bracket" ? "end" : held.id).focus({ preventScroll: true });
      held = null;
    });
  }
  const moves = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1, Home: -STEPS, End: STEPS };
  for (const id of ["begin", "end"]) {
    $(id).addEventListener("keydown", (event) => {
      if (!(event.key in moves)) return;
      event.preventDefault();
      moveEnd(id, (id === "begin" ? settings.a : settings.b) + moves[event.key]);
      remember();
    });
  }
}

// --- the story ---

/** Ask for the step that part 3 looks into, one of those that are pushed. */
function look() {
  const { a, b } = settings;
  looked = Math.max(a, Math.min(looked, b - 1));
  Object.assign($("look"), { min: a, max: b - 1, value: looked });
  $("step").textContent = looked + 1;
  $("t").textContent = TIMES[looked];
  if (results.has("0,0")) workerOf(a, b).postMessage({ id: job, look: { a, b, k: looked } });
}

/** The values of each line of `guided` at a step. */
function showStep({ k, s, x_t, eps, grad, eps_hat }) {
  if (k !== looked) return;
  const abar_t = abar(TIMES[k]);
  const gradient = grad ?? new Float32Array(784);
  const push = gradient.map((value) => (s * (1 - abar_t) * value) / Math.sqrt(abar_t));
  const pictures = {
    x_t: [x_t.map((value) => value / 2), inkOf()],
    eps: [predicted_x_0(x_t, eps, abar_t), inkOf()],
    grad: [gradient, orangeAndBlue(Math.max(1e-9, ...gradient.map(Math.abs)))],
    push: [push, orangeAndBlue(1)],
    eps_hat: [predicted_x_0(x_t, eps_hat, abar_t), inkOf()],
  };
  for (const canvas of all("[data-shows]")) drawPicture(canvas, ...pictures[canvas.dataset.shows]);
  $("scale-now").textContent = s === 0 ? "0" : Number(s.toPrecision(2)).toLocaleString("en");
  $("root-now").textContent = Math.sqrt(1 - abar_t).toFixed(2);
}

function listenToStory() {
  for (const button of all("[data-window], [data-strength]")) {
    button.addEventListener("click", () => {
      const strength = Number(button.dataset.strength ?? 0);
      const [a, b] = button.dataset.window?.split(" ").map(Number) ?? [settings.a, settings.b];
      const sameMap = strength === settings.strength && !drawn;
      if (drawn && a < DRAWING_STEP) forgetDrawing();
      if (sameMap) choose(a, b);
      else change({ strength, a, b });
      remember();
    });
  }
  $("look").addEventListener("input", () => {
    looked = Number($("look").value);
    look();
  });
  listenToDrawing(() => {
    drawn = isEmpty() ? null : drawing.slice();
    results.clear();
    change({ a: firstStep(), b: STEPS });
  });
  $("clear").addEventListener("click", () => {
    forgetDrawing();
    change({});
  });
}

function forgetDrawing() {
  drawing.fill(-1);
  showDrawing();
  drawn = null;
  results.clear();
}

// --- settings and address ---

/** Change settings that need a new map. */
function change(changes) {
  Object.assign(settings, changes);
  settings.a = Math.max(firstStep(), settings.a);
  settings.b = Math.max(settings.a + 1, settings.b);
  restart();
}

const address = () => {
  const { noise, digit, strength, a, b } = settings;
  return `#noise=${noise}&digit=${digit}&strength=${strength}&from=${a}&until=${b}`;
};

/** Put the settings into the address, so that the browser's back button undoes a change. */
function remember() {
  if (address() !== location.hash) history.pushState(null, "", address());
}

/** The settings in the address, with defaults for missing or invalid ones. */
function readAddress() {
  const found = new URLSearchParams(location.hash.slice(1));
  const number = (name, standard, least, most) => {
    const value = found.has(name) ? Number(found.get(name)) : NaN;
    return Number.isInteger(4 * value) && least <= value && value <= most ? value : standard;
  };
  const a = Math.floor(number("from", DEFAULTS.a, 0, STEPS - 1));
  return {
    noise: Math.floor(number("noise", DEFAULTS.noise, 0, NOISES - 1)),
    digit: Math.floor(number("digit", DEFAULTS.digit, 0, 9)),
    strength: number("strength", DEFAULTS.strength, -1, 3),
    a,
    b: Math.max(a + 1, Math.floor(number("until", DEFAULTS.b, 1, STEPS))),
  };
}

function listenToSettings() {
  $("digits").addEventListener("change", (event) => {
    change({ digit: Number(event.target.value) });
    remember();
  });
  $("noise").addEventListener("click", () => {
    forgetDrawing();
    change({ noise: (settings.noise + 1) % NOISES });
    remember();
  });
  $("strength").addEventListener("input", () => {
    change({ strength: Number($("strength").value) });
  });
  $("strength").addEventListener("change", remember);
  addEventListener("popstate", () => {
    const before = { ...settings };
    const now = readAddress();
    const same = ["noise", "digit", "strength"].every((name) => before[name] === now[name]);
    if (same && !drawn) choose(now.a, now.b);
    else {
      forgetDrawing();
      change(now);
    }
  });
}

// --- the first seconds ---

/** Show the map that is part of the page, until the same one is computed. */
async function showFirstMap(verdicts) {
  const picture = new Image();
  picture.src = "map.png";
  await picture.decode();
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [28 * STEPS, 28 * STEPS];
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(picture, 0, 0);
  for (const [a, b, p, surprise] of verdicts) {
    if (results.has(key(a, b))) continue;
    const [column, row] = b === 0 ? [STEPS - 1, STEPS - 1] : [a, STEPS - b]; // (0, 0) is in the empty corner
    const pixels = context.getImageData(28 * column, 28 * row, 28, 28).data;
    const image = Float32Array.from({ length: 784 }, (_, i) => pixels[4 * i]);
    results.set(key(a, b), { image, p, surprise });
  }
  redraw();
}

/** Move the right end one step to the left at a time, until the visitor touches something. */
function slide() {
  let touched = false;
  for (const type of ["pointerdown", "keydown"]) addEventListener(type, () => (touched = true), { once: true });
  const timer = setInterval(() => {
    if (touched || settings.b <= DEFAULTS.b) return clearInterval(timer);
    choose(settings.a, settings.b - 1);
  }, SLIDE_MS);
}

async function begin() {
  Object.assign(settings, readAddress());
  const asShipped = ["noise", "digit", "strength"].every((name) => settings[name] === DEFAULTS[name]);
  const fresh = location.hash === "";
  if (fresh) settings.b = CALM ? 12 : STEPS;
  for (const worker of workers) {
    worker.onmessage = receive;
    worker.onerror = () => say("The page cannot start. Open it in a browser released in 2023 or later.");
  }
  clearMap();
  const first = await (await fetch("map.json")).json();
  threshold = first.threshold;
  if (asShipped) await showFirstMap(first.verdicts);
  compute();
  show();
  say("");
  if (fresh && !CALM) slide();
}

/** On GitHub Pages, which publishes only this folder, links to other files lead to the repository. */
function linkToRepository() {
  const [owner, ...host] = location.hostname.split(".");
  if (host.join(".") !== "github.io") return;
  const tree = `https://github.com/${owner}/${location.pathname.split("/")[1]}/tree/main/`;
  for (const link of all("a[data-path]")) link.href = tree + link.dataset.path;
}

linkToRepository();
listenToMap();
listenToBracket();
listenToStory();
listenToSettings();
showDrawing();
addEventListener("resize", redraw);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
begin().catch((error) => say(`The page cannot start: ${error.message}`));
