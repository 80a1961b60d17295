"""The page of a study in a browser: nothing is loaded, nothing complains, and axe-core finds no problem."""

import pytest
from made_studies import crossing_cost, make_result, make_spec, make_trials
from test_html_axe import axe, problems  # noqa: F401 - a fixture

from perfguard.model.scenario import Strategy
from perfguard.report.study_page import write_study

pytestmark = pytest.mark.html


def tied(strategy, payload_bytes):
    """Small payloads tie; large ones do not."""
    return 1.0 if payload_bytes < 1e6 else crossing_cost(1e6)(strategy, payload_bytes)


@pytest.fixture(scope="module")
def page_path(tmp_path_factory):
    spec = make_spec(concurrency=(1, 96), ranks=(2,), most_in_flight_mb=60.0)
    trials = make_trials(spec, tied)
    return write_study(make_result(spec, trials), tmp_path_factory.mktemp("study") / "study.html")


@pytest.mark.parametrize(("width", "scheme"), [(1200, "light"), (390, "dark")])
def test_the_page_is_accessible_wide_and_narrow_light_and_dark(visit, axe, page_path, width, scheme):  # noqa: F811
    page = visit(page_path, width=width, scheme=scheme)
    page.evaluate("for (const each of document.querySelectorAll('details')) each.open = true")
    assert problems(page, axe) == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_the_map_names_winners_ties_and_what_was_left_out_without_colour(visit, page_path):
    page = visit(page_path)
    told = page.locator("svg.chart text").all_text_contents()
    assert Strategy.SHARED_MEMORY.value in told
    assert "= 3 tie" in told
    assert "not measured" in told
    assert page.locator(".note", has_text="more than 60 MB would be in flight").count() == 1
