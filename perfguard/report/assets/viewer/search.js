// Search by text, regular expression or file:line. A match under a match is not counted twice.

const FILE_LINE = /^\S*[\w>]:\d+$/;

// Tells whether a text asks for a line, which only frames by line have.
export const asksForLine = (text) => FILE_LINE.test(text.trim());

// Marks every key whose name matches. `error` says why a regular expression is none.
export function matching(names, text, isRegex) {
  if (!text) return { marks: null, error: "" };
  let test;
  if (isRegex) {
    try {
      const pattern = new RegExp(text, "i");
      test = (name) => pattern.test(name);
    } catch (error) {
      return { marks: null, error: "not a regular expression: " + error.message };
    }
  } else {
    const wanted = text.trim().toLowerCase();
    // `a.py:12` is line 12, not line 120: a line ends where the name's bracket closes.
    test = asksForLine(text) ? (name) => name.toLowerCase().includes(wanted + ")") : (name) => name.toLowerCase().includes(wanted);
  }
  return { marks: Uint8Array.from(names, (name) => (test(name) ? 1 : 0)), error: "" };
}

// Sums the matches under `zoom`: how many frames match, and the time under them, each moment once.
export function matched(tree, widths, zoom, marks) {
  let found = 0;
  let time = 0;
  let covered = zoom;
  for (let node = zoom; node < tree.end[zoom]; node++) {
    if (node === 0 || !marks[tree.key[node]] || widths[node] <= 0) continue;
    found += 1;
    if (node < covered) continue;
    time += widths[node];
    covered = tree.end[node];
  }
  return { found, time };
}

// The match after (or before) `from` in the order of the graph, around the end; -1 where there is none.
export function nextMatch(tree, widths, marks, from, step) {
  for (let turn = 1, node = from; turn <= tree.count; turn++) {
    node = (node + step + tree.count) % tree.count;
    if (node > 0 && marks[tree.key[node]] && widths[node] > 0) return node;
  }
  return -1;
}
