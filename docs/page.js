// The page: its settings, the runs that the worker makes, and the story.

import { HIGHEST, STEPS, TIMES, frameAt, likeliest, named, paintingOf, strengthOf } from "./bars.js";
import { drawing, isEmpty, listenToDrawing, showDrawing } from "./drawing.js";
import { CEILING, buildFork, distanceAt, listenToFork, showBars, showBeginning, showBranch, showChosen, showFrame, showShape } from "./fork.js";
import { drawImage, grey } from "./pictures.js";
import { END, Noise, image_seeds } from "./sampler.js";
import { showStep } from "./step.js";

// Where the repository is. GitHub Pages serves docs/ alone, elsewhere it is the folder above.
const PAGES = location.hostname.match(/^(.+)\.github\.io$/);
const REPOSITORY = PAGES ? `https://github.com/${PAGES[1]}/${location.pathname.split("/")[1]}/tree/HEAD/` : "../";
const NOTHING_ABOVE = !PAGES && location.pathname.lastIndexOf("/") === 0; // a server of docs/ alone

const NOISES = 1000; // that can be chosen
const DEFAULTS = { noise: 42, wish: 5, bars: paintingOf("everywhere").join(".") }; // a noise whose ten wishes are clean
const DRAWING_T = 399; // how far a drawing gets noise: enough to change it, too little to forget it
const SAME = 0.05; // a distance at which nobody sees a difference
const CALM = matchMedia("(prefers-reduced-motion: reduce)").matches;
const DIGITS = Array.from({ length: 10 }, (_, digit) => digit);

const $ = (id) => document.getElementById(id);
const all = (selector) => [...document.querySelectorAll(selector)];
const settings = { noise: DEFAULTS.noise, wish: DEFAULTS.wish };
const levels = paintingOf("everywhere"); // of the bars
const ways = { alone: { frames: [], read: null }, pushed: { frames: [], read: null } }; // read: ten p at the end
let drawn = null; // where the ways begin instead of pure noise: {x_0, t, number}
let drawings = 0; // how many there were
let chosen = frameAt(549); // the step that is looked into
let awaited = null; // the button of the story whose branch is being drawn

// --- settings, which are in the address ---

/** Settings as in an address; what is missing there, or not possible, is as by default. */
function setAll(address) {
  const values = new URLSearchParams(address);
  const whole = (text, most) => /^\d+$/.test(text) && Number(text) <= most;
  const value = (name, most) => (whole(values.get(name), most) ? Number(values.get(name)) : DEFAULTS[name]);
  settings.noise = value("noise", NOISES - 1);
  settings.wish = value("wish", 9);
  const bars = (values.get("bars") ?? "").split(".");
  const possible = bars.length === STEPS && bars.every((level) => whole(level, HIGHEST));
  (possible ? bars : DEFAULTS.bars.split(".")).forEach((level, k) => (levels[k] = Number(level)));
}

function writeAddress() {
  const changed = Object.entries({ ...settings, bars: levels.join(".") }).filter(([name, value]) => value !== DEFAULTS[name]);
  history.replaceState(null, "", `#${new URLSearchParams(changed)}`);
}

const seedOf = (noise) => image_seeds(Math.floor(noise / 10), 10)[noise % 10];

function showSettings() {
  $("wish").elements.wish.value = settings.wish;
  for (const node of all(".wish")) node.textContent = named(settings.wish);
  showBars(levels);
}

// --- runs, which the worker makes ---

const worker = new Worker("worker.js", { type: "module" });
const followed = new Map(); // name of a run -> its number, and what is called with each frame
let runs = 0;

/** Begin a run; one of the same name ends. */
function run(name, { noise, wish, bars }, follow) {
  runs += 1;
  followed.set(name, { number: runs, follow });
  worker.postMessage({ name, number: runs, seed: seedOf(noise), y: wish, strengths: bars.map(strengthOf), start: drawn });
}

worker.onmessage = ({ data: { sha256, error, name, number, frame } }) => {
  if (error) return fail(`The networks stopped: ${error}. Reload the page.`);
  if (sha256) {
    $("weights").textContent = Object.entries(sha256).map(([file, hash]) => `${file} ${hash}`).join(", ");
    return say("Starting the networks …");
  }
  if (followed.get(name).number === number) followed.get(name).follow(frame);
};
worker.onerror = () => fail("TensorFlow.js did not load, so nothing can be drawn: docs/vendor/ must hold all its files. Reload the page.");

function fail(message) {
  $("status").textContent = message;
  $("status").classList.add("failed");
}

function say(sentence) {
  if (!$("status").classList.contains("failed")) $("status").textContent = sentence;
}

/** One of both ways, drawn while it is computed; or, where motion is unwelcome, when it is complete. */
function follow(name) {
  const way = ways[name];
  way.read = null;
  const coming = [];
  run(name, { ...settings, bars: name === "alone" ? paintingOf("nowhere") : levels }, (frame) => {
    if (frame.t !== END) {
      const k = frameAt(frame.t);
      coming[k] = frame;
      if (!CALM) show(name, k, frame);
      return;
    }
    if (CALM) coming.forEach((known, k) => show(name, k, known));
    way.read = frame.p;
    if (ways.alone.read && ways.pushed.read) finish();
  });
}

function show(name, k, frame) {
  ways[name].frames[k] = frame;
  showFrame(k, ways);
  showBranch(ways);
  if (name === "alone" && k === firstStep()) showBeginning(frame.x_t, k);
  if (name === "pushed" && k === chosen) lookInside();
}

const firstStep = () => (drawn ? frameAt(drawn.t) : 0);

/** After another push or wish; a button of the story may wait for what becomes of it. */
function push(button = null) {
  awaited = button;
  document.body.classList.add("running");
  showSettings();
  follow("pushed");
}

/** After another noise or drawing: nothing that is in sight holds any more. */
function begin() {
  for (const way of Object.values(ways)) Object.assign(way, { frames: [], read: null });
  TIMES.forEach((_, k) => showFrame(k, ways));
  showBranch(ways);
  showEnds();
  forgetShapes();
  showBeginning(new Noise(seedOf(settings.noise)).image(), firstStep());
  follow("alone");
  push();
}

/** Both ways are known to their ends. */
function finish() {
  document.body.classList.remove("running");
  showEnds();
  lookInside();
  say(verdict());
  if (awaited) record(awaited);
  awaited = null;
}

const isSure = (p) => Math.max(...p) > 0.5;

/** What has become of the noise, in one sentence. */
function verdict() {
  const [left, pushed] = [ways.alone.read, ways.pushed.read];
  const it = drawn ? "your drawing" : "this noise";
  const alone = isSure(left) ? named(likeliest(left)) : "nothing that the guide can read";
  if (levels.every((level) => level === 0)) return `Left alone, ${it} becomes ${alone}.`;
  if (distanceAt(STEPS - 1, ways) < SAME) return `It falls back onto its path: ${alone}, as if left alone.`;
  const end = isSure(pushed) ? `${named(likeliest(pushed))}, says the guide` : "nothing that the guide can read";
  return `It becomes ${end}; left alone, ${alone}.`;
}

/** Beside the end of each way, what the guide reads there. */
function showEnds() {
  const complete = ways.alone.read && ways.pushed.read;
  const d = distanceAt(STEPS - 1, ways) ?? 0;
  for (const [name, { read }] of Object.entries(ways)) {
    const end = $(`end-${name}`);
    end.hidden = !complete || (name === "pushed" && d < SAME); // one picture, one name
    if (end.hidden) continue;
    end.querySelector("b").textContent = isSure(read) ? likeliest(read) : "?";
    end.querySelector("i").textContent = `${Math.floor(100 * Math.max(...read))} %`;
  }
  $("end-pushed").style.setProperty("--d", Math.min(d, CEILING));
  const highest = Math.max(...TIMES.slice(0, 5).map((_, k) => distanceAt(k, ways) ?? 0)); // of the pictures under the remark
  $("magnified").hidden = !complete || highest < SAME || highest > 0.6 * CEILING;
  $("magnified").style.setProperty("--d", highest);
}

// --- one step ---

function choose(k) {
  chosen = k;
  showChosen(k);
  lookInside();
}

/** The pictures of the step that is looked into; there are none before the step where a drawing begins. */
function lookInside() {
  $("look").value = chosen;
  $("look").setAttribute("aria-valuetext", `t = ${TIMES[chosen]}`);
  for (const node of all(".t")) node.textContent = `t = ${TIMES[chosen]}`;
  const frame = ways.pushed.frames[chosen];
  if (frame) showStep(frame, settings.wish);
}

/** The step that carries the branch farthest from its way, once pictures are more than magnified noise. */
function turningPoint() {
  const farther = TIMES.map((t, k) => (t < 850 && levels[k] > 0 ? distanceAt(k, ways) - (distanceAt(k - 1, ways) ?? 0) : 0));
  const largest = Math.max(...farther.map((d) => d || 0));
  return largest > 0 ? farther.indexOf(largest) : chosen;
}

// --- the story ---

/** Paint the bars as a button says. */
function paint(button) {
  paintingOf(button.dataset.bars).forEach((level, k) => (levels[k] = level));
  writeAddress();
  push(button);
}

/** What a button of the story awaited: the branch of a part of the time, or rows of ten. */
function record(button) {
  const shape = button.querySelector("svg");
  if (shape) {
    showShape(shape);
    shape.removeAttribute("hidden");
    const end = button.querySelector("canvas");
    drawImage(end, ways.pushed.frames[STEPS - 1].x_0, grey);
    end.removeAttribute("hidden");
    const back = distanceAt(STEPS - 1, ways) < SAME;
    button.querySelector("em").textContent = back ? "falls back onto its path" : "leaves its path for this";
    if (all("#when svg[hidden]").length === 0) $("decided").hidden = false;
  }
  if (button.dataset.bars === "hardest") {
    $("noises").replaceChildren();
    const ten = Math.floor(settings.noise / 10) * 10;
    const requests = (painting) => DIGITS.map((digit) => ({ noise: ten + digit, wish: settings.wish, bars: paintingOf(painting) }));
    addRow($("noises"), "gently", `ten noises, each asked for ${named(settings.wish)}`, requests("everywhere"));
    addRow($("noises"), "hard", "a thousand times harder", requests("hard"));
    addRow($("noises"), "hardest", "all the way up", requests("hardest"));
  }
}

/** The shapes are of another noise or wish. */
function forgetShapes() {
  for (const picture of all("#when :is(svg, canvas)")) picture.setAttribute("hidden", "");
  for (const words of all("#when em")) words.textContent = "";
}

const emptyRow = () => $("row").content.firstElementChild.cloneNode(true);

/** A row of ten pictures, each the end of a run, beside the bars that made them. Of one name, only the newest goes on. */
function addRow(place, name, label, requests) {
  const row = emptyRow();
  row.classList.add("begun");
  const read = []; // of each picture, whether the guide reads it as asked
  row.querySelector("path").setAttribute("d", requests[0].bars.map((level, k) => `M${k + 0.5} ${HIGHEST}v${-level}`).join(""));
  row.querySelector("figcaption").textContent = label;
  place.append(row);
  row.querySelectorAll("canvas").forEach((canvas, k) => {
    run(`${name} ${k}`, requests[k], ({ t, x_t, x_0, p }) => {
      if (!CALM || t === END) drawImage(canvas, x_0 ?? x_t, grey);
      if (t === END) read.push(likeliest(p) === requests[k].wish);
      if (read.length < requests.length) return;
      row.classList.add("complete");
      row.querySelector("figcaption").textContent = `${label}: the guide reads ${read.filter(Boolean).length} of 10 as asked`;
    });
  });
}

function listenToStory() {
  for (const place of all(".rows")) place.append(emptyRow()); // to be filled
  for (const button of all("[data-bars]")) button.addEventListener("click", () => paint(button));
  $("inside").addEventListener("click", () => choose(turningPoint()));
  $("next").addEventListener("click", () => choose(Math.max(firstStep(), (chosen + 1) % STEPS)));
  $("look").addEventListener("input", () => choose(Number($("look").value)));
  $("ten").addEventListener("click", () => {
    const bars = levels.slice(); // as they are now
    for (const row of all("#wishes .row:not(.complete)")) row.remove(); // it would never be
    while ($("wishes").children.length > 2) $("wishes").firstElementChild.remove();
    addRow($("wishes"), "wish", "ten wishes, 0 to 9", DIGITS.map((wish) => ({ noise: settings.noise, wish, bars })));
  });
  listenToDrawing(() => {
    drawings += 1;
    drawn = isEmpty() ? null : { x_0: drawing.slice(), t: DRAWING_T, number: drawings };
    begin();
  });
  $("clear").addEventListener("click", () => {
    forget();
    begin();
  });
}

/** Begin with pure noise again, and with an empty sheet. */
function forget() {
  drawing.fill(-1);
  showDrawing();
  drawn = null;
}

// --- main ---

function listen() {
  listenToFork(levels, push, writeAddress, choose);
  $("wish").addEventListener("submit", (event) => event.preventDefault());
  $("wish").addEventListener("change", (event) => {
    settings.wish = Number(event.target.value);
    forgetShapes();
    writeAddress();
    push();
  });
  $("noise").addEventListener("click", () => {
    settings.noise = (settings.noise + 1) % NOISES;
    forget(); // a drawing, too
    writeAddress();
    begin();
  });
  $("skip").addEventListener("click", (event) => {
    event.preventDefault(); // the address is for the settings
    $("story").focus();
  });
  addEventListener("hashchange", () => {
    setAll(location.hash.slice(1));
    forget();
    begin();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", lookInside);
  new ResizeObserver(([{ target }]) => { // what has the focus does not hide behind the fork
    document.documentElement.style.setProperty("--top", `${target.offsetHeight}px`);
  }).observe($("top"));
  for (const link of all("a[data-path]")) {
    link.href = REPOSITORY + link.dataset.path;
    if (NOTHING_ABOVE) link.addEventListener("click", (event) => {
      event.preventDefault();
      say("The repository is the folder above docs/.");
    });
  }
}

buildFork();
setAll(location.hash.slice(1));
showDrawing();
listenToStory();
listen();
begin();
