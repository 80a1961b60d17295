"""A night of the guard as texts: a job's summary, the annotations of a workflow, and the issue of every alert.

Pure: a night's record in, text out. What comes from outside (subjects, authors, names, reasons) becomes no markup, no
mention and no workflow command.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from urllib.parse import quote

from perfguard.model.night import Alert, AlertKind, AlertState, NightRecord, NightVerdict
from perfguard.model.result import Effect
from perfguard.report import words
from perfguard.report.clean import clean
from perfguard.report.markdown import MOST_BYTES, code_span, prose, table

_MOST_FRAMES = 10
_MOST_ROWS = 100
_TITLE_LIMIT = 120
_MESSAGE_LIMIT = 1_000
_SIGNS = {
    NightVerdict.FIRST: "●",
    NightVerdict.CLEAN: "=",
    NightVerdict.REGRESSION: "▲",
    NightVerdict.IMPROVEMENT: "▼",
    NightVerdict.UNKNOWN: "?",
    NightVerdict.FAILED: "!",
    NightVerdict.UNFINISHED: "…",
}
_TITLES = {
    AlertKind.STEP: "Slower since",
    AlertKind.CREEP: "Slowly slower, up to",
    AlertKind.IMPROVEMENT: "Faster since",
    AlertKind.MACHINE: "Another machine measures, from",
    AlertKind.FAILED: "Could not be measured:",
}
_MARKER = re.compile(r"<!-- perfguard-alert: (?P<id>[A-Za-z0-9._~%]+) -->")


class IssueAction(str, Enum):
    """What is done with an alert's issue."""

    OPEN = "open"
    UPDATE = "update"
    REOPEN = "reopen"
    CLOSE = "close"


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownIssue:
    """An issue that exists, and whether it is open."""

    number: int
    is_open: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class IssueStep:
    """One thing to do; `number` is None where the issue has yet to be opened."""

    action: IssueAction
    number: int | None
    title: str
    body: str


def to_summary(night: NightRecord, *, report: str | None = None) -> str:
    """Give the night as GitHub-flavoured Markdown for a job's summary, the verdict first; `report` is a URL to link.

    Home directories and secrets are redacted. The whole is bounded, since every part is.
    """
    shown = clean(night, home=str(Path.home()))
    verdict = f"{_SIGNS[shown.verdict]} {shown.verdict.value.capitalize()}"
    lines = [f"## {verdict}", "", f"**{prose(shown.sentence)}**", ""]
    if shown.reason:
        lines += [f"Why: {prose(shown.reason)}", ""]
    lines += _links(report)
    facts = [
        ("night", shown.night),
        ("head", f"{shown.head.label} {shown.head.subject}" if shown.head else "not fetched"),
        ("measured against", shown.baseline.label if shown.baseline else "nothing"),
        ("scenario", shown.scenario),
        ("machine", shown.machine.described),
        ("trials", f"{shown.trials}, in {words.seconds(shown.wall_s)}"),
    ]
    lines.append(table("", ("What", "Value"), [(name, code_span(value)) for name, value in facts]))
    if shown.effects:
        lines.append(_effects("Effects, head against baseline", shown.effects))
    lines += _culprit(shown)
    if shown.alerts:
        rows = [(code_span(each.kind.value), each.state.value, prose(each.sentence)) for each in shown.alerts]
        lines.append(table("Alerts", ("Kind", "State", "What"), rows[:_MOST_ROWS]))
    lines += [f"- {prose(note)}" for note in shown.notes[:_MOST_ROWS]]
    text = "\n".join(lines).rstrip() + "\n"
    if len(text.encode()) <= MOST_BYTES:
        return text
    return "\n".join(lines[:4]).rstrip() + "\n\n*More stands in the report: this text was cut to fit.*\n"


def to_annotations(night: NightRecord) -> str:
    """Give GitHub's workflow commands that a night calls for, a line each; empty where all is well.

    Source: GitHub's `toolkit`, packages/core/src/command.ts, for what is escaped in data and in properties.
    """
    shown = clean(night, home=str(Path.home()))
    lines = [
        _command("error" if each.kind in {AlertKind.STEP, AlertKind.CREEP} else "warning", _title(each), each.sentence)
        for each in shown.alerts
        if each.state.is_open
    ]
    unclear = {NightVerdict.UNKNOWN, NightVerdict.FAILED, NightVerdict.UNFINISHED}
    if shown.verdict in unclear and not lines:
        lines.append(_command("warning", f"perfguard: {shown.verdict.value}", f"{shown.sentence} {shown.reason}"))
    return "".join(f"{line}\n" for line in lines)


def marker(alert_id: str) -> str:
    """Give the hidden line that an alert's issue is found by; nothing in the id can end the comment."""
    return f"<!-- perfguard-alert: {quote(alert_id, safe='').replace('-', '%2D')} -->"


def marker_in(body: str) -> str | None:
    """Give the marker that an issue's body begins with, or None where it is not an issue of the guard."""
    found = _MARKER.match(body)
    return found[0] if found else None


def to_issue(alert: Alert, night: NightRecord, *, report: str | None = None) -> tuple[str, str]:
    """Give the title and the body of an alert's issue. The evidence is shown where the night names the same commit."""
    shown_alert, shown = clean(alert, home=str(Path.home())), clean(night, home=str(Path.home()))
    lines = [marker(alert.id), f"**{prose(shown_alert.sentence)}**", ""]
    state = "open" if shown_alert.state.is_open else shown_alert.state.value
    lines += [f"State: {state}. First seen {code_span(alert.first_night)}, last {code_span(alert.last_night)}.", ""]
    lines += _links(report)
    if shown_alert.effect:
        lines.append(_effects("Effect", (shown_alert.effect,)))
    if shown.culprit and shown.culprit.revision.commit == alert.commit:
        lines += _culprit(shown)
    if shown_alert.state.is_open and alert.kind in {AlertKind.STEP, AlertKind.CREEP}:
        lines += ["If this change is known and stays:", "", code_span(_accept(alert.commit))]
    return _title(shown_alert), "\n".join(lines).rstrip() + "\n"


def plan_issues(
    night: NightRecord, known: Mapping[str, KnownIssue], *, report: str | None = None
) -> tuple[IssueStep, ...]:
    """Say what to do so that every alert of the night has its one issue, in the state that the alert has.

    `known` are the issues that exist, open or closed, by their marker: only those that the guard itself wrote, since
    anybody can write a marker. Doing it twice does nothing new. An issue that a person closed stays closed until the
    alert is raised anew.
    """
    steps = []
    for alert in night.alerts:
        issue = known.get(marker(alert.id))
        action = _action(alert, issue)
        if action is not None:
            title, body = to_issue(alert, night, report=report)
            steps.append(IssueStep(action=action, number=issue.number if issue else None, title=title, body=body))
    return tuple(steps)


def _action(alert: Alert, issue: KnownIssue | None) -> IssueAction | None:
    if issue is None:
        return IssueAction.OPEN if alert.state.is_open else None
    if issue.is_open:
        return IssueAction.UPDATE if alert.state.is_open else IssueAction.CLOSE
    return IssueAction.REOPEN if alert.state is AlertState.OPEN else None


def _accept(commit: str) -> str:
    return f"perfguard accept {commit} --reason WHY --state DIR"


def _title(alert: Alert) -> str:
    # A title is plain text: no markup in it, but a mention in it would still call people.
    kept = words.one_line(f"perfguard: {_TITLES[alert.kind]} {alert.commit[:12]}", _TITLE_LIMIT)
    return kept.replace("@", "@\u2060")


def _links(report: str | None) -> list[str]:
    return [f"[The whole report]({quote(report, safe=':/?&=%#~,;+')})", ""] if report else []


def _culprit(night: NightRecord) -> list[str]:
    if night.culprit is None:
        return []
    revision = night.culprit.revision
    posterior = words.share(night.culprit.posterior, 1.0)
    lines = ["### The commit", "", f"{code_span(revision.label)} {code_span(revision.subject)}  "]
    lines += [f"by {code_span(revision.author)}, {code_span(revision.committed_at)}, posterior {posterior}", ""]
    if night.culprit.effect:
        lines.append(_effects("Against its parent", (night.culprit.effect,)))
    rows = [
        (
            code_span(each.frame),
            code_span(each.role),
            words.number(each.before_ms_per_request),
            words.number(each.after_ms_per_request),
        )
        for each in night.frames
        if each.significant
    ]
    if rows:
        title = "Functions whose cost changed, CPU ms per request"
        lines.append(table(title, ("Function", "Process", ">Before", ">After"), rows[:_MOST_FRAMES]))
    return lines


def _effects(title: str, effects: Sequence[Effect]) -> str:
    rows = [
        (
            code_span(words.metric_name(each.metric)),
            f"**{words.percent_change(each.ratio)}**",
            f"{words.percent_change(each.low)} to {words.percent_change(each.high)} ({100 * each.confidence:g}%)",
            str(each.pairs),
        )
        for each in effects
    ]
    return table(title, ("Metric", ">Change", "Interval", ">Pairs"), rows[:_MOST_ROWS])


def _command(level: str, title: str, message: str) -> str:
    heading = _data(words.one_line(title, _TITLE_LIMIT)).replace(":", "%3A").replace(",", "%2C")
    return f"::{level} title={heading}::{_data(words.one_line(message, _MESSAGE_LIMIT))}"


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
