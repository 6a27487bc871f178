// The page: its controls, the pictures of each step, and your own drawing.

import { loadNetworks } from "./networks.js";
import { ALPHAS_CUMPROD, Noise, SAMPLERS, Sampling, abar, addNoise, noiseImages } from "./sampler.js";

const COLUMNS = 10;
const ORANGE = "#d55e00";
const BLUE = "#0072b2";
const DRAWING_TIMES = [0, 100, 200, 300, 400, 500, 700, 900];
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
};
const DEFAULTS = {
  digit: "0 to 9",
  w: 1,
  g: 24,
  low: 0,
  high: 1000,
  told: "t",
  sampler: "sde-dpmsolver++",
  steps: 20,
  seed: 0,
  second: "none",
  pause: "end",
};

const $ = (id) => document.getElementById(id);
let networks;
let settings = { ...DEFAULTS };
let guided, unguided; // two `Sampling`s, from the same noise
let start = null; // your drawing, once it is to be finished: see `Sampling`
let playing = true;

// --- settings: in the controls, and in the address ---

/** The property of a control that holds the place of its value in `VALUES`. */
const placeOf = (control) => (control.tagName === "SELECT" ? "selectedIndex" : "value");

function showSettings() {
  for (const [name, value] of Object.entries(settings)) {
    $(name)[placeOf($(name))] = VALUES[name].indexOf(value);
  }
  $("w-value").value = settings.w;
  $("g-value").value = settings.g;
  $("window-value").value = `${settings.low} ≤ t < ${settings.high}`;
}

function readControls() {
  for (const name of Object.keys(VALUES)) {
    settings[name] = VALUES[name][$(name)[placeOf($(name))]] ?? DEFAULTS[name];
  }
  if (settings.low > settings.high) [settings.low, settings.high] = [settings.high, settings.low];
}

function writeAddress() {
  history.replaceState(null, "", `#${new URLSearchParams(settings)}`);
}

/** Settings from the address; what is missing there, or not possible, is as by default. */
function readAddress() {
  const asked = new URLSearchParams(location.hash.slice(1));
  for (const [name, values] of Object.entries(VALUES)) {
    settings[name] = values.find((value) => String(value) === asked.get(name)) ?? DEFAULTS[name];
  }
}

/** The settings of a `Sampling`, from those of the page. */
function samplingSettings() {
  const { digit, told, second } = settings;
  return {
    ...settings,
    y: digit === "0 to 9" ? range(COLUMNS) : Array(COLUMNS).fill(Number(digit)),
    told: told === "t" ? null : Number(told.replace("always ", "")),
    second: second === "none" ? null : Number(second),
  };
}

// --- playing ---

/** Begin again, from noise or from your drawing. */
function restart() {
  guided = new Sampling(networks, samplingSettings(), start);
  unguided = new Sampling(networks, { ...samplingSettings(), unguided: true }, start);
  play(true);
}

function play(yes) {
  playing = yes;
  $("play").textContent = yes ? "Pause" : "Play";
}

function step() {
  const [withGuide, withoutGuide] = [guided.step(), unguided.step()];
  drawStep(withGuide, withoutGuide);
  if (guided.done) { // no noise is left: show the images themselves
    drawImages($("guided-x_t"), guided.x_t, grey);
    drawImages($("unguided-x_t"), unguided.x_t, grey);
    drawCurve(-1);
    $("clock").value = "t = 0: no noise is left";
  }
  const nextT = guided.timesteps[guided.calls] ?? -1;
  const pauseHere = withGuide.t >= settings.pause && settings.pause > nextT; // "end" is neither
  if (guided.done || pauseHere) play(false);
  const ending = guided.done ? ": done." : ".";
  $("status").textContent = `Call ${guided.calls} of ${guided.timesteps.length}${ending}`;
}

/** A step per frame of the screen, for ever. */
function tick() {
  if (playing && !guided.done) step();
  requestAnimationFrame(tick);
}

// --- pictures ---

function drawStep(withGuide, withoutGuide) {
  const { t, s } = withGuide;
  const largest = withGuide.grad.reduce((most, value) => Math.max(most, Math.abs(value)), 1e-9);
  drawImages($("guided-x_t"), withGuide.x_t, grey);
  drawImages($("guided-x_0"), withGuide.x_0, grey);
  drawImages($("grad"), withGuide.grad, (value) => redOrBlue(value / largest));
  $("grad").classList.toggle("unused", s === 0);
  $("largest").value = s === 0 ? "not used now" : `largest: ${largest.toPrecision(2)}`;
  drawBars($("guided-p"), withGuide.p, guided.settings.y);
  drawImages($("unguided-x_t"), withoutGuide.x_t, grey);
  drawImages($("unguided-x_0"), withoutGuide.x_0, grey);
  drawBars($("unguided-p"), withoutGuide.p, guided.settings.y);
  drawCurve(t);
  $("clock").value = `t = ${t}, ᾱ = ${abar(t).toFixed(3)}, s = ${s < 100 ? s.toFixed(2) : Math.round(s)}`;
}

/** Draw images (B, 28, 28) side by side; `colour` gives [red, green, blue] of a value. */
function drawImages(canvas, values, colour) {
  const images = values.length / 784;
  canvas.width = 30 * images;
  canvas.height = 28;
  const context = canvas.getContext("2d");
  const picture = context.createImageData(canvas.width, 28);
  values.forEach((value, i) => {
    const [image, row, column] = [Math.floor(i / 784), Math.floor((i % 784) / 28), i % 28];
    picture.data.set([...colour(value), 255], 4 * (canvas.width * row + 30 * image + 1 + column));
  });
  context.putImageData(picture, 0, 0);
}

/** -1 is black, 1 is white. */
function grey(value) {
  const level = 127.5 * (value + 1); // the picture clips it to 0 .. 255
  return [level, level, level];
}

/** 1 is red, 0 is white, -1 is blue. */
function redOrBlue(value) {
  const end = value > 0 ? [215, 25, 28] : [44, 123, 182];
  return end.map((level) => 255 + Math.abs(value) * (level - 255));
}

/** p (B, 10) as ten bars below each image, orange for the digit asked for. */
function drawBars(canvas, p, y) {
  canvas.width = 60 * y.length;
  canvas.height = 40;
  const context = canvas.getContext("2d");
  p.forEach((value, i) => {
    const [image, digit] = [Math.floor(i / 10), i % 10];
    context.fillStyle = digit === y[image] ? ORANGE : BLUE;
    context.fillRect(60 * image + 5 + 5 * digit, 39 - 38 * value, 4, 1 + 38 * value);
  });
}

/** abar_t, from t = 999 at the left to -1; the window of the guide is shaded, t is marked. */
function drawCurve(t) {
  const context = $("curve").getContext("2d");
  const { width, height } = $("curve");
  const bottom = height - 16;
  const x = (time) => 6 + ((999 - time) / 1000) * (width - 14);
  const y = (value) => bottom - value * (bottom - 8);
  context.clearRect(0, 0, width, height);
  context.fillStyle = "#ffe3b3";
  context.fillRect(x(settings.high), 0, x(settings.low) - x(settings.high), bottom);
  context.strokeStyle = BLUE;
  context.lineWidth = 2;
  context.beginPath();
  ALPHAS_CUMPROD.forEach((value, time) => context.lineTo(x(time), y(value)));
  context.stroke();
  context.fillStyle = "black";
  context.font = "13px sans-serif";
  for (const time of [750, 500, 250]) {
    context.fillText(`t = ${time}`, x(time) - 22, height - 3);
    context.fillRect(x(time), bottom - 4, 1, 4);
  }
  context.fillText("noise →", 4, height - 3);
  context.fillText("→ image", width - 64, height - 3);
  context.fillText("ᾱ = 1", width - 56, 30);
  context.fillText("ᾱ = 0", 4, bottom - 12);
  context.fillStyle = ORANGE;
  context.beginPath();
  context.arc(x(t), y(abar(t)), 6, 0, 2 * Math.PI);
  context.fill();
}

// --- your own drawing ---

const drawing = new Float32Array(784).fill(-1);
const pen = { row: 14, column: 14 };

/** Ink where the pen is, and a little around it. */
function ink() {
  for (const [down, right, value] of [[0, 0, 1], [0, 1, 0.2], [1, 0, 0.2], [0, -1, 0.2], [-1, 0, 0.2]]) {
    const [row, column] = [pen.row + down, pen.column + right];
    if (row < 0 || row > 27 || column < 0 || column > 27) continue;
    drawing[28 * row + column] = Math.max(drawing[28 * row + column], value);
  }
}

function showDrawing() {
  const context = $("drawing").getContext("2d");
  const picture = context.createImageData(28, 28);
  drawing.forEach((value, i) => picture.data.set([...grey(value), 255], 4 * i));
  if (document.activeElement === $("drawing")) { // show the pen, for the keyboard
    picture.data.set([213, 94, 0, 255], 4 * (28 * pen.row + pen.column));
  }
  context.putImageData(picture, 0, 0);
}

/** What the guide says of the drawing, with the noise of the seed, at eight timesteps. */
function readDrawing() {
  const context = $("reading").getContext("2d");
  context.clearRect(0, 0, 320, 150);
  context.font = "13px sans-serif";
  const probabilities = tf.tidy(() => {
    const x_0 = tf.tensor(drawing, [1, 28, 28, 1]);
    const eps = noiseImages([new Noise(settings.seed, 0)]);
    const logits = (t) => networks.logits(addNoise(x_0, eps, t), tf.fill([1], t));
    return DRAWING_TIMES.map((t) => tf.softmax(logits(t)).dataSync());
  });
  DRAWING_TIMES.forEach((t, k) => {
    const p = probabilities[k];
    const best = p.indexOf(Math.max(...p));
    const [left, bottom] = [80 * (k % 4) + 4, 75 * Math.floor(k / 4) + 54];
    p.forEach((value, digit) => {
      context.fillStyle = digit === best ? ORANGE : BLUE;
      context.fillRect(left + 7 * digit, bottom - 46 * value, 6, 1 + 46 * value);
    });
    context.fillStyle = "black";
    context.fillText(`t = ${t}: ${best}`, left, bottom + 15);
  });
}

function listenToDrawing() {
  const canvas = $("drawing");
  const draw = (event) => {
    if (event.buttons === 0) return; // no button and no finger is down
    const box = canvas.getBoundingClientRect();
    pen.row = Math.floor((28 * (event.clientY - box.top)) / box.height);
    pen.column = Math.floor((28 * (event.clientX - box.left)) / box.width);
    ink();
    showDrawing();
  };
  canvas.addEventListener("pointerdown", draw);
  canvas.addEventListener("pointermove", draw);
  canvas.addEventListener("pointerup", readDrawing);
  const moves = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
  canvas.addEventListener("keydown", (event) => {
    if (event.key === " ") ink();
    else if (event.key in moves) {
      const [down, right] = moves[event.key];
      pen.row = Math.max(0, Math.min(27, pen.row + down));
      pen.column = Math.max(0, Math.min(27, pen.column + right));
    } else return;
    event.preventDefault(); // do not scroll
    showDrawing();
    if (event.key === " ") readDrawing();
  });
  canvas.addEventListener("focus", showDrawing);
  canvas.addEventListener("blur", showDrawing);
  $("clear").addEventListener("click", () => {
    drawing.fill(-1);
    showDrawing();
    readDrawing();
    start = null;
    restart();
  });
  $("from").addEventListener("input", () => ($("from-value").value = $("from").value));
  $("finish").addEventListener("click", () => {
    start = { x_0: drawing, t: Number($("from").value) };
    restart();
  });
}

// --- main ---

function lightUp(term) {
  for (const part of document.querySelectorAll("#equation [data-term]")) {
    part.classList.toggle("lit", part.dataset.term === term);
  }
}

function listen() {
  for (const name of Object.keys(VALUES)) {
    $(name).addEventListener("input", () => {
      readControls();
      writeAddress();
      showSettings();
      restart();
      if (name === "seed") readDrawing();
    });
  }
  for (const control of document.querySelectorAll(".control")) {
    control.addEventListener("pointerenter", () => lightUp(control.dataset.term));
    control.addEventListener("focusin", () => lightUp(control.dataset.term));
  }
  $("play").addEventListener("click", () => {
    if (guided.done) restart();
    else play(!playing);
  });
  $("step").addEventListener("click", () => {
    if (guided.done) restart();
    play(false);
    step();
  });
  $("restart").addEventListener("click", restart);
  $("share").addEventListener("click", () => {
    writeAddress();
    navigator.clipboard?.writeText(location.href);
    $("shared").value = location.href;
  });
  window.addEventListener("hashchange", () => {
    readAddress();
    showSettings();
    readDrawing();
    restart();
    const changed = Object.keys(VALUES).find((name) => settings[name] !== DEFAULTS[name]);
    lightUp(changed && $(changed).closest(".control").dataset.term);
  });
}

async function main() {
  for (const [name, values] of Object.entries(VALUES)) {
    if ($(name).tagName === "SELECT") $(name).append(...values.map((value) => new Option(value)));
    else $(name).max = values.length - 1;
  }
  readAddress();
  showSettings();
  showDrawing();
  networks = await loadNetworks();
  const hashes = Object.entries(networks.sha256).map(([name, hash]) => `${name} ${hash}`);
  $("weights").textContent = `The weights, rounded to float16, of these files (SHA-256): ${hashes.join(", ")}`;
  listen();
  listenToDrawing();
  restart();
  readDrawing();
  tick();
}

main().catch((error) => {
  $("status").textContent = `The page cannot start: ${error.message}`;
  throw error;
});
