"""How a night's findings become alerts: raised once, updated while they stand, closed when they do not."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from perfguard.model.night import Alert, AlertKind, AlertState
from perfguard.model.result import BisectResult, Effect
from perfguard.model.revision import Revision
from perfguard.workflows.nights import Series

# How the id of an alert begins whose change has no commit yet; the baseline's hash follows.
_UNLOCATED = "step-after-"


@dataclass(frozen=True, slots=True, kw_only=True)
class Alerts:
    """The alerts of a series before tonight; `night` is tonight's id.

    `told` are those that changed already, before the head was judged.
    """

    series: Series
    scenario: str
    branch: str
    night: str
    told: tuple[Alert, ...] = ()

    @property
    def steps(self) -> tuple[Alert, ...]:
        """The open alerts that a comparison with the baseline keeps or closes: all but creep."""
        return tuple(alert for alert in self.open if alert.kind is not AlertKind.CREEP)

    @property
    def creeps(self) -> tuple[Alert, ...]:
        """The open alerts on creep, which only a comparison with the anchor closes."""
        return tuple(alert for alert in self.open if alert.kind is AlertKind.CREEP)

    @property
    def open(self) -> tuple[Alert, ...]:
        """All alerts that somebody still has to look at."""
        now = {alert.id: alert for alert in (*self.series.alerts, *self.told)}
        return tuple(alert for alert in now.values() if alert.state.is_open)

    def unlocated(self, baseline: Revision) -> str:
        """Return the id of the alert on a change after `baseline` that has no commit yet."""
        return f"{_UNLOCATED}{baseline.commit}{self._suffix}"

    def creep_id(self, anchor: str) -> str:
        """Return the id of the alert on creep since `anchor`."""
        return f"{AlertKind.CREEP.value}-{anchor}{self._suffix}"

    def on_culprit(self, kind: AlertKind, found: BisectResult, state: AlertState) -> Alert:
        """Give the alert on a culprit; one that stands is updated, one that was closed is opened anew."""
        if found.culprit is None:
            raise ValueError("the search named no culprit")
        commit = found.culprit.revision.commit
        return self.about(
            kind,
            f"{kind.value}-{commit}{self._suffix}",
            state=state,
            commit=commit,
            sentence=found.sentence,
            effect=decisive(found.effects),
        )

    def about(
        self, kind: AlertKind, name: str, *, state: AlertState, commit: str, sentence: str, effect: Effect | None
    ) -> Alert:
        """Give the alert called `name`; where it stands it keeps its commit and is updated."""
        before = next((alert for alert in self.series.alerts if alert.id == name), None)
        stands = before is not None and before.state.is_open
        return Alert(
            id=name,
            kind=kind,
            state=AlertState.UPDATED if stands else state,
            commit=before.commit if before is not None and stands else commit,
            first_night=self.night if before is None else before.first_night,
            last_night=self.night,
            sentence=sentence,
            effect=effect,
        )

    def after_search(self, found: BisectResult, kind: AlertKind, state: AlertState, unlocated: str) -> Alerts:
        """Tell what a search found that an earlier night began: its culprit has an alert before the head is judged."""
        if found.culprit is None:
            return self
        named = _named(found)
        told = [self.on_culprit(kind, found, state)]
        told += [closed(alert, named) for alert in self.steps if alert.id == unlocated]
        return replace(self, told=tuple(told))

    def merged(self, alerts: Iterable[Alert]) -> tuple[Alert, ...]:
        """Give tonight's alerts with those that were told before; one that is raised tonight is open, not updated."""
        raised = {alert.id for alert in self.told if alert.state is AlertState.OPEN}
        later = [
            replace(alert, state=AlertState.OPEN) if alert.id in raised and alert.state is AlertState.UPDATED else alert
            for alert in alerts
        ]
        names = {alert.id for alert in later}
        return (*(alert for alert in self.told if alert.id not in names), *later)

    def standing(
        self, unlocated: str, contains: Callable[[str], bool], head: Revision
    ) -> tuple[tuple[Alert, ...], tuple[Alert, ...]]:
        """Split the steps into those that the head can still be slow for, and the others, closed.

        `contains` tells whether a commit is in the head's history.
        """
        present, gone = [], []
        for alert in self.steps:
            has_commit = is_located(alert)
            if alert.id == unlocated or (has_commit and contains(alert.commit)):
                present.append(alert)
            else:
                why = f"{head.label} is not measured against what this was found with any more."
                if has_commit:
                    why = f"{alert.commit[:12]} is no longer in the history of {self.branch}."
                gone.append(closed(alert, why))
        return tuple(present), tuple(gone)

    def with_culprit(self, found: BisectResult, present: tuple[Alert, ...], unlocated: str) -> tuple[Alert, ...]:
        """Give the alert on tonight's culprit, and those that stand beside it."""
        alert = self.on_culprit(AlertKind.STEP, found, AlertState.OPEN)
        others = tuple(
            closed(each, _named(found)) if each.id == unlocated else updated(each)
            for each in present
            if each.id != alert.id
        )
        return (alert, *others)

    @property
    def _suffix(self) -> str:
        return f"-{self.scenario}-{self.branch}"


def is_located(alert: Alert) -> bool:
    """Whether an alert is about a commit, not about a head whose change has no commit yet."""
    return not alert.id.startswith(_UNLOCATED)


def updated(alert: Alert) -> Alert:
    """Say that an alert still stands."""
    return replace(alert, state=AlertState.UPDATED)


def closed(alert: Alert, why: str) -> Alert:
    """Say that an alert stands no longer."""
    return replace(alert, state=AlertState.CLOSED, sentence=why)


def decisive(effects: tuple[Effect, ...]) -> Effect | None:
    """Return the effect that decides, None where there is none that a file can hold."""
    return effects[0] if effects and is_finite(effects[0]) else None


def is_finite(effect: Effect) -> bool:
    """Whether a file can hold it: JSON has no infinity, and an interval without an end decided nothing."""
    return all(map(math.isfinite, (effect.ratio, effect.low, effect.high)))


def _named(found: BisectResult) -> str:
    return f"Its commit is known now: {found.culprit.revision.label if found.culprit else 'none'}."
