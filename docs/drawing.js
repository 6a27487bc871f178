// Your own drawing: 784 numbers in [-1, 1], drawn with a pointer, or with arrow keys and space.

import { $ } from "./dom.js";
import { drawPicture } from "./pictures.js";
import { grays } from "./sampler.js";

export let drawing = new Float32Array(784).fill(-1); // another array for each drawing
const canvas = $("drawing");
const pen = { row: 14, column: 14 };

/** Ink along the line from the pen to a place, where the pen is then. A stroke is as wide as MNIST's. */
function inkTo(row, column) {
  const length = Math.max(1, Math.ceil(2 * Math.hypot(row - pen.row, column - pen.column)));
  for (let k = 0; k <= length; k++) {
    const [y, x] = [pen.row + ((row - pen.row) * k) / length, pen.column + ((column - pen.column) * k) / length];
    for (let i = 0; i < 784; i++) {
      const distance = Math.hypot(Math.floor(i / 28) - y, (i % 28) - x);
      drawing[i] = Math.max(drawing[i], Math.min(1, 2.4 - 2 * distance));
    }
  }
  Object.assign(pen, { row, column });
}

export function showDrawing() {
  drawPicture(canvas, grays(drawing));
  canvas.parentElement.classList.toggle("empty", drawing.every((value) => value === -1));
  if (canvas.matches(":focus-visible")) { // show the pen, for the keyboard
    const context = canvas.getContext("2d");
    context.fillStyle = "#808080";
    context.fillRect(Math.round(pen.column), Math.round(pen.row), 1, 1);
  }
}

export function clearDrawing() {
  drawing = new Float32Array(784).fill(-1);
  showDrawing();
}

/** Call `changed` after each stroke. */
export function listenToDrawing(changed) {
  const place = (event) => {
    const box = canvas.getBoundingClientRect();
    return [(28 * (event.clientY - box.top)) / box.height - 0.5, (28 * (event.clientX - box.left)) / box.width - 0.5];
  };
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    drawing = drawing.slice();
    [pen.row, pen.column] = place(event);
    inkTo(pen.row, pen.column);
    showDrawing();
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!canvas.hasPointerCapture(event.pointerId)) return; // the stroke did not begin here
    inkTo(...place(event));
    showDrawing();
  });
  canvas.addEventListener("pointerup", changed);
  const moves = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
  canvas.addEventListener("keydown", (event) => {
    if (event.key === " ") {
      drawing = drawing.slice();
      inkTo(pen.row, pen.column);
      changed();
    } else if (event.key in moves) {
      const [down, right] = moves[event.key];
      pen.row = Math.max(0, Math.min(27, pen.row + down));
      pen.column = Math.max(0, Math.min(27, pen.column + right));
    } else return;
    event.preventDefault(); // do not scroll
    showDrawing();
  });
  canvas.addEventListener("focus", showDrawing);
  canvas.addEventListener("blur", showDrawing);
}
