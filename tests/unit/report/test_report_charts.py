from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import matplotlib as mpl
import pytest

from perfguard.report.charts import revision_chart, trial_chart
from perfguard.report.clean import clean
from perfguard.report.view import marks_of

SVG = "{http://www.w3.org/2000/svg}"


def parse(svg):
    return ET.fromstring(svg)  # noqa: S314 - our own chart


def draw(result):
    result = clean(result)
    return revision_chart(result.revisions, result.run, marks_of(result))


def texts(svg):
    return ["".join(each.itertext()) for each in parse(svg).iter(f"{SVG}text")]


def test_text_stays_text_and_the_parts_are_named(samples):
    drawn = draw(samples.bisect_result())
    shown = texts(drawn.svg)
    assert {"good", "culprit", "bad"} <= set(shown)
    assert samples.revision(64).label in shown
    assert "Throughput (req/s)" in shown


def test_points_stand_in_first_parent_order_and_untestable_is_an_x(samples):
    drawn = draw(samples.bisect_result())
    assert [row[0] for row in drawn.table] == ["0", "32", "48", "56", "60", "61", "62", "63", "64", "66", "80", "127"]
    assert drawn.table[5][3] == "untestable"
    assert drawn.svg.count('class="untestable"') == 1
    assert drawn.svg.count('class="culprit"') >= 2
    assert "11 measured, 1 untestable" in drawn.svg


def test_the_svg_needs_nothing_that_the_policy_forbids(samples):
    svg = draw(samples.bisect_result()).svg
    root = parse(svg)
    assert root.get("role") == "img"
    assert root.get("aria-label")
    assert root.get("viewBox")
    for element in root.iter():
        assert "style" not in element.attrib
        assert element.tag not in (f"{SVG}style", f"{SVG}metadata", f"{SVG}script", f"{SVG}image")
        assert not any(key.startswith("on") for key in element.attrib)
    assert "<?xml" not in svg
    assert "#000000" not in svg
    assert "currentColor" in svg
    assert all(each.get("font-size") for each in root.iter(f"{SVG}text"))


def test_references_and_ids_fit_together(samples):
    root = parse(draw(samples.bisect_result()).svg)
    ids = [each.get("id") for each in root.iter() if each.get("id")]
    assert len(ids) == len(set(ids))
    assert all(each.startswith("revisions-") for each in ids)
    references = {each.get("{http://www.w3.org/1999/xlink}href", "")[1:] for each in root.iter()} - {""}
    references |= set(re.findall(r"url\(#([^)]+)\)", ET.tostring(root, encoding="unicode")))
    assert references
    assert references <= set(ids)


def test_the_same_data_gives_the_same_bytes(samples):
    assert draw(samples.bisect_result()).svg == draw(samples.bisect_result()).svg


def test_drawing_leaves_matplotlib_as_it_was(samples):
    before = dict(mpl.rcParams)
    draw(samples.bisect_result())
    assert dict(mpl.rcParams) == before


@pytest.mark.filterwarnings("error")
def test_hostile_labels_are_text(samples):
    result = samples.hostile_result()
    svg = draw(result).svg
    assert "<img" not in svg
    assert any("&" not in shown and "<" in shown for shown in texts(svg))


def test_nothing_measured_is_no_chart(samples):
    lost = tuple(samples.summary(samples.revision(n), n, None) for n in range(3))
    assert draw(samples.bisect_result(revisions=lost)) is None
    trials = (samples.untestable(1, 1, samples.revision(1)),)
    assert trial_chart(trials, {}, samples.run_info()) is None


def test_trials_are_drawn_by_revision(samples):
    result = samples.compare_result()
    labels = {samples.revision(1).commit: "old", samples.revision(2).commit: "new"}
    drawn = trial_chart(result.trials, labels, result.run)
    assert {"old", "new"} <= set(texts(drawn.svg))
    assert len(drawn.table) == 12
    assert {row[2] for row in drawn.table} == {"old", "new"}
    assert 'class="series-0"' in drawn.svg
    assert 'class="series-1"' in drawn.svg


def test_many_revisions_keep_the_labels_that_matter(samples):
    made = [samples.revision(n) for n in range(200)]
    result = samples.bisect_result(
        revisions=tuple(samples.summary(made[n], n, 150.0 + n / 100) for n in range(200)), good=made[0], bad=made[199]
    )
    shown = texts(draw(result).svg)
    assert {made[0].label, made[64].label, made[199].label} <= set(shown)
    assert sum(each.endswith("17a57fd") for each in shown) < 25
