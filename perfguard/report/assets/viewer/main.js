// Wires the controls of the page to the viewer.
import { byId, fill, later } from "./dom.js";
import { csv, folded, save, speedscope, svg } from "./download.js";
import { makeGraph, unitOf } from "./graph.js";
import { readLink } from "./link.js";
import { readProfiles } from "./profile.js";
import { hideTip } from "./tip.js";
import { Viewer } from "./viewer.js";
import { shorten } from "./words.js";

const SEARCH_DELAY_MS = 60;
const CHECKS = ["flip", "invert", "lines", "own", "all", "regex"];
const SELECTS = ["role", "width", "unit", "sort", "class", "thread", "before", "after"];

function prepare(viewer) {
  const { profiles } = viewer;
  const named = (name) => shorten(name, 60);
  fill(byId("flame-role"), profiles.choices.map(([value, name]) => [value, named(name)]));
  fill(byId("flame-class"), [...profiles.classes].sort().map((name) => [name, name || "all work"]));
  byId("flame-class").parentElement.hidden = profiles.classes.length < 2;
  fill(byId("flame-thread"), [...profiles.threads].sort().map((name) => [name, name || "all threads"]));
  byId("flame-thread").parentElement.hidden = profiles.threads.filter((name) => name).length < 2;
  for (const side of ["before", "after"]) {
    fill(byId("flame-" + side), profiles.sides.map((each, place) => [String(place), named(each.label)]));
    byId("flame-" + side).parentElement.hidden = profiles.sides.length < 3;
  }
  byId("flame-own").parentElement.hidden = profiles.isOwn.every((each) => each);
  byId("flame-own-name").textContent = profiles.ownPackage ? "(all but " + named(profiles.ownPackage) + ")" : "";
  byId("flame-lines").parentElement.hidden = profiles.byLine.names.length === profiles.byFunction.names.length;
  byId("flame-unit").options[0].textContent = profiles.unit.name;
  if (profiles.unit.key === "samples") byId("flame-unit").options[2].remove();
  byId("flame-views").hidden = profiles.sides.length < 2;
}

function showState(viewer) {
  const { state } = viewer;
  for (const name of CHECKS) byId("flame-" + name).checked = state[name];
  for (const name of SELECTS) byId("flame-" + name).value = String(state[name]);
  if (byId("flame-search").value !== state.q) byId("flame-search").value = state.q;
  for (const button of document.querySelectorAll("[data-view]")) {
    button.setAttribute("aria-pressed", String(button.dataset.view === state.view));
  }
  byId("flame-width").parentElement.hidden = state.view !== "diff";
  byId("flame-legend").hidden = !viewer.graph.isPair;
  byId("flame-invert").disabled = Boolean(viewer.graph.callers);
  byId("flame-sandwich").disabled = !viewer.zoom || Boolean(viewer.graph.callers);
  for (const id of ["flame-previous", "flame-next"]) byId(id).disabled = !viewer.marks;
}

function listen(viewer) {
  for (const name of CHECKS) byId("flame-" + name).addEventListener("change", (event) => viewer.set({ [name]: event.target.checked }));
  for (const name of SELECTS) {
    byId("flame-" + name).addEventListener("change", (event) => {
      const isPlace = name === "before" || name === "after";
      viewer.set({ [name]: isPlace ? Number(event.target.value) : event.target.value });
    });
  }
  for (const button of document.querySelectorAll("[data-view]")) {
    button.addEventListener("click", () => viewer.set({ view: button.dataset.view }));
  }
  byId("flame-search").addEventListener("input", later(SEARCH_DELAY_MS, () => viewer.set({ q: byId("flame-search").value })));
  byId("flame-search").addEventListener("keydown", (event) => {
    if (event.key !== "Enter") return;
    viewer.set({ q: byId("flame-search").value });
    viewer.goToMatch(event.shiftKey ? -1 : 1);
    byId("flame-search").focus();
  });
  byId("flame-previous").addEventListener("click", () => viewer.goToMatch(-1));
  byId("flame-next").addEventListener("click", () => viewer.goToMatch(1));
  byId("flame-reset").addEventListener("click", () => viewer.reset());
  byId("flame-sandwich").addEventListener("click", () => {
    const { graph, zoom } = viewer;
    if (zoom) viewer.sandwich(graph.keys.names[graph.tree.key[zoom]]);
  });
  byId("flame-keys").addEventListener("click", () => byId("flame-help").showModal());
  byId("flame-help-close").addEventListener("click", () => byId("flame-help").close());
  for (const button of document.querySelectorAll("button.show")) {
    button.hidden = !viewer.profiles.roles.some((role) => role.name === button.dataset.role);
    button.addEventListener("click", () => viewer.point(button.dataset.role, button.dataset.frame));
  }
}

function listenOnGraph(viewer) {
  const { canvas } = viewer;
  canvas.addEventListener("click", (event) => {
    const bar = viewer.at(event.clientX, event.clientY);
    if (!bar) return;
    canvas.focus({ preventScroll: true });
    if (event.shiftKey) viewer.sandwich(viewer.nameOf(bar));
    else viewer.open(bar);
  });
  canvas.addEventListener("mousemove", (event) => {
    const bar = viewer.at(event.clientX, event.clientY);
    canvas.classList.toggle("over", Boolean(bar));
    if (bar) viewer.tipOf(bar, event.clientX, event.clientY);
    else hideTip();
  });
  canvas.addEventListener("mouseleave", hideTip);
  canvas.addEventListener("focus", () => viewer.paint());
  canvas.addEventListener("blur", () => {
    hideTip();
    viewer.paint();
  });
  const steps = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
  canvas.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (Object.prototype.hasOwnProperty.call(steps, event.key)) viewer.walk(...steps[event.key]);
    else if (event.key === "Enter" || event.key === " ") viewer.open(viewer.focus);
    else if (event.key === "s" && viewer.focus.node) viewer.sandwich(viewer.nameOf(viewer.focus));
    else if (event.key === "n" || event.key === "N") viewer.goToMatch(event.key === "n" ? 1 : -1);
    else return;
    event.preventDefault();
  });
  byId("flame-scroll").addEventListener("scroll", () => viewer.paint());
}

function listenOnPage(viewer) {
  document.addEventListener("keydown", (event) => {
    if (byId("flame-help").open || event.ctrlKey || event.metaKey || event.altKey) return;
    const isTyping = event.target.matches("input[type=search], select, textarea");
    if (event.key === "Escape") viewer.reset();
    else if (event.key === "/" && !isTyping) {
      event.preventDefault();
      byId("flame-search").focus();
    } else if (event.key === "?" && !isTyping) byId("flame-help").showModal();
  });
  let width = byId("flame-scroll").clientWidth;
  new ResizeObserver(later(SEARCH_DELAY_MS, () => {
    if (byId("flame-scroll").clientWidth !== width) viewer.repaint(); // its height is the viewer's own doing
    width = byId("flame-scroll").clientWidth;
  })).observe(byId("flame-scroll"));
  for (const query of ["print", "(prefers-color-scheme: dark)"]) matchMedia(query).addEventListener("change", () => viewer.repaint());
  window.addEventListener("beforeprint", () => viewer.repaint());
  window.addEventListener("hashchange", () => {
    const said = readLink(viewer.defaults);
    if (said) viewer.set({ ...viewer.defaults, ...said });
  });
}

function listenToDownloads(viewer) {
  const title = document.title;
  const stem = () => "perfguard-" + viewer.state.role.replace(/[^A-Za-z0-9]+/g, "-");
  const forms = {
    folded: () => [stem() + "-" + viewer.graph.side + ".folded", "text/plain", folded(wholeIn("own", viewer), viewer.graph.side, viewer.profiles.unit)],
    speedscope: () => [stem() + ".speedscope.json", "application/json", speedscope(everySide(viewer), title, viewer.profiles.unit)],
    csv: () => [stem() + ".csv", "text/csv", csv(viewer.graph, viewer.graph.callers ? 0 : viewer.zoom, unitOf(viewer.profiles, viewer.state.unit).key)],
    svg: () => [stem() + ".svg", "image/svg+xml",
      svg(viewer.bars, viewer.rows, (bar) => viewer.look(bar), (bar) => viewer.spoken(bar), shorten(title + ": " + viewer.statusText(), 170))],
  };
  for (const button of document.querySelectorAll("[data-download]")) {
    button.addEventListener("click", () => save(...forms[button.dataset.download]()));
  }
}

// The tree from the root down, whatever is on the screen: with its lines, filters and roles, not its zoom or direction.
const wholeIn = (unit, viewer) => makeGraph(viewer.profiles, { ...viewer.state, unit, invert: false, frame: "" });

function everySide(viewer) {
  const graph = wholeIn("own", viewer);
  const sides = graph.hasPair ? ["before", "after"] : ["after"];
  return sides.map((side) => ({ name: shorten(viewer.sampled(graph.sides[side === "before" ? 0 : 1]), 100), graph, side }));
}

async function start() {
  const viewer = new Viewer(await readProfiles(byId("flame-data").textContent));
  viewer.onchange = () => showState(viewer);
  prepare(viewer);
  listen(viewer);
  listenOnGraph(viewer);
  listenToDownloads(viewer);
  byId("flame-app").hidden = false;
  const said = readLink(viewer.defaults);
  viewer.set(said || {});
  listenOnPage(viewer);
  if (said) byId("flame").scrollIntoView();
}

start();
