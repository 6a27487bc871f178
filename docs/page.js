// The page: its settings, and what it shows of the current push.

import { drawing, isEmpty, listenToDrawing, showDrawing } from "./drawing.js";
import { drawFork, endOf } from "./fork.js";
import { drawCell, drawMap, listenToMap, moveCursor } from "./map.js";
import { PushMap, compute, hurry, loadShipped, lookInside, startWorkers } from "./paths.js";
import { drawPicture } from "./pictures.js";
import { Noise, SCALES, STEPS, TIMES, grays } from "./sampler.js";
import { showStep } from "./step.js";
import { listenToTrack, showTrack } from "./track.js";
import { completed, counts, finding, isDamaged, likeliest, named, pushedSteps, sentences, short } from "./words.js";

const NOISES = 1000;
const [GROW_MS, MOVE_MS] = [800, 150]; // how long a path grows, on a new map, and how long it moves to another one
const CACHED = 12; // maps
const CALM = matchMedia("(prefers-reduced-motion: reduce)");

const $ = (id) => document.getElementById(id);
const all = (selector) => [...document.querySelectorAll(selector)];
const defaults = { push: "growing", strength: 0, a: 0, b: 9 }; // with the noise and digit of the shipped map
const settings = {}; // strength is a power of ten; steps a to b - 1 are pushed
const maps = new Map(); // settings -> PushMap
let map = null; // the current one
let shipped = null; // the one that is part of the page
let drawn = null; // the visitor's drawing, 784 numbers, in place of the noise
let heights = []; // of the path as it is drawn now
let looked = 10; // the step into which the page looks
let looking = false; // whether the visitor can see that
let moves = 0; // of the path
let resting = true; // whether no handle is being moved
let told = null; // the path that a screen reader knows
let before = null; // the push that the page has replaced by one of its own

const current = () => map.get(settings.a, settings.b);

// --- maps ---

/** Open the map of the settings. What is not known of it is computed. */
function openMap() {
  const { noise, digit, push, strength } = settings;
  const name = `${[noise, digit, push, strength]}`;
  map = (!drawn && maps.get(name)) || new PushMap({ noise, digit, push, strength }, shipped.threshold, drawn);
  if (!drawn) {
    maps.set(name, map);
    map.unpushed ??= [...maps.values()].find((other) => other.settings.noise === noise && other.unpushed !== undefined)?.unpushed;
  }
  if (maps.size > CACHED) maps.delete([...maps.keys()][1]); // the first is the shipped one
  if (map.unpushed === digit) return chooseAnotherDigit();
  settings.a = Math.max(map.first, settings.a);
  settings.b = Math.max(settings.a + 1, settings.b);
  for (const task of all("#tasks li")) {
    task.classList.remove("done");
    task.querySelector("small").textContent = "";
  }
  heights = [];
  drawMap(map.pushes());
  if (!map.isComplete()) start();
  showSettings();
  show();
}

/** Start the workers, once, and let them compute what the map lacks. */
function start() {
  startWorkers(receive, showLook, (message) => say(`The page cannot compute this: ${message}`));
  compute(map, settings.a, settings.b);
}

/** A push toward the digit that appears anyway shows nothing. */
function chooseAnotherDigit() {
  settings.digit = (map.unpushed + 1) % 10;
  openMap();
}

function receive(path) {
  const its = [map, ...maps.values()].find(({ id }) => id === path.id);
  const known = its?.add(path);
  if (!known || its !== map) return;
  if (map.unpushed === settings.digit) {
    chooseAnotherDigit();
    return history.replaceState(null, "", address());
  }
  if (known.p) drawCell(known);
  if (known.b === 0) showSettings(); // now the unpushed digit is known
  if (known === current() || known.b === 0) show();
  else if (known.a === settings.a) draw();
  tell(); // with more results, it can be certain which push is the shortest
  showCounts();
}

// --- showing ---

/** Show the settings of the map, and what is known of it. */
function showSettings() {
  const { digit } = settings;
  for (const node of all(".chosen")) node.textContent = named(digit);
  for (const node of all(".unpushed")) node.textContent = map.unpushed === undefined ? "…" : named(map.unpushed);
  $("source").textContent = drawn ? "drawing" : "noise";
  for (const input of all("#digits input")) {
    input.checked = Number(input.value) === digit;
    input.disabled = Number(input.value) === map.unpushed;
  }
  $("strength").value = settings.strength;
  $("times").textContent = `× ${short(10 ** settings.strength)}`;
  $("constant").checked = settings.push === "constant";
  for (const node of all("[data-scale]")) node.textContent = short(SCALES.growing(TIMES[node.dataset.scale - 1]));
  $("constant-scale").textContent = SCALES.constant();
  showCounts();
}

/** Show the current push: its path, result, and verdict. */
function show() {
  const { a, b } = settings;
  showTrack(a, b, map.first);
  moveCursor(a, b);
  $("start").textContent = a + 1;
  showWords();
  movePath();
  look();
}

function showWords() {
  const { a, b } = settings;
  const path = current();
  const [headline, reason] = path?.kind ? sentences(path, map) : ["…", ""];
  for (const node of all(".headline")) node.textContent = headline;
  $("reason").textContent = reason;
  $("fork").setAttribute("aria-label", `The path from noise to a digit, pushed ${pushedSteps(a, b)}. ${headline}`);
  if (path?.kind) {
    showMeters(path);
    tell();
  }
  document.querySelector("main").className = path?.kind ?? (path?.p ? "unjudged" : "waiting");
}

/** What both networks say about the result. */
function showMeters(path) {
  const { p, surprise } = path;
  const digit = likeliest(p);
  $("classifier").textContent = `“${named(digit)}, ${Math.round(100 * p[digit])}%”`;
  $("sure").style.width = `${100 * p[digit]}%`;
  $("model").textContent = isDamaged(path, map) ? "“I would hardly draw this”" : "“I could have drawn this”";
  $("likely").style.width = `${Math.max(3, 100 - (50 * surprise) / map.threshold)}%`; // half at the threshold
}

function showTasks(path) {
  for (const [task, note] of Object.entries(completed(path, map))) {
    if (!note || $(task).matches(".done")) continue;
    $(task).classList.add("done");
    $(task).querySelector("small").textContent = note;
  }
}

/** How many pushes have each result, and how many are still to be computed. */
function showCounts() {
  for (const [kind, number] of Object.entries(counts(map))) $(`count-${kind}`).textContent = number;
  const [done, total] = [map.pushes(({ kind }) => kind).length, map.windows.length - 1];
  $("total").textContent = total;
  $("first").textContent = map.first + 1;
  $("finding").textContent = finding(map);
  $("progress").textContent = done < total ? `${done} of ${total} pushes computed …` : "";
}

/** Move the drawn path to the current one, or let it grow; when it has arrived, show its result. */
function movePath() {
  const [from, to, began, move] = [heights, current()?.heights ?? [], performance.now(), (moves += 1)];
  const frame = () => {
    if (move !== moves) return; // there is a newer one
    const grows = from.length === 0;
    const left = CALM.matches ? 0 : Math.max(0, 1 - (performance.now() - began) / (grows ? GROW_MS : MOVE_MS));
    if (grows) heights = to.slice(0, Math.round(to.length * (1 - left)));
    else heights = to.map((value, k) => value + ((from[k] ?? value) - value) * left ** 2);
    draw();
    if (left > 0) requestAnimationFrame(frame);
    else showResult();
  };
  for (const node of all(".result")) node.classList.add("moving");
  frame();
}

/** Draw the fork, with the path where it is now. */
function draw() {
  const { a, b, noise } = settings;
  const path = current();
  const others = map.pushes(({ heights }) => heights).filter((other) => other.a === a && other.b !== b);
  const picture = drawn ? grays(drawn) : grays(new Noise(noise).image(), 2);
  drawFork({ a, b, first: map.first, noise: picture, path: path && { ...path, heights }, alone: map.alone, others });
}

function showResult() {
  const path = current();
  if (!path?.p) return;
  for (const canvas of all(".result")) {
    drawPicture(canvas, path.guesses[STEPS]);
    canvas.classList.remove("moving");
  }
  const [height, size] = [$("fork").clientHeight, $("result").offsetHeight];
  const top = endOf(path) - size / 2;
  $("result").style.top = `${Math.max(0, Math.min(height - size, top))}px`;
}

const say = (text) => ($("status").textContent = text);

/** When the handles rest and the result is known: check the tasks, and tell a screen reader about the push. */
function tell() {
  const path = current();
  if (!resting || !path?.kind) return;
  showTasks(path);
  if (told !== path) $("announcement").textContent = `${$("headline").textContent} ${$("reason").textContent}`;
  told = path;
}

function release() {
  resting = true;
  tell();
}

// --- inside one step ---

/** Look into a step that is pushed, if the visitor can see it. */
function look() {
  const { a, b } = settings;
  looked = Math.max(a, Math.min(looked, b - 1));
  Object.assign($("look"), { min: a + 1, max: b, value: looked + 1, disabled: b - a === 1 });
  if (!looking) return;
  start();
  lookInside(map, a, b, looked);
}

const showLook = (values) => values.id === map.id && values.k === looked && showStep(values);

// --- changing the push ---

function choose(a, b) {
  a = Math.max(map.first, Math.min(a, STEPS - 1));
  b = Math.max(a + 1, Math.min(b, STEPS));
  if (a === settings.a && b === settings.b) return showTrack(a, b, map.first);
  Object.assign(settings, { a, b });
  history.replaceState(null, "", address());
  if (!current()?.p) hurry(map, a, b);
  show();
}

/** Change settings that need another map. */
function change(changes) {
  Object.assign(settings, changes);
  openMap();
}

/** Change settings and the push, until `changeBack`. */
function changeForNow(changes) {
  before ??= { a: settings.a, b: settings.b };
  change(changes);
}

function changeBack(changes) {
  change({ ...changes, ...before });
  before = null;
}

function forgetDrawing() {
  drawing.fill(-1);
  showDrawing();
  drawn = null;
}

function listen() {
  const move = (a, b) => {
    resting = false;
    choose(a, b);
  };
  listenToTrack(move, release);
  listenToMap(choose);
  $("digits").addEventListener("change", (event) => {
    change({ digit: Number(event.target.value) });
    remember();
  });
  $("noise").addEventListener("click", () => {
    forgetDrawing();
    change({ noise: (settings.noise + 1) % NOISES });
    remember();
  });
  $("constant").addEventListener("change", () => {
    change({ push: $("constant").checked ? "constant" : "growing" });
    remember();
  });
  $("strength").addEventListener("input", () => change({ strength: Number($("strength").value) }));
  $("strength").addEventListener("change", remember);
  for (const button of all("[data-strength]")) {
    button.addEventListener("click", () => {
      const [strength, from, until] = ["strength", "from", "until"].map((name) => Number(button.dataset[name]));
      if (from) changeForNow({ strength, a: from, b: until });
      else changeBack({ strength });
      remember();
    });
  }
  $("look").addEventListener("input", () => {
    looked = $("look").value - 1;
    look();
  });
  new IntersectionObserver(([{ isIntersecting }]) => {
    looking = isIntersecting;
    look();
  }).observe($("code"));
  listenToDrawing(() => {
    drawn = isEmpty() ? null : drawing.slice();
    changeForNow({ a: 12, b: STEPS });
  });
  $("clear").addEventListener("click", () => {
    forgetDrawing();
    changeBack({});
  });
  addEventListener("popstate", () => {
    forgetDrawing();
    change(readAddress());
  });
  const redraw = () => {
    drawMap(map.pushes());
    show();
    showStep();
    showDrawing();
  };
  addEventListener("resize", redraw);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  for (const type of ["pointerup", "keyup"]) addEventListener(type, start, { once: true });
}

// --- the address ---

function address() {
  const { noise, digit, push, strength, a, b } = settings;
  return `#${new URLSearchParams({ noise, digit, push, strength, from: a + 1, until: b })}`;
}

/** Put the settings into the address. Going back in the browser opens the map before. */
function remember() {
  if (address() !== location.hash) history.pushState(null, "", address());
}

/** The settings in the address, with defaults for those that are missing or invalid. */
function readAddress() {
  const found = new URLSearchParams(location.hash.slice(1));
  const number = (name, standard, least, most, unit = 1) => {
    const value = parseFloat(found.get(name));
    return least <= value && value <= most && Number.isInteger(value / unit) ? value : standard;
  };
  const a = number("from", defaults.a + 1, 1, STEPS) - 1;
  return {
    noise: number("noise", defaults.noise, 0, NOISES - 1),
    digit: number("digit", defaults.digit, 0, 9),
    push: found.get("push") === "constant" ? "constant" : "growing",
    strength: number("strength", defaults.strength, -1, 3, 0.25),
    a,
    b: Math.max(a + 1, number("until", defaults.b, 1, STEPS)),
  };
}

// --- the first seconds ---

async function begin() {
  shipped = await loadShipped();
  const { noise, digit, push, strength } = shipped.settings;
  maps.set(`${[noise, digit, push, strength]}`, shipped);
  Object.assign(defaults, { noise, digit });
  Object.assign(settings, readAddress());
  say("");
  listen();
  openMap();
  if (location.hash) history.replaceState(null, "", address());
}

/** On GitHub Pages, which publishes only this folder, links to other files lead to the repository. */
function linkToRepository() {
  const [owner, ...host] = location.hostname.split(".");
  if (host.join(".") !== "github.io") return;
  const tree = `https://github.com/${owner}/${location.pathname.split("/")[1]}/tree/main/`;
  for (const link of all("a[data-path]")) link.href = tree + link.dataset.path;
}

linkToRepository();
showDrawing();
begin().catch((error) => say(`The page cannot start: ${error.message}`));
