// The table beside the graph: every function under the zoom, or the direct callers and callees of a sandwich. It says in
// words what the graph says in colours, can be sorted, and is what a screen reader reads.
import { byId, make } from "./dom.js";
import { counted, number, percent, ratio, shorten, signed } from "./words.js";

const FIRST_ROWS = 30;
const MORE_ROWS = 300;

// Sums every function under `zoom`: total once a stack however often it recurs, and self. Among added (removed) code, only
// the places count that had (have) no time on the other side.
export function functionsUnder(graph, zoom) {
  const other = { added: graph.tree.before, removed: graph.tree.after }[graph.view];
  const { tree } = graph;
  const count = graph.keys.names.length;
  const covered = new Int32Array(count);
  const sums = { before: new Float64Array(count), after: new Float64Array(count), beforeSelf: new Float64Array(count), afterSelf: new Float64Array(count) };
  const seen = new Set();
  for (let node = Math.max(1, zoom); node < tree.end[zoom]; node++) {
    const key = tree.key[node];
    if (other && other[node] > 0) continue;
    seen.add(key);
    if (graph.isInverted ? tree.depth[node] === 1 : true) {
      sums.beforeSelf[key] += graph.isInverted ? tree.before[node] : tree.beforeSelf[node];
      sums.afterSelf[key] += graph.isInverted ? tree.after[node] : tree.afterSelf[node];
    }
    if (node < covered[key]) continue;
    sums.before[key] += tree.before[node];
    sums.after[key] += tree.after[node];
    covered[key] = tree.end[node];
  }
  return [...seen].map((key) => row(graph, key, "", sums, key));
}

function row(graph, key, relation, sums, place) {
  return {
    key, relation, name: graph.keys.names[key], direction: graph.significance.direction[key],
    isTested: graph.significance.verdicts[key].some((each) => each[1] !== null),
    before: sums.before[place], after: sums.after[place], beforeSelf: sums.beforeSelf[place], afterSelf: sums.afterSelf[place],
    change: sums.after[place] - sums.before[place],
    selfChange: sums.afterSelf[place] - sums.beforeSelf[place],
  };
}

function neighbours(graph) {
  const rows = [];
  for (const [relation, tree] of [["caller", graph.callers], ["callee", graph.tree]]) {
    for (let node = 1; node < tree.count; node = tree.end[node]) rows.push(row(graph, tree.key[node], relation, tree, node));
  }
  return rows;
}

const verdictOf = (row) =>
  row.direction ? (row.direction > 0 ? "grew" : "shrank") : row.isTested ? "inside the noise" : "not tested";

function columnsOf(graph, side, whole) {
  const pair = [
    { id: "before", name: "Before", cell: (row) => number(row.before) },
    { id: "after", name: "After", cell: (row) => number(row.after) },
    { id: "change", name: "Change", cell: (row) => signed(row.change), size: true },
    { id: "ratio", name: "Ratio", cell: (row) => ratio(row.before, row.after), value: (row) => row.after / row.before || 0 },
    { id: "selfChange", name: "Self", title: "change of its own code's time", cell: (row) => signed(row.selfChange), size: true },
  ];
  const single = [
    { id: side, name: "Total", cell: (row) => number(row[side]) },
    { id: side + "Self", name: "Self", cell: (row) => number(row[side + "Self"]) },
    { id: "share", name: "Share", cell: (row) => percent(row[side], whole[side]), value: (row) => row[side] },
  ];
  return [
    { id: "name", name: "Function (file)", value: (row) => row.name, isText: true },
    ...(graph.callers ? [{ id: "relation", name: "Relation", value: (row) => row.relation, isText: true, cell: (row) => row.relation }] : []),
    ...(graph.isPair ? pair : single),
    ...(graph.isPair ? [{ id: "verdict", name: "Verdict", value: verdictOf, isText: true, cell: verdictOf }] : []),
  ];
}

export class FunctionTable {
  // `open(key)` shows the callers and callees of a function.
  constructor(open) {
    this.open = open;
    this.sorting = { id: "", isDown: true };
    this.limit = FIRST_ROWS;
    byId("flame-more").addEventListener("click", () => {
      this.limit += MORE_ROWS;
      this.draw();
    });
  }

  show(graph, zoom, side, marks, unit) {
    this.graph = graph;
    this.columns = columnsOf(graph, side, { before: graph.tree.before[zoom], after: graph.tree.after[zoom] });
    this.rows = (graph.callers ? neighbours(graph) : functionsUnder(graph, zoom)).filter((row) => !marks || marks[row.key]);
    if (!graph.isPair) this.rows = this.rows.filter((row) => row[side] > 0);
    this.unit = unit;
    this.limit = FIRST_ROWS;
    if (!this.columns.some((column) => column.id === this.sorting.id)) {
      this.sorting = { id: graph.isPair ? "selfChange" : side + "Self", isDown: true };
    }
    this.draw();
  }

  sorted() {
    const column = this.columns.find((each) => each.id === this.sorting.id);
    const valueOf = column.value || ((row) => (column.size ? Math.abs(row[column.id]) : row[column.id]));
    const order = (a, b) => {
      const [one, other] = [valueOf(a), valueOf(b)];
      return (one < other ? -1 : one > other ? 1 : 0) || (a.name < b.name ? 1 : -1);
    };
    return this.rows.sort(this.sorting.isDown ? (a, b) => order(b, a) : order);
  }

  draw() {
    const rows = this.sorted();
    const shown = rows.slice(0, this.limit);
    byId("flame-rows").replaceChildren(...shown.map((row) => this.line(row)));
    byId("flame-columns").replaceChildren(...this.columns.map((column) => this.heading(column)));
    byId("flame-count").textContent =
      counted(rows.length, "function", "functions") + (shown.length < rows.length ? ", the first " + shown.length + " shown" : "") + "; " + this.unit;
    byId("flame-more").hidden = shown.length >= rows.length;
  }

  heading(column) {
    const cell = make("th", undefined, column.isText ? "" : "number");
    const isSorted = this.sorting.id === column.id;
    cell.scope = "col";
    if (isSorted) cell.setAttribute("aria-sort", this.sorting.isDown ? "descending" : "ascending");
    const button = make("button", column.name + (isSorted ? (this.sorting.isDown ? " ▼" : " ▲") : ""), "sort");
    button.type = "button";
    if (column.title) button.title = column.title;
    button.addEventListener("click", () => {
      this.sorting = { id: column.id, isDown: isSorted ? !this.sorting.isDown : !column.isText };
      this.draw();
      byId("flame-columns").children[this.columns.findIndex((each) => each.id === column.id)].firstChild.focus();
    });
    cell.append(button);
    return cell;
  }

  line(row) {
    const line = make("tr", undefined, this.graph.isPair ? { 1: "grew", [-1]: "shrank", 0: "inside" }[row.direction] : "");
    const name = make("th", undefined, "long frame");
    name.scope = "row";
    const open = make("button", shorten(row.name, 200), "open");
    open.type = "button";
    open.title = "Show its callers and callees";
    open.addEventListener("click", () => this.open(row.key));
    name.append(open);
    line.append(name);
    for (const column of this.columns.slice(1)) line.append(make("td", column.cell(row), column.isText ? "nowrap" : "number"));
    return line;
  }
}
