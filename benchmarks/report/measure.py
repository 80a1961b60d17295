"""Measures the report against its budget, beside two other viewers of the same samples.

    python benchmarks/report/measure.py [--speedscope DIR] [--out benchmarks/report/RESULTS.md]

Needs chromium, playwright, and perfguard on the import path. Where `pyinferno` is installed, the flamegraph of inferno
is measured too, the library that py-spy draws with; with `--speedscope` (the folder `dist/release` of speedscope's npm
package) speedscope as well. Every time is the median of several pages opened anew.
"""

from __future__ import annotations

import argparse
import functools
import http.server
import json
import os
import platform
import shutil
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import synthetic
from playwright.sync_api import Browser, Page, sync_playwright

from perfguard.report.exports import write_exports
from perfguard.report.render import write_report

STACKS, SAMPLES, SEED = 50_001, 1_010_000, 1  # chance takes a few: these make a million samples
REPEATS = 5
QUERIES = ("broadcast", "torch", "e", "module_1")
_ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
# What a reader waits for: from the input to the end of the frame that shows it.
_UNTIL_SHOWN = """() => {
  window.untilShown = async (act) => {
    const start = performance.now();
    act();
    await new Promise((done) => requestAnimationFrame(() => setTimeout(done, 0)));
    return performance.now() - start;
  };
}"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One viewer: the file it opens, and medians of what its reader waits for; None where it has no such thing."""

    name: str
    holds: str
    size_bytes: int
    written_s: float
    first_paint_ms: float | None
    drawn_ms: float
    zoom_ms: float | None
    search_ms: float


def main() -> None:
    """Measure, and print or write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--speedscope", type=Path, help="dist/release of speedscope's npm package")
    parser.add_argument("--out", type=Path, help="the Markdown file to write; stdout otherwise")
    given = parser.parse_args()
    made = synthetic.samples_of(stacks=STACKS, samples=SAMPLES, seed=SEED)
    with tempfile.TemporaryDirectory() as name, sync_playwright() as playwright:
        directory = Path(name)
        executable = os.environ.get("CHROMIUM") or shutil.which("chromium")
        browser = playwright.chromium.launch(executable_path=executable, args=_ARGUMENTS)
        version = browser.version
        rows = [_perfguard(browser, directory, made)]
        if (row := _inferno(browser, directory, made)) is not None:
            rows.append(row)
        if given.speedscope:
            rows.append(_speedscope(browser, directory, made, given.speedscope))
        browser.close()
    text = _table(rows, made, version)
    if given.out:
        given.out.write_text(text, encoding="utf-8")
    else:
        print(text)


def _perfguard(browser: Browser, directory: Path, made: dict[str, Any]) -> Measured:
    path = directory / "report.html"
    result = synthetic.comparison(made)
    start = time.perf_counter()
    write_report(result, path)
    written_s = time.perf_counter() - start

    def drawn(page: Page) -> float:
        page.wait_for_function("() => performance.getEntriesByName('flame-drawn').length > 0")
        return float(page.evaluate("performance.getEntriesByName('flame-drawn')[0].startTime"))

    zoom = """async () => {
      const canvas = document.getElementById("flame-graph");
      const times = [];
      for (let turn = 0; turn < 5; turn++) {
        const bar = canvas.bars.filter((each) => each.width > 60 && each.width < canvas.clientWidth - 2)[0];
        if (!bar) break;
        const at = { clientX: bar.x + bar.width / 2, clientY: bar.y + 5, bubbles: true };
        times.push(await untilShown(() => canvas.dispatchEvent(new MouseEvent("click", at))));
        await new Promise((done) => setTimeout(done, 200));
      }
      document.getElementById("flame-reset").click();
      return times;
    }"""
    search = """(query) => untilShown(() => {
      const input = document.getElementById("flame-search");
      input.value = query;
      input.dispatchEvent(new KeyboardEvent("keydown", { key: "Enter", bubbles: true }));
    })"""
    return _measure(
        browser, "perfguard", "3 roles, both sides", path, written_s, path.as_uri(), drawn, zoom=zoom, search=search
    )


def _inferno(browser: Browser, directory: Path, made: dict[str, Any]) -> Measured | None:
    try:
        from pyinferno import flamegraph_from_lines  # noqa: PLC0415 - not everybody has it
    except ModuleNotFoundError:
        return None
    lines = [f"{role};{';'.join(stack)} {count}" for role, (_, after) in made.items() for stack, count in after.items()]
    path = directory / "pyspy.svg"
    start = time.perf_counter()
    path.write_text(flamegraph_from_lines(lines, title="py-spy"), encoding="utf-8")
    written_s = time.perf_counter() - start

    def drawn(page: Page) -> float:
        page.wait_for_function("() => document.readyState === 'complete'")
        return float(
            page.evaluate(
                "new Promise((done) => requestAnimationFrame(() => setTimeout(() => done(performance.now()))))"
            )
        )

    zoom = """async () => {
      const times = [];
      for (let turn = 0; turn < 5; turn++) {
        const all = [...document.querySelectorAll("#frames g")];
        const widths = all.map((each) => each.getBoundingClientRect().width);
        const wide = all.filter((each, place) => widths[place] > 60 && widths[place] < 900);
        if (!wide.length) break;
        times.push(await untilShown(() => zoom(wide[0])));
        unzoom();
      }
      return times;
    }"""
    search = "(query) => untilShown(() => search(query))"
    return _measure(
        browser,
        "py-spy's SVG (inferno)",
        "3 roles, one side",
        path,
        written_s,
        path.as_uri(),
        drawn,
        zoom=zoom,
        search=search,
    )


def _speedscope(browser: Browser, directory: Path, made: dict[str, Any], release: Path) -> Measured:
    root = directory / "speedscope"
    shutil.copytree(release, root)
    start = time.perf_counter()
    write_exports(synthetic.comparison(made), directory / "exports")
    written_s = time.perf_counter() - start
    path = root / "profile.json"
    shutil.copyfile(directory / "exports" / "profile.speedscope.json", path)
    title = json.loads(path.read_text(encoding="utf-8"))["profiles"][0]["name"]

    def drawn(page: Page) -> float:
        page.wait_for_function("(title) => document.body.innerText.includes(title)", arg=title, timeout=60_000)
        return float(
            page.evaluate(
                "new Promise((done) => requestAnimationFrame(() => setTimeout(() => done(performance.now()))))"
            )
        )

    search = """async (query) => {
      const key = { key: "f", code: "KeyF", keyCode: 70, ctrlKey: true, bubbles: true };
      const found = () => document.querySelector("input[type=text], input:not([type])");
      if (!found()) window.dispatchEvent(new KeyboardEvent("keydown", key));
      await new Promise((done) => setTimeout(done, 200));
      const input = found();
      return untilShown(() => {
        input.value = query;
        input.dispatchEvent(new Event("input", { bubbles: true }));
      });
    }"""
    with _served(root) as address:
        url = f"{address}/index.html#profileURL={address}/profile.json"
        return _measure(
            browser, "speedscope", "3 roles, both sides", path, written_s, url, drawn, zoom=None, search=search
        )


def _measure(  # noqa: PLR0917 - a row of the table
    browser: Browser,
    name: str,
    holds: str,
    path: Path,
    written_s: float,
    url: str,
    drawn: Callable[[Page], float],
    *,
    zoom: str | None,
    search: str,
) -> Measured:
    first, whole, zooms, searches = [], [], [], []
    for _ in range(REPEATS):
        context = browser.new_context(viewport={"width": 1280, "height": 900})
        page = context.new_page()
        page.goto(url, wait_until="commit")
        whole.append(drawn(page))
        paint = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0]?.startTime")
        if paint is not None:
            first.append(paint)
        page.evaluate(_UNTIL_SHOWN)
        page.wait_for_timeout(400)
        if zoom is not None:
            zooms += page.evaluate(zoom)
        searches += [page.evaluate(search, query) for query in QUERIES]
        context.close()
    return Measured(
        name=name,
        holds=holds,
        size_bytes=path.stat().st_size,
        written_s=written_s,
        first_paint_ms=statistics.median(first) if first else None,
        drawn_ms=statistics.median(whole),
        zoom_ms=statistics.median(zooms) if zooms else None,
        search_ms=statistics.median(searches),
    )


@contextmanager
def _served(root: Path) -> Iterator[str]:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(root)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()


def _table(rows: list[Measured], made: dict[str, Any], chromium: str) -> str:
    stacks = sum(len(set(before) | set(after)) for before, after in made.values())
    samples = sum(sum(side.values()) for both in made.values() for side in both)

    def ms(value: float | None) -> str:
        return "n/a" if value is None else f"{value:,.0f}"

    lines = [
        "# The report under load",
        "",
        f"{samples:,} samples, {stacks:,} distinct stacks, {len(made)} roles, {2 * synthetic.TRIALS_PER_SIDE} trials,",
        f"made by `synthetic.py` from seed {SEED}. Headless Chromium {chromium.partition('.')[0]}, software rendering,",
        f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}. Medians; page times count",
        "from the start of the navigation.",
        "",
        "| viewer | holds | file, MB | written, s | first paint, ms | graph drawn, ms | zoom, ms | search, ms |",
        "|---|---|---|---|---|---|---|---|",
        *(
            f"| {row.name} | {row.holds} | {row.size_bytes / 1e6:.2f} | {row.written_s:.2f} | {ms(row.first_paint_ms)} "
            f"| {ms(row.drawn_ms)} | {ms(row.zoom_ms)} | {ms(row.search_ms)} |"
            for row in rows
        ),
        "",
        "- Budgets of perfguard's row: 5 MB, 5 s, 1,000 ms for both paints, 100 ms for zoom and search.",
        "- py-spy's SVG is drawn by inferno at its own settings, all roles in one; py-spy would write a file each.",
        "- speedscope's time to write is that of all of perfguard's exports. Its zoom is an animation and was not",
        "  measured. Its program, which is not in the file's size, was served from the same machine.",
        "",
        "Again: `python benchmarks/report/measure.py --speedscope DIR --out benchmarks/report/RESULTS.md`.",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
