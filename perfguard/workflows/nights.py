"""What the nights so far say: which commit is the baseline, which alerts stand, what a person accepted.

A state folder may hold several series: the nights of one branch and one scenario are judged among themselves.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path

from perfguard.model.errors import UsageError
from perfguard.model.night import (
    NIGHT_SCHEMA_VERSION,
    Acceptance,
    Alert,
    AlertState,
    NightRecord,
    latest_alerts,
)
from perfguard.report.clean import clean_text
from perfguard.store.nights import NightHistory, NightStore, new_id

_HASH = re.compile(r"[0-9a-f]{7,64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """The nights of one branch and one scenario, oldest first.

    `baselines` are the commits that were found good or accepted, newest first; `alerts` are all that were ever raised,
    as they stand, but for `newly_accepted`: those that a person accepted and no night has told so.
    """

    nights: tuple[NightRecord, ...]
    baselines: tuple[str, ...]
    alerts: tuple[Alert, ...]
    newly_accepted: tuple[Alert, ...]

    @property
    def open_alerts(self) -> tuple[Alert, ...]:
        """The alerts that somebody still has to look at."""
        return tuple(alert for alert in self.alerts if alert.state.is_open)


def series_of(history: NightHistory, branch: str, scenario: str) -> Series:
    """Take one series out of a state folder."""
    nights = tuple(night for night in history.nights if (night.branch, night.scenario) == (branch, scenario))
    accepted = {each.commit: each for each in history.acceptances}
    told = latest_alerts(nights)
    newly = {alert.id for alert in told if alert.state.is_open and alert.commit in accepted}
    return Series(
        nights=nights,
        baselines=_baselines(history, nights),
        alerts=tuple(alert for alert in told if alert.id not in newly),
        newly_accepted=tuple(
            replace(
                alert,
                state=AlertState.ACCEPTED,
                sentence=f"{alert.commit[:12]} was accepted: {accepted[alert.commit].reason}",
            )
            for alert in told
            if alert.id in newly
        ),
    )


def _baselines(history: NightHistory, series: tuple[NightRecord, ...]) -> tuple[str, ...]:
    known = _commits(series)
    events: list[tuple[int, int, str]] = []
    place = {night.night: index for index, night in enumerate(history.nights)}
    events += [
        (place[night.night], 0, night.head.commit)
        for night in series
        if night.verdict.trusted and night.head is not None
    ]
    for each in history.acceptances:
        if each.commit in known:
            # Where the night that it was said after is lost, the clock has to do.
            earlier = sum(1 for night in history.nights if night.started_at <= each.accepted_at) - 1
            events.append((place.get(each.after_night, earlier), 1, each.commit))
    # A sort keeps the order in which equal ones were said.
    newest_first = [commit for _, _, commit in sorted(events, key=lambda event: event[:2])][::-1]
    return tuple(dict.fromkeys(newest_first))


def _commits(nights: Iterable[NightRecord]) -> set[str]:
    """The commits that a person can accept: heads, and those that alerts are about."""
    heads = {night.head.commit for night in nights if night.head is not None}
    return heads | {alert.commit for night in nights for alert in night.alerts}


def accept(state: Path, commit: str, reason: str) -> Acceptance:
    """Keep a person's word that the change in `commit` is known: it is the baseline from the next night on.

    Raises:
        UsageError: there is no state folder, `commit` is none of its heads and culprits or more than one, or no reason
            is given.
        PerfguardError: the folder cannot be written.
    """
    if not reason.strip():
        raise UsageError(
            "--reason is empty", hint="say why the change is fine: whoever reads the history wants to know"
        )
    store = NightStore(state)
    history = store.read()
    wanted = commit.strip().lower()
    found = sorted(each for each in _commits(history.nights) if each.startswith(wanted))
    if _HASH.fullmatch(wanted) is None or not found:
        raise UsageError(
            f"{commit!r} is no head and no culprit of a night in {state}",
            hint="give at least 7 digits of a commit that `perfguard history` shows",
        )
    if len(found) > 1:
        raise UsageError(f"{commit} names {len(found)} commits of {state}", hint="give more digits")
    acceptance = Acceptance(
        schema_version=NIGHT_SCHEMA_VERSION,
        id=new_id(),
        commit=found[0],
        reason=clean_text(reason.strip(), home=str(Path.home())),
        after_night=history.nights[-1].night,
        accepted_at=datetime.now(timezone.utc).isoformat(timespec="seconds"),
    )
    store.add_acceptance(acceptance)
    return acceptance
