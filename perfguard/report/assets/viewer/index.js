// Sorts and filters the index of many runs. The table is there without it.
import { byId, later } from "./dom.js";

const body = byId("index-rows");

function show() {
  const wanted = byId("index-search").value.trim().toLowerCase();
  const verdict = byId("index-verdict").value;
  let shown = 0;
  for (const row of body.rows) {
    row.hidden = Boolean(verdict && row.dataset.verdict !== verdict) || !row.textContent.toLowerCase().includes(wanted);
    if (!row.hidden) shown += 1;
  }
  byId("index-count").textContent = shown.toLocaleString("en") + " of " + body.rows.length.toLocaleString("en") + " runs";
}

function sortBy(heading) {
  const place = [...heading.parentElement.children].indexOf(heading);
  const isDown = heading.getAttribute("aria-sort") !== "descending";
  const valueOf = (row) => {
    const { sort } = row.cells[place].dataset;
    return heading.classList.contains("number") ? (sort === "" ? -Infinity : Number(sort)) : row.cells[place].textContent.trim();
  };
  const order = (a, b) => (valueOf(a) < valueOf(b) ? -1 : valueOf(a) > valueOf(b) ? 1 : 0);
  body.append(...[...body.rows].sort(isDown ? (a, b) => order(b, a) : order));
  for (const each of heading.parentElement.children) each.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", isDown ? "descending" : "ascending");
}

for (const button of document.querySelectorAll("#index-columns button")) {
  button.addEventListener("click", () => sortBy(button.parentElement));
}
byId("index-search").addEventListener("input", later(60, show));
byId("index-verdict").addEventListener("change", show);
byId("index-tools").hidden = false;
show();
