// What a path means: the height of its states, the kind of its result, and the sentences about it.

import { STEPS } from "./sampler.js";

const CERTAIN = 0.8; // the least probability of a digit that the classifier recognizes
const DECADES = 3; // of the ratio between the digits, in both directions

export const likeliest = (p) => p.indexOf(Math.max(...p));
export const named = (digit) => `${digit === 8 ? "an" : "a"} ${digit}`;
export const short = (number) => Number(number.toPrecision(2)).toLocaleString("en");
const percent = (chance) => `${Math.round(100 * chance)}%`;

/** The height of a state: log10 p(chosen) / p(unpushed), clipped, as a share of the largest height. */
export function heightOf(p, chosen, unpushed) {
  const decades = Math.log10((p[chosen] + 1e-12) / (p[unpushed] + 1e-12));
  return Math.max(-1, Math.min(1, decades / DECADES));
}

/** Whether the diffusion model would hardly draw a result. */
export const isDamaged = ({ surprise }, { threshold }) => surprise > threshold;

/** The kind of a result, as in examples/when.py: "broken", "target", "alone" (the unpushed digit), or "other". */
export function kindOf(path, map) {
  const { settings, unpushed } = map;
  if (isDamaged(path, map) || Math.max(...path.p) < CERTAIN) return "broken";
  const digit = likeliest(path.p);
  if (digit === settings.digit) return "target";
  return digit === unpushed ? "alone" : "other";
}

/** A headline, and the reason. */
export function sentences(path, map) {
  const [{ b, p, kind, heights }, { settings: { digit }, unpushed }] = [path, map];
  const end = b === STEPS ? "It was pushed to the end." : `After step ${b}, the model continued alone`;
  const rest = (text) => (b === STEPS ? end : `${end}${text}.`);
  const shown = likeliest(p);
  switch (kind) {
    case "target":
      return [`It ends as ${named(digit)}.`, rest(heights[b] > 0 ? ` and kept the ${digit}` : ` and went on to the ${digit}`)];
    case "alone":
      return [
        `Not enough: it ends as ${named(unpushed)} anyway.`,
        b === STEPS ? `It was pushed to the end, but the ${unpushed} stayed.` : `The push ended after step ${b}, and the model went on to the ${unpushed}.`,
      ];
    case "other":
      return [`It ends as ${named(shown)}: neither ${unpushed} nor ${digit}.`, rest("")];
    case "broken":
      if (!isDamaged(path, map)) return ["Hard to read.", `The classifier is undecided: ${shown}, ${percent(p[shown])}.`];
      return ["Damaged.", `The classifier says ${shown} (${percent(p[shown])}); the diffusion model would hardly draw this.`];
    default:
      return ["…", ""];
  }
}

export const pushedSteps = (a, b) => (b - a === 1 ? `in step ${b}` : `in steps ${a + 1} to ${b}`);

/** The three tasks: which of them a path completes, and what is then said about each. */
export function completed(path, map) {
  const { a, b, p, kind } = path;
  const shown = likeliest(p);
  return {
    reach: kind === "target" && `It was pushed ${pushedSteps(a, b)}.`,
    shorten: kind === "target" && b - a === map.shortest() && (b - a === 1 ? `Step ${b} alone is enough.` : `No push of ${b - a - 1 === 1 ? "one step" : `${b - a - 1} steps`} is enough.`),
    damage: kind === "broken" && isDamaged(path, map) && a >= STEPS / 2 && `The classifier says ${shown} (${percent(p[shown])}). And you?`,
  };
}

/** What all pushes of a map show together; nothing as long as some are not known. */
export function finding(map) {
  const targets = map.pushes(({ kind }) => kind === "target");
  if (!map.isComplete() || targets.length === 0) return "";
  const { digit } = map.settings;
  const [earliest, latest] = [Math.min(...targets.map(({ b }) => b)), Math.max(...targets.map(({ a }) => a + 1))];
  return `No push that ends before step ${earliest} makes it ${named(digit)}, and none that begins after step ${latest}.`;
}

/** How many pushes have each kind of result. */
export function counts(map) {
  const number = (kind) => map.pushes((path) => path.kind === kind).length;
  return { target: number("target"), alone: number("alone"), other: number("other"), broken: number("broken") };
}
