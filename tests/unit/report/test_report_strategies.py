"""Strategies side by side, on every face: the same numbers, what is inside the noise said, foreign text as text."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from perfguard.report.jsonable import to_json_document
from perfguard.report.markdown import to_markdown
from perfguard.report.render import render_html
from perfguard.report.strategies import strategy_view
from perfguard.report.text import print_result
from perfguard.report.view import build_page


def printed(result, width=160):
    written = io.StringIO()
    print_result(result, Console(file=written, width=width))
    return written.getvalue()


@pytest.fixture
def view(samples):
    return strategy_view(samples.strategies_result().strategies[0])


def test_the_table_has_a_column_for_each_strategy_that_was_measured(view):
    assert view.columns == ("as-committed", "local", "conditional")
    assert [(line.name, line.unit) for line in view.lines] == [
        ("Throughput", "req/s"),
        ("E2E latency p99", "ms"),
        ("CPU per request, all processes", "ms"),
        ("CPU per request, rank-0", "ms"),
        ("Pickling per request", "ms"),
        ("GIL wait, tokenizer", "%"),
    ]
    assert view.failed == (
        "tensor-broadcast: 2 of 2 trials untestable: strategy tensor-broadcast: the code is not recognised",
    )


def test_changes_stand_with_their_interval_and_what_it_says(view):
    cells = {line.name: line.cells for line in view.lines}
    _, local, conditional = cells["Throughput"]
    assert (local.mean, local.change, local.interval, local.meaning) == ("140", "+18.6%", "+15.2% to +22.1%", "better")
    assert (conditional.change, conditional.meaning) == ("+0.8%", "noise")
    assert cells["Pickling per request"][1].interval == "-3.90 to -3.10"
    # A fraction is shown in percent, and so is its change.
    gil = cells["GIL wait, tokenizer"]
    assert (gil[0].mean, gil[1].change, gil[1].interval) == ("3.10", "-0.100", "-1.20 to +1.00")
    assert cells["E2E latency p99"][2].interval == "one block"
    assert [cell.mean for cell in cells["Pickling per request"]] == ["4.40", "0.900", "n/a"]


def test_the_note_says_how_many_intervals_miss_by_chance(view):
    assert "against as-committed within 5 blocks, with a paired 95% interval" in view.note
    assert "Of 12 such intervals one in 20 misses by chance" in view.note


@pytest.mark.parametrize("width", [80, 160])
def test_the_terminal_tells_it_at_every_width(samples, width):
    text = " ".join(printed(samples.strategies_result(), width).split())
    assert "+15.2% to +22.1%" in text
    assert "tensor-broadcast: 2 of 2 trials untestable" in text
    assert "Today run local" in text
    assert ("+18.6%*" in text) == (width == 160)
    assert ("+0.8% -3.0% to +4.7% noise" in text) == (width == 80)
    assert max(map(len, printed(samples.strategies_result(), width).splitlines())) <= width


def test_the_terminal_dims_what_lies_inside_the_noise(samples):
    written = io.StringIO()
    print_result(samples.strategies_result(), Console(file=written, width=160, force_terminal=True))
    (line,) = [line for line in written.getvalue().splitlines() if "+0.8%" in line]
    dim = "\x1b[2m"
    assert dim in line[: line.index("+0.8%")]
    assert dim not in line[: line.index("+18.6%")]


def test_every_other_face_tells_it(samples):
    result = samples.strategies_result()
    (table,) = to_json_document(result, None)["strategies"]
    assert (table["baseline"], table["blocks"]) == ("as-committed", 5)
    assert table["arms"][1]["metrics"][0]["change"] == {
        "kind": "ratio", "change": 1.186, "low": 1.152, "high": 1.221, "blocks": 5, "meaning": "better",
    }  # fmt: skip
    markdown = to_markdown(result)
    assert "140, **+18.6%**<br>+15.2% to +22.1%<br>better" in markdown
    assert "119, +0.8%<br>-3.0% to +4.7%<br>inside the noise" in markdown
    page = render_html(result)
    assert 'id="strategies"' in page
    assert "+15.2% to +22.1%" in page
    assert "Throughput, change beside as-committed (%)" in page
    assert page.count('class="good interval"') == 3


def test_the_first_screen_asks_what_was_asked_and_leads_to_the_table(samples):
    banner = build_page(samples.strategies_result()).banner
    assert banner.question.startswith("Which way of sharing multimodal inputs between ranks suits 0117a57fd best?")
    assert banner.sentence.endswith("with 2 strategies; the table says what each changes, and how surely.")
    assert [step.anchor for step in banner.steps] == ["strategies"]
    assert build_page(samples.run_result()).banner.steps == ()


def test_a_reason_of_a_server_is_text(samples):
    reason = "<img src=x onerror=alert(1)> [bold]`tick`"
    result = samples.strategies_result(reason)
    assert "<img src=x" not in render_html(result)
    assert reason in " ".join(printed(result, 200).split())
    assert "[bold]" in to_markdown(result)


def test_nothing_is_told_where_there_is_one_strategy(samples):
    result = samples.run_result()
    assert to_json_document(result, None)["strategies"] == []
    assert "Strategies" not in printed(result) + to_markdown(result)
    assert 'id="strategies"' not in render_html(result)
