// What held the GIL while a function waited for it: known of the innermost function of either stack.
import { functionOf, number, percent, shorten } from "./words.js";

const MOST = 3;

// [function that waited, function that held the GIL, time] over the roles of a graph, on the side that it shows.
function pairsOf(graph) {
  const place = graph.sides[graph.side === "before" ? 0 : 1];
  return graph.roles.flatMap((role) => role.meanwhile[place] || []);
}

function added(pairs, nameOf) {
  const sums = new Map();
  for (const pair of pairs) sums.set(nameOf(pair), (sums.get(nameOf(pair)) || 0) + pair[2]);
  return [...sums].sort((a, b) => b[1] - a[1] || (a[0] < b[0] ? -1 : 1));
}

// Who held it while this function waited, as sentences for the tooltip.
export function heldMeanwhile(graph, name, unit) {
  const pairs = pairsOf(graph).filter(([waiting]) => waiting === functionOf(name));
  const whole = pairs.reduce((sum, pair) => sum + pair[2], 0);
  return added(pairs, ([, holding]) => holding).slice(0, MOST).map(([holding, time]) =>
    "held meanwhile by " + shorten(holding, 120) + ": " + number(time) + " " + unit.amount + " (" + percent(time, whole) + ")");
}

// The pairs that cost most, for the line above the graph.
export function pairsText(graph, unit) {
  const pairs = pairsOf(graph);
  const whole = pairs.reduce((sum, pair) => sum + pair[2], 0);
  if (!whole) return "";
  const said = added(pairs, ([waiting, holding]) => shorten(waiting, 100) + " waited while " + shorten(holding, 100) + " held it")
    .slice(0, MOST).map(([text, time]) => text + " (" + percent(time, whole) + ")");
  return "Most of the waiting (" + number(whole) + " " + unit.amount + (graph.isPair ? " after" : "") + "): " + said.join("; ") + ".";
}
