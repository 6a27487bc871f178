// The sheet: the results of ten digits and all starts from the same noise.

import { STARTS } from "./chart.js";
import { STEPS } from "./constants.js";
import { findResult } from "./films.js";
import { $, clear, css, drawTile, ink } from "./pictures.js";
import { NARROW } from "./stage.js";
import { likeliest } from "./words.js";

/** The starts whose results are found first; a phone shows no others. */
export const FIRST_COLUMNS = [0, 8, 12, 16, 19, STEPS];
const [HEAD, MOST] = [30, 72]; // the height of the numbers above; the size of a cell
const canvas = $("sheet");

/** The starts that have a column. */
export const columns = () => (NARROW.matches ? FIRST_COLUMNS : STARTS);

/** One column is for the digits. */
const cellSize = () => Math.min(MOST, canvas.parentElement.clientWidth / (columns().length + 1));

/** Draw the sheet. Returns the results that are known, as [digit, start, p, q]. */
export function drawSheet(state) {
  const [cell, count] = [cellSize(), columns().length + 1];
  Object.assign(canvas.style, { width: `${count * cell}px`, height: `${HEAD + 10 * cell}px` });
  const [context, known] = [clear(canvas), []];
  Object.assign(context, { textAlign: "center", textBaseline: "middle" });
  const write = (text, column, y, font, isChosen) => {
    Object.assign(context, { font, fillStyle: css(isChosen ? "--orange" : "--quiet") });
    context.fillText(text, (column + 0.5) * cell, y);
  };
  columns().forEach((start, i) => {
    write(start === STEPS ? "never" : start + 1, i + 1, HEAD / 2, "13px system-ui", start === state.start);
    for (let digit = 0; digit < 10; digit++) {
      const [y, isOwn] = [HEAD + digit * cell, digit === state.digit];
      if (i === 0) write(digit, 0, y + cell / 2, "600 20px Georgia, serif", isOwn);
      const result = findResult({ ...state, digit, start });
      const isPushed = start < STEPS && result;
      drawCell(context, (i + 1) * cell, y, cell, {
        result,
        p: isPushed && result.p[digit],
        isGray: isPushed && result.q && likeliest(result.q) !== digit,
        isChosen: isOwn && start === state.start,
      });
      if (result) known.push([digit, start, result.p, result.q]);
    }
  });
  return known;
}

function drawCell(context, x, y, cell, { result, p, isGray, isChosen }) {
  const [square, paper] = [[x + 2, y + 2, cell - 4], isGray ? "--unseen" : "--frame"];
  context.fillStyle = css(result ? paper : "--waiting");
  context.fillRect(...square, cell - 4);
  if (result) drawTile(context, ...square, result.guess, ink(paper));
  Object.assign(context, { fillStyle: css("--orange"), strokeStyle: css("--orange"), lineWidth: 3 });
  if (p) context.fillRect(x + 2, y + cell - 6, (cell - 4) * p, 4);
  if (isChosen) context.strokeRect(x + 1, y + 1, cell - 2, cell - 2);
}

/** The digit and the start of a cell, or null. */
function cellAt(digit, column) {
  const start = columns()[Math.floor(column)];
  return start !== undefined && digit >= 0 && digit < 10 ? { digit: Math.floor(digit), start } : null;
}

export function cellUnder({ clientX, clientY }) {
  const [{ left, top }, cell] = [canvas.getBoundingClientRect(), cellSize()];
  return cellAt((clientY - top - HEAD) / cell, (clientX - left) / cell - 1);
}

/** The cell next to the chosen one, in the direction of an arrow key. */
export function cellBeside({ digit, start }, key) {
  const [down, right] = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[key];
  return cellAt(digit + down, columns().findLastIndex((other) => other <= start) + right);
}
