// What is looked at: the state as it stands in a link, and the trees that it asks for.
import { significance } from "./profile.js";
import { buildTree, follow, pathOf, widthsOf } from "./tree.js";
import { fileOf, nameHash } from "./words.js";

export const DEFAULTS = {
  role: "", view: "diff", width: "after", unit: "own", before: 0, after: 1, sort: "name", flip: false, invert: false,
  lines: false, own: false, class: "", thread: "", all: false, q: "", regex: false, zoom: "", frame: "",
};

// Besides the unit that the costs come in, which is called "own".
const UNITS = {
  share: { name: "% of the process", amount: "% of the process", symbol: "%", key: "percent" },
  samples: { name: "samples, about", amount: "samples", symbol: "samples", key: "samples" },
};

export const unitOf = (profiles, unit) => UNITS[unit] || profiles.unit;

const FILE_TONES = 6;
const isOneSided = (view) => view === "before" || view === "after";

// The factors that turn the CPU ms per request of a role's two sides into the unit.
function scaleTo(unit, roles, sides) {
  const total = (role, side) => (side < 0 ? 0 : role.self[side].reduce((sum, ms) => sum + ms, 0));
  const whole = sides.map((side) => roles.reduce((sum, role) => sum + total(role, side), 0));
  if (unit === "share") return () => whole.map((ms) => (ms ? 100 / ms : 0));
  if (unit === "samples") return (role) => sides.map((side) => (side < 0 ? 0 : role.samples[side] / (total(role, side) || 1)));
  return () => [1, 1];
}

function largestChange(tree) {
  let most = 0;
  for (let node = 1; node < tree.count; node++) most = Math.max(most, Math.abs(tree.after[node] - tree.before[node]));
  return most;
}

// The colour of a file where colours mean files, the same in every report.
const tonesOf = (names) => names.map((name) => "bar-" + (parseInt(nameHash(fileOf(name) || name), 36) % FILE_TONES));

export const rootName = (profiles, state) =>
  "all of " + (profiles.choices.find(([value]) => value === state.role) || ["", state.role])[1];

export function makeGraph(profiles, state) {
  const keys = state.lines ? profiles.byLine : profiles.byFunction;
  const roles = profiles.rolesOf(state.role);
  const sides = profiles.sides.length > 1 ? [state.before, state.after] : [-1, 0];
  const sandwich = state.frame ? keys.names.findIndex((name) => nameHash(name) === state.frame) : -1;
  const isHidden = (frame) => state.own && !profiles.isOwn[frame];
  const given = {
    keys, sides, isHidden, sandwich, scale: scaleTo(state.unit, roles, sides), klass: profiles.classes.indexOf(state.class), thread: profiles.threads.indexOf(state.thread),
    order: state.sort === "weight" ? (isOneSided(state.view) ? state.view : state.width) : "",
  };
  const isSandwich = sandwich >= 0;
  const isInverted = state.invert && !isSandwich;
  const tree = buildTree(isSandwich ? "callees" : isInverted ? "inverted" : "down", roles, given);
  const callers = isSandwich ? buildTree("callers", roles, given) : null;
  return {
    keys, roles, sides, tree, callers, isInverted, sandwich,
    widths: widthsOf(tree, state.view, state.width),
    callerWidths: callers && widthsOf(callers, state.view, state.width),
    view: state.view,
    isPair: !isOneSided(state.view),
    hasPair: profiles.sides.length > 1,
    side: isOneSided(state.view) ? state.view : "after",
    significance: significance(profiles, roles, keys),
    largest: largestChange(tree),
    tones: tonesOf(keys.names),
    root: isSandwich ? keys.names[sandwich] : rootName(profiles, state),
  };
}

export const nameIn = (graph, tree, node) => (node === 0 ? graph.root : graph.keys.names[tree.key[node]]);

export const zoomPath = (graph, node) => pathOf(graph.tree, node).map((key) => nameHash(graph.keys.names[key])).join(".");

export const zoomNode = (graph, path) =>
  path && !graph.callers ? follow(graph.tree, path.split("."), (key, step) => nameHash(graph.keys.names[key]) === step) : 0;

// Colour means significance: of the function, by its trials, and only where this place of it moved the same way.
export function toneOf(graph, state, tree, node) {
  const change = tree.after[node] - tree.before[node];
  if (!graph.isPair) return node ? graph.tones[tree.key[node]] : "noise";
  if (!node && !graph.callers) return "noise";
  const direction = graph.significance.direction[node ? tree.key[node] : graph.sandwich];
  if (change === 0 || !(state.all || direction === Math.sign(change))) return "noise";
  const strength = Math.max(1, Math.ceil(Math.sqrt(Math.abs(change) / (graph.largest || 1)) * 4));
  return (change > 0 ? "grew-" : "shrank-") + Math.min(4, strength);
}
