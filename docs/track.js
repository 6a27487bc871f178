// The track: the twenty steps as cells, and two handles, native range inputs, around those that are pushed.

import { STEPS } from "./sampler.js";

const $ = (id) => document.getElementById(id);
const [track, begin, end] = ["track", "begin", "end"].map($);

for (let k = 1; k <= STEPS; k++) track.insertAdjacentHTML("beforeend", `<i>${k}</i>`);

let first = 0; // earlier steps cannot be pushed

/** Show the push from step a until step b. */
export function showTrack(a, b, firstStep) {
  first = firstStep;
  [...track.children].forEach((cell, k) => {
    cell.classList.toggle("pushed", a <= k && k < b);
    cell.classList.toggle("edge", k === a || k === b - 1);
    cell.classList.toggle("out", k < first);
  });
  $("band").style.setProperty("--from", a);
  $("band").style.setProperty("--until", b);
  for (const [handle, value] of [[begin, a + 1], [end, b]]) {
    handle.value = value;
    handle.setAttribute("aria-valuetext", `${value}, of ${STEPS}`);
  }
}

/** Call `choose(a, b)` while a handle or the band between them moves, and `released()` afterward. */
export function listenToTrack(choose, released) {
  begin.addEventListener("input", () => {
    const b = Number(end.value);
    choose(Math.min(begin.value - 1, b - 1), b);
  });
  end.addEventListener("input", () => {
    const a = begin.value - 1;
    choose(a, Math.max(end.value, a + 1));
  });
  for (const handle of [begin, end]) handle.addEventListener("change", released);

  const step = ({ clientX }) => { // which cell is under the pointer
    const box = track.getBoundingClientRect();
    return Math.floor((STEPS * (clientX - box.left)) / box.width);
  };
  let move = null; // what moving to a step does, while the pointer is down
  track.addEventListener("pointerdown", (event) => {
    const [k, a, b] = [step(event), begin.value - 1, Number(end.value)];
    if (k < a) move = (to) => choose(Math.min(to, b - 1), b);
    else if (k >= b) move = (to) => choose(a, Math.max(to, a) + 1);
    else move = (to) => {
      const distance = Math.max(first - a, Math.min(STEPS - b, to - k));
      choose(a + distance, b + distance);
    };
    track.setPointerCapture(event.pointerId);
    move(k);
  });
  track.addEventListener("pointermove", (event) => move?.(step(event)));
  for (const type of ["pointerup", "pointercancel"]) {
    track.addEventListener(type, () => {
      move = null;
      released();
    });
  }
}
