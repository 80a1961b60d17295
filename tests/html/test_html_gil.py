"""The layers of the GIL in a real browser: switched by hand, by key and by link, or not offered, with the reason."""

from __future__ import annotations

import re

import pytest
from gil_report import layers, write_gil_report
from viewer_page import bar, choose, hover, names, rows

from perfguard.model.gil_stacks import GilLayers


@pytest.fixture
def page(visit, tmp_path):
    return visit(write_gil_report(tmp_path / "gil.html", layers(1.0), layers(2.0)))


def status(page):
    return page.locator("#flame-status").inner_text()


def test_the_same_flamegraph_shows_who_waits_and_who_holds(page):
    assert page.locator("#flame-layer option").all_text_contents() == [
        "CPU ms per request",
        "Holding the GIL",
        "Waiting for the GIL",
    ]
    assert status(page).startswith("CPU ms per request: 6.00 before")
    page.locator("#flame-layer").select_option("wait")
    assert status(page).startswith("ms per request waiting for the GIL: 4.00 before")
    assert "7.00 after" in status(page)
    assert names(page)[2:] == ["lock (helper.py)", "poll (helper.py)"]
    assert bar(page, "poll")["width"] == pytest.approx(6 / 7 * bar(page, "main")["width"])
    assert page.locator("#flame-title").inner_text() == "Flamegraph: ms per request waiting for the GIL"
    assert rows(page)[0][:4] == ["poll (helper.py)", "3.00", "6.00", "+3.00"]
    page.locator("#flame-layer").select_option("hold")
    assert "4.50 before" in status(page)
    assert "8.50 after" in status(page)
    assert bar(page, "parse")["width"] > 0.9 * bar(page, "main")["width"]


def test_waiting_names_what_held_the_gil_meanwhile(page):
    assert page.locator("#flame-meanwhile").inner_text() == ""
    page.locator("#flame-layer").select_option("wait")
    said = page.locator("#flame-meanwhile").inner_text()
    assert said.startswith("Most of the waiting (7.00 ms per request after): ")
    assert "poll (helper.py) waited while parse (server.py) held it (68.6%); poll (helper.py) waited while main" in said
    tip = hover(page, "poll").inner_text()
    assert "held meanwhile by parse (server.py): 4.80 ms per request (80.0%)" in tip
    assert "held meanwhile by main (server.py): 1.20 ms per request (20.0%)" in tip
    page.locator("[data-view=before]").click()
    assert "4.00 ms per request): poll (helper.py)" in page.locator("#flame-meanwhile").inner_text()
    assert "held meanwhile" not in hover(page, "main (server.py)").inner_text()


def test_the_functions_stand_in_the_page_without_a_script_too(visit, tmp_path):
    page = visit(write_gil_report(tmp_path / "gil.html", layers(1.0), layers(2.0)), script=False)
    table = page.locator("#gil table").nth(1)
    (row,) = table.locator("tbody tr", has=page.locator("th", has_text="poll (helper.py)")).all_inner_texts()
    assert row.split("\t")[2:6] == ["3.00", "6.00", "0.500", "0.500"]
    assert "parse (server.py) 4.80" in row


def test_a_key_walks_through_the_layers_and_the_address_follows(page):
    seen = []
    for _ in range(3):
        page.keyboard.press("g")
        seen.append((page.locator("#flame-layer").input_value(), page.evaluate("location.hash")))
    assert seen == [("hold", "#flame:layer=hold"), ("wait", "#flame:layer=wait"), ("cpu", "#flame")]
    page.locator("#flame-search").fill("g")  # a letter in the search is a letter
    page.locator("#flame-search").press("g")
    assert page.locator("#flame-layer").input_value() == "cpu"


def test_a_link_opens_a_layer_with_its_filters(visit, tmp_path):
    path = write_gil_report(tmp_path / "gil.html", layers(1.0), layers(2.0))
    page = visit(path, link="#flame:layer=hold&thread=pool_0")
    assert page.locator("#flame-layer").input_value() == "hold"
    assert "0.500 before" in status(page)
    assert names(page)[1:] == ["main (server.py)", "poll (helper.py)"]
    page = visit(path, link="#flame:layer=nonsense")
    assert status(page).startswith("CPU ms per request")


def test_kinds_of_work_are_known_of_the_cpu_only(page):
    choose(page, "class", "pickle")
    assert "5.00 before" in status(page)
    page.locator("#flame-layer").select_option("wait")
    assert page.locator("#flame-class").is_hidden()
    assert "4.00 before" in status(page)
    choose(page, "unit", "share")
    assert status(page).startswith("% of the process: 100 before")


@pytest.mark.parametrize(
    ("gil", "reason"),
    [
        (None, "were not read when this was recorded"),
        (GilLayers(looks=0, unknown="the stacks of CPython 3.15 are not known"), "CPython 3.15"),
    ],
)
def test_a_run_without_the_data_is_not_offered_the_layers_and_is_told_why(visit, tmp_path, gil, reason):
    page = visit(write_gil_report(tmp_path / "old.html", gil, gil), link="#flame:layer=wait")
    assert page.locator("#flame-layer").is_hidden()
    assert re.match("No layer of the GIL is offered: .*" + reason, page.locator("#flame-no-layers").inner_text())
    page.keyboard.press("g")
    assert status(page).startswith("CPU ms per request: 6.00 before")


def test_a_side_that_cannot_be_told_and_one_where_nobody_waited_differ(visit, tmp_path):
    nobody = layers(1.0, waiting=(), waiting_threads=(), meanwhile=())
    page = visit(write_gil_report(tmp_path / "nobody.html", nobody, nobody), link="#flame:layer=wait")
    assert page.locator("#flame-hidden").inner_text() == "Nobody was seen waiting for the GIL."
    unknown = GilLayers(looks=0, unknown="it could not be read")
    page = visit(write_gil_report(tmp_path / "half.html", unknown, layers(1.0)), link="#flame:layer=wait&view=before")
    assert page.locator("#flame-hidden").inner_text() == "The GIL cannot be told by function: it could not be read."
