// The track: the twenty steps as cells, and two handles, native range inputs, around those that are pushed.

import { STEPS } from "./constants.js";
import { $ } from "./dom.js";

const [track, begin, end] = ["track", "begin", "end"].map($);

for (let k = 1; k <= STEPS; k++) track.insertAdjacentHTML("beforeend", `<i>${k}</i>`);

let earliest = 0; // steps before this one cannot be pushed

/** Show the push from step `from` until step `until`. */
export function showTrack(from, until, firstStep) {
  earliest = firstStep;
  [...track.children].forEach((cell, k) => {
    cell.classList.toggle("pushed", from <= k && k < until);
    cell.classList.toggle("edge", k === from || k === until - 1);
    cell.classList.toggle("out", k < earliest);
  });
  $("push").style.setProperty("--from", from);
  $("push").style.setProperty("--until", until);
  for (const [handle, value] of [[begin, from + 1], [end, until]]) {
    handle.value = value;
    handle.setAttribute("aria-valuetext", `${value}, of ${STEPS}`);
  }
}

/** Call `choose(first, end)` while a handle or the band between them moves, and `released()` afterward. */
export function listenToTrack(choose, released) {
  const push = () => [begin.value - 1, Number(end.value)];
  begin.addEventListener("input", () => {
    const [first, last] = push();
    choose(Math.min(first, last - 1), last);
  });
  end.addEventListener("input", () => {
    const [first, last] = push();
    choose(first, Math.max(last, first + 1));
  });
  for (const handle of [begin, end]) handle.addEventListener("change", released);

  const step = ({ clientX }) => { // which cell is under the pointer
    const box = track.getBoundingClientRect();
    return Math.floor((STEPS * (clientX - box.left)) / box.width);
  };
  let down = null; // where the pointer went down, and the push there
  const move = (to) => {
    const { at, first, last } = down;
    if (at < first) choose(Math.min(to, last - 1), last);
    else if (at >= last) choose(first, Math.max(to, first) + 1);
    else {
      const distance = Math.max(earliest - first, Math.min(STEPS - last, to - at));
      choose(first + distance, last + distance);
    }
  };
  track.addEventListener("pointerdown", (event) => {
    const [first, last] = push();
    down = { at: step(event), x: event.clientX, moved: false, first, last };
    track.setPointerCapture(event.pointerId);
  });
  track.addEventListener("pointermove", (event) => {
    if (!down) return;
    down.moved ||= Math.abs(event.clientX - down.x) > 4; // a finger that scrolls the page is not meant
    if (down.moved) move(step(event));
  });
  track.addEventListener("pointerup", (event) => {
    if (down) move(step(event));
    down = null;
    released();
  });
  track.addEventListener("pointercancel", () => {
    if (down?.moved) choose(down.first, down.last); // it has become a scroll
    down = null;
  });
}
