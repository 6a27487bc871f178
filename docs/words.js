// What the page says. p and q are the probabilities of classifier and judge; a hidden q is undefined.

import { STEPS } from "./constants.js";

const UNSURE = 0.7; // a judge below is

export const named = (digit) => `${digit === 8 ? "an" : "a"} ${digit}`;
export const likeliest = (p) => p.indexOf(Math.max(...p));
const percent = (p) => `${Math.min(99, Math.round(100 * Math.max(...p)))}%`;
const sure = (p) => `${named(likeliest(p))} (${percent(p)})`;
const sum = (numbers) => numbers.reduce((a, b) => a + b, 0);

/** What is seen in a result, by p and q, and by those of the film without a push. */
export function sentence({ digit, start }, p, q, alone) {
  const [seen, judged] = [likeliest(p), q && likeliest(q)];
  if (start === STEPS) return `Never pushed, this noise becomes ${named(judged ?? seen)}.`;
  if (q && seen !== judged) return `The classifier sees <b>${sure(p)}</b>, the judge <em>${sure(q)}</em>.`;
  const who = q ? "Both see" : "The classifier sees";
  if (seen !== digit) return `${who} <em>${named(seen)}</em>, not ${named(digit)}.`;
  const anyway = alone && likeliest(alone) === digit ? " It was one anyway." : "";
  if (!q) return `The classifier sees <b>${sure(p)}</b>.${anyway || " Do you?"}`;
  const unsure = Math.max(...q) < UNSURE ? ` (${percent(p)} and ${percent(q)} sure)` : "";
  return `${who} <b>${named(seen)}</b>${unsure}.${anyway}`;
}

/** The start from which a reader of the pictures never sees the digit again; see `opinions`. */
function gaveUp(all, isSeen) {
  return all.slice(0, STEPS).findLastIndex(isSeen) + 1;
}

/** What follows from the answers of the visitor, or what to do next. `all` are the `opinions`. */
export function closing({ digit }, all) {
  const alone = all.at(-1).q ?? all.at(-1).p;
  if (alone && likeliest(alone) === digit) return "Nothing to change here: choose another digit.";
  const yes = all.findLast(({ you }) => you === true)?.start;
  const no = all.find(({ you, start }) => you === false && start > (yes ?? -1))?.start;
  if (yes === no) { // no answer
    return `Answer, then drag the orange handle: from which start on do you no longer see ${named(digit)}?`;
  }
  if (no === undefined && yes === STEPS - 1) return "You see it to the very end.";
  if (no === undefined) return "Now start later, and answer again.";
  if (yes === undefined) return no > 0 ? "Now start earlier, and answer again." : "You never see it.";
  if (all.some(({ p, q }) => !p || q === undefined)) return "Now wait for the other results …";
  if (all.some(({ q }) => q === null)) return "";
  const [judge, classifier] = ["q", "p"].map((name) => gaveUp(all, (one) => likeliest(one[name]) === digit));
  if (yes + 1 < classifier && classifier <= no) return `Now answer at step ${yes + 2}, too.`;
  const at = (k) => (k === STEPS ? `not even at ${STEPS}` : `at ${k + 1}`);
  const between = no - yes === 2 ? `at step ${no} or ${no + 1}` : `between step ${yes + 2} and ${no + 1}`;
  const you = no - yes === 1 ? `at step ${no + 1}` : between;
  return `You stop seeing it ${you}, the judge ${at(judge)}, the classifier ${at(classifier)}.
    <b>${lesson(no, judge, classifier)}</b>`;
}

/** The ending, by the starts at which the visitor, the judge, and the classifier gave up. */
function lesson(you, judge, classifier) {
  if (classifier <= you) return "This time, the classifier did not see it longer than you.";
  if (judge < classifier) return "Never let the one who pushes be the one who judges.";
  if (judge === classifier) return "The judge was fooled as well: trust your eyes.";
  return "The judge was fooled even longer: trust your eyes.";
}

const rate = (part, all) => `${Math.round((100 * part) / all)}%`;

/** How often the judge gave up earlier than the classifier, together with it, and later: see export.py. */
export function measured(count) {
  const [earlier, together, later] = [0, 1, 2].map((order) => sum(count.digits.map((row) => row[order])));
  const all = earlier + together + later;
  const rates = count.digits.map((row, digit) => [row[0] / sum(row), digit]).sort(([a], [b]) => a - b);
  const example = ([part, digit]) => `${rate(part, 1)} for ${named(digit)}`;
  return `Is this typical? With ${count.noises} other noises, each pushed normally toward the digits that it
    does not become anyway, the judge stopped seeing the digit before the classifier did in
    ${rate(earlier, all)} of ${all} cases (from ${example(rates[0])} to ${example(rates.at(-1))}), at the
    same start in ${rate(together, all)}, and later in ${rate(later, all)}. What counts is the start from
    which it never sees the digit again. The noise of the first screen was chosen because the two differ
    clearly there.`;
}

/** What the sheet shows, by its finished cells [digit, start, p, q], or nothing while they are too few. */
export function conclusion(cells) {
  const alone = cells.find(([, start]) => start === STEPS);
  if (!alone) return "";
  const own = likeliest(alone[3] ?? alone[2]);
  const others = cells.filter(([digit, start]) => digit !== own && start < STEPS);
  const byClassifier = ([digit, , p]) => likeliest(p) === digit;
  const byJudge = ([digit, , , q]) => likeliest(q) === digit;
  const column = (start) => others.filter((cell) => cell[1] === start);
  const count = (start, isSeen) => column(start).filter(isSeen).length;
  const starts = [...new Set(others.map(([, start]) => start))].filter((start) => column(start).length === 9);
  if (starts.length < 2) return "";
  const before = `Apart from the ${own}, which this noise becomes anyway:`;
  if (others.some(([, , , q]) => !q)) {
    const seen = `${others.filter(byClassifier).length} of ${others.length} pictures`;
    return `${before} the classifier sees the digit in ${seen}. In how many do you?`;
  }
  const fooled = (start) => count(start, byClassifier) - count(start, byJudge);
  const clear = starts.findIndex((start) => count(start, byJudge) < 9);
  const worst = starts.reduce((a, b) => (fooled(b) > fooled(a) ? b : a));
  const early = `pushed from step ${starts[clear - 1] + 1} or earlier, the judge sees every digit;`;
  return `${before} ${clear > 0 ? early : ""} at worst, pushed from step ${worst + 1}, the classifier sees
    ${count(worst, byClassifier)} of 9 digits, and the judge ${count(worst, byJudge)}.`;
}
