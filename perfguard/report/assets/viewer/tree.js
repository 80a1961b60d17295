// Call trees for the screen, made of the packed ones: by function or by line, without library frames, of one class of work,
// inverted, or all callers and callees of one frame. A tree is flat and in preorder: the nodes under `n` are n+1 .. end[n]-1.

const ROOT = -1;

// Takes nodes in any order (parents first) and gives each a number: equal keys under one parent are one node.
class Builder {
  constructor(keyCount) {
    this.keyCount = keyCount;
    this.found = new Map();
    this.key = [ROOT];
    this.parent = [-1];
    this.before = [0];
    this.after = [0];
  }

  child(parent, key) {
    const place = parent * this.keyCount + key;
    let node = this.found.get(place);
    if (node === undefined) {
      node = this.key.length;
      this.found.set(place, node);
      this.key.push(key);
      this.parent.push(parent);
      this.before.push(0);
      this.after.push(0);
    }
    return node;
  }

  add(node, before, after) {
    this.before[node] += before;
    this.after[node] += after;
  }
}

// The self times of one role on the two chosen sides, scaled to the unit, of the chosen class and thread only.
function weightsOf(role, sides, scale, klass, thread) {
  return sides.map((side, place) => {
    const weights = new Float64Array(role.count);
    if (side < 0) return weights;
    const self = role.self[side];
    const isOf = (wanted, known) => wanted <= 0 ? () => true : known ? (i) => known[side][i] === wanted : () => false;
    const [isClass, isThread] = [isOf(klass, role.classes), isOf(thread, role.threads)];
    for (let i = 0; i < role.count; i++) {
      if (self[i] && isClass(i) && isThread(i)) weights[i] = self[i] * scale[place];
    }
    return weights;
  });
}

function addDown(builder, role, [before, after], { keyOf, isHidden }) {
  const merged = new Int32Array(role.count);
  for (let i = 0; i < role.count; i++) {
    const parent = role.parent[i] < 0 ? 0 : merged[role.parent[i]];
    // A hidden frame's own time is its caller's: totals stay what they are.
    merged[i] = isHidden(role.frame[i]) ? parent : builder.child(parent, keyOf[role.frame[i]]);
    if (before[i] || after[i]) builder.add(merged[i], before[i], after[i]);
  }
}

function addUp(builder, role, from, before, after, { keyOf, isHidden }) {
  let node = 0;
  for (let i = from; i >= 0; i = role.parent[i]) {
    if (!isHidden(role.frame[i])) node = builder.child(node, keyOf[role.frame[i]]);
  }
  builder.add(node, before, after);
}

function addInverted(builder, role, [before, after], options) {
  for (let i = 0; i < role.count; i++) {
    if (before[i] || after[i]) addUp(builder, role, i, before[i], after[i], options);
  }
}

// The outermost frame `key` above each node (itself included), or -1: nested calls of it are not counted twice.
function outermost(role, keyOf, key) {
  const top = new Int32Array(role.count);
  for (let i = 0; i < role.count; i++) {
    const above = role.parent[i] < 0 ? -1 : top[role.parent[i]];
    top[i] = above >= 0 ? above : keyOf[role.frame[i]] === key ? i : -1;
  }
  return top;
}

function addCallees(builder, role, [before, after], options) {
  const { keyOf, isHidden, sandwich } = options;
  const top = outermost(role, keyOf, sandwich);
  const merged = new Int32Array(role.count);
  for (let i = 0; i < role.count; i++) {
    if (top[i] < 0 || top[i] === i || isHidden(role.frame[i])) merged[i] = top[i] < 0 || top[i] === i ? 0 : merged[role.parent[i]];
    else merged[i] = builder.child(merged[role.parent[i]], keyOf[role.frame[i]]);
    if (top[i] >= 0 && (before[i] || after[i])) builder.add(merged[i], before[i], after[i]);
  }
}

function addCallers(builder, role, [before, after], options) {
  const top = outermost(role, options.keyOf, options.sandwich);
  const under = new Map();
  for (let i = 0; i < role.count; i++) {
    if (top[i] < 0 || !(before[i] || after[i])) continue;
    const sums = under.get(top[i]) || [0, 0];
    under.set(top[i], [sums[0] + before[i], sums[1] + after[i]]);
  }
  for (const [i, sums] of under) addUp(builder, role, role.parent[i], sums[0], sums[1], options);
}

function totals(builder) {
  const before = Float64Array.from(builder.before);
  const after = Float64Array.from(builder.after);
  const both = before.map((value, node) => Math.max(value, after[node])); // by self time: a caller holds its callees
  for (let node = before.length - 1; node > 0; node--) {
    const parent = builder.parent[node];
    before[parent] += before[node];
    after[parent] += after[node];
    both[parent] += both[node];
  }
  return { before, after, both };
}

// Gives the nodes their final order: depth first, siblings by the alphabet or by weight; nodes without any time go.
function preorder(builder, rank, byWeight) {
  const count = builder.key.length;
  const { before, after, both } = totals(builder);
  const start = new Int32Array(count + 2);
  for (let node = 1; node < count; node++) start[builder.parent[node] + 2] += 1;
  for (let node = 2; node < count + 2; node++) start[node] += start[node - 1];
  const child = new Int32Array(count);
  for (let node = 1; node < count; node++) child[start[builder.parent[node] + 1]++] = node;
  const weight = byWeight === "before" ? before : byWeight === "both" ? both : after;
  const order = byWeight
    ? (a, b) => weight[b] - weight[a] || rank[builder.key[a]] - rank[builder.key[b]]
    : (a, b) => rank[builder.key[a]] - rank[builder.key[b]];

  const tree = {
    count: 0, key: new Int32Array(count), parent: new Int32Array(count), depth: new Int32Array(count), end: new Int32Array(count),
    before: new Float64Array(count), after: new Float64Array(count), both: new Float64Array(count),
    beforeSelf: new Float64Array(count), afterSelf: new Float64Array(count),
  };
  const pile = [0, -1]; // pairs of (node of the builder, its parent's final number)
  while (pile.length) {
    const parent = pile.pop();
    const node = pile.pop();
    const place = tree.count++;
    tree.key[place] = builder.key[node];
    tree.parent[place] = parent;
    tree.depth[place] = parent < 0 ? 0 : tree.depth[parent] + 1;
    tree.before[place] = before[node];
    tree.after[place] = after[node];
    tree.both[place] = both[node];
    tree.beforeSelf[place] = builder.before[node];
    tree.afterSelf[place] = builder.after[node];
    const children = child.subarray(start[node], start[node + 1]);
    if (children.length > 1) children.sort(order);
    for (let i = children.length - 1; i >= 0; i--) {
      if (both[children[i]] > 0) pile.push(children[i], place);
    }
  }
  for (let place = tree.count - 1; place >= 0; place--) {
    if (!tree.end[place]) tree.end[place] = place + 1;
    const parent = tree.parent[place];
    if (parent >= 0 && tree.end[parent] < tree.end[place]) tree.end[parent] = tree.end[place];
  }
  return tree;
}

const WAYS = { down: addDown, inverted: addInverted, callees: addCallees, callers: addCallers };

// `way` is one of WAYS; `sides` the two chosen sides' numbers, -1 for none; `scale(role)` the factors of both sides to the
// unit; `order` the column that siblings are sorted by, or "" for the alphabet.
export function buildTree(way, roles, { keys, sides, scale, klass, thread, isHidden, sandwich, order }) {
  const builder = new Builder(keys.names.length);
  for (const role of roles) {
    const weights = weightsOf(role, sides, scale(role), klass, thread);
    WAYS[way](builder, role, weights, { keyOf: keys.of, isHidden, sandwich });
  }
  return preorder(builder, keys.rank, order);
}

// How wide every node is in a view. Added and removed code is what has no time at all on the other side.
export function widthsOf(tree, view, diffWidth) {
  if (view === "before" || view === "after") return tree[view];
  if (view === "diff") return tree[diffWidth];
  const [self, other] = view === "added" ? [tree.afterSelf, tree.before] : [tree.beforeSelf, tree.after];
  const widths = new Float64Array(tree.count);
  for (let node = tree.count - 1; node >= 0; node--) {
    if (other[node] === 0) widths[node] += self[node];
    if (node) widths[tree.parent[node]] += widths[node];
  }
  return widths;
}

export function pathOf(tree, node) {
  const path = [];
  for (let each = node; each > 0; each = tree.parent[each]) path.unshift(tree.key[each]);
  return path;
}

// Follows a path as far as it still exists; `isStep(key, step)` tells whether a key is what the path names.
export function follow(tree, path, isStep) {
  let node = 0;
  for (const step of path) {
    let child = node + 1;
    while (child < tree.end[node] && !isStep(tree.key[child], step)) child = tree.end[child];
    if (child >= tree.end[node]) break;
    node = child;
  }
  return node;
}
