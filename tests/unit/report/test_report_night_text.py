from __future__ import annotations

import re
from dataclasses import replace

import pytest

from perfguard.model.night import (
    Alert,
    AlertKind,
    AlertState,
    MachineFingerprint,
    NightCulprit,
    NightRecord,
    NightVerdict,
)
from perfguard.model.result import Effect
from perfguard.report.markdown import MOST_BYTES
from perfguard.report.night_text import (
    IssueAction,
    KnownIssue,
    marker,
    marker_in,
    plan_issues,
    to_annotations,
    to_issue,
    to_summary,
)

HOSTILE = "50% `x` @everyone\n::error::owned\r</script><img src=x> --> | [l](http://evil.example) #1"
EFFECT = Effect(metric="throughput_rps", ratio=0.9, low=0.88, high=0.92, confidence=0.95, pairs=6, starts=3)


def an_alert(**changed):
    base = Alert(
        id="step-abc",
        kind=AlertKind.STEP,
        state=AlertState.OPEN,
        commit="a" * 40,
        first_night="n1",
        last_night="n2",
        sentence="aaaaaaa made it slower.",
        effect=EFFECT,
    )
    return replace(base, **changed)


def a_night(samples, **changed):
    revision = replace(samples.revision(3, subject="Broadcast"), commit="a" * 40)
    base = NightRecord(
        schema_version=1,
        night="n2",
        number=2,
        started_at="2026-01-02T02:00:00+00:00",
        repo="https://example.org/r",
        branch="main",
        scenario="mm-small-images",
        metric="throughput_rps",
        larger_is_better=True,
        machine=MachineFingerprint(key="k", described="2 cores"),
        head=revision,
        baseline=samples.revision(1),
        trusted=samples.revision(1),
        verdict=NightVerdict.REGRESSION,
        sentence="The head is slower.",
        reason="",
        effects=(EFFECT,),
        culprit=NightCulprit(revision=revision, posterior=0.98, effect=EFFECT),
        frames=samples.grown_frames(),
        alerts=(an_alert(),),
        trials=12,
        wall_s=300.0,
    )
    return replace(base, **changed)


def outside_code(text):
    return re.sub(r"(`+)(?!`).*?(?<!`)\1(?!`)", "", text, flags=re.DOTALL)


def test_the_summary_says_verdict_effect_culprit_and_frames(samples):
    text = to_summary(a_night(samples), report="https://example.org/a (1).html")
    assert text.startswith("## ▲ Regression\n\n**The head is slower")
    assert "**-10.0%** | -12.0% to -8.0% (95%)" in text
    assert "posterior 98.00%" in text
    assert "broadcast_object_list" in text
    assert "(https://example.org/a%20%281%29.html)" in text


@pytest.mark.parametrize("verdict", list(NightVerdict))
def test_every_verdict_has_a_summary_and_only_open_trouble_is_annotated(samples, verdict):
    night = a_night(samples, verdict=verdict, alerts=(), reason="why")
    assert verdict.value in to_summary(night).lower()
    unclear = verdict in {NightVerdict.UNKNOWN, NightVerdict.FAILED, NightVerdict.UNFINISHED}
    assert to_annotations(night).startswith("::warning ") is unclear


def test_hostile_texts_become_nothing(samples):
    revision = replace(samples.revision(3, subject=HOSTILE), commit="a" * 40)
    night = a_night(
        samples,
        sentence=HOSTILE,
        reason=HOSTILE,
        head=revision,
        culprit=NightCulprit(revision=revision, posterior=0.9, effect=None),
        notes=(HOSTILE,),
        alerts=(an_alert(sentence=HOSTILE, commit="a" * 40),),
    )
    title, body = to_issue(night.alerts[0], night)
    assert "@everyone" not in title
    for text in (to_summary(night), body.partition("\n")[2]):
        bare = outside_code(text)
        assert not re.search(r"(?<!\\)<(img|/script)", bare)
        assert not re.search(r"@\w", bare)
        assert not re.search(r"(?<!\\)\]\(http", bare)
        assert not re.search(r"(?<!\\)#\d", bare)
        assert not any(line.startswith("::") for line in text.splitlines())
    lines = to_annotations(night).splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("::error title=perfguard%3A Slower since aaaaaaaaaaaa::50%25 ")


def test_an_id_cannot_end_its_marker():
    hidden = marker("x --> <script>\n- y")
    assert hidden.count("-->") == 1
    assert "\n" not in hidden
    assert marker_in(hidden + "\nbody") == hidden
    assert marker_in("text " + hidden) is None


@pytest.mark.parametrize(
    ("state", "is_open", "action"),
    [
        (AlertState.OPEN, None, IssueAction.OPEN),
        (AlertState.UPDATED, None, IssueAction.OPEN),
        (AlertState.CLOSED, None, None),
        (AlertState.OPEN, True, IssueAction.UPDATE),
        (AlertState.UPDATED, True, IssueAction.UPDATE),
        (AlertState.CLOSED, True, IssueAction.CLOSE),
        (AlertState.ACCEPTED, True, IssueAction.CLOSE),
        (AlertState.OPEN, False, IssueAction.REOPEN),
        (AlertState.UPDATED, False, None),
        (AlertState.CLOSED, False, None),
    ],
)
def test_every_alert_has_one_issue(samples, state, is_open, action):
    night = a_night(samples, alerts=(an_alert(state=state),))
    known = {} if is_open is None else {marker("step-abc"): KnownIssue(number=7, is_open=is_open)}
    steps = plan_issues(night, known)
    assert [each.action for each in steps] == ([action] if action else [])
    for step in steps:
        assert step.number == (None if is_open is None else 7)
        assert marker_in(step.body) == marker("step-abc")
        assert ("perfguard accept" in step.body) is state.is_open


def test_the_summary_is_bounded_and_keeps_the_verdict(samples):
    many = tuple(an_alert(id=str(n), sentence="w " * 590) for n in range(200))
    text = to_summary(a_night(samples, alerts=many))
    assert len(text.encode()) <= MOST_BYTES
    assert text.startswith("## ▲ Regression")
    assert "cut to fit" in text
