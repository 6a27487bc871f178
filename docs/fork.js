// The fork: the way of a noise that is left alone, the branch that a push makes of it, and the bars that are painted.
//
// A column is a step, whose picture is what is expected by then. page.css places each column by its --k, lifts the
// picture of the branch by its distance --d, and turns it all by a quarter on a phone.

import { HIGHEST, STEPS, TIMES, inWords, strengthOf } from "./bars.js";
import { drawImage, grey, pale } from "./pictures.js";

export const CEILING = 0.8; // the largest distance that has room, as in page.css
const COLUMNS = 22.8; // the noise, the steps, and what it has become: as in page.css
const CENTRE = 0.47; // of a tile within its column
const $ = (id) => document.getElementById(id);
const turned = matchMedia("(max-width: 640px)"); // as in page.css
const tiles = { alone: [], pushed: [] };
const slots = [];

/** The columns: pictures, and a bar with its slider, for the keyboard and for screen readers. */
export function buildFork() {
  TIMES.forEach((t, k) => {
    for (const name of ["alone", "pushed"]) {
      const tile = document.createElement("canvas");
      tile.className = `tile ${name} ${k % 2 === 0 ? "even" : "odd"}`;
      tile.dataset.k = k;
      tile.style.setProperty("--k", k + 1);
      tile.hidden = true;
      tiles[name].push(tile);
      $("ways").append(tile);
    }
    const slot = document.createElement("div");
    slot.className = "slot";
    slot.style.setProperty("--k", k);
    slot.innerHTML = `<input type="range" min="0" max="${HIGHEST}" aria-label="Push at t = ${t}"><span class="bar"></span>`;
    slots.push(slot);
    $("floor").append(slot);
  });
  turned.addEventListener("change", () => showShape($("shape")));
}

/** How far two pictures are from each other, as they are shown: the root mean square of their difference. */
export function distance(one, other) {
  const shown = (value) => Math.max(-1, Math.min(1, value));
  const squares = one.reduce((sum, value, i) => sum + (shown(value) - shown(other[i])) ** 2, 0);
  return Math.sqrt(squares / one.length);
}

/** The distance of both ways at a step; undefined where one of them is not known yet. */
export function distanceAt(k, { alone, pushed }) {
  return alone.frames[k] && pushed.frames[k] && distance(alone.frames[k].x_0, pushed.frames[k].x_0);
}

export function showFrame(k, ways) {
  for (const [name, { frames }] of Object.entries(ways)) {
    const tile = tiles[name][k];
    tile.hidden = !frames[k];
    if (frames[k]) drawImage(tile, frames[k].x_0, name === "alone" ? pale : grey);
  }
  const d = distanceAt(k, ways) ?? 0;
  tiles.pushed[k].style.setProperty("--d", Math.min(d, CEILING));
  tiles.pushed[k].classList.toggle("beyond", d > CEILING);
}

let distances = []; // of the branch from its way, at each step

export function showBranch(ways) {
  distances = TIMES.map((_, k) => distanceAt(k, ways));
  showShape($("shape"));
}

/** The branch as a line, and the ground between it and its way, in an <svg> as wide as the columns. */
export function showShape(svg) {
  const upright = turned.matches && svg.id === "shape";
  svg.setAttribute("viewBox", upright ? `0 0 ${CEILING} ${COLUMNS}` : `0 0 ${COLUMNS} ${CEILING}`);
  const point = (k, d) => (upright ? `${d} ${k + 1 + CENTRE}` : `${k + 1 + CENTRE} ${CEILING - d}`);
  const known = TIMES.map((_, k) => k).filter((k) => distances[k] !== undefined);
  const line = known.map((k) => point(k, Math.min(distances[k], CEILING)));
  const ground = known.map((k) => point(k, 0)).slice(-1);
  if (known.length > 0) line.unshift(point(known[0] - 1, 0)); // from the picture where both ways begin
  svg.querySelector(".branch").setAttribute("points", line.join(" "));
  svg.querySelector(".ground").setAttribute("points", [...line, ...ground].join(" "));
}

/** The picture at the left, where both ways begin: before the step `k`. */
export function showBeginning(values, k) {
  drawImage($("beginning"), values, grey);
  $("beginning").style.setProperty("--k", k);
  slots.forEach((slot, place) => (slot.querySelector("input").disabled = place < k)); // before it, nothing is pushed
}

export function showBars(levels) {
  slots.forEach((slot, k) => {
    const input = slot.querySelector("input");
    input.value = levels[k];
    input.setAttribute("aria-valuetext", inWords(strengthOf(levels[k])));
    slot.style.setProperty("--level", levels[k] / HIGHEST);
    slot.dataset.says = inWords(strengthOf(levels[k]));
  });
}

/** Mark the step that is looked into. */
export function showChosen(k) {
  for (const tile of $("ways").querySelectorAll(".tile")) tile.classList.toggle("chosen", Number(tile.dataset.k) === k);
}

/**
 * Listen to the finger, the mouse and the keyboard.
 *
 * @param levels twenty numbers, which are painted.
 * @param changed () is called after each change, @param ended () after a stroke.
 * @param choose (k) is called where a step is tapped, painted or has the focus.
 */
export function listenToFork(levels, changed, ended, choose) {
  const floor = $("floor");
  let last = null; // the place of the stroke before: a step, and a level

  /** The step and the level under the pointer. */
  const place = (event) => {
    const box = floor.getBoundingClientRect();
    const [along, up] = turned.matches
      ? [(event.clientY - box.top) / box.height, (event.clientX - box.left) / box.width]
      : [(event.clientX - box.left) / box.width, (box.bottom - event.clientY) / box.height];
    const k = Math.max(0, Math.min(STEPS - 1, Math.floor(STEPS * along)));
    const level = up < 0.06 ? 0 : Math.min(HIGHEST, Math.round(HIGHEST * up)); // easy to erase
    return { k, level };
  };
  const paint = (event) => {
    const now = place(event);
    const from = last ?? now;
    const [low, high] = [Math.min(from.k, now.k), Math.max(from.k, now.k)];
    for (let k = low; k <= high; k++) { // a quick stroke skips no bar
      const share = from.k === now.k ? 1 : (k - from.k) / (now.k - from.k);
      levels[k] = Math.round(from.level + share * (now.level - from.level));
    }
    slots.forEach((slot, k) => slot.classList.toggle("painted", k === now.k));
    last = now;
    changed();
  };
  const end = () => {
    if (last === null) return;
    choose(last.k);
    last = null;
    for (const slot of slots) slot.classList.remove("painted");
    ended();
  };
  floor.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    floor.setPointerCapture(event.pointerId);
    event.preventDefault(); // no focus, no text is selected
    paint(event);
  });
  floor.addEventListener("pointermove", (event) => last && paint(event));
  for (const type of ["pointerup", "pointercancel"]) floor.addEventListener(type, end);
  slots.forEach((slot, k) => {
    slot.addEventListener("input", (event) => {
      levels[k] = Number(event.target.value);
      changed();
      ended();
    });
    slot.addEventListener("focusin", () => choose(k));
  });
  $("ways").addEventListener("click", (event) => {
    if (event.target.dataset.k) choose(Number(event.target.dataset.k));
  });
}
