// The sheet: the results of ten digits and all starts from the same noise.

import { STEPS } from "./constants.js";
import { findResult } from "./films.js";
import { $, clear, css, drawTile, ink } from "./pictures.js";
import { NARROW } from "./stage.js";
import { firstStep } from "./start.js";

/** The starts whose results are found first; a phone shows no others. */
export const FIRST_COLUMNS = [0, 8, 12, 16, 19, STEPS];
const HEAD = 30; // the height of the numbers above
const canvas = $("sheet");
const starts = () => (NARROW.matches ? FIRST_COLUMNS : [...Array(STEPS + 1).keys()]);
const cellSize = () => canvas.clientWidth / (starts().length + 1); // one column for the digits

/** The starts that have a column. */
export const columns = (from) => starts().filter((start) => start >= firstStep(from));

/** Draw the sheet. Returns the results that are known, as [digit, start, p]. */
export function drawSheet(state) {
  const cell = cellSize();
  canvas.style.height = `${HEAD + 10 * cell}px`;
  const [context, known] = [clear(canvas), []];
  const write = (text, column, y, font, isChosen) => {
    const fillStyle = css(isChosen ? "--orange" : "--quiet");
    Object.assign(context, { textAlign: "center", textBaseline: "middle", font, fillStyle });
    context.fillText(text, (column + 0.5) * cell, y);
  };
  columns(state.from).forEach((start, i) => {
    write(start === STEPS ? "never" : start + 1, i + 1, HEAD / 2, "13px system-ui", start === state.start);
    for (let digit = 0; digit < 10; digit++) {
      const [y, isOwn] = [HEAD + digit * cell, digit === state.digit];
      if (i === 0) write(digit, 0, y + cell / 2, "600 20px Georgia, serif", isOwn);
      const result = findResult({ ...state, digit, start });
      const p = start < STEPS && result?.p[digit];
      drawCell(context, (i + 1) * cell, y, cell, result, p, isOwn && start === state.start);
      if (result) known.push([digit, start, result.p]);
    }
  });
  return known;
}

function drawCell(context, x, y, cell, result, p, isChosen) {
  const square = [x + 2, y + 2, cell - 4];
  context.fillStyle = css(result ? "--frame" : "--waiting");
  context.fillRect(...square, cell - 4);
  if (result) drawTile(context, ...square, result.guess, ink());
  Object.assign(context, { fillStyle: css("--orange"), strokeStyle: css("--orange"), lineWidth: 3 });
  if (p) context.fillRect(x + 2, y + cell - 6, (cell - 4) * p, 4);
  if (isChosen) context.strokeRect(x + 1, y + 1, cell - 2, cell - 2);
}

/** The digit and the start of a cell, or null. */
function cellAt(from, digit, column) {
  const start = columns(from)[Math.floor(column)];
  return start !== undefined && digit >= 0 && digit < 10 ? { digit: Math.floor(digit), start } : null;
}

export function cellUnder({ clientX, clientY }, from) {
  const { left, top } = canvas.getBoundingClientRect();
  return cellAt(from, (clientY - top - HEAD) / cellSize(), (clientX - left) / cellSize() - 1);
}

/** The cell next to the chosen one, in the direction of an arrow key. */
export function cellBeside({ from, digit, start }, key) {
  const [down, right] = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[key];
  return cellAt(from, digit + down, columns(from).findLastIndex((other) => other <= start) + right);
}
