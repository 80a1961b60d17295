// How numbers and names are written. The Python faces write them alike (report/words.py).

export const percent = (part, whole) =>
  whole > 0 ? ((part / whole) * 100).toFixed(part / whole < 0.1 ? 2 : 1) + "%" : "n/a";

export const counted = (count, noun, nouns) => count.toLocaleString("en") + " " + (count === 1 ? noun : nouns);

export function shorten(text, limit) {
  if (text.length <= limit) return text;
  const tail = Math.floor((limit - 1) / 3);
  return text.slice(0, limit - 1 - tail) + "…" + (tail ? text.slice(-tail) : "");
}

export function number(value) {
  const size = Math.abs(value);
  if (size === 0) return "0";
  if (size < 1e-6) return value.toExponential(1);
  return size >= 100 ? Math.round(value).toLocaleString("en") : value.toPrecision(3);
}

export const signed = (value) => (value > 0 ? "+" : "") + number(value);

export function ratio(before, after) {
  if (before <= 0) return after > 0 ? "new" : "n/a";
  if (after <= 0) return "gone";
  const change = after / before - 1;
  return (change > 0 ? "+" : "") + (change * 100).toFixed(Math.abs(change) < 1 ? 1 : 0) + "%";
}

// A commit moves the lines below it, so that two sides are compared by function: `f (a.py:12)` is `f (a.py)`.
export const functionOf = (name) => name.replace(/:\d+\)$/, ")");

export const fileOf = (name) => (name.match(/\(([^()]*?)(?::\d+)?\)$/) || ["", ""])[1];

// A name in a link: 32 bits of FNV-1a are enough to tell siblings apart, and say the same after the report is made anew.
export function nameHash(name) {
  let hash = 0x811c9dc5;
  for (let i = 0; i < name.length; i++) hash = Math.imul(hash ^ name.charCodeAt(i), 0x01000193);
  return (hash >>> 0).toString(36);
}
