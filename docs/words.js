// What a path means: the height of its states, the kind of its result, and the sentences about it.

import { CERTAIN, DECADES, STEPS, THRESHOLD } from "./constants.js";

export const likeliest = (p) => p.indexOf(Math.max(...p));
export const named = (digit) => `${digit === 8 ? "an" : "a"} ${digit}`;
const percent = (chance) => `${Math.round(100 * chance)}%`;

/** The height of a state: log10 p(chosen) / p(unpushed), clipped, as a share of the largest height. */
export function heightOf(p, chosen, unpushed) {
  const decades = Math.log10((p[chosen] + 1e-12) / (p[unpushed] + 1e-12));
  return Math.max(-1, Math.min(1, decades / DECADES));
}

/** Whether the model cannot restore a result after noise is added. */
const isDamaged = ({ surprise }) => surprise > THRESHOLD;

/** The kind of a result, as in examples/when.py: "broken", "target", "alone" (the unpushed digit), or "other". */
export function kindOf(path, { digit, origin }) {
  if (isDamaged(path) || Math.max(...path.p) < CERTAIN) return "broken";
  const shown = likeliest(path.p);
  if (shown === digit) return "target";
  return shown === origin.unpushed ? "alone" : "other";
}

/** A headline, and the reason. */
export function sentences(path, { digit, origin, isPointless }) {
  const { unpushed, isDrawing, isEmpty } = origin;
  const start = isDrawing ? "drawing" : "noise";
  if (isEmpty) return ["Draw a digit.", "The page adds noise to it and runs the last eight steps."];
  if (isPointless) return [`${capital(named(digit))} in any case.`, `Without a push, this ${start} becomes ${named(digit)}. Choose another digit.`];
  if (!path?.kind) return ["…", ""];
  const { end, p, kind, heights } = path;
  const after = (text) => (end === STEPS ? "It was pushed to the end." : `After step ${end}, the model ${text}.`);
  const wasAbove = heights[end] > 0;
  const shown = likeliest(p);
  if (kind === "target") return [`Now ${named(digit)}.`, after(wasAbove ? `kept the ${digit}` : `went on to the ${digit}`)];
  if (kind === "alone") return [`Still ${named(unpushed)}.`, after(wasAbove ? "went back to it" : "stayed with it")];
  if (kind === "other") return [`${capital(named(shown))}: neither ${unpushed} nor ${digit}.`, after(`went on to the ${shown}`)];
  if (isDamaged(path)) return ["Damaged.", "The model cannot restore this picture after noise is added."];
  return ["Hard to read.", `The classifier is undecided: ${shown}, ${percent(p[shown])}.`];
}

const capital = (text) => text[0].toUpperCase() + text.slice(1);

/** What both networks say about a result. */
export function opinions(path) {
  const shown = likeliest(path.p);
  return `classifier: ${named(shown)}, ${percent(path.p[shown])}; ${isDamaged(path) ? "not " : ""}typical for the model`;
}

export const pushedSteps = ({ first, end }) => (end - first === 1 ? `in step ${end}` : `in steps ${first + 1} to ${end}`);

/** What to try next, or what the last move of the end of the push has shown. */
export function hint({ first, end, kind }, map) {
  const [shorter, longer] = [end - 1, end + 1].map((other) => map.get(first, other)?.kind);
  if (kind === "alone" && longer === "target") return "one more step →";
  if (kind === "target" && shorter === "alone") return `step ${end} decided it`;
  return "";
}

/** The tasks: whether the visitor has completed them with the pushes tried on a map, and a note. */
export function tasks(map) {
  const tried = map.known((path) => path.kind && map.tried.has(`${path.first},${path.end}`));
  const reached = tried.filter(({ kind }) => kind === "target");
  const shortest = reached.find(({ first, end }) => end - first === map.shortest());
  const damaged = tried.find(isDamaged);
  const task = (path, note, isSolution) => {
    if (path) return { done: true, note };
    return { done: false, note: map.isComplete() && map.known(isSolution).length === 0 ? "No push does." : "" };
  };
  const isTarget = ({ kind }) => kind === "target";
  return {
    reach: task(reached[0], reached[0] && `Pushed ${pushedSteps(reached[0])}.`, isTarget),
    shorten: task(shortest, shortest && (map.shortest() === 1 ? `Step ${shortest.end} alone is enough.` : "No shorter push is enough."), isTarget),
    damage: task(damaged, damaged && `${capital(opinions(damaged))}. And you?`, isDamaged),
  };
}

/** Numbers of steps, as text: 1, 2, 3, and 5 are "1 to 3, 5". */
function ranges(numbers) {
  const runs = [];
  for (const number of numbers) {
    if (runs.at(-1)?.[1] === number - 1) runs.at(-1)[1] = number;
    else runs.push([number, number]);
  }
  return runs.map(([from, to]) => (from === to ? from : `${from} to ${to}`)).join(", ") || "none";
}

/** The steps in which a push of one step has a kind of result, as text; undefined as long as some are not known. */
export function stepsAlone(map, kind) {
  const singles = map.windows.filter(([first, end]) => end - first === 1).map((window) => map.get(...window));
  if (singles.every((path) => path?.kind)) return ranges(singles.filter((path) => path.kind === kind).map(({ end }) => end));
}

/** What a sweep shows: in which steps a push of one step is enough, and in which it does damage. */
export function swept(map) {
  const [enough, broken] = [stepsAlone(map, "target"), stepsAlone(map, "broken")];
  return enough && `One step is enough for ${named(map.digit)}: ${enough}. One step breaks it: ${broken}.`;
}

/** How many pushes have each kind of result. */
export function counts(map) {
  const numbers = { target: 0, alone: 0, other: 0, broken: 0 };
  for (const { kind } of map.known(({ kind }) => kind)) numbers[kind] += 1;
  return numbers;
}
