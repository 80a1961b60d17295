"""What a night concludes of the head: beside the baseline for steps, beside the anchor for creep; who is to blame."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

from perfguard.model.errors import InterruptedRunError, OutOfTimeError, PerfguardError, UnknownRevisionError
from perfguard.model.night import (
    Alert,
    AlertKind,
    AlertState,
    AnchorCheck,
    NightCulprit,
    NightVerdict,
    PendingSearch,
    Stage,
)
from perfguard.model.result import (
    BisectResult,
    BisectVerdict,
    CompareResult,
    CompareVerdict,
    Direction,
    Effect,
    Finding,
    GrownFrame,
)
from perfguard.model.revision import Revision
from perfguard.model.scenario import Scenario
from perfguard.revisions.repository import Repository
from perfguard.store.nights import NightHistory
from perfguard.workflows.confirm import Measured, confirmed
from perfguard.workflows.creep import Chain, chain_of, link_of
from perfguard.workflows.night_alerts import Alerts, closed, decisive, is_located, updated
from perfguard.workflows.night_runs import NightRuns
from perfguard.workflows.nights import Series

_CONTINUED = "searching, continued next night"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a night found; see `NightRecord` for the fields."""

    verdict: NightVerdict
    sentence: str
    reason: str = ""
    baseline: Revision | None = None
    effects: tuple[Effect, ...] = ()
    culprit: NightCulprit | None = None
    frames: tuple[GrownFrame, ...] = ()
    findings: tuple[Finding, ...] = ()
    alerts: tuple[Alert, ...] = ()
    anchor: AnchorCheck | None = None


class NightJudge:
    """Judges the head of one night.

    `alerts` are those of the series, with what was told before the head was judged; `pending` is a search that is to
    go on next night; `notes` are remarks.
    """

    def __init__(
        self, scenario: Scenario, history: NightHistory, series: Series, alerts: Alerts, runs: NightRuns
    ) -> None:
        """Begin with what is known."""
        self._scenario = scenario
        self._history = history
        self._series = series
        self._runs = runs
        self._carried: BisectResult | None = None
        self.alerts = alerts
        told = series.nights[-1].pending if series.nights else None
        self.pending: PendingSearch | None = told or runs.left_search
        self.notes: list[str] = []

    def judge(self, repository: Repository, head: Revision) -> Outcome:
        """Go on with the search that is left, if there is one, and judge the head.

        Raises:
            OutOfTimeError: the budget ended before there was anything to tell.
            PerfguardError: the head cannot be measured.
        """
        baseline = self._baseline(repository)
        unfinished = self._carry_on(repository, baseline, head)
        if unfinished is not None:
            return unfinished
        if baseline is None:
            return self._without_baseline(head)
        if baseline.commit == head.commit:
            sentence = f"Nothing new: {head.label} is the baseline."
            outcome = Outcome(verdict=NightVerdict.CLEAN, sentence=sentence, baseline=baseline)
            outcome = replace(outcome, alerts=self._closed(sentence))
            return self._beside_anchor(repository, head, outcome) if self.alerts.creeps else outcome
        return self._beside_baseline(repository, baseline, head)

    def _beside_baseline(self, repository: Repository, baseline: Revision, head: Revision) -> Outcome:
        measured = self._measured(Stage.COMPARE, baseline, head, is_standing=bool(self.alerts.steps))
        result = measured.result
        outcome = Outcome(
            verdict=NightVerdict.CLEAN,
            sentence=result.sentence,
            baseline=baseline,
            effects=result.effects,
            frames=result.grown_frames,
            findings=result.findings,
        )
        if result.verdict is CompareVerdict.SLOWER:
            return self._regression(repository, baseline, head, outcome)
        if result.verdict is CompareVerdict.FASTER:
            return self._improvement(repository, baseline, head, outcome)
        if result.verdict is CompareVerdict.UNKNOWN:
            sentence = f"Cannot say whether {head.label} is slower than {baseline.label}."
            outcome = replace(outcome, verdict=NightVerdict.UNKNOWN, sentence=sentence, reason=result.sentence)
            return self._beside_anchor(repository, head, outcome) if outcome.effects else outcome
        return self._beside_anchor(repository, head, replace(outcome, alerts=self._closed(result.sentence)))

    def _baseline(self, repository: Repository) -> Revision | None:
        """The newest commit that was found good or accepted and is still there."""
        for commit in self._series.baselines:
            try:
                return repository.resolve(commit)
            except UnknownRevisionError:
                self.notes.append(f"{commit[:12]}, a baseline so far, is no longer in {repository.origin}")
        return None

    def _without_baseline(self, head: Revision) -> Outcome:
        mend = f"if {head.label} is good: perfguard accept {head.commit} --reason WHY --state DIR"
        sentence = f"{head.label} was not measured: there is nothing to measure it against."
        if self._series.baselines:
            reason = f"no commit that was ever found good is left in the history; {mend}"
        elif self._history.quarantined:
            reason = f"files of the state folder were damaged, and no night that is left names a good commit; {mend}"
        else:
            return Outcome(
                verdict=NightVerdict.FIRST, sentence=f"The first night: {head.label} is the baseline, and trusted."
            )
        return Outcome(verdict=NightVerdict.UNKNOWN, sentence=sentence, reason=reason)

    def _measured(self, stage: Stage, baseline: Revision, head: Revision, *, is_standing: bool) -> Measured:
        measured = confirmed(
            lambda attempt: self._runs.compare(stage, attempt, baseline, head),
            self._scenario.metric,
            self._scenario.limits,
            is_standing=is_standing,
        )
        if measured.times > 1:
            first = measured.first.sentence
            self.notes.append(f"near a threshold, so it was measured {measured.times} times; at first: {first}")
        return measured

    def _carry_on(self, repository: Repository, baseline: Revision | None, head: Revision) -> Outcome | None:
        """Go on with a search that an earlier night left; gives the outcome if it is not done tonight either."""
        left, self.pending = self.pending, None
        if left is None:
            return None
        try:
            good, bad = repository.resolve(left.good), repository.resolve(left.bad)
        except UnknownRevisionError as error:
            self.notes.append(f"the search that was left cannot go on: {error.message}")
            return None
        is_step = left.direction is Direction.REGRESSION
        if is_step and baseline is not None and _contains(repository, baseline, bad.commit):
            self.notes.append(f"the search between {good.label} and {bad.label} was ended: {baseline.label} is good")
            return None
        found, reason = self._search(repository, good, bad, left.direction)
        if self.pending is not None:
            return Outcome(
                verdict=NightVerdict.UNFINISHED,
                sentence=f"{head.label} was not measured: the search between {good.label} and {bad.label} goes on.",
                reason=reason,
                baseline=baseline,
                alerts=tuple(map(updated, self.alerts.open)),
            )
        if found is None or found.culprit is None:
            self.notes.append(f"the search between {good.label} and {bad.label} ended without a commit: {reason}")
            return None
        if is_step:
            self._carried = found
        kind, state = (AlertKind.STEP, AlertState.OPEN) if is_step else (AlertKind.IMPROVEMENT, AlertState.ACCEPTED)
        self.alerts = self.alerts.after_search(
            found, kind, state, self.alerts.unlocated(baseline) if is_step and baseline is not None else ""
        )
        return None

    def _improvement(self, repository: Repository, baseline: Revision, head: Revision, outcome: Outcome) -> Outcome:
        found, reason = self._search(repository, baseline, head, Direction.IMPROVEMENT)
        if found is not None and found.verdict is BisectVerdict.NO_CHANGE and found.good == baseline:
            return _disagreeing(outcome, found, f"Cannot say whether {head.label} is faster than {baseline.label}.")
        gone = tuple(closed(alert, f"No longer so. {outcome.sentence}") for alert in self.alerts.creeps)
        alerts = (*self._closed(outcome.sentence), *gone)
        outcome = replace(outcome, verdict=NightVerdict.IMPROVEMENT, alerts=alerts)
        if found is None or found.culprit is None:
            self.notes.append(f"which commit made it faster is not known: {reason}")
            return outcome
        alert = self.alerts.on_culprit(AlertKind.IMPROVEMENT, found, AlertState.ACCEPTED)
        return replace(_with_culprit(outcome, found), alerts=(alert, *outcome.alerts))

    def _regression(self, repository: Repository, baseline: Revision, head: Revision, outcome: Outcome) -> Outcome:
        """Search for a culprit behind what is known already; open its alert, or update those that stand."""
        unlocated = self.alerts.unlocated(baseline)
        present, gone = self.alerts.standing(unlocated, lambda commit: _contains(repository, head, commit), head)
        are_located = bool(present) and all(map(is_located, present))
        start = (self._slow_level(repository, head) if are_located else None) or baseline
        found, reason = None, ""
        if start.commit != head.commit:
            found, reason = self._search(repository, start, head, Direction.REGRESSION)
        outcome = replace(outcome, verdict=NightVerdict.REGRESSION)
        if found is not None and found.culprit is not None:
            alerts = self.alerts.with_culprit(found, present, unlocated)
            return replace(_with_culprit(outcome, found), alerts=(*alerts, *gone))
        if present:
            is_quiet = found is not None and found.verdict is BisectVerdict.NO_CHANGE
            outcome = replace(outcome, alerts=(*map(updated, present), *gone), reason="" if is_quiet else reason)
            return self._with_known_culprit(outcome, present)
        if found is not None and found.verdict is BisectVerdict.NO_CHANGE and found.good == baseline:
            sentence = f"Cannot say whether {head.label} is slower than {baseline.label}."
            return replace(_disagreeing(outcome, found, sentence), alerts=gone)
        sentence = f"{outcome.sentence} Which commit did it is not known: {reason}"
        alert = self.alerts.about(
            AlertKind.STEP,
            unlocated,
            state=AlertState.OPEN,
            commit=head.commit,
            sentence=sentence,
            effect=decisive(outcome.effects),
        )
        return replace(outcome, reason=reason, alerts=(alert, *gone))

    def _beside_anchor(self, repository: Repository, head: Revision, outcome: Outcome) -> Outcome:
        """Measure the head beside the anchor where the nights so far may add up to a change, and judge that."""
        chain = self._chain(repository, head, outcome)
        if chain is None:
            return outcome
        name = self.alerts.creep_id(chain.anchor)
        standing = tuple(alert for alert in self.alerts.creeps if alert.id == name)
        why = f"{chain.anchor[:12]} is the commit that creep is measured from now."
        gone = tuple(closed(alert, why) for alert in self.alerts.creeps if alert.id != name)
        outcome = replace(outcome, alerts=(*outcome.alerts, *gone))
        if chain.tip == chain.anchor or not (standing or chain.is_due(self._scenario.limits)):
            return outcome
        anchor = repository.resolve(chain.anchor)
        try:
            result = self._measured(Stage.ANCHOR, anchor, head, is_standing=bool(standing)).result
        except InterruptedRunError:
            raise
        except PerfguardError as error:
            # What was found beside the baseline was measured, and must be told.
            self.notes.append(f"slow creep since {anchor.label} was due to be looked for, and was not: {error.message}")
            if not standing:
                return outcome
            sentence = f"Cannot say whether {head.label} is still slower than {anchor.label}."
            return replace(outcome, verdict=NightVerdict.UNKNOWN, sentence=sentence, reason=error.message)
        return self._judge_creep(chain, result, outcome, standing)

    def _judge_creep(
        self, chain: Chain, result: CompareResult, outcome: Outcome, standing: tuple[Alert, ...]
    ) -> Outcome:
        """Raise, keep or close the alert on creep by what was measured of anchor and head."""
        anchor, head = result.baseline, result.candidate
        check = AnchorCheck(anchor=anchor, verdict=result.verdict, effect=decisive(result.effects))
        outcome = replace(outcome, anchor=check)
        if result.verdict is CompareVerdict.SLOWER:
            nights = f"{chain.nights} night{'s' if chain.nights > 1 else ''}"
            sentence = f"Crept slower over {nights}, none of which was a change by itself: {result.sentence}"
            alert = self.alerts.about(
                AlertKind.CREEP,
                self.alerts.creep_id(chain.anchor),
                state=AlertState.OPEN,
                commit=head.commit,
                sentence=sentence,
                effect=check.effect,
            )
            verdict = NightVerdict.REGRESSION
            return replace(outcome, verdict=verdict, sentence=sentence, reason="", alerts=(*outcome.alerts, alert))
        if result.verdict is not CompareVerdict.UNKNOWN:
            ended = tuple(closed(alert, f"No longer so. {result.sentence}") for alert in standing)
            return replace(outcome, alerts=(*outcome.alerts, *ended))
        if standing:
            sentence = f"Cannot say whether {head.label} is still slower than {anchor.label}."
            return replace(outcome, verdict=NightVerdict.UNKNOWN, sentence=sentence, reason=result.sentence)
        self.notes.append(f"looked for slow creep, which did not settle: {result.sentence}")
        return outcome

    def _chain(self, repository: Repository, head: Revision, outcome: Outcome) -> Chain | None:
        """The chain of nights up to tonight's head."""

        @cache
        def is_there(commit: str) -> bool:
            try:
                repository.resolve(commit)
            except UnknownRevisionError:
                return False
            return True

        chain = chain_of(
            self._series.nights,
            self._series.accepted,
            is_there,
            min_effect_frac=self._scenario.limits.min_effect_frac,
        )
        link = link_of(outcome.effects, larger_is_better=self._scenario.metric.larger_is_better)
        if chain is None or link is None or head.commit == chain.tip:
            return chain
        return chain.with_link(link, head.commit)

    def _slow_level(self, repository: Repository, head: Revision) -> Revision | None:
        """The newest head that was found slower, where this one descends from it: what is known lies before it."""
        nights = self._series.nights
        slow = [night.head.commit for night in nights if night.verdict is NightVerdict.REGRESSION and night.head]
        if self._carried is not None:
            slow.append(self._carried.bad.commit)
        return repository.resolve(slow[-1]) if slow and _contains(repository, head, slow[-1]) else None

    def _search(
        self, repository: Repository, start: Revision, head: Revision, direction: Direction
    ) -> tuple[BisectResult | None, str]:
        """Bisect from where both histories parted; gives the result, if there is one, and why it names no commit."""
        base = repository.common_ancestor(start, head)
        if base is None:
            return None, f"{start.label} and {head.label} have no common history."
        if base.commit == head.commit:
            return None, f"{head.label} is older than {start.label}: there is no commit after it to search."
        if base.commit != start.commit:
            self.notes.append(f"{head.label} does not descend from {start.label}: searched from {base.label} on")
        try:
            result = self._runs.bisect(base, head, direction)
        except InterruptedRunError:
            raise
        except OutOfTimeError as error:
            self.pending = self._runs.pending
            return None, f"{_CONTINUED} ({error.message})."
        except PerfguardError as error:
            # The change itself was measured, and must be told.
            return None, f"the search failed: {error.message}"
        return result, "" if result.verdict is BisectVerdict.CULPRIT else result.sentence

    def _closed(self, why: str) -> tuple[Alert, ...]:
        return tuple(closed(alert, f"No longer so. {why}") for alert in self.alerts.steps)

    def _with_known_culprit(self, outcome: Outcome, present: tuple[Alert, ...]) -> Outcome:
        """Tell the evidence of the newest night, tonight included, that found one of the commits that stand."""
        if self._carried is not None:
            return _with_culprit(outcome, self._carried)
        commits = {alert.commit for alert in present}
        for night in reversed(self._series.nights):
            if night.culprit is not None and night.culprit.revision.commit in commits:
                return replace(outcome, culprit=night.culprit, frames=night.frames)
        return outcome


def _contains(repository: Repository, head: Revision, commit: str) -> bool:
    try:
        older = repository.resolve(commit)
    except UnknownRevisionError:
        return False
    base = repository.common_ancestor(older, head)
    return base is not None and base.commit == older.commit


def _disagreeing(outcome: Outcome, found: BisectResult, sentence: str) -> Outcome:
    """Give the outcome of a night whose search did not see the change that was searched for."""
    reason = f"one measurement found a change ({outcome.sentence}), the next did not ({found.sentence})"
    return replace(outcome, verdict=NightVerdict.UNKNOWN, sentence=sentence, reason=reason)


def _with_culprit(outcome: Outcome, found: BisectResult) -> Outcome:
    if found.culprit is None:
        return outcome
    culprit = NightCulprit(
        revision=found.culprit.revision, posterior=found.culprit.posterior, effect=decisive(found.effects)
    )
    sentence = f"{outcome.sentence} {found.sentence}"
    return replace(outcome, sentence=sentence, culprit=culprit, frames=found.grown_frames, findings=found.findings)
