// The packed profiles of the page (report/flame.py writes them; docs/report.md describes them), unpacked into flat arrays.
import { functionOf } from "./words.js";

// A name from the data may be `__proto__`: own properties only.
export const own = (object, key) =>
  Object.prototype.hasOwnProperty.call(object, key) ? object[key] : undefined;

export const ALL_RANKS = "*ranks";
export const ALL_ROLES = "*all";
const RANK = /^rank-\d+$/;
const THREAD = /^(.*), thread /s; // how report pages name a thread's stacks; `*of:` names the sum of a process's threads
const SUM_OF = "*of:";

// What a role is opened as: the process that it is a thread of, or itself.
export const wholeOf = (profiles, role) => {
  const [, process] = role.match(THREAD) || [];
  const sum = SUM_OF + process;
  return profiles.choices.some(([value]) => value === sum) ? sum : role;
};

async function inflated(text) {
  const letters = atob(text);
  const packed = new Uint8Array(letters.length);
  for (let i = 0; i < letters.length; i++) packed[i] = letters.charCodeAt(i);
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
  return JSON.parse(await new Response(stream).text());
}

function unpackRole(role) {
  const count = role.frame.length;
  const parent = new Int32Array(count);
  const path = [-1];
  let depth = -1;
  for (let i = 0; i < count; i++) {
    depth += 1 - role.up[i];
    parent[i] = path[depth];
    path[depth + 1] = i;
  }
  return {
    name: role.name, samples: role.samples, trials: role.trials, count, parent,
    frame: Int32Array.from(role.frame),
    self: role.self.map((values) => Float64Array.from(values)),
    classes: role.class ? role.class.map((values) => Int16Array.from(values)) : null,
    threads: role.thread ? role.thread.map((values) => Int16Array.from(values)) : null,
    gil: role.gil || [],
  };
}

// One way to tell frames apart: `of[frame]` is the key's number, `names[key]` its name, `rank[key]` its alphabetical place.
function keyed(frames, nameOf) {
  const numbers = new Map();
  const of = new Int32Array(frames.length);
  frames.forEach((frame, i) => {
    const name = nameOf(frame);
    if (!numbers.has(name)) numbers.set(name, numbers.size);
    of[i] = numbers.get(name);
  });
  const names = [...numbers.keys()];
  const rank = new Int32Array(names.length);
  names.map((name, key) => [name, key]).sort((a, b) => (a[0] < b[0] ? -1 : 1)).forEach(([, key], place) => {
    rank[key] = place;
  });
  return { of, names, rank };
}

export async function readProfiles(text) {
  const data = await inflated(text);
  const roles = data.roles.map(unpackRole);
  const ranks = roles.filter((role) => RANK.test(role.name));
  const threads = new Map(); // process -> its threads
  for (const role of roles) {
    const [, process] = role.name.match(THREAD) || [];
    if (process !== undefined) threads.set(process, [...(threads.get(process) || []), role]);
  }
  return {
    sides: data.sides, frames: data.frames, classes: data.classes, threads: data.threads || [""], changes: data.changes, ownPackage: data.own_package, unit: data.unit,
    isOwn: Uint8Array.from(data.own), roles,
    byLine: keyed(data.frames, (frame) => frame),
    byFunction: keyed(data.frames, functionOf),
    // What can be chosen: every role, equal ranks added up, and all processes.
    choices: [
      ...[...threads].map(([process, of]) => [SUM_OF + process, process + ", " + of.length + " threads added up"]),
      ...roles.map((role) => [role.name, role.name]),
      ...(ranks.length > 1 ? [[ALL_RANKS, ranks.length + " ranks, added up"]] : []),
      ...(roles.length > Math.max(1, ranks.length) && threads.size !== 1 ? [[ALL_ROLES, "all processes, added up"]] : []),
    ],
    rolesOf: (choice) =>
      choice.startsWith(SUM_OF) ? threads.get(choice.slice(SUM_OF.length)) || [] : choice === ALL_ROLES ? roles : choice === ALL_RANKS ? ranks : roles.filter((role) => role.name === choice),
  };
}

// What the evidence says of every key of the chosen roles: 1 grew, -1 shrank, both beyond the noise; 0 noise or untested.
export function significance(profiles, roles, keys) {
  const tested = new Map(); // function name -> [[role, low, high, significant], ...]
  for (const role of roles) {
    for (const [name, change] of Object.entries(own(profiles.changes, role.name) || {})) {
      if (!tested.has(name)) tested.set(name, []);
      tested.get(name).push([role.name, ...change]);
    }
  }
  const direction = new Int8Array(keys.names.length);
  const verdicts = keys.names.map((name) => tested.get(name) || tested.get(functionOf(name)) || []);
  verdicts.forEach((changes, key) => {
    const signs = new Set(changes.filter((each) => each[3]).map(([, low, high]) => (low + high < 0 ? -1 : 1)));
    if (signs.size === 1) direction[key] = [...signs][0]; // ranks that disagree do not add up to a verdict
  });
  return { direction, verdicts, tested: tested.size, found: direction.some((each) => each !== 0) };
}
