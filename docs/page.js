// The page: its state, and what follows from it.

import { DIGIT, NOISE, STEPS } from "./constants.js";
import { listenToPad, openPad } from "./drawing.js";
import { findFilms, loadFirstFilms, order, startWorkers } from "./films.js";
import { $, drawPicture, ink } from "./pictures.js";
import { FIRST_COLUMNS, cellBeside, cellUnder, columns, drawSheet } from "./sheet.js";
import { NARROW, drawStage, placeSlider, stepAt } from "./stage.js";
import { firstStep, isDrawing } from "./start.js";
import { conclusion, frameNote, likeliest, named, sentence } from "./words.js";

const [START, NOISES, DIGITS] = [8, 1000, [...Array(10).keys()]];
const STRENGTHS = [0.03, 0.06, 0.1, 0.2, 0.3, 0.6, 1, 2, 3, 6, 10];
const [PLAY_MS, FORK_MS, GLIDE_MS, ADDRESS_MS] = [1300, 70, 110, 200];
const CALM = matchMedia("(prefers-reduced-motion: reduce)");

// What the films start from (see start.js), the digit toward which the steps from `start` on are pushed (none
// if it is STEPS), and the strength of the push. Only `update` and `glide` change it.
const state = {};
const shown = { alone: [], pushed: [], fork: 0 }; // on the screen until it is replaced
let [looked, played] = [null, -Infinity]; // the step under the pointer; when the films began to play
let [isSheetInView, isSheetOld] = [false, true];
let [frame, timer] = [0, 0]; // of the next drawing, and of the next change of the address

/** Change the state. `isNew`: as a new entry of the history. `isPlayed`: the films run again. */
function update(changes, { isNew = false, isPlayed = false } = {}) {
  Object.assign(state, changes);
  state.start = Math.max(firstStep(state.from), state.start);
  if (isPlayed) played = performance.now();
  askForFilms();
  show(true);
  writeAddress(isNew);
}

/** This film first, then some columns of the sheet if it is in view, this digit, and the other columns. */
function askForFilms() {
  const place = (digit, start) => ({ ...state, digit, start, isWhole: digit === state.digit });
  const starts = columns(state.from);
  const row = starts.map((start) => place(state.digit, start));
  const cells = (some) => some.flatMap((start) => DIGITS.map((digit) => place(digit, start)));
  const soon = cells(starts.filter((start) => FIRST_COLUMNS.includes(start)));
  const sheet = isSheetInView ? [...soon, ...row, ...cells(starts)] : row;
  order([place(state.digit, state.start), place(state.digit, STEPS), ...sheet]);
}

// --- the address ---

/** Changes wait a little, because some browsers refuse more than 100 in 30 seconds. */
function writeAddress(isNew) {
  const start = state.start === STEPS ? "never" : state.start + 1;
  const address = `#${new URLSearchParams({ ...state, start })}`;
  clearTimeout(timer);
  if (isNew) history.pushState(null, "", address);
  else timer = setTimeout(() => history.replaceState(null, "", address), ADDRESS_MS);
}

/** The state in the address, with defaults for what is missing or invalid. */
function readAddress() {
  const found = new URLSearchParams(location.hash.slice(1));
  const choose = (name, all, standard) => all.find((value) => `${value}` === found.get(name)) ?? standard;
  const drawings = [found.get("from")].filter(isDrawing);
  const steps = [...Array(STEPS + 1).keys()].slice(1);
  return {
    from: choose("from", [...Array(NOISES).keys(), ...drawings].map(String), `${NOISE}`),
    digit: choose("digit", DIGITS, DIGIT),
    start: found.get("start") === "never" ? STEPS : choose("start", steps, START + 1) - 1,
    strength: choose("strength", STRENGTHS, 1),
  };
}

// --- showing ---

function show(isNew) {
  isSheetOld ||= isNew;
  frame ||= requestAnimationFrame((now) => {
    frame = 0;
    if (draw(now)) show();
  });
}

/** Draw the page. Returns whether something still moves. */
function draw(now) {
  const [{ start, from }, films] = [state, findFilms(state)];
  const distance = start - shown.fork;
  const isThere = CALM.matches || Math.abs(distance) < 0.02;
  shown.fork = isThere ? start : shown.fork + distance * (1 - Math.exp(-16 / FORK_MS));
  const isPlaying = !CALM.matches && now < played + PLAY_MS;
  for (const name of ["alone", "pushed"]) {
    const { guesses } = films[name];
    const newest = guesses.findLastIndex((guess) => guess);
    const head = Math.min(newest, Math.floor(((now - played) * STEPS) / PLAY_MS));
    films[name].step = looked ?? (isPlaying ? Math.max(0, head) : STEPS);
    guesses.forEach((guess, k) => (shown[name][k] = guess ?? shown[name][k]));
    showResult(name, films[name]);
  }
  showControls(films.pushed);
  showWords(films);
  const marked = looked ?? (isPlaying ? films.pushed.step : null);
  placeSlider(start, firstStep(from), drawStage({ films, shown, start, fork: shown.fork, looked: marked }));
  if (isSheetOld) showSheet();
  return shown.fork !== start || isPlaying;
}

/** Show the frame before a step, or the result. */
function showResult(name, { guesses, ps, step }) {
  const canvas = $(`result-${name}`);
  const isPushed = name === "pushed" && step > state.start;
  const picture = shown[name][step] ?? shown[name][STEPS];
  if (picture) drawPicture(canvas, picture, ink(isPushed ? "--tint" : "--frame"));
  canvas.classList.toggle("pushed", isPushed);
  canvas.classList.toggle("old", !guesses[step]);
  if (ps[STEPS]) canvas.ariaLabel = `Result: the classifier sees ${named(likeliest(ps[STEPS]))}`;
}

function showControls({ ps, step }) {
  const { digit, start, strength, from } = state;
  const [slider, strengths] = [$("start"), $("strength")];
  Object.assign(slider, { min: firstStep(from) + 1, value: start + 1 });
  slider.ariaValueText = start === STEPS ? "never" : `${start + 1} of ${STEPS}`;
  const words = `start pushing at step ${start + 1}${NARROW.matches ? "" : ` of ${STEPS}`}`;
  $("start-text").textContent = start === STEPS ? "" : words;
  strengths.value = STRENGTHS.indexOf(strength);
  strengths.style.setProperty("--at", `${10 * strengths.value}%`);
  $("strength-text").textContent = strengths.ariaValueText = `×${strength}`;
  const p = ps[step] ?? ps[STEPS];
  [...$("digits").children].forEach((label, y) => {
    if (p) label.style.setProperty("--p", p[y]);
    label.firstChild.checked = y === digit;
  });
}

function showWords({ alone, pushed: { ps } }) {
  const { from, digit, start } = state;
  $("tag-noise").textContent = isDrawing(from) ? "your drawing" : "noise";
  $("tag-pushed").textContent = start < STEPS ? `pushed toward ${named(digit)}` : "never pushed";
  $("tag-pushed").classList.toggle("orange", start < STEPS);
  $("frame-note").textContent = frameNote(from, looked);
  $("films").ariaLabel = `Two films, which are the same up to frame ${start + 1}`;
  $("sentence").classList.toggle("old", !ps[STEPS] || looked !== null);
  const words = ps[STEPS] ? sentence(state, ps[STEPS], alone.ps[STEPS]) : shown.words;
  if (words !== shown.words) $("sentence").innerHTML = shown.words = words;
}

function showSheet() {
  const [known, all] = [drawSheet(state), 10 * columns(state.from).length];
  isSheetOld = false;
  $("progress").textContent = known.length < all ? `${known.length} of ${all} are there.` : "";
  $("conclusion").textContent = conclusion(state, known);
}

// --- what visitors do ---

$("digits").innerHTML = DIGITS.map((y) => `<label><input type="radio" name="digit" value="${y}"><i></i>
  <span>${y}</span></label>`).join("");
$("digits").addEventListener("change", ({ target }) => { // arrow keys pass many digits
  update({ digit: Number(target.value) }, { isNew: !target.matches(":focus-visible"), isPlayed: true });
});
$("start").addEventListener("input", ({ target }) => update({ start: target.value - 1 }));
$("strength").addEventListener("input", ({ target }) => update({ strength: STRENGTHS[target.value] }));
$("new").addEventListener("click", () => {
  update({ from: `${Math.floor(NOISES * Math.random())}` }, { isNew: true, isPlayed: true });
});
$("draw").addEventListener("click", () => openPad(isDrawing(state.from) && state.from));
listenToPad((from) => update({ from }, { isNew: !isDrawing(state.from) }));

function look(step) {
  if (step !== looked) show();
  looked = step;
}
$("films").addEventListener("pointermove", (event) => look(stepAt(event, state.start)));
$("films").addEventListener("pointerleave", () => look(null));
$("films").addEventListener("click", (event) => {
  update({ start: stepAt(event, state.start) ?? state.start });
  look(null); // show the result
});
$("sheet").addEventListener("click", (event) => {
  const cell = cellUnder(event, state.from);
  if (!cell) return;
  update(cell, { isNew: true, isPlayed: true });
  scrollTo({ top: 0, behavior: CALM.matches ? "auto" : "smooth" });
});
$("sheet").addEventListener("keydown", (event) => {
  if (!event.key.startsWith("Arrow")) return;
  event.preventDefault(); // do not scroll
  update(cellBeside(state, event.key) ?? {});
});
addEventListener("popstate", () => update(readAddress()));
addEventListener("resize", () => show(true));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => show(true));

/** On the first visit, the start glides to a late step and back, until the visitor does something. */
function glide() {
  if (location.hash || CALM.matches || localStorage.visited) return;
  localStorage.visited = "yes";
  const steps = [...Array(6).fill(0), ...Array(16).keys(), ...Array(12).fill(16)];
  for (let start = 15; start >= START; start--) steps.push(start);
  const gliding = setInterval(() => {
    state.start = steps.shift();
    show(true);
    if (steps.length === 0) clearInterval(gliding);
  }, GLIDE_MS);
  const stop = () => {
    clearInterval(gliding);
    if (steps.splice(0).length > 0) update({}); // remember where it stopped
  };
  for (const name of ["pointerdown", "keydown", "wheel", "popstate"]) addEventListener(name, stop);
}

if (location.hostname.endsWith(".github.io")) { // links to files lead to the repository
  const repository = [location.hostname.split(".")[0], location.pathname.split("/")[1]].join("/");
  for (const link of document.querySelectorAll("[data-path]")) {
    link.href = `https://github.com/${repository}${link.dataset.path && `/blob/main/${link.dataset.path}`}`;
  }
}

Object.assign(state, readAddress());
shown.fork = state.start = Math.max(firstStep(state.from), state.start);
await loadFirstFilms();
if (!findFilms(state).pushed.ps[STEPS]) $("status").textContent = "Loading the networks …";
show(true);
startWorkers((error, isResult) => {
  const words = `The page cannot compute this: ${error}. It will try again after your next action.`;
  $("status").textContent = error ? words : "";
  show(isResult);
});
new IntersectionObserver(([entry]) => {
  isSheetInView = entry.isIntersecting;
  askForFilms();
}).observe($("sheet"));
glide();
