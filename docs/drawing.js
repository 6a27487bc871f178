// The pad for a drawing of your own, which needs a pointer.

import { $, drawPicture } from "./pictures.js";
import { grays } from "./sampler.js";
import { decode, encode } from "./start.js";

const canvas = $("drawing");
let drawing = new Float32Array(784).fill(-1);
let pen = [0, 0];

/** Ink along the line from the pen to a place, where the pen is then. A stroke is as wide as MNIST's. */
function inkTo([row, column]) {
  const [down, right] = [row - pen[0], column - pen[1]];
  const far = down ** 2 + right ** 2 || 1;
  show(drawing.map((value, i) => {
    const [y, x] = [Math.floor(i / 28) - pen[0], (i % 28) - pen[1]];
    const along = Math.max(0, Math.min(1, (y * down + x * right) / far)); // the nearest place on the line
    return Math.max(value, Math.min(1, 2.4 - 2 * Math.hypot(y - along * down, x - along * right)));
  }));
  pen = [row, column];
}

function show(values) {
  drawing = values;
  drawPicture(canvas, grays(drawing));
}

/** Open the pad with a drawing, or with the last one. */
export function openPad(text) {
  show(text ? decode(text) : drawing);
  $("pad").showModal();
}

/** Call `changed` with the text of the drawing after each stroke. */
export function listenToPad(changed) {
  const place = (event) => {
    const { left, top, width, height } = canvas.getBoundingClientRect();
    return [(28 * (event.clientY - top)) / height - 0.5, (28 * (event.clientX - left)) / width - 0.5];
  };
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    inkTo((pen = place(event)));
  });
  canvas.addEventListener("pointermove", (event) => {
    if (canvas.hasPointerCapture(event.pointerId)) inkTo(place(event));
  });
  canvas.addEventListener("lostpointercapture", () => changed(encode(drawing)));
  $("clear").addEventListener("click", () => show(new Float32Array(784).fill(-1)));
  $("close").addEventListener("click", () => $("pad").close());
  $("pad").addEventListener("click", ({ target }) => target === $("pad") && $("pad").close()); // beside it
}
