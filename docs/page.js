// The page: its settings, playing, the tour, and what your own drawing becomes.

import { drawing, isEmpty, listenToDrawing, showDrawing } from "./drawing.js";
import { guideOf, loadNetworks } from "./networks.js";
import { drawBars, drawImage, drawImages, grey, makeTiles, wanted } from "./pictures.js";
import { END, Guided, Noise, SAMPLERS, abar, add_noise, draw, gaussian_noise, growing_scale, image_seeds } from "./sampler.js";

// Where the repository is. GitHub Pages serves docs/ alone, elsewhere it is the folder above.
const PAGES = location.hostname.match(/^(.+)\.github\.io$/);
const REPOSITORY = PAGES ? `https://github.com/${PAGES[1]}/${location.pathname.split("/")[1]}/tree/HEAD/` : "../";
const NOTHING_ABOVE = !PAGES && location.pathname.lastIndexOf("/") === 0; // a server of docs/ alone

const COLUMNS = 10;
const READING_TIMES = [0, 200, 400, 600, 800];
const CALM = matchMedia("(prefers-reduced-motion: reduce)").matches;
const FIRST_FRAME_MS = 1500; // of the first run, which is slow, so that it can be followed
const [FIRST_RUN_MS, FRAME_MS] = [300, 140]; // at least, of each step
const range = (n, step = 1) => Array.from({ length: n }, (_, k) => step * k);
const DIGITS = range(10).map(String);
const VALUES = { // name of a control, also in a link -> what it can be set to
  digit: ["0 to 9", ...DIGITS],
  w: [0, 0.25, 0.5, 1, 2, 3, 5, 25, 100, 1000, 10000],
  g: [0, 6, 24, 50, 100],
  low: range(21, 50),
  high: range(21, 50),
  told: ["t", "always 0", "always 500", "always 999"],
  sampler: Object.keys(SAMPLERS),
  steps: [10, 20, 50],
  seed: range(1000),
  second: ["none", ...DIGITS],
  pause: ["end", ...range(20, 50).map((t) => 999 - t)],
  from: range(20, 50).map((t) => 999 - t),
};
const DEFAULTS = { digit: "0 to 9", w: 1, g: 24, low: 0, high: 1000, told: "t", sampler: "sde-dpmsolver++" };
Object.assign(DEFAULTS, { steps: 20, seed: 4, second: "none", pause: "end", from: 449 });

const $ = (id) => document.getElementById(id);
const all = (selector) => [...document.querySelectorAll(selector)];
const main = document.querySelector("main");
const controls = $("settings").elements; // the value of each is a place in VALUES
let networks;
let settings = { ...DEFAULTS };
let fromDrawing = false; // begin with your drawing instead of noise
let guided, plain; // two runs of `draw`, from the same noise, with the guide and without
let frames, plainFrames; // what they yielded
let plainSettings; // those that a run without the guide depends on
let shown = -1; // the frame in sight
let dissolving = []; // timesteps of your drawing in more and more noise, to be seen before the first frame
let playing = false;
let goal = null; // the timestep to play to, after a click ahead on the line
let runs = 0; // how many were begun
let asked = null; // the button of the tour whose answer is awaited
let term = null; // of the equation, lit by the tour
let column = 5; // whose step is drawn large

// --- settings: in the controls, and in the address ---

/** Settings as in a link; what is missing there, or not possible, is as by default. */
function setAll(link) {
  const values = new URLSearchParams(link);
  for (const [name, possible] of Object.entries(VALUES)) {
    settings[name] = possible.find((value) => String(value) === values.get(name)) ?? DEFAULTS[name];
  }
  fromDrawing = false;
  asked = null;
}

/** All settings as by default, and nothing drawn. */
function reset() {
  setAll("");
  clearLook();
  lightUp(null);
  clear();
  begin();
}

/** After a control was changed. What else the tour had set, but the digit and the scale, is as by default again. */
function readControls(name) {
  const read = term === null ? Object.keys(VALUES) : ["digit", "w", name];
  for (const [each, possible] of Object.entries(VALUES)) {
    settings[each] = (read.includes(each) ? possible[controls[each].value] : null) ?? DEFAULTS[each];
  }
  asked = null;
  clearLook();
  if (settings.low > settings.high) [settings.low, settings.high] = [settings.high, settings.low];
}

/** The settings that are not as by default: pairs of a name and a value. */
const changed = () => Object.entries(settings).filter(([name, value]) => value !== DEFAULTS[name]);

function showSettings() {
  for (const [name, possible] of Object.entries(VALUES)) controls[name].value = possible.indexOf(settings[name]);
  const { w, g, low, high, digit } = settings;
  $("w-value").value = w.toLocaleString("en");
  $("g-value").value = g;
  $("from-value").value = `t = ${settings.from}`;
  $("window-value").value = `${low} ≤ t < ${high}`;
  const folded = ["g", "low", "high", "told", "sampler", "steps", "second", "pause"];
  const names = changed().map(([name]) => name).filter((name) => folded.includes(name));
  const words = names.map((name) => ({ g: "growth", low: "guided from", high: "guided to", told: "guide’s t", pause: "stop" })[name] ?? name);
  $("changed").textContent = words.length ? `changed: ${words.join(", ")}` : "";
  $("line").style.setProperty("--from", `${(1000 - high) / 10}%`);
  $("line").style.setProperty("--to", `${(1000 - (w > 0 ? low : high)) / 10}%`);
  const times = range(96, 10).map((k) => 999 - k).filter((t) => low <= t && t < high && w > 0);
  const strengths = times.map(growing_scale(w, g));
  const points = strengths.map((s, k) => `${1000 - times[k]},${Math.max(4, 94 - 20 * Math.log10(s))}`); // logarithmic
  $("strength").setAttribute("points", points.join(" "));
  $("strength-words").textContent = times.length ? `strength ${inWords(strengths[0])} to ${inWords(strengths.at(-1))}` : "";
  all("#x_0 > span").forEach((tile, k) => (tile.dataset.asked = digit === "0 to 9" ? k : digit));
}

function writeAddress() {
  history.replaceState(null, "", `#${new URLSearchParams(changed())}`);
}

/** After any change of the settings. */
function begin() {
  for (const button of all("#tour [data-run]")) button.setAttribute("aria-pressed", button === asked);
  if (asked) for (const node of asked.closest(".stop").querySelectorAll(".answer")) node.hidden = true;
  writeAddress();
  showSettings();
  readDrawing();
  restart();
}

// --- playing ---

/** The digits asked for, (B). */
const digits = () => (settings.digit === "0 to 9" ? range(COLUMNS) : Array(COLUMNS).fill(Number(settings.digit)));

/** What the guide is told instead of t, a number; or null. */
const told = () => (settings.told === "t" ? null : Number(settings.told.replace("always ", "")));

/** p(y | x_t) of all ten digits, as the guide reads them: 10 numbers per image. */
function read({ t, x_t }) {
  return tf.tidy(() => {
    const x = tf.tensor(x_t, [COLUMNS, 28, 28, 1]);
    return tf.softmax(networks.logits(x, tf.fill([COLUMNS], told() ?? Math.max(t, 0)))).dataSync();
  });
}

/** Two new runs, from noise or from your drawing. */
function restart() {
  const { w, g, low, high, sampler, steps, seed, second, from } = settings;
  const scale = growing_scale(w, g, [low, high]);
  const start = fromDrawing ? { x_0: drawing.slice(), t: from } : null;
  const seeds = image_seeds(seed, COLUMNS);
  const guide = guideOf(networks, told(), second === "none" ? null : Number(second));
  guided = draw(new Guided(networks.unet, guide, scale), digits(), seeds, sampler, steps, start);
  frames = [];
  const needed = fromDrawing ? null : `${sampler} ${steps} ${seed}`;
  if (needed === null || needed !== plainSettings) {
    plain = draw(new Guided(networks.unet, null, scale), digits(), seeds, sampler, steps, start);
    plainFrames = [];
  }
  plainSettings = needed;
  dissolving = fromDrawing && !CALM ? [0, 0.25, 0.5, 0.75].map((share) => Math.round(share * from)) : [];
  $("same").textContent = fromDrawing ? "your drawing" : "the same noise";
  $("turned").textContent = second === "none" ? "with the guide" : "turned around";
  $("x_t").classList.toggle("turned", second !== "none");
  $("time").step = 1000 / steps;
  rewind();
}

function rewind() {
  shown = -1;
  runs += 1;
  play(true);
}

function play(yes) {
  playing = yes;
  document.body.classList.toggle("playing", yes);
  if (yes) $("parts").classList.remove("in-order");
  goal = null;
  namePlay();
  $("status").textContent = fromDrawing ? "your drawing, under noise" : "";
}

const atEnd = () => frames[shown]?.t === END;

function namePlay() {
  $("play").textContent = playing ? "Pause" : atEnd() ? "Play again" : "Play";
}

/** The next frame: computed, unless it is known already. */
function step() {
  if (dissolving.length > 0) {
    for (const tile of all("#x_0 > .sure")) tile.classList.remove("sure");
    $("clock").value = "";
    document.body.classList.add("empty"); // what the other rows show is the last run
    const t = dissolving.shift();
    $("time").value = 999 - t;
    return drawImages($("x_0"), noisyDrawing(image_seeds(settings.seed, COLUMNS), t), grey);
  }
  shown += 1;
  if (shown === frames.length) {
    const frame = guided.next().value;
    frames.push({ ...frame, p: read(frame) });
  }
  if (shown === plainFrames.length) plainFrames.push(plain.next().value);
  const { t, u } = frames[shown];
  const stop = t >= settings.pause && settings.pause > u; // "end" is neither
  if (stop || atEnd() || (goal !== null && t <= goal)) play(false);
  show();
  if (runs === 1 && playing) $("status").textContent = t > 750 ? "noise, and what is expected in it" : t > 250 ? "the digits take shape" : "now the strokes get sharp";
  if (stop) $("status").innerHTML = "<b>stopped: press Play</b>";
  if (stop || atEnd()) answer();
}

/** Whether the guide sees the digit asked for in a column: it is over half sure. */
const sees = (k) => frames[shown].p[10 * k + digits()[k]] > 0.5;

/** At the end, in how many columns the guide sees the digit asked for. */
function verdict() {
  if (told() !== null || settings.second !== "none") return "done: no noise is left";
  const right = range(COLUMNS).filter(sees);
  if (fromDrawing) return `done: from your drawing, ${right.length} of ${COLUMNS} accepted`;
  return runs === 1 ? "done: now pick a digit" : `done: the guide accepts ${right.length} of ${COLUMNS}. Do you?`;
}

/** What the first row shows. */
function origin(t, s) {
  if (fromDrawing) return "from your drawing";
  if (s === 0 && settings.w === 0) return "at push 0: the same as without";
  if (shown === 0) return "noise, where all begins";
  if (t > 700 && s > 0) return "what it expects: early, mostly the push, magnified";
  return "what the model expects; orange frame: the guide sees the digit";
}

/** What is expected at a frame; at first, the noise that all begins with, and at the end, the image. */
const expected = ({ t, x_t, x_0 }) => (shown === 0 || t === END ? x_t : x_0);

function show() {
  const { t, x_t, grad, p } = frames[shown];
  const s = frames[shown].s ?? frames[shown - 1].s; // at the end, the last one
  const gradient = grad ?? frames[shown - 1].grad; // at the end there is no new one
  const largest = gradient.reduce((most, value) => Math.max(most, Math.abs(value)), 1e-9);
  document.body.classList.remove("empty");
  drawImages($("x_t"), x_t, grey);
  drawImages($("x_0"), expected(frames[shown]), grey);
  all("#grad canvas").forEach((canvas, k) => { // its own scale of colours, unless it is very short
    const own = gradient.slice(784 * k, 784 * (k + 1));
    drawImage(canvas, own, wanted(Math.max(largest / 20, ...own.map(Math.abs))));
  });
  drawBars($("reads"), p, digits());
  all("#x_0 > span").forEach((tile, k) => tile.classList.toggle("sure", sees(k)));
  drawImages($("plain"), expected(plainFrames[shown]), grey);
  $("grad").classList.toggle("unused", s === 0);
  $("origin").textContent = origin(t, s);
  $("time").value = 999 - t;
  $("time").setAttribute("aria-valuetext", `t = ${Math.max(t, 0)}`);
  $("clock").innerHTML = atEnd() ? "t = 0" : `<small>noise</small> t = ${t}<span class="wide"><br><small class="orange">strength</small> s = ${inWords(s)}</span>`;
  if (atEnd()) $("status").innerHTML = `<b>${verdict()}</b>`;
  document.querySelector("#digit label:nth-of-type(7)").classList.toggle("pulse", atEnd() && runs === 1 && settings.digit === "0 to 9");
  namePlay();
  showStep();
}

/** A scale in few characters. */
function inWords(s) {
  if (s >= 1e5) return `${(s / 1e6).toFixed(1)} million`;
  return s >= 10 ? Math.round(s).toLocaleString("en") : s.toFixed(2);
}

/** The guided frame nearest to t = 549, where the push can be seen; or the last one. */
function clearest() {
  const pushed = frames.filter((frame) => frame.s > 0);
  const distance = ({ t }) => Math.abs(t - 549);
  return pushed.reduce((best, frame) => (distance(frame) < distance(best) ? frame : best), pushed[0] ?? frames[shown - 1]);
}

/** One step of a column. By DDPM (15), the guided x_0 is that of the model alone, plus s (1 - abar_t) / sqrt(abar_t) grad. */
function showStep() {
  const { t, s, x_t, x_0, grad, p } = atEnd() ? clearest() : frames[shown];
  const pixels = (values) => values.slice(784 * column, 784 * (column + 1));
  const factor = (s * (1 - abar.at(t))) / Math.sqrt(abar.at(t));
  const [together, push] = [pixels(x_0), pixels(grad).map((value) => factor * value)];
  const alone = together.map((value, i) => value - push[i]);
  $("column").textContent = digits()[column];
  $("card").style.setProperty("--column", (column + 0.5) / COLUMNS); // what it points at
  const back = atEnd() && s > 0; // to where the push can be seen
  $("when").innerHTML = back ? `looking back to t = ${t} <span class="wide">(▼).</span>` : `at t = ${t}<span class="wide">.</span>`;
  if (back) $("line").style.setProperty("--look", (999 - t) / 1000);
  else $("line").style.removeProperty("--look");
  const faint = Math.max(...push.map(Math.abs)) < 0.1;
  $("push").innerHTML = s === 0 ? "silent" : faint ? "hardly any push" : "push: <span class='orange'>more</span>, <span class='blue'>less ink</span>";
  $("sum").textContent = s === 0 ? "the same" : "with the push";
  $("story").innerHTML = s === 0 ? "The guide is silent here. What the model expects is all." : story(p.subarray(10 * column, 10 * column + 10), digits()[column], faint);
  document.body.classList.toggle("silent", s === 0);
  const spare = "\u2007".repeat(Math.max(0, 6 - inWords(s).length) / 2); // spaces as wide as a digit: the line stays in its place
  $("scale-now").textContent = `${spare}strength ${inWords(s)}${spare}`;
  $("level-now").textContent = `noise ${Math.sqrt(1 - abar.at(t)).toFixed(2)}`;
  const [image, model, guide, sum] = all("#parts figure canvas");
  drawImage(image, pixels(x_t), grey);
  drawImage(model, alone, grey);
  drawImage(guide, push, wanted(1));
  drawImage(sum, together, grey);
  drawBars($("bars"), p.subarray(10 * column), [digits()[column]], true);
  for (const row of all(".tiles")) [...row.children].forEach((tile, k) => tile.classList.toggle("chosen", k === column));
}

/** What the guide does at a step: it has read p(y | x_t) of all digits, and was asked for one. */
function story(p, asked, faint) {
  const read = p.indexOf(Math.max(...p));
  const push = faint ? "its push is short" : "it adds ink where it is orange, and takes ink where it is blue";
  const therefore = faint ? "but" : "so";
  if (p[asked] > 0.5) return `The guide reads a <b>${read}</b>, as asked, and ${faint ? "hardly pushes" : "pushes on"}.`;
  if (read === asked) return `The guide leans to a <b>${read}</b>, as asked, but is not sure: ${push}.`;
  if (p[read] >= 0.3) return `The guide reads a <b>${read}</b>, ${therefore} ${push}.`;
  return `The guide cannot read it yet, ${faint ? `but ${push}` : "and pushes toward what all digits of this kind share"}.`;
}

/** How long a frame is in sight. */
function frameTime() {
  if (CALM) return 0;
  if (dissolving.length > 0) return FIRST_RUN_MS;
  if (fromDrawing && shown === 0) return FIRST_FRAME_MS;
  if (runs > 1) return FRAME_MS;
  return shown === 0 ? FIRST_FRAME_MS : FIRST_RUN_MS;
}

/** A step per frame of the screen, for ever. */
function tick(now, last = 0) {
  const due = playing && now - last >= frameTime();
  if (due) step();
  requestAnimationFrame((later) => tick(later, due ? now : last));
}

function listenToPlaying() {
  $("play").addEventListener("click", () => (atEnd() ? rewind() : play(!playing)));
  $("restart").addEventListener("click", () => {
    rewind();
    play(false);
    step();
  });
  $("noise").addEventListener("click", () => {
    settings.seed = (settings.seed + 1) % 1000;
    begin();
  });
  $("step").addEventListener("click", () => {
    if (atEnd()) rewind();
    play(false);
    step();
    $("parts").classList.add("in-order");
    for (const part of $("parts").getAnimations({ subtree: true })) part.currentTime = 0; // again from the start
  });
  $("time").addEventListener("input", () => { // look back at what was computed, or play ahead
    const t = 999 - $("time").value;
    const known = range(frames.length).filter((k) => frames[k].t >= t);
    if (known.length < frames.length || frames.at(-1)?.t === END) {
      play(false);
      shown = known.at(-1) ?? 0;
      return show();
    }
    shown = frames.length - 1;
    play(true);
    goal = t;
  });
  for (const row of all(".tiles")) row.addEventListener("click", (event) => {
    if (shown < 0) return;
    column = Math.max(0, [...row.children].indexOf(event.target.closest("span")));
    showStep();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => shown >= 0 && show());
}

// --- the equation ---

/** Light up what is being changed, and the row of images that shows it. */
function lightUp(name) {
  for (const part of all(":is(#machine, #equation) [data-term], .row[data-term]")) part.classList.toggle("lit", part.dataset.term === name);
}

/** When the pointer leaves: light up what has the focus, or what the tour lit. */
const lightBack = () => lightUp(document.activeElement.closest("form [data-term]")?.dataset.term ?? term);

/** What the tour lit is no longer meant. */
function clearLook() {
  for (const row of all(".row")) row.classList.remove("look");
  term = null;
}

// --- the tour ---

let stop = 0; // the step of the tour in sight

function showStop(number) {
  const stops = all(".stop");
  stop = number;
  if (term !== null) reset(); // what the last step has set
  chooseRow("plain");
  clearLook();
  lightUp(null);
  stops.forEach((node, k) => node.classList.toggle("here", k === stop));
  showPlace();
  sumUp();
  $("back").disabled = stop === 0;
  $("next").textContent = stop < stops.length - 1 ? "Next" : "Draw";
  $("next").classList.remove("main");
}

function showPlace() {
  const stops = all(".stop");
  all("#dots button").forEach((dot, k) => {
    dot.setAttribute("aria-current", k === stop);
    dot.textContent = stops[k].querySelector(".right") ? "✓" : stops[k].querySelector(".wrong") ? "✗" : k + 1;
  });
  const right = all(".guess .right").length;
  const questions = all(".guess").length;
  const answered = all(".guess .right, .guess .wrong").length;
  $("place").textContent = stop === questions ? (answered ? `${right} of ${answered} right` : "") : `${stop + 1} of ${questions}${right ? `, ${right} right` : ""}`;
}

/** Run what a button of the tour asks. */
function run(button) {
  setAll(button.dataset.run);
  clear();
  clearLook();
  term = button.dataset.term;
  lightUp(term);
  chooseRow(button.dataset.row);
  document.querySelector(`.row[data-row="${button.dataset.row}"]`).classList.add("look");
  asked = button;
  begin();
}

/** The run that the tour asked for has come to its end. */
function answer() {
  if (!asked) return;
  const [buttons, answers] = ["button", ".answer"].map((kind) => [...asked.closest(".stop").querySelectorAll(kind)]);
  answers[buttons.indexOf(asked)].hidden = false;
  asked.nextElementSibling.replaceChildren(...copies(all("#x_0 canvas")));
  const guess = asked.closest(".stop").querySelector(".guess :checked");
  if (guess && "settles" in asked.dataset) {
    const right = guess.value === "1";
    guess.parentElement.classList.add(right ? "right" : "wrong");
    for (const other of asked.closest(".stop").querySelectorAll(".guess input")) other.disabled = true;
    answers[buttons.indexOf(asked)].dataset.said = right ? "✓ As you guessed. " : `✗ You guessed “${guess.parentElement.innerText}”. `;
  }
  showPlace();
  if ("settles" in asked.dataset && asked.closest(".here")) $("next").classList.add("main");
  asked = null;
}

/** Copies of canvases, to be compared with later images. */
function copies(tiles) {
  return tiles.map((tile) => {
    const copy = tile.cloneNode(); // without its picture
    copy.getContext("2d").drawImage(tile, 0, 0);
    return copy;
  });
}

/** Beside each line of the last stop of the tour, the images that settled its question. */
function sumUp() {
  all(".stop li").forEach((line, k) => {
    const tiles = all(".stop")[k].querySelectorAll("[data-settles] + .strip canvas");
    line.querySelector(".strip").replaceChildren(...copies([...tiles]));
  });
}

function listenToTour() {
  for (const button of all("#tour [data-run]")) button.addEventListener("click", () => run(button));
  for (const strip of all(".run .strip")) strip.append(...range(COLUMNS).map(() => document.createElement("i"))); // to be filled
  for (const guess of all(".guess input")) guess.addEventListener("change", () => run(guess.closest(".stop").querySelector("[data-settles]")));
  all(".guess").forEach((_, k) => {
    const dot = document.createElement("button");
    dot.type = "button";
    dot.setAttribute("aria-label", `Question ${k + 1}`);
    dot.addEventListener("click", () => showStop(k));
    $("dots").append(dot);
  });
  $("back").addEventListener("click", () => showStop(stop - 1));
  $("next").addEventListener("click", () => {
    if (stop < all(".stop").length - 1) return showStop(stop + 1);
    chooseTab("draw");
    $("drawing").scrollIntoView({ block: "nearest" });
    $("drawing").focus();
  });
  showStop(0);
}

// --- your own drawing ---

/** The drawing at timestep t, with the noise of each column: values of (B, 28, 28). */
function noisyDrawing(seeds, t) {
  return tf.tidy(() => {
    const eps = gaussian_noise(seeds.map((seed) => new Noise(seed)));
    return add_noise(tf.tensor(drawing, [1, 28, 28, 1]), eps, abar.at(t)).dataSync();
  });
}

/** What the guide says of the drawing, with the noise of the seed. */
function readDrawing() {
  const seed = image_seeds(settings.seed, 1);
  const rows = isEmpty() ? [] : tf.tidy(() => {
    const x_0 = tf.tensor(drawing, [1, 28, 28, 1]);
    const eps = gaussian_noise([new Noise(seed[0])]);
    return READING_TIMES.map((t) => tf.softmax(networks.logits(add_noise(x_0, eps, abar.at(t)), tf.fill([1], t))).dataSync());
  });
  $("reading").replaceChildren(...rows.map((p, k) => {
    const row = document.createElement("li");
    const likeliest = Math.max(...p);
    row.style.setProperty("--p", `${100 * likeliest}%`);
    row.innerHTML = `t = ${READING_TIMES[k]} <b>${likeliest < 0.3 ? "?" : p.indexOf(likeliest)}</b>`;
    return row;
  }));
  if (!isEmpty()) drawImage(document.querySelector("#noised canvas"), noisyDrawing(seed, settings.from), grey);
  $("noised").hidden = isEmpty();
  $("finish").disabled = isEmpty();
  $("pad").classList.toggle("empty", isEmpty());
}

function clear() {
  drawing.fill(-1);
  fromDrawing = false;
  showDrawing();
}

// --- main ---

function chooseTab(name) {
  if (main.dataset.tab === "tour" && name !== "tour") chooseRow("plain"); // not that of a question
  main.dataset.tab = name;
  for (const row of all(".row.look")) row.classList.remove("look");
  for (const tab of all("#tabs button")) tab.setAttribute("aria-pressed", tab.dataset.tab === name);
}

function chooseRow(row) {
  main.dataset.row = row;
  controls.row.value = row;
}

function listen() {
  $("settings").addEventListener("submit", (event) => event.preventDefault());
  $("settings").addEventListener("focusin", lightBack);
  $("settings").addEventListener("input", (event) => {
    if (!(event.target.name in VALUES)) return;
    lightUp(event.target.closest("[data-term]").dataset.term);
    readControls(event.target.name);
    if (event.target.name === "second") chooseRow("x_t"); // which is turned around
    if (event.target.name === "from" && !fromDrawing) { // it was not asked for yet
      writeAddress();
      showSettings();
      return readDrawing();
    }
    begin();
  });
  for (const control of all("form [data-term]:not(button)")) {
    control.addEventListener("pointerenter", () => lightUp(control.dataset.term));
    control.addEventListener("pointerleave", lightBack);
  }
  for (const part of all("math [data-term]")) part.addEventListener("pointerover", (event) => {
    lightUp(part.dataset.term);
    event.stopPropagation(); // the innermost part
  });
  document.querySelector("math").addEventListener("pointerleave", lightBack);
  for (const tab of all("#tabs button")) tab.addEventListener("click", () => chooseTab(tab.dataset.tab));
  $("rows").addEventListener("input", () => chooseRow(controls.row.value));
  $("finish").addEventListener("click", () => {
    const { seed, from } = settings;
    setAll(""); // so that it is a digit, whatever was tried before
    Object.assign(settings, { seed, from });
    fromDrawing = true;
    for (const node of all(".here .answer")) node.hidden = true; // it tells of another run
    clearLook();
    lightUp("start");
    chooseRow("plain");
    begin();
  });
  $("clear").addEventListener("click", () => {
    const wasUsed = fromDrawing;
    clear();
    readDrawing();
    if (wasUsed) restart();
  });
  $("defaults").addEventListener("click", reset);
  for (const folded of all("details")) folded.addEventListener("toggle", () => folded.open && folded.scrollIntoView({ block: "nearest" }));
  window.addEventListener("hashchange", () => {
    setAll(location.hash.slice(1));
    clear();
    begin();
  });
}

async function start() {
  for (const link of all("a[data-path]")) {
    link.href = REPOSITORY + link.dataset.path;
    if (NOTHING_ABOVE) link.addEventListener("click", (event) => {
      event.preventDefault();
      $("status").textContent = "the repository is the folder above docs/";
    });
  }
  $("digit").append(...VALUES.digit.map((value, place) => {
    const label = document.createElement("label");
    label.innerHTML = `<input type="radio" name="digit" value="${place}"><span>${value}</span>`;
    return label;
  }));
  for (const [name, possible] of Object.entries(VALUES)) {
    if (controls[name].tagName === "SELECT") controls[name].append(...possible.map((value, place) => new Option(value, place)));
    else if (controls[name].type === "range") controls[name].max = possible.length - 1;
  }
  makeTiles(COLUMNS);
  setAll(location.hash.slice(1));
  showSettings();
  showDrawing();
  listenToTour();
  const noise = image_seeds(settings.seed, COLUMNS).flatMap((seed) => [...new Noise(seed).image()]);
  drawImages($("x_0"), Float32Array.from(noise), grey); // where every run begins
  networks = await loadNetworks();
  const hashes = Object.entries(networks.sha256).map(([name, hash]) => `${name} ${hash}`);
  $("weights").textContent = `The weights, rounded to float16, of these files (SHA-256): ${hashes.join(", ")}`;
  for (const id of ["play", "step", "restart", "noise"]) $(id).disabled = false;
  listen();
  listenToPlaying();
  listenToDrawing(readDrawing);
  restart();
  if (CALM) {
    play(false);
    step();
  }
  requestAnimationFrame(tick);
}

start().catch((error) => {
  $("status").textContent = `The page cannot start: ${error.message}`;
  throw error;
});
