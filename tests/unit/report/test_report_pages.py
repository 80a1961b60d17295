"""The page of single profiles, the index of many runs, and the charts that only they and a bisect have."""

from __future__ import annotations

import base64
import json
import re
import zlib
from dataclasses import replace

import pytest

from perfguard.model.errors import PerfguardError
from perfguard.model.scenario import Strategy
from perfguard.report.charts import posterior_chart
from perfguard.report.fact_table import FactTable
from perfguard.report.flame import CPU_MS_PER_REQUEST, Side
from perfguard.report.index_page import render_index, write_index
from perfguard.report.profile_page import render_profile, write_profile
from perfguard.report.render import render_html
from perfguard.report.view import build_page


def plain(document):
    text = re.sub(r"<(script|style)\b.*?</\1>", " ", document, flags=re.DOTALL)
    return " ".join(re.sub(r"<[^>]+>", " ", text).split())


def packed(document):
    text = re.search(r'id="flame-data">([^<]+)<', document)[1]
    return json.loads(zlib.decompress(base64.b64decode(text)))


def test_a_recording_shows_its_finding_profile_and_tables(samples):
    document = render_profile(samples.profile_report())
    text = plain(document)
    assert text.index("1 finding") < text.index("Two processes were recorded") < text.index("Flamegraph: samples")
    assert "zmq reaper 0% n/a" in text
    assert packed(document)["unit"]["name"] == "samples"
    for private in ("abc123veryprivate", "topsecretvalue"):
        assert private not in document


def test_two_sides_bring_the_differences(samples):
    sides = (
        Side(name="Before", label="a", profiles=samples.before_profiles()),
        Side(name="After", label="b", profiles=samples.after_profiles()),
    )
    many = tuple(replace(samples.grown_frames()[0], frame=f"f{n} (a.py)") for n in range(150))
    report = samples.profile_report(sides=sides, grown_frames=many, unit=CPU_MS_PER_REQUEST, findings=())
    text = plain(render_profile(report))
    assert "Functions whose cost changed" in text
    assert "50 more functions were compared" in text
    assert text.startswith("Profile · perfguard record: 4242")


def test_no_profile_is_no_viewer(samples):
    document = render_profile(samples.profile_report(sides=(), findings=samples.findings()[:1]))
    assert "<script" not in document
    assert "script-src &#39;none&#39;" in document
    assert "Nothing found" in plain(document)


def test_a_long_table_is_cut_and_says_so(samples):
    table = FactTable(title="Threads", columns=("a",), rows=tuple((str(n),) for n in range(700)), note="Note.")
    assert "Note. 200 more rows are not shown." in plain(render_profile(samples.profile_report(tables=(table,))))


def test_hostile_texts_stay_texts(samples):
    name = samples.HOSTILE
    table = FactTable(title=name, columns=(name, f">{name}"), rows=((name, name),))
    report = samples.profile_report(
        title=name, sentence=name, facts=(name,), tables=(table,), environment=((name, name),), command=name
    )
    document = render_profile(report)
    assert "<img" not in document
    assert samples.HOSTILE.replace("<", "&lt;").replace(">", "&gt;") in document


def test_the_index_lists_the_newest_first_and_links_files_only(samples):
    document = render_index(samples.index_entries())
    assert "topsecretvalue" not in document
    links = re.findall(r'<th scope="row" class="long"><a href="([^"]+)"', document)
    assert links[0] == "./run%2011/report.html"
    assert len(links) == 12
    text = plain(document)
    assert "Slower: 2" in text
    assert "1 skipped as untestable abc1234 ImportError: no module" in text
    assert document.count('<svg class="chart"') + document.count('class="chart"') >= 2


@pytest.mark.parametrize(
    ("path", "href"),
    [
        ("javascript:alert(1)", "./javascript%3Aalert%281%29"),
        ("//evil.example/x", "/evil.example/x"),
        ("https://evil.example", "./https%3A//evil.example"),
        ("../a b/r#1?.html", "../a%20b/r%231%3F.html"),
        ("/home/ada/runs/report.html", "/home/ada/runs/report.html"),
        ('"><script>', "./%22%3E%3Cscript%3E"),
    ],
)
def test_a_path_can_only_lead_to_a_file(samples, path, href):
    entry = replace(samples.index_entries()[0], path=path)
    assert f'href="{href}"' in render_index([entry])


def test_an_empty_index_says_so():
    assert "No run has been kept yet" in plain(render_index([]))


def test_pages_are_written_in_one_step(samples, tmp_path):
    assert write_index(samples.index_entries(), tmp_path / "new" / "index.html").exists()
    assert write_profile(samples.profile_report(), tmp_path / "profile.html").exists()
    (tmp_path / "file").write_text("")
    for write, given in ((write_index, samples.index_entries()), (write_profile, samples.profile_report())):
        with pytest.raises(PerfguardError, match="cannot write to"):
            write(given, tmp_path / "file" / "x.html")


def test_the_posterior_strip_names_the_culprit_and_what_was_looked_at(samples):
    chart = posterior_chart(samples.bisect_result())
    assert chart.columns == ("#", "revision", "posterior", "looked at")
    assert chart.table == (
        ("63", "3f17a57fd", "1.20%", "tested"),
        ("64", "4017a57fd", "98.10%", "tested"),
        ("66", "4217a57fd", "0.70%", "tested"),
    )
    assert "4017a57fd, 98.10%" in chart.svg
    assert 'class="untestable"' in chart.svg
    assert "style=" not in chart.svg


def test_without_a_posterior_there_is_no_strip(samples):
    assert posterior_chart(samples.no_change_result()) is None
    assert posterior_chart(samples.bisect_result(posterior=(float("nan"), 0.0))) is None


def test_a_posterior_without_a_culprit_or_with_one_revision(samples):
    spread = posterior_chart(samples.bisect_result(culprit=None, posterior=(0.5, 0.5)))
    assert [row[2] for row in spread.table] == ["50.00%", "50.00%"]
    assert posterior_chart(samples.bisect_result(posterior=(1.0,))) is not None


def test_strategies_of_one_revision_are_told_apart(samples):
    result = samples.run_result()
    summary, trial = result.revisions[0], result.trials[0]
    arms = (Strategy.AS_COMMITTED, Strategy.LOCAL)
    several = replace(
        result,
        revisions=tuple(replace(summary, strategy=arm, index=place) for place, arm in enumerate(arms)),
        trials=tuple(
            replace(trial, number=place, revision=summary.revision.commit, strategy=arm.value)
            for place, arm in enumerate(arms, start=1)
        ),
    )
    page = build_page(several)
    label = summary.revision.label
    assert [row.label for row in page.revisions] == [label, f"{label}, local"]
    assert [(row.revision, row.strategy) for row in page.trials] == [(label, ""), (label, "local")]
    assert "with 2 strategies" in page.banner.sentence
    assert f"{label}, local" in render_html(several)
