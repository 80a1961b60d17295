"""The viewer with 50,000 distinct stacks. Bounds are three times the budget: other work may share this machine.

benchmarks/report measures properly.
"""

from __future__ import annotations

import statistics
import sys
import time
from pathlib import Path

import pytest
from viewer_page import bars, click, search

from perfguard.report.render import write_report

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks" / "report"))

pytestmark = pytest.mark.slow  # twenty seconds: a profile of a million samples is made, written and drawn


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    import synthetic  # noqa: PLC0415 - lies beside the benchmark that it is for

    result = synthetic.comparison(synthetic.samples_of(stacks=50_001, samples=1_000_000, seed=1))
    path = tmp_path_factory.mktemp("large") / "report.html"
    start = time.perf_counter()
    write_report(result, path)
    return path, time.perf_counter() - start


UNTIL_SHOWN = """async (query) => {
  const canvas = document.getElementById("flame-graph");
  const start = performance.now();
  if (query) {
    const input = document.getElementById("flame-search");
    input.value = query;
    input.dispatchEvent(new KeyboardEvent("keydown", { key: "Enter", bubbles: true }));
  } else {
    const bar = canvas.bars.find((each) => each.width > 60 && each.width < canvas.clientWidth - 2);
    canvas.dispatchEvent(new MouseEvent("click", { clientX: bar.x + 9, clientY: bar.y + 5, bubbles: true }));
  }
  await new Promise((done) => requestAnimationFrame(() => setTimeout(done, 0)));
  return performance.now() - start;
}"""


def test_the_file_is_small_and_soon_written(large):
    path, written_s = large
    assert path.stat().st_size < 2_500_000
    assert written_s < 15


def test_the_graph_is_soon_drawn_and_follows_at_once(visit, large):
    page = visit(large[0])
    assert page.evaluate("performance.getEntriesByName('flame-drawn')[0].startTime") < 3_000
    assert len(bars(page)) > 500
    zooms = [page.evaluate(UNTIL_SHOWN, "") for _ in range(3)]
    page.keyboard.press("Escape")
    searches = [page.evaluate(UNTIL_SHOWN, query) for query in ("broadcast", "torch", "e")]
    assert statistics.median(zooms) < 300
    assert statistics.median(searches) < 300


def test_a_large_graph_zooms_to_what_was_found(visit, large):
    page = visit(large[0])
    said = search(page, "broadcast_1")
    page.locator("#flame-next").click()
    assert page.locator("#flame-matches").inner_text().startswith("match 1 of ")
    assert any(each["isMatch"] for each in bars(page))
    page.keyboard.press("Escape")
    click(page, bars(page)[3]["name"])
    assert page.locator("#flame-path button").count() == 4
    assert "of the zoom" in said
