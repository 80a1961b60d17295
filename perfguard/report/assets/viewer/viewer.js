// The flamegraph viewer: keeps the state, and redraws what a change of it touches.
import { byId, later, make } from "./dom.js";
import { FunctionTable } from "./functions.js";
import { DEFAULTS, makeGraph, nameIn, rootName, toneOf, unitOf, zoomNode, zoomPath } from "./graph.js";
import { barAt, byRow, layout } from "./layout.js";
import { writeLink } from "./link.js";
import { forgetTheme, paint, ROW_PX } from "./paint.js";
import { asksForLine, matched, matching, nextMatch } from "./search.js";
import { wholeOf } from "./profile.js";
import { hideTip, showTip } from "./tip.js";
import { functionOf, nameHash, number, percent, counted, ratio, shorten, signed } from "./words.js";

const SMALLEST_PX = 1; // narrower bars are not drawn; how many is said under the graph
const FOUND_SHARE = 0.02; // a match that is gone to is at least this wide

export class Viewer {
  constructor(profiles) {
    this.profiles = profiles;
    this.defaults = { ...DEFAULTS, role: this.mostChanged(), view: profiles.sides.length > 1 ? "diff" : "after" };
    this.state = { ...this.defaults };
    this.zoom = 0;
    this.focus = null;
    this.marks = null;
    this.table = new FunctionTable((key) => this.sandwich(this.graph.keys.names[key]));
    this.drawTable = later(30, () => this.showTable());
    this.canvas = byId("flame-graph");
    // What is drawn, for tests and for the curious.
    Object.defineProperty(this.canvas, "bars", { get: () => this.described() });
  }

  // The role in which something grew most, beyond the noise, opens; where nothing grew, the one in which something
  // shrank most; where nothing is significant, the one that used most.
  mostChanged() {
    const changes = new Map(Object.entries(this.profiles.changes));
    const most = ({ name }, sign) => Math.max(0, ...Object.values(changes.get(name) || {})
      .filter((each) => each[2]).map(([low, high]) => sign * (low + high) / 2));
    const used = (role) => Math.max(...role.self.map((self) => self.reduce((sum, value) => sum + value, 0)));
    const ranked = this.profiles.roles.map((role) => [most(role, 1), most(role, -1), used(role), role.name]);
    return wholeOf(this.profiles, ranked.sort((a, b) => b[0] - a[0] || b[1] - a[1] || b[2] - a[2])[0][3]);
  }

  // Takes new values of the state and draws what they change.
  set(changes) {
    Object.assign(this.state, changes);
    if (!this.profiles.choices.some(([value]) => value === this.state.role)) this.state.role = this.defaults.role;
    const place = (side, otherwise) => (side >= 0 && side < this.profiles.sides.length ? side : otherwise);
    this.state.before = place(this.state.before, 0);
    this.state.after = place(this.state.after, 0);
    if (!["before", "after", "diff", "added", "removed"].includes(this.state.view) || this.profiles.sides.length < 2) {
      this.state.view = this.defaults.view;
    }
    if (!["before", "after", "both"].includes(this.state.width)) this.state.width = "after";
    if (!["share", "samples"].includes(this.state.unit)) this.state.unit = "own";
    if ("q" in changes && asksForLine(this.state.q) && !this.state.regex) this.state.lines = true;
    const isTurned = Object.keys(changes).every((name) => ["zoom", "q", "regex", "flip", "all"].includes(name));
    if (!isTurned || !this.graph || (this.state.lines && this.graph.keys !== this.profiles.byLine)) {
      this.graph = makeGraph(this.profiles, this.state);
      if (this.graph.sandwich < 0) this.state.frame = "";
    }
    const { marks, error } = matching(this.graph.keys.names, this.state.q, this.state.regex);
    this.marks = marks;
    this.searchError = error;
    this.zoom = zoomNode(this.graph, this.state.zoom);
    this.state.zoom = zoomPath(this.graph, this.zoom);
    if (!isTurned || "zoom" in changes) this.focus = null;
    this.draw({ isTop: !isTurned || "zoom" in changes || "flip" in changes });
    this.onchange();
    writeLink(this.state, this.defaults);
  }

  draw({ isTop }) {
    const smallest = SMALLEST_PX / (byId("flame-scroll").clientWidth || 1000);
    const placed = layout(this.graph, this.zoom, smallest, this.state.flip);
    Object.assign(this, { bars: placed.bars, rows: placed.rows, table_: byRow(placed.bars, placed.rows) });
    const has = (bar) => this.focus && bar.node === this.focus.node && bar.tree === this.focus.tree;
    this.focus = this.bars.find(has) || this.bars.find((bar) => bar.tree === this.graph.tree && bar.node === this.zoom);
    this.paint();
    if (isTop) {
      byId("flame-scroll").scrollTop = this.state.flip ? this.rows * ROW_PX : 0;
      if (this.graph.callers) this.reveal(this.focus);
    }
    hideTip();
    byId("flame-hidden").textContent = this.hiddenText(placed.skipped);
    this.drawPath();
    byId("flame-status").textContent = this.statusText();
    byId("flame-gil").textContent = this.gilText();
    byId("flame-matches").textContent = this.matchText();
    this.drawTable();
    performance.mark("flame-drawn");
  }

  paint() {
    paint(this.bars, this.rows, (bar) => this.look(bar));
  }

  repaint() {
    forgetTheme();
    if (this.graph) this.draw({ isTop: false });
  }

  look(bar) {
    const isMatch = Boolean(this.marks && bar.node && this.marks[bar.tree.key[bar.node]]);
    return {
      tone: toneOf(this.graph, this.state, bar.tree, bar.node), label: () => this.labelOf(bar), isMatch,
      isDim: Boolean(this.marks) && !isMatch, isFocus: bar === this.focus && document.activeElement === this.canvas,
    };
  }

  unit() {
    return unitOf(this.profiles, this.state.unit);
  }

  nameOf(bar) {
    return nameIn(this.graph, bar.tree, bar.node);
  }

  labelOf(bar) {
    const name = this.nameOf(bar);
    const change = bar.tree.after[bar.node] - bar.tree.before[bar.node];
    if (this.look(bar).tone === "noise" || !this.graph.isPair) return name; // inside the noise a number would only mislead
    const [, called, file] = name.match(/^(.*?)( \(.*)?$/s);
    return (change > 0 ? "+ " : "- ") + called + " " + signed(change) + " " + this.unit().symbol + (file || "");
  }

  spoken(bar) {
    const { tree, node } = bar;
    const widths = tree === this.graph.callers ? this.graph.callerWidths : this.graph.widths;
    const unit = this.unit().name;
    const share = percent(widths[node], widths[tree === this.graph.tree ? this.zoom : 0]) + " of the zoom";
    const name = shorten(this.nameOf(bar), 160);
    if (!this.graph.isPair) return name + ", " + number(widths[node]) + " " + unit + ", " + share;
    const tone = this.look(bar).tone;
    return name + ", before " + number(tree.before[node]) + ", after " + number(tree.after[node]) + " " + unit + ", change " +
      signed(tree.after[node] - tree.before[node]) + (tone === "noise" ? ", not significant" : "") + ", " + share;
  }

  described() {
    const box = this.canvas.getBoundingClientRect();
    const scrolled = byId("flame-scroll").scrollTop;
    return this.bars.map((bar) => {
      const { tone, label, isMatch, isDim } = this.look(bar);
      const [x, y, width] = [box.left + bar.left * box.width, box.top + bar.row * ROW_PX - scrolled, bar.width * box.width];
      return { name: this.nameOf(bar), label: label(), spoken: this.spoken(bar), tone, isMatch, isDim, row: bar.row, x, y, width, height: ROW_PX };
    });
  }

  // --- what is said beside the graph -----------------------------------------------------------------------------------

  hiddenText(skipped) {
    const { roles, tree, widths } = this.graph;
    if (widths[0] === 0) {
      const words = { added: "No code was added.", removed: "No code was removed." };
      return words[this.state.view] || (roles.length && tree.count > 1 ? "Nothing of it ran on this side." : "No stacks of this process were sampled on this side.");
    }
    return skipped ? counted(skipped, "frame", "frames") + " narrower than a pixel (with what they call) are not drawn; zoom in to see them." : "";
  }

  sampled(side) {
    const { label } = this.profiles.sides[side];
    const samples = this.graph.roles.reduce((sum, role) => sum + role.samples[side], 0);
    const trials = this.graph.roles.reduce((most, role) => Math.max(most, role.trials[side]), 0);
    return shorten(label, 40) + (samples ? " (" + counted(samples, "sample", "samples") + ", " + counted(trials, "trial", "trials") + ")" : " (not sampled)");
  }

  statusText() {
    const { tree, sides, isPair, side, significance } = this.graph;
    const unit = this.unit().name;
    if (!isPair) return unit + ": " + number(tree[side][0]) + ", " + this.sampled(side === "before" ? sides[0] : sides[1]) + ".";
    const [before, after] = [tree.before[0], tree.after[0]];
    let text = unit + ": " + number(before) + " before, " + this.sampled(sides[0]) + "; " + number(after) + " after, " +
      this.sampled(sides[1]) + "; " + signed(after - before) + " in all (" + ratio(before, after) + ").";
    if (!significance.tested) text += " No function's change was tested, so all is grey.";
    else if (!significance.found) text += " No function's change lies outside the noise, so all is grey.";
    else if (this.state.unit !== "own") text += " Colours mark functions whose " + this.profiles.unit.name + " changed; this unit was not tested.";
    return text;
  }

  // The GIL is known of a process and its busiest thread, not of a frame.
  gilText() {
    const { roles, sides, isPair, side } = this.graph;
    if (roles.length !== 1) return "";
    const told = sides.map((place) => roles[0].gil[place]).filter((each, place) => each && (isPair || place === (side === "before" ? 0 : 1)));
    if (!told.length) return "";
    const unknown = told.find((each) => each.wait === null);
    if (unknown) return "GIL: cannot be told" + (unknown.unknown ? ": " + unknown.unknown : "") + ".";
    const shares = (name) => told.map((each) => (each[name] === null ? "n/a" : percent(each[name], 1))).join(" → ");
    return "GIL, not in this graph: the busiest thread, " + told[told.length - 1].thread + ", holds it " + shares("hold") +
      " and waits for it " + shares("wait") + " of the time" + (isPair && told.length > 1 ? " (before → after)." : ".");
  }

  matchText() {
    if (!this.marks) return this.searchError;
    const { tree, widths } = this.graph;
    const { found, time } = matched(tree, widths, this.zoom, this.marks);
    return counted(found, "match", "matches") + ", " + percent(time, widths[this.zoom]) + " of the zoom (" + number(time) + " " +
      this.unit().amount + ")";
  }

  drawPath() {
    const nav = byId("flame-path");
    nav.replaceChildren();
    const step = (name, run, isHere) => {
      const button = make("button", shorten(name, 80));
      button.type = "button";
      if (isHere) button.setAttribute("aria-current", "location");
      button.addEventListener("click", run);
      nav.append(nav.childNodes.length ? " › " : "", button);
    };
    if (this.graph.callers) {
      step(rootName(this.profiles, this.state), () => this.set({ frame: "", zoom: "" }), false);
      step("callers and callees of " + this.graph.root, () => {}, true);
      return;
    }
    const path = [];
    for (let node = this.zoom; node >= 0; node = this.graph.tree.parent[node]) path.unshift(node);
    path.forEach((node, place) => {
      step(nameIn(this.graph, this.graph.tree, node), () => this.zoomTo(node), place === path.length - 1);
    });
  }

  showTable() {
    const at = this.graph.callers ? 0 : this.zoom;
    byId("flame-caption").textContent = this.graph.callers ? "Direct callers and callees of " + shorten(this.graph.root, 120)
      : this.zoom ? "Functions under " + shorten(nameIn(this.graph, this.graph.tree, this.zoom), 120) : "Functions of " + this.graph.root.replace("all of ", "");
    this.table.show(this.graph, at, this.graph.side, this.marks, this.unit().name);
  }

  // --- what the reader does ------------------------------------------------------------------------------------------------

  zoomTo(node) {
    this.set({ zoom: zoomPath(this.graph, node) });
  }

  // Zooms into a bar; among callers and callees, shows those of the bar instead.
  open(bar) {
    if (!this.graph.callers) this.zoomTo(bar.node);
    else if (bar.node) this.sandwich(this.nameOf(bar));
  }

  sandwich(name) {
    this.set({ frame: nameHash(name), zoom: "" });
    byId("flame-scroll").scrollIntoView({ block: "nearest" });
  }

  reset() {
    this.set({ q: "", regex: false, zoom: "", frame: "" });
  }

  // Shows a frame that another part of the page names.
  point(role, frame) {
    this.set({ role, q: frame, regex: false, zoom: "", frame: "", lines: functionOf(frame) !== frame, own: false, class: "", thread: "",
      view: this.defaults.view, width: "after" });
    // What is gone has no width after.
    if (this.marks && !matched(this.graph.tree, this.graph.widths, 0, this.marks).found) this.set({ view: this.defaults.view, width: "both" });
    byId("flame").scrollIntoView();
  }

  goToMatch(step) {
    if (!this.marks) return;
    const { tree, widths } = this.graph;
    const from = this.focus && this.focus.tree === tree ? this.focus.node : this.zoom;
    const node = nextMatch(tree, widths, this.marks, from, step);
    if (node < 0) return;
    const isInside = node >= this.zoom && node < tree.end[this.zoom];
    if (!isInside || widths[node] < FOUND_SHARE * widths[this.zoom]) {
      let above = node;
      while (above > 0 && widths[node] >= FOUND_SHARE * widths[tree.parent[above]]) above = tree.parent[above];
      this.zoomTo(above);
    }
    this.setFocus(this.bars.find((bar) => bar.tree === tree && bar.node === node));
    let place = 0;
    for (let each = 1; each <= node; each++) place += this.marks[tree.key[each]] && widths[each] > 0 ? 1 : 0;
    byId("flame-matches").textContent = "match " + place.toLocaleString("en") + " of " + this.matchText();
  }

  setFocus(bar) {
    if (!bar) return;
    this.focus = bar;
    this.reveal(bar);
    this.canvas.focus({ preventScroll: true });
    this.paint();
    byId("flame-say").textContent = this.spoken(bar);
    const box = this.canvas.getBoundingClientRect();
    const y = box.top + (bar.row + 1) * ROW_PX - byId("flame-scroll").scrollTop;
    this.tipOf(bar, box.left + Math.max(0, bar.left) * box.width, y - 8);
  }

  reveal(bar) {
    const scroller = byId("flame-scroll");
    const [top, bottom] = [bar.row * ROW_PX, (bar.row + 1) * ROW_PX];
    if (top < scroller.scrollTop) scroller.scrollTop = Math.max(0, top - 2 * ROW_PX);
    else if (bottom > scroller.scrollTop + scroller.clientHeight) scroller.scrollTop = bottom - scroller.clientHeight + 2 * ROW_PX;
  }

  // The widest bar that touches the focus in the row above (-1) or below (1), or its neighbour in its own row.
  walk(rows, places) {
    const from = this.focus;
    if (places) {
      const row = this.table_[from.row];
      return this.setFocus(row[row.indexOf(from) + places]);
    }
    const touching = (this.table_[from.row + rows] || []).filter((bar) => bar.left < from.left + from.width - 1e-9 && bar.left + bar.width > from.left + 1e-9);
    return this.setFocus(touching.reduce((best, bar) => (best && best.width >= bar.width ? best : bar), null));
  }

  at(x, y) {
    const box = this.canvas.getBoundingClientRect();
    const row = Math.floor((y - box.top + byId("flame-scroll").scrollTop) / ROW_PX);
    return barAt(this.table_, row, (x - box.left) / box.width);
  }

  tipOf(bar, x, y) {
    const { tree, node } = bar;
    const key = node ? tree.key[node] : this.graph.sandwich;
    showTip(this.nameOf(bar), {
      tree, node, zoom: tree === this.graph.tree ? this.zoom : 0, isPair: this.graph.hasPair, side: this.graph.side,
      unit: this.unit().name, hasSelf: tree === this.graph.tree && !this.graph.isInverted,
      tested: this.profiles.unit.amount, verdicts: key >= 0 ? this.graph.significance.verdicts[key] : [],
    }, x, y);
  }
}
