// Where the bars of the graph lie: one row a level, left and width as shares of the graph. Nothing is drawn here.

function below(tree, widths, zoom, smallest) {
  const bars = [{ tree, node: zoom, row: 0, left: 0, width: 1, isAncestor: false }];
  const whole = widths[zoom];
  let skipped = 0;
  for (let at = 0; at < bars.length && whole > 0; at++) {
    const bar = bars[at];
    let left = bar.left;
    for (let child = bar.node + 1; child < tree.end[bar.node]; child = tree.end[child]) {
      const width = widths[child] / whole;
      if (width >= smallest) bars.push({ tree, node: child, row: bar.row + 1, left, width, isAncestor: false });
      else if (width > 0) skipped += 1;
      left += width;
    }
  }
  return { bars, skipped };
}

// `graph` holds `tree` and `widths`, and in a sandwich `callers` and `callerWidths` too. `smallest` is the narrowest share
// that is drawn. Row 0 is at the top; `isFlame` turns the graph so that callers lie below what they call.
export function layout(graph, zoom, smallest, isFlame) {
  const { bars, skipped } = below(graph.tree, graph.widths, zoom, smallest);
  let above = [];
  let skippedAbove = 0;
  if (graph.callers) {
    const found = below(graph.callers, graph.callerWidths, 0, smallest);
    skippedAbove = found.skipped;
    above = found.bars.slice(1); // the root of both is the frame itself, and is drawn once
    for (const bar of above) bar.row = -bar.row;
  } else {
    for (let node = graph.tree.parent[zoom], row = -1; node >= 0; node = graph.tree.parent[node], row--) {
      above.push({ tree: graph.tree, node, row, left: 0, width: 1, isAncestor: true });
    }
  }
  const all = above.concat(bars);
  let first = 0;
  let last = 0;
  for (const bar of all) {
    first = Math.min(first, bar.row);
    last = Math.max(last, bar.row);
  }
  for (const bar of all) bar.row = isFlame ? last - bar.row : bar.row - first;
  return { bars: all, rows: last - first + 1, skipped: skipped + skippedAbove };
}

// Bars by row, each row from left to right, for looking up what lies under the pointer.
export function byRow(bars, rows) {
  const table = Array.from({ length: rows }, () => []);
  for (const bar of bars) table[bar.row].push(bar);
  for (const row of table) row.sort((a, b) => a.left - b.left);
  return table;
}

export function barAt(table, row, share) {
  const bars = table[row] || [];
  let low = 0;
  let high = bars.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (bars[middle].left <= share) low = middle + 1;
    else high = middle;
  }
  const bar = bars[low - 1];
  return bar && share < bar.left + bar.width ? bar : null;
}
