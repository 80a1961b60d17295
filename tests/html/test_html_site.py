"""The guard's site in a real browser: offline, accessible, and usable on a phone."""

from __future__ import annotations

import pytest
import sample_nights
from test_html_axe import axe, problems

from perfguard.report.site import write_site
from perfguard.report.site_view import build_site

__all__ = ["axe"]  # the fixture


@pytest.fixture
def site(tmp_path):
    pages = build_site(sample_nights.nights(), sample_nights.acceptances(), {"n5": "reports/n5.html"})
    index = write_site(pages, tmp_path / "site")
    return index, [index.with_name(page.path) for page in pages]


def test_every_page_is_offline_accessible_and_fits_a_phone(visit, axe, site):
    index, (hostile, series) = site
    for path in (index, series, hostile):
        for width, scheme in ((1280, "light"), (390, "dark")):
            page = visit(path, width=width, scheme=scheme)  # asks for nothing else, and runs nothing
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            page.evaluate("for (const each of document.querySelectorAll('details')) each.open = true")
            assert problems(page, axe) == []


def test_a_night_in_the_strip_leads_to_its_row(visit, site):
    _, (_, series) = site
    page = visit(series)
    page.locator(".strip a").nth(4).click()
    assert page.url.endswith("#night-5")
    row = page.locator("#night-5")
    assert row.get_attribute("class") == "culprit"
    assert row.locator("a").get_attribute("href") == "reports/n5.html"
