"""The nights of the guard as the plain data that the site's pages show: one page a series, a branch and a scenario.

Pure: records in, texts out. Texts are put on one line and bounded here, and escaped by the templates.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from perfguard.model.night import Acceptance, Alert, AlertKind, AlertState, NightRecord, NightVerdict, latest_alerts
from perfguard.report import words
from perfguard.report.clean import clean
from perfguard.report.night_chart import NightPoint

_MOST_NIGHTS = 1_000
_MOST_IN_STRIP = 120
_LOOKS = {
    NightVerdict.FIRST: ("run", "●"),
    NightVerdict.CLEAN: ("no-change", "="),
    NightVerdict.REGRESSION: ("slower", "▲"),
    NightVerdict.IMPROVEMENT: ("faster", "▼"),
    NightVerdict.UNKNOWN: ("unknown", "?"),
    NightVerdict.FAILED: ("unknown", "!"),
    NightVerdict.UNFINISHED: ("unknown", "…"),
}
_ALERT_LOOKS = {AlertState.OPEN: "bad", AlertState.UPDATED: "bad", AlertState.ACCEPTED: "good", AlertState.CLOSED: ""}


@dataclass(frozen=True, slots=True, kw_only=True)
class NightRow:
    """One night as the table and the strip show it. `report` is a link, empty where the report is not there any more.

    `culprit` is the commit that the night blames, and `found_here` says that no earlier night did.
    """

    number: int
    anchor: str
    started_at: str
    look: str
    sign: str
    label: str
    head: str
    subject: str
    baseline: str
    change: str
    interval: str
    culprit: str
    culprit_subject: str
    posterior: str
    found_here: bool
    sentence: str
    reason: str
    report: str
    machine: str
    trials: str
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertRow:
    """One alert as it stands; the nights are links to the table's rows."""

    kind: str
    state: str
    look: str
    is_open: bool
    commit: str
    sentence: str
    change: str
    interval: str
    first: str
    first_anchor: str
    last: str
    last_anchor: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AcceptedRow:
    """A change that a person said is known."""

    commit: str
    reason: str
    accepted_at: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesPage:
    """The page of a series. `path` is its file's name; `rows` and `points` are oldest first, and never empty.

    `strip` are the newest of the rows, `hidden` counts the older nights that no longer have a row.
    """

    path: str
    branch: str
    scenario: str
    repo: str
    metric: str
    larger_is_better: bool
    rows: tuple[NightRow, ...]
    hidden: int
    points: tuple[NightPoint, ...]
    alerts: tuple[AlertRow, ...]
    accepted: tuple[AcceptedRow, ...]
    facts: tuple[str, ...]

    @property
    def newest(self) -> NightRow:
        """The night that the banner tells."""
        return self.rows[-1]

    @property
    def strip(self) -> tuple[NightRow, ...]:
        """The nights that the strip of verdicts shows."""
        return self.rows[-_MOST_IN_STRIP:]

    @property
    def open_alerts(self) -> tuple[AlertRow, ...]:
        """What somebody still has to look at."""
        return tuple(alert for alert in self.alerts if alert.is_open)

    @property
    def past_alerts(self) -> tuple[AlertRow, ...]:
        """What is gone or accepted, the newest first."""
        return tuple(alert for alert in self.alerts if not alert.is_open)[::-1]


def build_site(
    nights: Sequence[NightRecord], acceptances: Sequence[Acceptance], reports: Mapping[str, str]
) -> tuple[SeriesPage, ...]:
    """Give the page of every series, in the order of their names.

    `nights` are oldest first; `reports` maps the id of a night to the link of its report, where there is one. Secrets
    and home directories are redacted.
    """
    series: dict[tuple[str, str], list[NightRecord]] = {}
    for night in nights:
        series.setdefault((night.branch, night.scenario), []).append(night)
    place = {night.night: index for index, night in enumerate(nights)}
    return tuple(_series_page(series[name], acceptances, reports, place) for name in sorted(series))


def _series_page(
    nights: Sequence[NightRecord],
    acceptances: Sequence[Acceptance],
    reports: Mapping[str, str],
    place: Mapping[str, int],
) -> SeriesPage:
    home = str(Path.home())
    shown = [clean(night, home=home) for night in nights]
    newest = shown[-1]
    alerts = latest_alerts(shown)
    known = {night.head.commit for night in nights if night.head} | {alert.commit for alert in alerts}
    said = [clean(each, home=home) for each in acceptances if each.commit in known]
    number_of = {night.night: number for number, night in enumerate(nights, start=1)}
    rows = _rows(shown, reports)
    accepted_on: dict[int, str] = {}
    for each in said:
        # Said after a night of any series: the first of this series that was yet to come, or the newest.
        after = place.get(each.after_night, -1)
        later = [number_of[night.night] for night in nights if place[night.night] > after]
        accepted_on[later[0] if later else len(nights)] = each.commit[:9]
    points = tuple(
        NightPoint(
            number=row.number,
            started_at=row.started_at,
            head=row.head,
            look="culprit" if row.found_here and row.look == "slower" else row.look,
            label=row.label,
            effect=night.effects[0] if night.effects else None,
            culprit=row.culprit if row.found_here else "",
            accepted=accepted_on.get(row.number, ""),
        )
        for row, night in zip(rows, shown, strict=True)
    )
    last = nights[-1]
    facts = [words.counted(len(nights), "night"), f"machine: {newest.machine.described}", f"from {newest.repo}"]
    return SeriesPage(
        path=_file_name(last.branch, last.scenario),
        branch=words.one_line(newest.branch, 100),
        scenario=words.one_line(newest.scenario, 100),
        repo=words.one_line(newest.repo, 200),
        metric=last.metric,
        larger_is_better=last.larger_is_better,
        rows=rows[-_MOST_NIGHTS:],
        hidden=max(0, len(rows) - _MOST_NIGHTS),
        points=points[-_MOST_NIGHTS:],
        alerts=tuple(_alert_row(alert, shown, number_of) for alert in alerts),
        accepted=tuple(
            AcceptedRow(
                commit=each.commit[:12],
                reason=words.one_line(each.reason, 400),
                accepted_at=_when(each.accepted_at),
            )
            for each in reversed(said)
        ),
        facts=tuple(words.one_line(fact, 200) for fact in facts),
    )


def _rows(nights: Sequence[NightRecord], reports: Mapping[str, str]) -> tuple[NightRow, ...]:
    blamed: set[str] = set()
    rows = []
    for number, night in enumerate(nights, start=1):
        commit = night.culprit.revision.commit if night.culprit else ""
        rows.append(_row(night, number, reports.get(night.night, ""), found_here=bool(commit) and commit not in blamed))
        blamed.add(commit)
    return tuple(rows)


def _row(night: NightRecord, number: int, report: str, *, found_here: bool) -> NightRow:
    look, sign = _LOOKS[night.verdict]
    effect = night.effects[0] if night.effects else None
    culprit = night.culprit
    return NightRow(
        number=number,
        anchor=f"night-{number}",
        started_at=_when(night.started_at),
        look=look,
        sign=sign,
        label=night.verdict.value.capitalize(),
        head=words.one_line(night.head.label, 60) if night.head else "",
        subject=words.one_line(night.head.subject, 200) if night.head else "",
        baseline=words.one_line(night.baseline.label, 60) if night.baseline else "",
        change=words.percent_change(effect.ratio) if effect else "",
        interval=f"{words.percent_change(effect.low)} to {words.percent_change(effect.high)}" if effect else "",
        culprit=words.one_line(culprit.revision.label, 60) if culprit else "",
        culprit_subject=words.one_line(culprit.revision.subject, 200) if culprit else "",
        posterior=words.share(culprit.posterior, 1.0) if culprit else "",
        found_here=found_here,
        sentence=words.one_line(night.sentence, 600),
        reason=words.one_line(night.reason, 600),
        report=report,
        machine=words.one_line(night.machine.described, 120),
        trials=f"{night.trials}, in {words.seconds(night.wall_s)}" if night.trials else "",
        notes=tuple(words.one_line(note, 300) for note in night.notes),
    )


def _alert_row(alert: Alert, nights: Sequence[NightRecord], number_of: Mapping[str, int]) -> AlertRow:
    def anchor(night: str) -> str:
        return f"night-{number_of[night]}" if night in number_of else ""

    when = {night.night: _when(night.started_at)[:10] for night in nights}
    effect = alert.effect
    is_about_commit = alert.kind in {AlertKind.STEP, AlertKind.CREEP, AlertKind.IMPROVEMENT}
    return AlertRow(
        kind=alert.kind.value,
        state="open" if alert.state.is_open else alert.state.value,
        look=_ALERT_LOOKS[alert.state],
        is_open=alert.state.is_open,
        commit=alert.commit[:12] if is_about_commit else "",
        sentence=words.one_line(alert.sentence, 600),
        change=words.percent_change(effect.ratio) if effect else "",
        interval=f"{words.percent_change(effect.low)} to {words.percent_change(effect.high)}" if effect else "",
        first=when.get(alert.first_night, ""),
        first_anchor=anchor(alert.first_night),
        last=when.get(alert.last_night, ""),
        last_anchor=anchor(alert.last_night),
    )


def _when(moment: str) -> str:
    return words.one_line(moment, 40)[:16].replace("T", " ")


def _file_name(branch: str, scenario: str) -> str:
    """Name a series' page: readable, the same every night, and no other series' even where only the signs differ."""
    readable = re.sub(r"[^A-Za-z0-9]+", "-", f"{branch}-{scenario}").strip("-")[:60]
    digest = hashlib.sha256(f"{branch}\0{scenario}".encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"series-{readable}-{digest}.html"
