// What the page says.

import { NOISE, STEPS } from "./constants.js";
import { firstStep, isDrawing } from "./start.js";

const LATE = 13; // from this start on, the picture and the classifier tend to disagree

export const named = (digit) => `${digit === 8 ? "an" : "a"} ${digit}`;
export const likeliest = (p) => p.indexOf(Math.max(...p));

/** The sentence about a result, by its probabilities p, and by those without a push if they are known. */
export function sentence({ from, digit, start }, p, alone) {
  const seen = likeliest(p);
  const sure = `${Math.min(99, Math.round(100 * p[seen]))}%`;
  const source = isDrawing(from) ? "your drawing" : "this noise";
  if (start === STEPS) return `On its own, ${source} becomes ${named(seen)}.`;
  if (seen !== digit) return `The classifier sees ${named(seen)} (${sure}), not <b>${named(digit)}</b>.`;
  const says = `The classifier sees <b>${named(seen)}</b> (${sure}).`;
  if (alone && seen === likeliest(alone)) return `${says} It was one anyway.`;
  return `${says} <em${start >= LATE ? ' class="late"' : ""}>Do you?</em>`;
}

/** What the frames are, or the one before step k. */
export function frameNote(from, k) {
  const first = firstStep(from);
  const frames = first ? "from frame 13 on" : "each frame";
  if (k === null) return `${frames}: the model’s guess of the final digit`;
  if (k < first || k === 0) return first ? "your drawing, under noise" : "noise";
  return k === STEPS ? "the result" : `the model’s guess before step ${k + 1}`;
}

/** What the sheet shows, by its finished cells [digit, start, p], or nothing while they are too few. */
export function conclusion({ from, strength }, cells) {
  const [early, late] = [8, 16].map((start) => Math.max(firstStep(from), start));
  const columns = [early, late].map((start) => cells.filter(([, other]) => other === start));
  const isSeen = ([digit, , p]) => likeliest(p) === digit;
  const [many, still] = columns.map((column) => column.filter(isSeen).length);
  if (columns.flat().length < 20) return "";
  if (from === `${NOISE}` && strength === 1) {
    return `In this example, most digits are clean if the push starts by step 12, while the drawing can still
      change. Pushed later, the pictures break. And yet, if the push starts at step ${late + 1}, the classifier
      sees the right digit in ${still} of 10. Only the classifier is convinced.`;
  }
  return `Here, the classifier sees the right digit in ${many} of 10 pictures if the push starts at step
    ${early + 1}, and in ${still} of 10 if it starts at step ${late + 1}. In how many do you?`;
}
