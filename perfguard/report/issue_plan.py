"""What to do so that every alert has its one issue, in the state that the alert has.

Pure. Everything is found again by hidden lines in the issues themselves, so a run that was cut short is mended by the
next one, and a run that is repeated does nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import quote, unquote

from perfguard.model.issue import IssueAction, IssueStep, KnownIssue
from perfguard.model.night import Alert, AlertState, NightRecord
from perfguard.report.clean import clean
from perfguard.report.markdown import prose
from perfguard.report.night_text import marker, marker_in, to_issue

_TOLD = re.compile(r"<!-- perfguard-night: (?P<night>[A-Za-z0-9._~%]+) -->\s*\Z")


def plan_issues(
    nights: Sequence[NightRecord], issues: Sequence[KnownIssue], links: Mapping[str, str]
) -> tuple[IssueStep, ...]:
    """Compare the alerts of `nights` (oldest first) with the `issues` that the guard keeps, and say what is missing.

    `issues` must be those that the guard itself wrote, open or closed: anybody can write a marker. `links` maps the id
    of a night to the URL of its report. An issue that a person closed stays closed until its alert is raised anew; of
    two issues of one alert, the older is kept.
    """
    raised: dict[str, list[str]] = {}
    latest: dict[str, tuple[Alert, NightRecord]] = {}
    for night in nights:
        for alert in night.alerts:
            latest[alert.id] = alert, night
            if alert.state is AlertState.OPEN:
                raised.setdefault(alert.id, []).append(night.night)
    order = {night.night: place for place, night in enumerate(nights)}
    of_marker: dict[str, list[KnownIssue]] = {}
    for issue in sorted(issues, key=lambda each: each.number):
        hidden = marker_in(issue.body)
        if hidden is not None:
            of_marker.setdefault(hidden, []).append(issue)
    steps = []
    for alert, night in latest.values():
        found = of_marker.get(marker(alert.id), [])
        first = found[0] if found else None
        told = -1 if first is None else order.get(_told(first.body), -1)
        is_raised_since = any(order[each] > told for each in raised.get(alert.id, ()))
        action = _action(alert, first, is_told=order[night.night] == told, is_raised_since=is_raised_since)
        if action is not None:
            steps.append(_step(action, alert, night, first, links.get(night.night)))
        steps += [_duplicate(each, found[0]) for each in found[1:] if each.is_open]
    return tuple(steps)


def _action(alert: Alert, issue: KnownIssue | None, *, is_told: bool, is_raised_since: bool) -> IssueAction | None:
    """Say what an issue needs; `is_told` where it tells of the alert's newest night already."""
    if issue is None:
        return IssueAction.OPEN if alert.state.is_open else None
    if issue.is_open:
        if not alert.state.is_open:
            return IssueAction.CLOSE
        return None if is_told else IssueAction.UPDATE
    return IssueAction.REOPEN if alert.state.is_open and is_raised_since else None


def _step(
    action: IssueAction, alert: Alert, night: NightRecord, issue: KnownIssue | None, link: str | None
) -> IssueStep:
    title, text = to_issue(alert, night, report=link)
    hidden = quote(night.night, safe="").replace("-", "%2D")
    comment = ""
    if action in {IssueAction.CLOSE, IssueAction.REOPEN}:
        what = "Raised again." if action is IssueAction.REOPEN else f"This is {alert.state.value}."
        sentence = prose(clean(alert, home=str(Path.home())).sentence)
        comment = f"<!-- perfguard-{action.value}: {hidden} -->\n{what} {sentence}\n"
    return IssueStep(
        action=action,
        number=issue.number if issue else None,
        title=title,
        body=f"{text}\n<!-- perfguard-night: {hidden} -->\n",
        comment=comment,
    )


def _duplicate(issue: KnownIssue, first: KnownIssue) -> IssueStep:
    comment = f"<!-- perfguard-duplicate: {first.number} -->\nThis was opened twice: #{first.number} is kept.\n"
    return IssueStep(action=IssueAction.DUPLICATE, number=issue.number, title="", body=issue.body, comment=comment)


def _told(body: str) -> str:
    """The id of the night that an issue tells of; empty where it names none."""
    found = _TOLD.search(body)
    return unquote(found["night"]) if found else ""
