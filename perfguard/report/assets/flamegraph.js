// The flamegraph viewer. Reads the packed profiles of #flame-data and draws one role of one or two sides.
// Every text reaches the page through textContent or setAttribute: a frame's name is data, never markup.
(() => {
  "use strict";

  const ROW_PX = 20;
  const SMALLEST_FRAC = 0.001; // narrower bars are not drawn; how many is said under the graph
  const SMALLEST_PX = 1;
  const SEARCH_DELAY_MS = 120;

  const byId = (id) => document.getElementById(id);
  const data = JSON.parse(byId("flame-data").textContent);
  const graph = byId("flame-graph");
  const tip = byId("flame-tip");
  const state = {
    role: "", before: 0, after: data.sides.length > 1 ? 1 : 0, view: "diff", width: "after",
    root: null, zoom: null, focus: null, matcher: null,
  };

  // --- the model: two packed trees merged into one -------------------------------------------------------------

  function newNode(name, parent) {
    return { name, parent, children: new Map(), before: 0, after: 0, beforeSelf: 0, afterSelf: 0, both: 0, largest: 0 };
  }

  function addSide(root, side, selfKey) {
    const profile = data.sides[side].roles[state.role];
    if (!profile) return;
    const path = [root];
    const names = byId("flame-lines").checked ? data.frames : data.frames.map(functionOf);
    for (let i = 0; i < profile.nodes.length; i += 3) {
      const depth = profile.nodes[i];
      const parent = path[depth];
      const name = names[profile.nodes[i + 1]];
      let node = parent.children.get(name);
      if (!node) parent.children.set(name, (node = newNode(name, parent)));
      node[selfKey] += profile.nodes[i + 2];
      path[depth + 1] = node;
    }
  }

  function preorder(top) {
    const nodes = [];
    const pile = [top];
    while (pile.length) {
      const node = pile.pop();
      nodes.push(node);
      for (const child of node.children.values()) pile.push(child);
    }
    return nodes;
  }

  function mergedTree() {
    const root = newNode("all of " + state.role, null);
    addSide(root, state.before, "beforeSelf");
    addSide(root, state.after, "afterSelf");
    const nodes = preorder(root);
    for (let i = nodes.length - 1; i >= 0; i--) { // children before their parents
      const node = nodes[i];
      node.before += node.beforeSelf;
      node.after += node.afterSelf;
      node.both += Math.max(node.beforeSelf, node.afterSelf); // by self time: a parent holds its children
      node.children = [...node.children.values()].sort((a, b) => (a.name < b.name ? -1 : 1));
      if (node.parent) {
        node.parent.before += node.before;
        node.parent.after += node.after;
        node.parent.both += node.both;
      }
    }
    root.largest = nodes.reduce((most, node) => Math.max(most, node.parent ? Math.abs(change(node)) : 0), 0);
    return root;
  }

  const change = (node) => node.after - node.before;
  const widthOf = (node) => (state.view === "diff" ? node[state.width] : node[state.view]);

  // A commit moves the lines below it, so that two sides are compared by function: `f (a.py:12)` is `f (a.py)`.
  const functionOf = (name) => name.replace(/:\d+\)$/, ")");
  const hasOwn = (object, key) => Object.prototype.hasOwnProperty.call(object, key);

  function judged(node) {
    const changes = hasOwn(data.changes, state.role) ? data.changes[state.role] : {};
    const key = [node.name, functionOf(node.name)].find((name) => hasOwn(changes, name));
    return key === undefined ? null : { low: changes[key][0], high: changes[key][1], significant: changes[key][2] };
  }

  // --- words -----------------------------------------------------------------------------------------------------

  const ms = (value) => (value === 0 ? "0" : Math.abs(value) >= 100 ? value.toFixed(0) : value.toPrecision(3));
  const signed = (value) => (value > 0 ? "+" : "") + ms(value);
  const percent = (part, whole) => (whole > 0 ? ((part / whole) * 100).toFixed(part / whole < 0.1 ? 2 : 1) + "%" : "n/a");
  const shorten = (text, limit) =>
    text.length <= limit ? text : text.slice(0, (limit * 2) / 3) + "…" + text.slice(-limit / 3);

  function ratio(before, after) {
    if (before <= 0) return after > 0 ? "new" : "n/a";
    if (after <= 0) return "gone";
    const frac = after / before - 1;
    return (frac > 0 ? "+" : "") + (frac * 100).toFixed(Math.abs(frac) < 1 ? 1 : 0) + "%";
  }

  function interval(node) {
    const verdict = judged(node);
    if (!verdict) return "inside the noise, or too small to test";
    if (verdict.low === null || verdict.high === null) return "not tested";
    const range = signed(verdict.low) + " to " + signed(verdict.high) + " (whole function)";
    return verdict.significant ? range : range + ", inside the noise";
  }

  function make(tag, text, className) {
    const element = document.createElement(tag);
    if (text !== undefined) element.textContent = text;
    if (className) element.className = className;
    return element;
  }

  // --- drawing ---------------------------------------------------------------------------------------------------

  function tone(node) {
    if (state.view !== "diff") {
      const file = (node.name.match(/\(([^()]*?)(?::\d+)?\)$/) || ["", node.name])[1];
      let hash = 0;
      for (let i = 0; i < file.length; i++) hash = (hash * 31 + file.charCodeAt(i)) >>> 0;
      return "tone-" + (hash % 6);
    }
    const verdict = judged(node);
    const colours = byId("flame-all").checked || (verdict !== null && verdict.significant);
    if (!colours || change(node) === 0 || !node.parent) return "noise";
    const strength = Math.max(1, Math.ceil(Math.sqrt(Math.abs(change(node)) / (state.root.largest || 1)) * 4));
    return (change(node) > 0 ? "grew-" : "shrank-") + Math.min(4, strength);
  }

  function labelOf(node) {
    const name = shorten(node.name, 160);
    if (state.view !== "diff" || change(node) === 0) return name;
    const [, called, file] = name.match(/^(.*?)( \(.*)?$/s);
    return (change(node) > 0 ? "+ " : "- ") + called + " " + signed(change(node)) + " ms" + (file || "");
  }

  function spoken(node) {
    const share = percent(widthOf(node), widthOf(state.zoom));
    if (state.view !== "diff") return shorten(node.name, 160) + ", " + ms(widthOf(node)) + " ms per request, " + share;
    return shorten(node.name, 160) + ", before " + ms(node.before) + ", after " + ms(node.after) + " ms per request, change " +
      signed(change(node)) + ", " + share + " of the zoom";
  }

  function layout() {
    const bars = [];
    const ancestors = [];
    for (let node = state.zoom.parent; node; node = node.parent) ancestors.unshift(node);
    ancestors.forEach((node, row) => bars.push({ node, row, left: 0, width: 1, ancestor: true }));
    const whole = widthOf(state.zoom);
    const smallest = Math.max(SMALLEST_FRAC, SMALLEST_PX / (graph.clientWidth || 1000));
    let skipped = 0;
    const pile = [{ node: state.zoom, row: ancestors.length, left: 0, width: 1, ancestor: false }];
    while (pile.length) {
      const bar = pile.pop();
      bars.push(bar);
      let left = bar.left;
      for (const child of bar.node.children) {
        const width = whole > 0 ? widthOf(child) / whole : 0;
        if (width >= smallest) pile.push({ node: child, row: bar.row + 1, left, width, ancestor: false });
        else if (width > 0) skipped += 1;
        left += width;
      }
    }
    return { bars, skipped };
  }

  function draw() {
    const { bars, skipped } = layout();
    if (!bars.some((bar) => bar.node === state.focus)) state.focus = state.zoom;
    const canvas = document.createDocumentFragment();
    let rows = 0;
    for (const { node, row, left, width, ancestor } of bars) {
      const bar = make("div", width > 0.012 ? labelOf(node) : "", "bar " + tone(node));
      if (ancestor) bar.classList.add("ancestor");
      if (state.matcher) bar.classList.add(state.matcher(node.name) ? "match" : "dim");
      bar.style.left = left * 100 + "%";
      bar.style.width = width * 100 + "%";
      bar.style.top = row * ROW_PX + "px";
      bar.setAttribute("role", "treeitem");
      bar.setAttribute("aria-level", String(row + 1));
      bar.setAttribute("aria-label", spoken(node));
      bar.setAttribute("aria-selected", String(node === state.zoom));
      bar.tabIndex = node === state.focus ? 0 : -1;
      bar.node = node;
      node.bar = bar;
      rows = Math.max(rows, row + 1);
      canvas.append(bar);
    }
    graph.replaceChildren(canvas);
    graph.style.height = rows * ROW_PX + "px";
    tip.hidden = true;
    byId("flame-hidden").textContent = widthOf(state.root) === 0
      ? "No stacks of this process were sampled on this side."
      : skipped ? skipped + " frames narrower than 0.1% (with what they call) are not drawn; zoom in to see them." : "";
    drawPath();
    drawStatus();
  }

  function drawPath() {
    const path = [];
    for (let node = state.zoom; node; node = node.parent) path.unshift(node);
    const nav = byId("flame-path");
    nav.replaceChildren();
    path.forEach((node, place) => {
      const step = make("button", shorten(node.name, 80));
      step.type = "button";
      if (place === path.length - 1) step.setAttribute("aria-current", "location");
      step.addEventListener("click", () => zoomTo(node));
      nav.append(place ? " › " : "", step);
    });
  }

  function drawStatus() {
    const root = state.root;
    const say = (side) => {
      const profile = data.sides[side].roles[state.role];
      return shorten(data.sides[side].label, 40) + (profile ? " (" + profile.samples.toLocaleString("en") + " samples, " +
        profile.trials + (profile.trials === 1 ? " trial)" : " trials)") : " (not sampled)");
    };
    let text = "CPU ms per request: " + ms(root[state.view === "before" ? "before" : "after"]) + ", " +
      say(state.view === "before" ? state.before : state.after) + ".";
    if (state.view === "diff") {
      text = "CPU ms per request: " + ms(root.before) + " before, " + say(state.before) + "; " + ms(root.after) + " after, " +
        say(state.after) + "; " + signed(change(root)) + " in all (" + ratio(root.before, root.after) + ").";
      const changes = hasOwn(data.changes, state.role) ? Object.values(data.changes[state.role]) : [];
      if (!changes.length) text += " No function's change was tested, so all is grey.";
      else if (!changes.some((each) => each[2])) text += " No function's change lies outside the noise, so all is grey.";
    }
    byId("flame-status").textContent = text;
    const matches = byId("flame-matches");
    if (!state.matcher) return;
    let found = 0;
    let matched = 0;
    const pile = [[state.zoom, false]];
    while (pile.length) {
      const [node, isInside] = pile.pop();
      const hit = state.matcher(node.name);
      if (hit) found += 1;
      if (hit && !isInside) matched += widthOf(node); // a match under a match is not counted twice
      for (const child of node.children) pile.push([child, isInside || hit]);
    }
    matches.textContent = found.toLocaleString("en") + (found === 1 ? " match, " : " matches, ") +
      percent(matched, widthOf(state.zoom)) + " of the zoom (" + ms(matched) + " ms per request)";
  }

  // --- the tooltip -------------------------------------------------------------------------------------------------

  function showTip(node, x, y) {
    const table = make("table");
    const line = (...cells) => {
      const row = make("tr");
      cells.forEach((cell, place) => row.append(make(place ? "td" : "th", cell, place ? "number" : "")));
      table.append(row);
    };
    if (data.sides.length > 1) {
      line("ms per request", "before", "after", "change", "ratio");
      line("total", ms(node.before), ms(node.after), signed(change(node)), ratio(node.before, node.after));
      const selfChange = signed(node.afterSelf - node.beforeSelf);
      line("self", ms(node.beforeSelf), ms(node.afterSelf), selfChange, ratio(node.beforeSelf, node.afterSelf));
      const shares = (whole) => [percent(node.before, whole.before), percent(node.after, whole.after)];
      line("of the zoom", ...shares(state.zoom));
      line("of the whole", ...shares(state.root));
    } else {
      line("total", ms(node.after) + " ms per request");
      line("self", ms(node.afterSelf) + " ms per request");
      line("of the zoom", percent(node.after, state.zoom.after));
      line("of the whole", percent(node.after, state.root.after));
    }
    tip.replaceChildren(make("b", shorten(node.name, 300)), table);
    if (data.sides.length > 1 && node.parent) tip.append(make("div", "change: " + interval(node)));
    tip.hidden = false;
    const box = tip.getBoundingClientRect();
    const roomX = document.documentElement.clientWidth - box.width - 8;
    const below = y + 16 + box.height < window.innerHeight;
    tip.style.left = Math.max(8, Math.min(x + 12, roomX)) + "px";
    tip.style.top = Math.max(8, below ? y + 16 : y - box.height - 12) + "px";
  }

  // --- what the reader does --------------------------------------------------------------------------------------------

  function zoomTo(node) {
    state.zoom = node;
    state.focus = node;
    draw();
    if (node.bar.isConnected) node.bar.focus({ preventScroll: true });
    tip.hidden = true;
  }

  function rebuild() {
    state.root = mergedTree();
    state.zoom = state.root;
    state.focus = state.root;
    draw();
  }

  function setView(view) {
    state.view = view;
    for (const button of document.querySelectorAll("[data-view]")) {
      button.setAttribute("aria-pressed", String(button.dataset.view === view));
    }
    document.querySelector(".tools .width").hidden = view !== "diff";
    byId("flame-legend").hidden = view !== "diff";
    if (state.root) draw();
  }

  function search() {
    const text = byId("flame-search").value;
    const matches = byId("flame-matches");
    state.matcher = null;
    matches.textContent = "";
    if (text && byId("flame-regex").checked) {
      try {
        const pattern = new RegExp(text, "i");
        state.matcher = (name) => pattern.test(name);
      } catch (error) {
        matches.textContent = "not a regular expression: " + error.message;
      }
    } else if (text) {
      const lower = text.toLowerCase();
      state.matcher = (name) => name.toLowerCase().includes(lower);
    }
    draw();
  }

  function reset() {
    byId("flame-search").value = "";
    byId("flame-regex").checked = false;
    state.zoom = state.root;
    state.focus = state.root;
    search();
  }

  function walk(event) {
    const node = event.target.node;
    if (!node) return;
    const drawn = (each) => each && each.bar && each.bar.isConnected;
    const beside = (step) => {
      const siblings = node.parent ? node.parent.children.filter(drawn) : [];
      return siblings[siblings.indexOf(node) + step];
    };
    const widest = () => [...node.children].filter(drawn).sort((a, b) => widthOf(b) - widthOf(a))[0];
    const steps = { ArrowUp: () => node.parent, ArrowDown: widest, ArrowLeft: () => beside(-1), ArrowRight: () => beside(1) };
    if (event.key === "Enter" || event.key === " ") zoomTo(node);
    else if (hasOwn(steps, event.key)) {
      const next = steps[event.key]();
      if (!drawn(next)) return;
      node.bar.tabIndex = -1;
      next.bar.tabIndex = 0;
      state.focus = next;
      next.bar.focus();
    } else return;
    event.preventDefault();
  }

  function fill(select, names, chosen) {
    names.forEach((name, place) => {
      const option = make("option", shorten(name, 60));
      option.value = String(place);
      option.selected = place === chosen;
      select.append(option);
    });
  }

  function start() {
    const roles = [...new Set(data.sides.flatMap((side) => Object.keys(side.roles)))].sort();
    const most = (role) => Math.max(0, ...Object.values(hasOwn(data.changes, role) ? data.changes[role] : {})
      .filter((each) => each[2]).map((each) => Math.max(Math.abs(each[0]), Math.abs(each[1]))));
    state.role = roles.reduce((best, role) => (most(role) > most(best) ? role : best), roles[0]);
    fill(byId("flame-role"), roles, roles.indexOf(state.role));
    for (const key of ["before", "after"]) {
      const select = byId("flame-" + key);
      fill(select, data.sides.map((side) => side.label), state[key]);
      select.addEventListener("change", () => { state[key] = Number(select.value); rebuild(); });
      select.parentElement.hidden = data.sides.length < 3;
    }
    byId("flame-role").addEventListener("change", (event) => { state.role = roles[Number(event.target.value)]; rebuild(); });
    byId("flame-width").addEventListener("change", (event) => { state.width = event.target.value; draw(); });
    byId("flame-all").addEventListener("change", draw);
    byId("flame-lines").addEventListener("change", rebuild);
    byId("flame-lines").parentElement.hidden = !data.frames.some((name) => name !== functionOf(name));
    byId("flame-reset").addEventListener("click", reset);
    byId("flame-regex").addEventListener("change", search);
    let timer = 0;
    byId("flame-search").addEventListener("input", () => { clearTimeout(timer); timer = setTimeout(search, SEARCH_DELAY_MS); });
    for (const button of document.querySelectorAll("[data-view]")) {
      button.addEventListener("click", () => setView(button.dataset.view));
    }
    document.querySelector(".switch").hidden = data.sides.length < 2;
    graph.addEventListener("click", (event) => { if (event.target.node) zoomTo(event.target.node); });
    graph.addEventListener("keydown", walk);
    graph.addEventListener("mousemove", (event) => {
      if (event.target.node) showTip(event.target.node, event.clientX, event.clientY);
    });
    graph.addEventListener("mouseleave", () => { tip.hidden = true; });
    graph.addEventListener("focusin", (event) => {
      const box = event.target.getBoundingClientRect();
      if (event.target.node && event.target.matches(":focus-visible")) showTip(event.target.node, box.left, box.bottom - 8);
    });
    graph.addEventListener("focusout", () => { tip.hidden = true; });
    document.addEventListener("keydown", (event) => {
      if (event.key === "Escape") reset();
      if (event.key === "/" && !event.ctrlKey && !event.metaKey && !event.target.matches("input, select, textarea")) {
        event.preventDefault();
        byId("flame-search").focus();
      }
    });
    let resizing = 0;
    window.addEventListener("resize", () => { clearTimeout(resizing); resizing = setTimeout(draw, SEARCH_DELAY_MS); });
    for (const button of document.querySelectorAll("button.show")) {
      button.hidden = !roles.includes(button.dataset.role);
      button.addEventListener("click", () => {
        state.role = button.dataset.role;
        byId("flame-role").value = String(roles.indexOf(state.role));
        rebuild();
        byId("flame-regex").checked = false;
        byId("flame-search").value = button.dataset.frame.replace(/\)$/, "");
        search();
        byId("flame").scrollIntoView();
      });
    }
    byId("flame-app").hidden = false;
    setView(data.sides.length > 1 ? "diff" : "after");
    rebuild();
  }

  start();
})();
