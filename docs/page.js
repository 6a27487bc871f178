// The page: its state, and what it shows of it.

import { DIGIT, NOISE, SIZE, STEPS } from "./constants.js";
import { $, all } from "./dom.js";
import { clearDrawing, drawing, listenToDrawing, showDrawing } from "./drawing.js";
import { drawFork, endOf, listenToFork } from "./fork.js";
import { drawCell, drawMap, listenToMap, moveCursor } from "./map.js";
import { compute, findMap, loadShipped, openMap } from "./paths.js";
import { blueAndOrange, drawPicture } from "./pictures.js";
import { Noise, grays } from "./sampler.js";
import { listenToTrack, showTrack } from "./track.js";
import { counts, hint, named, opinions, pushedSteps, sentences, stepsAlone, swept, tasks } from "./words.js";

const NOISES = 1000;
const [GROW_MS, SWEEP_MS, ADDRESS_MS] = [800, 350, 400];
const CALM = matchMedia("(prefers-reduced-motion: reduce)");
const DEFAULTS = { start: NOISE, digit: DIGIT, size: 0, first: 0, end: 9 };

// The state: `start` is the number of a noise image, or a drawing; `size` is that of a push in one step, 0 for the
// default scale; steps first to end - 1 are pushed. Only `update` changes it. The rest follows from it.
const state = { ...DEFAULTS };
let map = null; // the map of the state
let noise = null; // the state before the drawing
let opened = 0; // when the map was opened
let looked = null; // the step into which the visitor looks
let resting = true; // whether no handle is being moved
let told = null; // the path that a screen reader knows
let sweeping = null; // the sweep that is running
let frame = 0; // in which the page is shown again

const current = () => map.get(state.first, state.end);

/** Change the state. `remember` says whether the browser can go back to the state before. */
function update(changes, remember = true) {
  const before = { ...state };
  Object.assign(state, changes);
  const next = openMap(state);
  state.first = Math.max(next.origin.earliest, Math.min(state.first, STEPS - 1));
  state.end = Math.max(state.first + 1, Math.min(state.end, STEPS));
  if (next.origin.isDrawing && typeof before.start === "number") noise = before;
  looked = null;
  $("inside").hidden = true;
  if (next !== map) {
    [map, opened] = [next, performance.now()];
    drawMap(map);
    grow();
  }
  if (remember) writeAddress(before);
  if (map.isComplete()) say("");
  else start();
  show();
}

/** Start the workers, or let them go on with what is in view. */
function start() {
  compute(map, { ...state, looked }, { receive, fail });
}

function receive({ path, look, map: its }) {
  say("");
  if (look) return showLook(look);
  if (path?.p && its === map) drawCell(path);
  cancelAnimationFrame(frame);
  frame = requestAnimationFrame(show); // once for all that is found until then
}

const fail = (message) => say(`The page cannot compute this: ${message}. It will try again after your next action.`);
const say = (text) => ($("status").textContent = text);

// --- the address ---

let waiting = null; // an address that is not written yet: some browsers refuse more than 100 in 30 seconds
let timer = 0;

function address({ start, digit, size, first, end }) {
  const text = typeof start === "number" ? start : "drawing";
  return `#${new URLSearchParams({ start: text, digit, size, first: first + 1, last: end })}`;
}

function writeNow() {
  clearTimeout(timer);
  if (waiting) history.replaceState(null, "", waiting);
  waiting = null;
}

/** A new map is a new entry of the history; a new push replaces the current one, a little later. */
function writeAddress(before) {
  const { first, end } = state;
  if (address({ ...before, first, end }) !== address(state)) {
    writeNow();
    history.pushState(null, "", address(state));
  } else {
    waiting = address(state);
    clearTimeout(timer);
    timer = setTimeout(writeNow, ADDRESS_MS);
  }
}

/** The state in the address, with defaults for what is missing or invalid. */
function readAddress() {
  const found = new URLSearchParams(location.hash.slice(1));
  const number = (name, least, most, standard) => {
    const value = Number(found.get(name) ?? NaN);
    return Number.isInteger(value) && least <= value && value <= most ? value : standard;
  };
  const first = number("first", 1, STEPS, DEFAULTS.first + 1) - 1;
  return {
    start: found.get("start") === "drawing" ? drawing : number("start", 0, NOISES - 1, DEFAULTS.start),
    digit: number("digit", 0, 9, DEFAULTS.digit),
    size: Number(found.get("size")) > 0 ? SIZE : 0,
    first,
    end: Math.max(first + 1, number("last", 1, STEPS, DEFAULTS.end)),
  };
}

// --- showing ---

/** How many states of the path are shown: on a new map, it grows. */
const grown = () => (CALM.matches ? Infinity : ((performance.now() - opened) * STEPS) / GROW_MS);

function grow() {
  if (grown() > STEPS) return show();
  draw();
  requestAnimationFrame(grow);
}

function show() {
  const { start, digit, size, first, end } = state;
  const { origin, origin: { unpushed } } = map;
  for (const node of all(".chosen")) node.textContent = named(digit);
  for (const node of all(".unpushed")) node.textContent = unpushed === undefined ? "…" : named(unpushed);
  $("source").textContent = origin.isDrawing ? "drawing" : "noise";
  for (const input of all("#digits input")) {
    input.checked = Number(input.value) === digit;
    input.disabled = Number(input.value) === unpushed && !input.checked;
  }
  $(origin.isDrawing ? "from-drawing" : "from-noise").checked = true;
  $("pad").hidden = !origin.isDrawing;
  $("equal").checked = size > 0;
  $("sweep").textContent = sweeping ? "Stop" : "Sweep";
  $("sweep").disabled = map.isPointless || origin.isEmpty;
  $("call").textContent = (map.isSwept && swept(map)) || "Drag the handles.";
  $("from").textContent = first + 1;
  showTrack(first, end, origin.earliest);
  moveCursor(first, end);
  draw();
  showResult();
  showTasks();
  showMapWords();
  if (typeof start === "object") showDrawing();
}

/** Draw the fork. */
function draw() {
  const { start, first, end } = state;
  const { origin, isPointless } = map;
  const upTo = ({ heights, ...path }) => ({ ...path, heights: heights.slice(0, 1 + Math.floor(grown())) });
  const path = isPointless ? null : current();
  const others = map.known((other) => other.heights && other.first === first && other.end !== end);
  const picture = origin.isDrawing ? null : grays(new Noise(start).image(), 2);
  drawFork({ first, end, earliest: origin.earliest, noise: picture, path: path && upTo(path), alone: map.alone, others });
}

/** The result, and what it means, when its path is there. */
function showResult() {
  const path = current();
  const isThere = map.isPointless || map.origin.isEmpty || (path?.kind && grown() > STEPS);
  const [headline, reason] = isThere ? sentences(path, map) : ["…", ""];
  for (const node of all(".headline")) node.textContent = headline;
  $("reason").textContent = reason;
  $("fork").setAttribute("aria-label", `The path to a digit, pushed ${pushedSteps(state)}. ${headline}`);
  const isShown = isThere && !map.isPointless && path?.kind;
  document.querySelector("main").className = isShown ? path.kind : "waiting";
  $("opinions").textContent = isShown ? opinions(path) : "";
  $("hint").textContent = isShown && !sweeping ? hint(path, map) : "";
  if (!isShown) return;
  for (const canvas of all(".result")) drawPicture(canvas, path.guesses[STEPS]);
  const [height, size] = [$("fork").clientHeight, $("result").offsetHeight];
  $("result").style.top = `${Math.max(0, Math.min(height - size, endOf(path) - size / 2))}px`;
  if (resting && !sweeping && told !== path) {
    told = path;
    $("announcement").textContent = `${headline} ${reason}`;
  }
}

function showTasks() {
  for (const [task, { done, note }] of Object.entries(tasks(map))) {
    $(task).classList.toggle("done", done);
    $(task).querySelector("small").textContent = note;
  }
}

/** What all pushes of the map show, next to those with the other scale. */
function showMapWords() {
  for (const [kind, number] of Object.entries(counts(map))) {
    $(`count-${kind}`).textContent = number;
    $(`count-${kind}`).parentElement.hidden = number === 0;
  }
  const [known, total] = [map.known(({ kind }) => kind).length, map.windows.length];
  $("total").textContent = total;
  $("progress").textContent = known < total && !map.isPointless ? `${known} of ${total} pushes computed …` : "";
  for (const row of all("#sizes tbody tr")) {
    const other = findMap({ ...state, size: Number(row.dataset.size) && SIZE });
    ["target", "broken"].forEach((kind, i) => (row.cells[1 + i].textContent = (other && stepsAlone(other, kind)) ?? "…"));
    row.classList.toggle("this", other === map);
  }
}

// --- inside one step ---

/** Look into the step before a picture of the path. */
function look(k) {
  $("inside").hidden = true;
  looked = k - 1 === looked ? null : Math.max(map.origin.earliest, k - 1);
  start();
}

function showLook({ k, before, gradient, after }) {
  if (k !== looked) return;
  drawPicture($("before"), before);
  drawPicture($("gradient"), gradient, blueAndOrange());
  drawPicture($("after"), after);
  $("step").textContent = k + 1;
  $("is-pushed").textContent = state.first <= k && k < state.end ? "" : ", not pushed";
  $("inside").hidden = false;
}

// --- changing the state ---

function choose(first, end) {
  [resting, opened] = [false, -Infinity];
  if (first !== state.first || end !== state.end) update({ first, end });
  else show();
}

function release() {
  resting = true;
  map.tried.add(`${state.first},${state.end}`);
  show();
}

/** Push one step after the other, until the visitor changes something. */
async function sweep() {
  const mine = (sweeping = sweeping ? null : {});
  opened = -Infinity;
  for (let first = map.origin.earliest; mine && sweeping === mine && first < STEPS; first++) {
    update({ first, end: first + 1 });
    const there = { ...state };
    do {
      await new Promise((resolve) => setTimeout(resolve, SWEEP_MS));
      const isThere = Object.keys(there).every((key) => there[key] === state[key]);
      if (sweeping === mine && !isThere) sweeping = null;
    } while (sweeping === mine && !current()?.kind);
  }
  if (mine && sweeping === mine) [map.isSwept, sweeping] = [true, null];
  show();
}

function listen() {
  listenToTrack(choose, release);
  listenToMap((first, end) => {
    choose(first, end);
    release();
  });
  listenToFork(look);
  $("digits").addEventListener("change", (event) => update({ digit: Number(event.target.value) }));
  $("equal").addEventListener("change", () => update({ size: $("equal").checked ? SIZE : 0 }));
  $("sweep").addEventListener("click", sweep);
  const lastNoise = () => ({ ...(map.origin.isDrawing ? (noise ?? DEFAULTS) : state), size: state.size });
  $("from-noise").addEventListener("change", () => update(lastNoise()));
  $("noise").addEventListener("click", () => update({ ...lastNoise(), start: (lastNoise().start + 1) % NOISES }));
  const draw = () => update({ start: drawing });
  $("from-drawing").addEventListener("change", () => update({ start: drawing, first: 0, end: STEPS }));
  listenToDrawing(draw);
  $("clear").addEventListener("click", () => {
    clearDrawing();
    draw();
  });
  addEventListener("popstate", () => {
    waiting = null;
    update(readAddress(), false);
    history.replaceState(null, "", address(state));
  });
  const redraw = () => {
    drawMap(map);
    show();
  };
  addEventListener("resize", redraw);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  addEventListener("online", start);
  addEventListener("keydown", ({ key }) => {
    if (key === "Escape" && looked !== null) look(looked + 1);
  });
  for (const type of ["pointerup", "keyup"]) addEventListener(type, start, { once: true }); // the networks are loaded then
}

// --- the first seconds ---

async function begin() {
  await loadShipped().catch(() => null); // it is computed instead
  update(readAddress(), false);
  if (location.hash) history.replaceState(null, "", address(state));
  say("");
  listen();
}

/** On GitHub Pages, which publishes only this folder, links to other files lead to the repository. */
function linkToRepository() {
  const [owner, ...host] = location.hostname.split(".");
  if (host.join(".") !== "github.io") return;
  const tree = `https://github.com/${owner}/${location.pathname.split("/")[1]}/tree/main/`;
  for (const link of all("a[data-path]")) link.href = tree + link.dataset.path;
}

linkToRepository();
for (let digit = 0; digit < 10; digit++) {
  $("digits").insertAdjacentHTML("beforeend", `<label><input type="radio" name="digit" value="${digit}"><span>${digit}</span></label>`);
}
begin().catch((error) => say(`The page cannot start: ${error.message}`));
