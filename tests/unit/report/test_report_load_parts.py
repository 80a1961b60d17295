"""Classes of a mix and stages of a ramp, in all faces of a result."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console

from perfguard.model.trial import MediaResult, StageResult
from perfguard.report.load_parts import load_tables
from perfguard.report.markdown import to_markdown
from perfguard.report.render import render_html
from perfguard.report.text import print_result


def with_parts(samples, trial, *, e2e_ms, failed=0):
    """Give a trial's load two classes and two stages; the second of each is twice as slow."""
    load = trial.outcome.samples.load
    latency = samples.latency
    media = tuple(
        MediaResult(name=name, sent=10, succeeded=10 - failed, ttft=latency(e2e_ms / 2), e2e=latency(e2e_ms * times))
        for name, times in (("photo", 1), ("<clip>", 2))
    )
    stages = tuple(
        StageResult(name=name, result=replace(load, throughput_rps=100.0 * times, e2e=latency(e2e_ms * times)))
        for name, times in (("8 clients", 1), ("32 clients", 2))
    )
    of_all = replace(load, media=media, stages=stages)
    return replace(trial, outcome=replace(trial.outcome, samples=replace(trial.outcome.samples, load=of_all)))


@pytest.fixture
def mixed(samples):
    """A run of two revisions, two trials each, and one that is untestable."""
    made = [samples.revision(number) for number in (1, 2)]
    trials = [
        with_parts(samples, samples.completed(1, 1, made[0], 150.0), e2e_ms=100.0),
        with_parts(samples, samples.completed(2, 1, made[1], 150.0), e2e_ms=200.0, failed=3),
        with_parts(samples, samples.completed(3, 2, made[0], 150.0), e2e_ms=120.0),
        with_parts(samples, samples.completed(4, 2, made[1], 150.0, strategy="local"), e2e_ms=50.0),
        samples.untestable(5, 3, made[1]),
    ]
    return replace(samples.run_result(), trials=tuple(trials))


def test_rows_are_medians_by_part_and_revision(samples, mixed):
    stages, classes = load_tables(mixed.trials, [samples.revision(1), samples.revision(2)])

    first, second = samples.revision(1).label, samples.revision(2).label
    assert [row[:2] for row in classes.rows] == [
        (name, who) for name in ("photo", "<clip>") for who in (first, second, f"{second}, local")
    ]
    photo = dict(zip(classes.columns, classes.rows[0], strict=True))
    assert (photo[">Trials"], photo[">Failed"]) == ("2", "0 of 20")
    assert (photo[">TTFT p50 (ms)"], photo[">E2E p50 (ms)"]) == ("55.0", "110")
    assert classes.rows[1][3] == "3 of 10"
    assert [row[2] for row in stages.rows if row[1] == first] == ["100", "200"]


def test_a_load_without_parts_has_no_table(samples):
    assert load_tables(samples.run_result().trials, []) == ()


def test_every_face_shows_them(mixed):
    out = io.StringIO()
    print_result(mixed, Console(file=out, width=200))
    markdown, page = to_markdown(mixed), render_html(mixed)

    for text in (out.getvalue(), markdown, page):
        assert "Classes of media" in text
        assert "Stages of the load" in text
        assert "32 clients" in text
    assert "<clip>" in out.getvalue()
    assert "<clip>" not in page.replace("&lt;clip&gt;", "")
