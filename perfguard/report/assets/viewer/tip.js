// The tooltip of a bar: both sides, the change and its interval, self and total, shares of the zoom and of the whole.
import { byId, make } from "./dom.js";
import { number, percent, ratio, shorten, signed } from "./words.js";

function line(table, ...cells) {
  const row = make("tr");
  cells.forEach((cell, place) => row.append(make(place ? "td" : "th", cell, place ? "number" : "")));
  table.append(row);
}

function facts({ tree, node, zoom, isPair, side, unit, hasSelf }) {
  const table = make("table");
  if (isPair) {
    const [before, after] = [tree.before[node], tree.after[node]];
    line(table, unit, "before", "after", "change", "ratio");
    line(table, "total", number(before), number(after), signed(after - before), ratio(before, after));
    if (hasSelf) {
      const [old, now] = [tree.beforeSelf[node], tree.afterSelf[node]];
      line(table, "self", number(old), number(now), signed(now - old), ratio(old, now));
    }
    for (const [name, whole] of [["of the zoom", zoom], ["of the whole", 0]]) {
      line(table, name, percent(before, tree.before[whole]), percent(after, tree.after[whole]));
    }
  } else {
    line(table, "total", number(tree[side][node]) + " " + unit);
    if (hasSelf) line(table, "self", number(tree[side + "Self"][node]) + " " + unit);
    line(table, "of the zoom", percent(tree[side][node], tree[side][zoom]));
    line(table, "of the whole", percent(tree[side][node], tree[side][0]));
  }
  return table;
}

// Says what the evidence knows of a function's change, a sentence a role.
export function intervals(verdicts, unit) {
  if (!verdicts.length) return ["change: inside the noise, or too small to test"];
  return verdicts.map(([role, low, high, significant]) => {
    const where = verdicts.length > 1 ? role + ": " : "";
    if (low === null || high === null) return where + "change: not tested";
    const range = signed(low) + " to " + signed(high) + " " + unit + " (whole function)";
    return where + "change: " + range + (significant ? ", significant" : ", inside the noise");
  });
}

export function showTip(name, given, x, y) {
  const tip = byId("flame-tip");
  tip.replaceChildren(make("b", shorten(name, 300)), facts(given));
  if (given.isPair && given.node > 0) for (const each of intervals(given.verdicts, given.tested)) tip.append(make("div", each));
  for (const each of given.meanwhile) tip.append(make("div", each));
  if (given.classes) tip.append(make("div", given.classes));
  tip.hidden = false;
  const box = tip.getBoundingClientRect();
  const roomX = document.documentElement.clientWidth - box.width - 8;
  const fitsBelow = y + 16 + box.height < window.innerHeight;
  tip.style.left = Math.max(8, Math.min(x + 12, roomX)) + "px";
  tip.style.top = Math.max(8, fitsBelow ? y + 16 : y - box.height - 12) + "px";
}

export function hideTip() {
  byId("flame-tip").hidden = true;
}
