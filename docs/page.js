// The page: its state, and what follows from it.

import { STARTS, answer, drawChart, opinions } from "./chart.js";
import { DIGIT, NOISE, START, STEPS } from "./constants.js";
import { findFilms, loadFirstFilms, order, revealJudge, startWorkers } from "./films.js";
import { $, drawPicture, ink } from "./pictures.js";
import { FIRST_COLUMNS, cellBeside, cellUnder, columns, drawSheet } from "./sheet.js";
import { drawStage, startAt, stepAt } from "./stage.js";
import { closing, conclusion, likeliest, measured, named, sentence } from "./words.js";

const NOISES = 1000;
const DIGITS = [...Array(10).keys()];
const STRENGTHS = { gentle: 0.1, normal: 1, brutal: 10 };
const [PLAY_MS, FORK_MS, UNROLL_MS, SPEAK_MS] = [1300, 70, 900, 700];
const CALM = matchMedia("(prefers-reduced-motion: reduce)");

// The number of the noise, the digit toward which the steps from `start` on are pushed (none if it is STEPS),
// and the strength of the push. Only `update` changes it.
const state = {};
const shown = { alone: [], pushed: [], fork: 0 }; // on the screen until it is replaced
let seen = null; // the place whose result is on the screen, or null while it is computed or played
let [looked, played] = [null, -Infinity]; // the step under the pointer; when the films began to play
let revealed = Infinity; // when the judge appeared
let [isSheetInView, isSheetOld, isDragging, isReady] = [false, true, false, false];
let [error, missing] = ["", ""]; // of the workers; of the judge
let [frame, speaking] = [0, 0]; // of the next drawing, and of the next words of the screen reader

/** Change the state. `isNew`: as a new entry of the history. `isPlayed`: the films run again. */
function update(changes, { isNew = false, isPlayed = false } = {}) {
  Object.assign(state, changes);
  if (isPlayed) played = performance.now();
  askForFilms();
  show(true);
  writeAddress(isNew);
}

/** This film first, then the chart, and if the sheet is in view, some of its columns, and the others. */
function askForFilms() {
  const place = (digit, start) => ({ ...state, digit, start, isWhole: digit === state.digit });
  const cells = (starts, digits) => starts.flatMap((start) => digits.map((digit) => place(digit, start)));
  const row = cells([state.start, STEPS, ...FIRST_COLUMNS, ...STARTS], [state.digit]);
  order([...row, ...(isSheetInView ? cells([...FIRST_COLUMNS, ...columns()], DIGITS) : [])]);
}

// --- the address ---

function writeAddress(isNew) {
  const start = state.start === STEPS ? "never" : state.start + 1;
  const address = `#${new URLSearchParams({ ...state, start })}`;
  try {
    history[isNew ? "pushState" : "replaceState"](null, "", address);
  } catch {
    // Safari refuses more than 100 changes in 30 seconds; the next one brings the address up to date
  }
}

/** The state in the address, with defaults for what is missing or invalid. */
function readAddress() {
  const found = new URLSearchParams(location.hash.slice(1));
  const choose = (name, all, standard) => all.find((value) => `${value}` === found.get(name)) ?? standard;
  return {
    noise: choose("noise", [...Array(NOISES).keys()], NOISE),
    digit: choose("digit", DIGITS, DIGIT),
    start: found.get("start") === "never" ? STEPS : choose("start", STARTS.slice(1), START + 1) - 1,
    strength: choose("strength", Object.values(STRENGTHS), 1),
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
  const [{ start }, films] = [state, findFilms(state)];
  const far = start - shown.fork;
  const isThere = CALM.matches || Math.abs(far) < 0.02;
  shown.fork = isThere ? start : shown.fork + far * (1 - Math.exp(-16 / FORK_MS));
  const isPlaying = !CALM.matches && now < played + PLAY_MS;
  const isUnrolled = CALM.matches || now > revealed + UNROLL_MS;
  const unrolled = isUnrolled ? 1 : Math.max(0, (now - revealed) / UNROLL_MS);
  for (const name of ["alone", "pushed"]) {
    const { guesses } = films[name];
    const head = Math.min(guesses.findLastIndex(Boolean), Math.floor(((now - played) * STEPS) / PLAY_MS));
    films[name].step = looked ?? (isPlaying ? Math.max(0, head) : STEPS);
    guesses.forEach((guess, k) => (shown[name][k] = guess ?? shown[name][k]));
    showResult(name, films[name]);
  }
  const isSeen = start < STEPS && films.pushed.ps[STEPS] && films.pushed.step === STEPS && !isPlaying;
  seen = isSeen ? { ...state } : null;
  for (const id of ["you", "sentence"]) $(id).classList.toggle("old", !films.pushed.ps[STEPS] || isPlaying);
  const all = opinions(state);
  showControls(films.pushed, all);
  showWords(all);
  const marked = looked ?? (isPlaying ? films.pushed.step : null);
  drawChart(state, all, drawStage({ films, shown, start, fork: shown.fork, looked: marked }), unrolled);
  if (isSheetOld) showSheet();
  return shown.fork !== start || isPlaying || (revealed < Infinity && !isUnrolled);
}

/** Show the frame before a step, or the result. */
function showResult(name, { guesses, ps, step }) {
  const [canvas, isPushed] = [$(`result-${name}`), name === "pushed" && step > state.start];
  const picture = shown[name][step] ?? shown[name][STEPS];
  if (picture) drawPicture(canvas, picture, ink(isPushed ? "--tint" : "--frame"));
  canvas.classList.toggle("pushed", isPushed);
  canvas.classList.toggle("old", !guesses[step]);
  if (ps[STEPS]) canvas.ariaLabel = `Result: the classifier sees ${named(likeliest(ps[STEPS]))}`;
}

function showControls({ ps, step }, all) {
  const { digit, start, strength } = state;
  $("start").value = start + 1;
  $("start").ariaValueText = start === STEPS ? "never" : `${start + 1} of ${STEPS}`;
  $("start-text").textContent = start === STEPS ? "" : `start pushing at step ${start + 1}`;
  document.querySelector(`#strengths [value="${strength}"]`).checked = true;
  const [p, q] = [ps[step] ?? ps[STEPS], step === STEPS && all[start].q];
  [...$("digits").children].forEach((label, y) => {
    if (p) label.style.setProperty("--p", p[y]);
    label.style.setProperty("--q", q ? q[y] : 0);
    label.firstChild.checked = y === digit;
  });
}

function showWords(all) {
  const { digit, start } = state;
  const { p, q, you } = all[start];
  const isHidden = revealed === Infinity;
  for (const node of document.querySelectorAll(".target")) node.textContent = named(digit);
  [$("yes").ariaPressed, $("no").ariaPressed] = [you === true, you === false];
  [$("yes").ariaDisabled, $("no").ariaDisabled] = [!seen, !seen];
  $("you").ariaLabel = `Do you see ${named(digit)}?`;
  for (const id of ["yes", "no"]) $(id).style.visibility = start === STEPS ? "hidden" : "";
  $("judge").disabled = !isHidden;
  $("judge").textContent = `${isHidden ? "Ask a" : "The"} judge: a classifier that never pushed`;
  for (const id of ["key", "tinted", "measured"]) $(id).hidden = isHidden;
  $("tag-pushed").textContent = start < STEPS ? `pushed toward ${named(digit)}` : "never pushed";
  $("tag-pushed").classList.toggle("orange", start < STEPS);
  $("films").ariaLabel = `Two films, which are the same up to frame ${start + 1}`;
  const words = { closing: closing(state, all) };
  if (p) words.sentence = sentence(state, p, q, all.at(-1).q ?? all.at(-1).p);
  for (const id in words) if (words[id] !== shown[id]) $(id).innerHTML = shown[id] = words[id];
  if (p) speak(`${Object.values(state)}${you}${isHidden}`);
  const failure = `The page cannot compute this: ${error}. It will try again after your next action.`;
  const waiting = !p && !isReady ? "Loading the networks …" : "";
  $("status").textContent = error ? failure : missing ? `The judge is missing: ${missing}.` : waiting;
}

/** Let the screen reader say what is seen, once nothing has changed for a moment. */
function speak(about) {
  if (about === shown.about) return;
  shown.about = about;
  clearTimeout(speaking);
  speaking = setTimeout(() => {
    const step = state.start < STEPS ? `Pushed from step ${state.start + 1}: ` : "";
    const words = `${step}${$("sentence").textContent} ${$("closing").textContent}`;
    $("spoken").textContent = words === $("spoken").textContent ? `${words}\u00a0` : words; // say it again
  }, SPEAK_MS);
}

function showSheet() {
  const [known, all] = [drawSheet(state), 10 * columns().length];
  isSheetOld = false;
  $("progress").textContent = known.length < all ? `${known.length} of ${all} are there.` : "";
  $("conclusion").textContent = conclusion(known);
}

// --- what visitors do ---

const choices = (name, all) => all.map(([words, value]) => `<label><input type="radio" name="${name}"
  value="${value}"><i></i><span>${words}</span></label>`).join("");
$("digits").innerHTML = choices("digit", DIGITS.map((y) => [y, y]));
$("strengths").innerHTML = choices("strength", Object.entries(STRENGTHS));

$("digits").addEventListener("change", ({ target }) => { // arrow keys pass many digits
  update({ digit: Number(target.value) }, { isNew: !target.matches(":focus-visible"), isPlayed: true });
});
$("strengths").addEventListener("change", ({ target }) => {
  update({ strength: Number(target.value) }, { isPlayed: true });
});
$("start").addEventListener("input", ({ target }) => update({ start: target.value - 1 }));
$("chart").addEventListener("click", (event) => update({ start: startAt(event, state.start, true) }));

function reveal() {
  if (revealed < Infinity) return;
  revealed = performance.now();
  revealJudge();
  if (document.activeElement === $("judge")) $("yes").focus();
  show(true);
}
$("judge").addEventListener("click", reveal);
for (const id of ["yes", "no"]) {
  $(id).addEventListener("click", () => {
    if (!seen) return;
    answer(seen, id === "yes");
    if (id === "no") reveal();
    show();
  });
}

$("new").addEventListener("click", () => {
  update({ noise: Math.floor(NOISES * Math.random()) }, { isNew: true, isPlayed: true });
});

const look = (step) => step === looked || show(void (looked = step));
$("films").addEventListener("pointerdown", (event) => {
  isDragging = startAt(event, state.start) !== null;
  if (isDragging) $("films").setPointerCapture(event.pointerId);
});
$("films").addEventListener("pointermove", (event) => {
  const isHeld = $("films").hasPointerCapture(event.pointerId);
  const start = startAt(event, state.start, isHeld);
  $("films").classList.toggle("fork", start !== null);
  look(start === null ? stepAt(event, state.start) : null);
  if (isHeld && start !== state.start) update({ start });
});
$("films").addEventListener("pointerleave", () => look(null));
$("films").addEventListener("click", (event) => {
  if (!isDragging) update({ start: stepAt(event, state.start) ?? state.start });
  look(null); // show the result
});

/** Show the film of a cell of the sheet. */
function visit(cell) {
  update(cell, { isNew: true, isPlayed: true });
  scrollTo({ top: 0, behavior: CALM.matches ? "auto" : "smooth" });
}
$("sheet").addEventListener("click", (event) => {
  const cell = cellUnder(event);
  if (cell) visit(cell);
});
$("sheet").addEventListener("keydown", (event) => {
  if (event.key === "Enter") {
    $("start").focus({ preventScroll: true });
    return visit({});
  }
  if (!event.key.startsWith("Arrow")) return;
  event.preventDefault(); // do not scroll
  update(cellBeside(state, event.key) ?? {});
});

addEventListener("popstate", () => update(readAddress()));
addEventListener("resize", () => show(true));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => show(true));

if (location.hostname.endsWith(".github.io")) { // links to files lead to the repository
  const [user, name] = [location.hostname.split(".")[0], location.pathname.split("/")[1]];
  for (const link of document.querySelectorAll("[href^='../']")) {
    link.href = `https://github.com/${user}/${name}/tree/main/${link.getAttribute("href").slice(3)}`;
  }
}

shown.fork = Object.assign(state, readAddress()).start;
await loadFirstFilms();
played = performance.now(); // the films run once
show(true);
startWorkers((told) => {
  error = told.error ?? "";
  missing ||= told.missing;
  isReady ||= told.isResult !== undefined;
  show(told.isResult);
});
new IntersectionObserver(([entry]) => {
  isSheetInView = entry.isIntersecting;
  askForFilms();
}).observe($("sheet"));
const count = await fetch("count.json").then((response) => response.json()).catch(() => null);
if (count) $("measured").textContent = measured(count);
