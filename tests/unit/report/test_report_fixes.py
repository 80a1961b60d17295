"""What gives the performance back, on every face: the same rows, foreign text as text, search figures untouched."""

from __future__ import annotations

import io

from rich.console import Console

from perfguard.report.fixes import fix_view
from perfguard.report.jsonable import to_json_document
from perfguard.report.markdown import to_markdown
from perfguard.report.opening import steps
from perfguard.report.render import render_html
from perfguard.report.text import print_result
from perfguard.report.view import build_page


def printed(result):
    written = io.StringIO()
    print_result(result, Console(file=written, width=140))
    return written.getvalue()


def test_the_rows_say_what_each_arm_gives_back(samples):
    rows = fix_view(samples.fixed_result().fix).rows
    assert [(row.part, row.back, row.interval, row.verdict) for row in rows] == [
        ("good", "", "", ""),
        ("bad", "", "", ""),
        ("revert", "97%", "84% to 110% (95%)", "gives it back"),
        ("strategy", "40%", "20% to 60% (95%)", "helps"),
        ("strategy", "2%", "unbounded", "cannot tell"),
        ("strategy", "n/a", "", "cannot tell"),
    ]
    assert rows[-1].reason == "the code is not known"
    assert rows[3].label.endswith(", local")


def test_the_search_s_figures_do_not_count_the_ways_out(samples):
    plain, fixed = samples.bisect_result(), samples.fixed_result()
    assert to_json_document(fixed, None)["revisions_measured"] == to_json_document(plain, None)["revisions_measured"]
    pages = [build_page(result) for result in (plain, fixed)]
    assert pages[0].banner.facts[1:] == pages[1].banner.facts[1:]
    assert len(pages[1].trials) == len(pages[0].trials) + 5
    # The reverted tree has its name in the list of trials, not a hash.
    assert any(" without " in row.revision for row in pages[1].trials)


def test_every_face_tells_it(samples):
    result = samples.fixed_result()
    document = to_json_document(result, None)["fix"]
    assert document["arms"][2]["recovery"] == {"frac": 0.97, "low": 0.84, "high": 1.1, "confidence": 0.95, "rounds": 3}
    assert document["first_trial"] == len(samples.bisect_result().trials) + 1
    assert "gives it back" in printed(result)
    assert "fix.patch" in printed(result)
    markdown = to_markdown(result)
    assert "### What gives it back" in markdown
    assert "84% to 110% (95%)" in markdown
    page = render_html(result)
    assert 'id="fix"' in page
    assert "84% to 110% (95%)" in page
    assert [step.anchor for step in steps(result)] == ["culprit", "frames", "fix", "reproduce"]


def test_nothing_is_told_where_nothing_was_asked(samples):
    result = samples.bisect_result()
    assert to_json_document(result, None)["fix"] is None
    assert "What gives it back" not in printed(result) + to_markdown(result) + render_html(result)


def test_a_conflict_is_told_and_its_names_are_text(samples):
    name = "<img src=x onerror=alert(1)>|`a`@b.py"
    result = samples.conflicting_result(name)
    page = render_html(result)
    assert "<img src=x" not in page
    assert "&lt;img src=x onerror=alert(1)&gt;" in page
    assert "the same lines were changed since" in page
    shown = name.replace("|", "\\|")
    line = f"- ``{shown}``: the same lines were changed since ``{shown}, other``"
    assert line in to_markdown(result).splitlines()
    assert name in printed(result)
