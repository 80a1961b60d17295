// What is on the screen as a file: made here, handed over as a Blob. Nothing is asked of any server.
import { make } from "./dom.js";
import { currentTheme, fit, ROW_PX } from "./paint.js";
import { functionsUnder } from "./functions.js";

const NS_PER_MS = 1e6;
const FORMULA = /^[=+\-@\t\r]/;

const inFolded = (name) => name.replace(/;/g, ":").replace(/[\r\n]+/g, " ");

export function save(name, type, text) {
  const link = make("a");
  link.href = URL.createObjectURL(new Blob([text], { type: type + ";charset=utf-8" }));
  link.download = name;
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

// Every stack of the tree with its self time, root first.
function* stacksOf(graph, side) {
  const path = [];
  const { tree } = graph;
  for (let node = 1; node < tree.count; node++) {
    path.length = tree.depth[node] - 1;
    path.push(graph.keys.names[tree.key[node]]);
    if (tree[side + "Self"][node] > 0) yield [path, tree[side + "Self"][node]];
  }
}

// Whole numbers, since that is what readers of this form expect: nanoseconds where the unit is milliseconds.
export function folded(graph, side, unit) {
  const scale = unit.symbol === "ms" ? NS_PER_MS : unit.symbol === "samples" ? 1 : 1e4;
  let text = "";
  for (const [path, ms] of stacksOf(graph, side)) text += path.map(inFolded).join(";") + " " + Math.max(1, Math.round(ms * scale)) + "\n";
  return text;
}

// Source: https://www.speedscope.app/file-format-schema.json
export function speedscope(graphs, title, unit) {
  const frames = [];
  const numbers = new Map();
  const profiles = graphs.map(({ name, graph, side }) => {
    const samples = [];
    const weights = [];
    for (const [path, ms] of stacksOf(graph, side)) {
      samples.push(path.map((frame) => {
        if (!numbers.has(frame)) {
          numbers.set(frame, frames.length);
          frames.push(speedscopeFrame(frame));
        }
        return numbers.get(frame);
      }));
      weights.push(ms);
    }
    return { type: "sampled", name, unit: unit.symbol === "ms" ? "milliseconds" : "none", startValue: 0, endValue: weights.reduce((sum, ms) => sum + ms, 0), samples, weights };
  });
  return JSON.stringify({
    $schema: "https://www.speedscope.app/file-format-schema.json",
    shared: { frames }, profiles, name: title, exporter: "perfguard", activeProfileIndex: 0,
  });
}

function speedscopeFrame(frame) {
  const parts = frame.match(/^(.*) \(([^()]*?)(?::(\d+))?\)$/s);
  if (!parts) return { name: frame };
  return parts[3] ? { name: parts[1], file: parts[2], line: Number(parts[3]) } : { name: parts[1], file: parts[2] };
}

// A spreadsheet takes a cell that begins with = for a formula; the apostrophe keeps it text.
const cell = (value) => {
  const text = typeof value === "number" ? String(value) : (FORMULA.test(value) ? "'" : "") + value;
  return /[",\r\n]/.test(text) ? '"' + text.replace(/"/g, '""') + '"' : text;
};

export function csv(graph, zoom, unit) {
  const head = ["function", ...["before", "after", "change", "self_before", "self_after", "self_change"].map((name) => name + "_" + unit), "verdict"];
  const rows = functionsUnder(graph, zoom).sort((a, b) => Math.abs(b.change) - Math.abs(a.change) || (a.name < b.name ? -1 : 1));
  const verdict = (row) => (row.direction ? "significant" : row.isTested ? "noise" : "not tested");
  return [head, ...rows.map((row) =>
    [row.name, row.before, row.after, row.change, row.beforeSelf, row.afterSelf, row.selfChange, graph.isPair ? verdict(row) : ""])]
    .map((row) => row.map(cell).join(",")).join("\r\n") + "\r\n";
}

// The graph as it is drawn, with every text as text and the full name of each bar as its title.
export function svg(bars, rows, look, nameOf, title) {
  const width = 1200;
  const colours = currentTheme();
  const place = (value) => String(Math.round(value * 100) / 100);
  const xml = document.implementation.createDocument("http://www.w3.org/2000/svg", "svg");
  const root = xml.documentElement;
  const put = (parent, tag, attributes, text) => {
    const element = xml.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    if (text !== undefined) element.textContent = inXml(text);
    parent.append(element);
    return element;
  };
  const height = rows * ROW_PX + 30;
  for (const [name, value] of Object.entries({ width, height, viewBox: `0 0 ${width} ${height}`, "font-family": "monospace", "font-size": "11.5" })) {
    root.setAttribute(name, value);
  }
  put(root, "rect", { width, height, fill: colours.paper });
  put(root, "text", { x: 4, y: 18, fill: colours.strong }, title);
  const patterns = put(root, "defs", {});
  for (const [id, d] of [["grew", "M0 8L8 0"], ["shrank", "M0 0L8 8"]]) {
    const pattern = put(patterns, "pattern", { id, width: 8, height: 8, patternUnits: "userSpaceOnUse" });
    put(pattern, "path", { d, stroke: colours.strong, "stroke-opacity": 0.25, "stroke-width": 1.6 });
  }
  for (const bar of bars) {
    const { tone, label, isDim } = look(bar);
    const group = put(root, "g", isDim ? { opacity: 0.4 } : {});
    put(group, "title", {}, nameOf(bar));
    const box = { x: place(bar.left * width), y: bar.row * ROW_PX + 28, width: place(Math.max(0.5, bar.width * width - 1)), height: ROW_PX - 1 };
    put(group, "rect", { ...box, fill: colours.fill[tone] });
    const direction = tone.split("-")[0];
    if (direction === "grew" || direction === "shrank") put(group, "rect", { ...box, fill: `url(#${direction})` });
    const text = fit(label(), Math.floor((bar.width * width - 8) / 7));
    if (text) put(group, "text", { x: place(bar.left * width + 4), y: bar.row * ROW_PX + 42, fill: colours.ink }, text);
  }
  return new XMLSerializer().serializeToString(xml);
}

// XML has no room for control characters, whatever the escape.
const inXml = (text) => text.replace(/[^\t\n\r\u{20}-\u{D7FF}\u{E000}-\u{FFFD}\u{10000}-\u{10FFFF}]/gu, "\uFFFD");
