from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
import sample_nights
import sample_results

from perfguard.cli.main import run_cli
from perfguard.model.errors import UsageError
from perfguard.model.night import NightVerdict
from perfguard.report.night_chart import night_chart
from perfguard.report.site import render_series, render_site_index
from perfguard.report.site_view import build_site
from perfguard.store.nights import NightStore
from perfguard.workflows.site import make_site


class Reader(HTMLParser):
    """What a browser sees: the elements, their links and handlers, and the text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.links, self.handlers, self.ids, self.text = [], [], [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        for name, value in attributes:
            if name in {"href", "src"}:
                self.links.append(value)
            if name == "id":
                self.ids.append(value)
            if name.startswith("on"):
                self.handlers.append((tag, name))

    def handle_data(self, data):
        self.text += data


@pytest.fixture
def pages():
    return build_site(sample_nights.nights(), sample_nights.acceptances(), {"n5": "reports/n5.html"})


@pytest.fixture
def page(pages):
    return next(each for each in pages if each.branch == "main")


def test_every_branch_and_scenario_is_a_series_with_a_file_of_its_own(pages):
    assert [(len(each.rows), each.scenario) for each in pages] == [(1, "text-only"), (11, "mm-small-images")]
    for each in pages:
        assert re.fullmatch(r"series-[A-Za-z0-9-]+-[0-9a-f]{8}\.html", each.path)


def test_names_that_differ_in_signs_only_get_two_files():
    nights = [
        sample_nights.night(1, NightVerdict.FIRST, branch="a/b"),
        sample_nights.night(2, NightVerdict.FIRST, branch="a-b"),
    ]
    assert len({each.path for each in build_site(nights, (), {})}) == 2


def test_a_row_says_the_effect_its_interval_the_culprit_and_the_report(page):
    by_number = {row.number: row for row in page.rows}
    fifth = by_number[5]
    assert (fifth.label, fifth.look, fifth.change, fifth.interval) == (
        "Regression",
        "slower",
        "-9.0%",
        "-10.5% to -7.5%",
    )
    assert (fifth.culprit, fifth.posterior, fifth.report) == ("0517a57fd", "98.00%", "reports/n5.html")
    assert fifth.found_here
    assert not by_number[6].found_here  # the same commit, told again
    assert (by_number[3].head, by_number[3].change, by_number[3].report) == ("", "", "")
    assert by_number[3].reason == "the network is gone"
    assert page.newest.number == 11
    assert page.newest.started_at == "2026-01-12 02:17"


def test_alerts_stand_as_the_newest_night_left_them(pages, page):
    assert page.open_alerts == ()
    (past,) = page.past_alerts
    assert (past.state, past.first, past.last) == ("accepted", "2026-01-05", "2026-01-07")
    assert (past.first_anchor, past.last_anchor) == ("night-5", "night-7")
    (hostile,) = pages[0].open_alerts
    assert (hostile.state, hostile.change) == ("open", "-9.0%")


def test_the_points_mark_the_culprit_and_what_was_accepted(page):
    by_number = {point.number: point for point in page.points}
    assert {number: point.culprit for number, point in by_number.items() if point.culprit} == {
        5: "0517a57fd",
        9: "0917a57fd",
    }
    # Said after night 6: the next one is the first that it holds for.
    assert {number: point.accepted for number, point in by_number.items() if point.accepted} == {7: "0517a57fd"}
    assert by_number[5].look == "culprit"
    assert by_number[1].effect is None


def test_what_is_accepted_after_the_newest_night_is_marked_there():
    nights = [sample_nights.night(5, NightVerdict.REGRESSION, -9), sample_nights.night(6, NightVerdict.REGRESSION, -9)]
    (page,) = build_site(nights, sample_nights.acceptances(), {})
    assert [point.accepted for point in page.points] == ["", "0517a57fd"]


def test_only_what_made_it_slower_is_called_a_culprit(page):
    assert render_series(page).count('class="culprit"') == 1
    read = Reader(render_series(page)).text
    assert "Culprit 0517a57fd" in read
    assert "Since 0917a57fd" in read


def test_what_was_accepted_says_when_and_why(page):
    (row,) = page.accepted
    assert (row.commit, row.accepted_at) == ("0517a57fd86c", "2026-01-06 09:00")
    assert row.reason.startswith("it buys us safety ")


def test_an_acceptance_of_another_series_is_not_shown(pages):
    assert pages[0].accepted == ()


def test_the_chart_has_a_mark_a_night_and_its_numbers(page):
    chart = night_chart(page.points, metric=page.metric, larger_is_better=True, name="trend")
    assert "larger is better" in chart.title
    assert chart.svg.count('class="bad interval"') == 2
    assert "0517a57fd" in chart.svg
    assert "0517a57fd ok" in chart.svg
    assert [row[0] for row in chart.table] == [str(number) for number in range(1, 12)]
    assert chart.table[4] == (
        "5", "2026-01-05 02:17", "0517a57fd", "-9.0%", "-10.5% to -7.5%", "Regression", "0517a57fd", "",
    )  # fmt: skip


def test_nights_that_measured_nothing_have_no_chart():
    (page,) = build_site([sample_nights.night(1, NightVerdict.FIRST)], (), {})
    assert night_chart(page.points, metric=page.metric, larger_is_better=True, name="trend") is None
    assert "No head has been measured yet" in render_series(page)


def test_pages_are_valid_link_only_beside_themselves_and_run_nothing(pages):
    documents = [render_site_index(pages), *(render_series(each) for each in pages)]
    names = {each.path for each in pages} | {"index.html", "reports/n5.html", ""}
    for document in documents:
        read = Reader(document)
        assert read.handlers == []
        assert "script" not in read.tags
        assert "img" not in read.tags
        assert len(read.ids) == len(set(read.ids))
        assert {link.partition("#")[0] for link in read.links} <= names
        for link in read.links:
            file, _, anchor = link.partition("#")
            assert file or anchor in read.ids
        assert "default-src &#39;none&#39;" in document


def test_hostile_texts_are_shown_as_text(pages):
    index, series = render_site_index(pages), render_series(pages[0])
    for document in (index, series):
        assert "<img src=x" not in document
        assert "topsecretvalue" not in document
        assert "\u202e" not in document
        assert "</script><img src=x onerror=alert(1)>" in Reader(document).text


def test_a_folder_without_nights_has_an_index():
    assert "No night has been kept yet" in render_site_index(())


def a_state(root):
    store = NightStore(root / "state")
    store.prepare()
    for each in sample_nights.nights():
        store.add_night(each)
    for each in sample_nights.acceptances():
        store.add_acceptance(each)
    report = store.root / "runs" / "n5-bisect" / "report.html"
    report.parent.mkdir(parents=True)
    report.write_text("<p>the report</p>")
    return store.root


def test_the_verb_writes_the_pages_and_copies_reports_that_are_there(tmp_path, capsys):
    state, output = a_state(tmp_path), tmp_path / "site"
    for _ in range(2):  # over itself too
        assert run_cli(["site", "--state", str(state), "--output", str(output)]) == 0
    assert "Site of 12 nights with 1 reports" in capsys.readouterr().out
    assert (output / "reports" / "n5.html").read_text() == "<p>the report</p>"
    assert sorted(path.name for path in output.iterdir())[:2] == ["index.html", "reports"]
    assert len(list(output.glob("series-*.html"))) == 2
    for document in output.glob("*.html"):
        for link in Reader(document.read_text()).links:
            file = link.partition("#")[0]
            assert not file or (output / file).is_file()


def test_a_record_cannot_take_a_file_from_outside_the_runs(tmp_path):
    store = NightStore(tmp_path / "state")
    store.prepare()
    (tmp_path / "secret.html").write_text("secret")
    outside = store.root / "runs" / "link.html"
    outside.symlink_to(tmp_path / "secret.html")
    for number, report in enumerate(("../secret.html", "runs/link.html", "runs/../../secret.html"), start=1):
        store.add_night(sample_nights.night(number, NightVerdict.CLEAN, 0, report=report))
    site = make_site(store.root, tmp_path / "site")
    assert (site.nights, site.reports) == (3, 0)
    assert not (tmp_path / "site" / "reports").exists()


def test_what_is_damaged_is_told_and_stops_nothing(tmp_path, capsys):
    state = a_state(tmp_path)
    (state / "nights" / "n4.json").write_text("{")
    assert run_cli(["site", "--state", str(state), "--output", str(tmp_path / "site")]) == 0
    written = capsys.readouterr()
    assert "Site of 11 nights" in written.out
    assert "n4.json cannot be used" in written.err


def test_no_state_and_an_output_in_the_state_are_refused(tmp_path, capsys):
    assert run_cli(["site", "--state", str(tmp_path / "none"), "--output", str(tmp_path / "site")]) == 129
    assert "there is no state folder" in capsys.readouterr().err
    state = a_state(tmp_path)
    with pytest.raises(UsageError, match="lies in the state folder"):
        make_site(state, state / "runs" / "site")


def test_a_long_series_keeps_its_newest_nights():
    base = sample_nights.night(1, NightVerdict.CLEAN, 0.1)
    many = [replace(base, night=f"m{number}", number=number) for number in range(1, 1203)]
    (page,) = build_site(many, (), {})
    assert (len(page.rows), page.hidden, page.newest.number, len(page.strip)) == (1000, 202, 1202, 120)
    assert page.rows[0].head == sample_results.revision(1).label
