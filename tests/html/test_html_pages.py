"""The page of single profiles and the index of many runs, in a real browser."""

from __future__ import annotations

import pytest
import sample_results as samples
from viewer_page import bars, choose, hover, names

from perfguard.model.result import RoleProfile
from perfguard.report.flame import Side
from perfguard.report.index_page import write_index
from perfguard.report.profile_page import write_profile


@pytest.fixture
def profile(tmp_path):
    return write_profile(samples.profile_report(), tmp_path / "profile.html")


@pytest.fixture
def index(tmp_path):
    return write_index(samples.index_entries(), tmp_path / "index.html")


@pytest.mark.parametrize("width", [1280, 390])
def test_both_fit_the_window(visit, profile, index, width):
    for path in (profile, index):
        assert visit(path, width=width).evaluate("document.documentElement.scrollWidth") <= width


def test_one_side_is_one_view_in_its_own_unit(visit, profile):
    page = visit(profile)
    assert page.locator("#flame-role").input_value() == "rank-1"  # the busiest
    page.locator("#flame-role").select_option("rank-0")
    assert page.locator("#flame-views").is_hidden()
    assert page.locator("#flame-legend").is_hidden()
    assert page.locator("#flame-status").inner_text() == "samples: 12.8, 4242 (5,200 samples, 3 trials)."
    assert {each["tone"][:4] for each in bars(page)[1:]} == {"bar-"}
    tip = hover(page, "broadcast_object_list").inner_text()
    assert "4.50 samples" in tip
    assert "change" not in tip
    headings = page.locator("#flame-columns button").all_inner_texts()
    assert [each.strip(" ▼") for each in headings] == ["Function (file)", "Total", "Self", "Share"]
    assert page.locator("#flame-unit option").all_text_contents() == ["samples", "% of the process"]
    choose(page, "unit", "share")
    assert page.locator("#flame-status").inner_text().startswith("% of the process: 100,")
    page.locator(".finding button.show").first.click()
    assert any("broadcast_object_list" in name for name in names(page))


def test_threads_of_a_process_can_be_told_apart_and_add_up(visit, tmp_path):
    def thread(name, cost):
        return RoleProfile(
            role=f"server (7), thread {name}", samples=cost, trials=1, stacks=((("run (a.py:1)",), cost),)
        )

    side = Side(name="Recorded", label="now", profiles=(thread("8 first", 30), thread("9 second", 12)))
    page = visit(write_profile(samples.profile_report(sides=(side,)), tmp_path / "threads.html"))
    assert page.locator("#flame-role option").all_text_contents() == [
        "server (7), 2 threads added up",
        "server (7), thread 8 first",
        "server (7), thread 9 second",
    ]
    assert page.locator("#flame-status").inner_text().startswith("samples: 42.0,")
    page.locator("#flame-role").select_option(label="server (7), thread 9 second")
    assert page.locator("#flame-status").inner_text().startswith("samples: 12.0,")


def rows(page):
    return page.locator("#index-rows tr:not([hidden])")


def test_the_index_sorts_and_filters(visit, index):
    page = visit(index)
    assert page.locator("#index-count").inner_text() == "12 of 12 runs"
    page.locator("#index-verdict").select_option("Slower")
    assert rows(page).count() == 2
    page.locator("#index-verdict").select_option("")
    page.locator("#index-search").fill("number 7")
    page.locator("#index-count", has_text="1 of 12 runs").wait_for()
    page.locator("#index-search").fill("")
    page.locator("#index-count", has_text="12 of 12 runs").wait_for()
    heading = page.locator("#index-columns th", has_text="#")
    heading.locator("button").click()
    assert heading.get_attribute("aria-sort") == "descending"
    heading.locator("button").click()
    assert [each.split("\t")[0] for each in rows(page).all_inner_texts()][:3] == ["1", "2", "3"]
    change = page.locator("#index-columns th", has_text="Change")
    change.locator("button").click()
    change.locator("button").click()
    assert rows(page).last.locator("td.number").last.inner_text() == "-17.8%"


def test_the_strip_leads_to_the_reports(visit, index):
    page = visit(index)
    strips = page.locator(".strip")
    assert strips.count() == 2
    assert strips.locator("a").count() == 12
    link = strips.locator("a").first
    assert "02:00:00" in link.get_attribute("aria-label")
    assert link.get_attribute("href").startswith("./run%20")


def test_the_index_needs_no_script(visit, index):
    page = visit(index, script=False)
    assert page.locator("#index-tools").is_hidden()
    assert rows(page).count() == 12
