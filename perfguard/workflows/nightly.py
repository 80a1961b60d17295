"""The nightly guard: measure a branch's head beside the newest good commit, find what changed, keep the night.

Both are measured tonight, on this machine: no number of another night is ever compared with.
"""

from __future__ import annotations

import math
import shlex
import time
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path

from perfguard.model.errors import InterruptedRunError, PerfguardError, UnknownRevisionError
from perfguard.model.night import (
    NIGHT_SCHEMA_VERSION,
    Alert,
    AlertKind,
    AlertState,
    NightCulprit,
    NightRecord,
    NightVerdict,
)
from perfguard.model.progress import Progress
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
from perfguard.report.clean import clean
from perfguard.report.index_entry import write_entry
from perfguard.report.render import write_report
from perfguard.revisions.repository import Repository
from perfguard.revisions.stores import is_url, without_credentials
from perfguard.store.nights import RUNS, NightHistory, NightStore, new_id
from perfguard.workflows.bisect import bisect
from perfguard.workflows.compare import compare
from perfguard.workflows.fingerprint import fingerprint
from perfguard.workflows.nights import Series, series_of
from perfguard.workflows.places import cache_dir
from perfguard.workflows.replay import keep_result
from perfguard.workflows.setup import RunRequest

_REPORT = "report.html"
# How the id of an alert begins whose change has no commit yet; the baseline's hash follows.
_UNLOCATED = "step-after-"


@dataclass(frozen=True, slots=True, kw_only=True)
class NightlyRequest:
    """What a night is asked: `run` is what its measurements have in common, `options` repeat them on a command line."""

    run: RunRequest
    repo: str
    branch: str
    state: Path
    options: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Outcome:
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


def nightly(request: NightlyRequest, progress: Progress) -> NightRecord:
    """Judge the head of a branch and keep the night; what keeps it from being measured is a night that failed.

    Raises:
        UsageError: a newer perfguard wrote the state folder.
        PerfguardError: the state folder cannot be read or written.
    """
    store = NightStore(request.state)
    store.prepare()
    night = _Night(request, store.read(), progress).run()
    store.add_night(night)
    return night


class _Night:
    """One night in progress."""

    def __init__(self, request: NightlyRequest, history: NightHistory, progress: Progress) -> None:
        self._request = request
        self._history = history
        self._progress = progress
        self._series: Series = series_of(history, request.branch, request.run.scenario.name)
        self._id = new_id()
        self._notes = list(history.problems)
        self._report: Path | None = None
        self._trials = 0

    def run(self) -> NightRecord:
        """Fetch, judge, and put the record together."""
        started_at, clock = datetime.now(timezone.utc).isoformat(timespec="seconds"), time.monotonic()
        head: Revision | None = None
        try:
            repository = Repository.open(self._request.repo, cache_dir=cache_dir(), progress=self._progress, fresh=True)
            head = _head(repository, self._request.branch)
            outcome = self._judge(repository, head)
        except InterruptedRunError:
            raise
        except PerfguardError as error:
            what = f"The head of {self._request.branch}" if head is None else head.label
            reason = f"{error.message}; {error.hint}" if error.hint else error.message
            outcome = _Outcome(verdict=NightVerdict.FAILED, sentence=f"{what} could not be measured.", reason=reason)
        scenario = self._request.run.scenario
        baseline = outcome.baseline
        record = NightRecord(
            schema_version=NIGHT_SCHEMA_VERSION,
            night=self._id,
            number=max((night.number for night in self._history.nights), default=0) + 1,
            started_at=started_at,
            repo=_shown(self._request.repo),
            branch=self._request.branch,
            scenario=scenario.name,
            metric=scenario.metric.value,
            larger_is_better=scenario.metric.larger_is_better,
            machine=fingerprint(),
            head=head,
            baseline=baseline if baseline != head else None,
            trusted=head if outcome.verdict.trusted else baseline,
            verdict=outcome.verdict,
            sentence=outcome.sentence,
            reason=outcome.reason,
            effects=tuple(each for each in outcome.effects if _is_finite(each)),
            culprit=outcome.culprit,
            frames=outcome.frames,
            findings=tuple(each for each in outcome.findings if each.fired and _has_finite_evidence(each)),
            alerts=tuple(
                replace(alert, last_night=self._id) for alert in (*outcome.alerts, *self._series.newly_accepted)
            ),
            report=None if self._report is None else self._report.relative_to(self._request.state).as_posix(),
            trials=self._trials,
            wall_s=time.monotonic() - clock,
            notes=tuple(self._notes),
        )
        # What names the series must be found again as it is.
        return replace(clean(record, home=str(Path.home())), branch=record.branch, scenario=record.scenario)

    def _judge(self, repository: Repository, head: Revision) -> _Outcome:
        baseline = self._baseline(repository)
        if baseline is None:
            return self._without_baseline(head)
        if baseline.commit == head.commit:
            sentence = f"Nothing new: {head.label} is the baseline."
            return _Outcome(
                verdict=NightVerdict.CLEAN, sentence=sentence, baseline=baseline, alerts=self._closed(sentence)
            )
        result = compare(self._run("compare", baseline, head), baseline.commit, head.commit, self._progress)
        self._keep(result, "compare")
        outcome = _Outcome(
            verdict=NightVerdict.CLEAN,
            sentence=result.sentence,
            baseline=baseline,
            effects=result.effects,
            frames=result.grown_frames,
            findings=result.findings,
        )
        if result.verdict is CompareVerdict.UNKNOWN:
            sentence = f"Cannot say whether {head.label} is slower than {baseline.label}."
            return replace(outcome, verdict=NightVerdict.UNKNOWN, sentence=sentence, reason=result.sentence)
        if result.verdict is CompareVerdict.NO_CHANGE:
            return replace(outcome, alerts=self._closed(result.sentence))
        if result.verdict is CompareVerdict.FASTER:
            return self._improvement(repository, baseline, head, outcome)
        return self._regression(repository, baseline, head, outcome)

    def _baseline(self, repository: Repository) -> Revision | None:
        """The newest commit that was found good or accepted and is still there."""
        for commit in self._series.baselines:
            try:
                return repository.resolve(commit)
            except UnknownRevisionError:
                self._notes.append(f"{commit[:12]}, a baseline so far, is no longer in {repository.origin}")
        return None

    def _without_baseline(self, head: Revision) -> _Outcome:
        mend = f"if {head.label} is good: perfguard accept {head.commit} --reason WHY --state DIR"
        sentence = f"{head.label} was not measured: there is nothing to measure it against."
        if self._series.baselines:
            reason = f"no commit that was ever found good is left in the history; {mend}"
        elif self._history.quarantined:
            reason = f"files of the state folder were damaged, and no night that is left names a good commit; {mend}"
        else:
            return _Outcome(
                verdict=NightVerdict.FIRST, sentence=f"The first night: {head.label} is the baseline, and trusted."
            )
        return _Outcome(verdict=NightVerdict.UNKNOWN, sentence=sentence, reason=reason)

    def _improvement(self, repository: Repository, baseline: Revision, head: Revision, outcome: _Outcome) -> _Outcome:
        found, reason = self._search(repository, baseline, head, Direction.IMPROVEMENT)
        outcome = replace(outcome, verdict=NightVerdict.IMPROVEMENT, alerts=self._closed(outcome.sentence))
        if found is None or found.culprit is None:
            self._notes.append(f"which commit made it faster is not known: {reason}")
            return outcome
        alert = self._alert(AlertKind.IMPROVEMENT, found.culprit.revision.commit, found, AlertState.ACCEPTED)
        return replace(_with_culprit(outcome, found), alerts=(alert, *outcome.alerts))

    def _regression(self, repository: Repository, baseline: Revision, head: Revision, outcome: _Outcome) -> _Outcome:
        """Search for a culprit behind what is known already; open its alert, or update those that stand."""
        unlocated = f"{_UNLOCATED}{baseline.commit}{self._suffix}"
        present, gone = self._standing(repository, head, unlocated)
        is_located = bool(present) and all(not alert.id.startswith(_UNLOCATED) for alert in present)
        start = (self._slow_level(repository, head) if is_located else None) or baseline
        found, reason = None, ""
        if start.commit != head.commit:
            found, reason = self._search(repository, start, head, Direction.REGRESSION)
        outcome = replace(outcome, verdict=NightVerdict.REGRESSION)
        if found is not None and found.culprit is not None:
            alert = self._alert(AlertKind.STEP, found.culprit.revision.commit, found, AlertState.OPEN)
            named = f"Its commit is known now: {found.culprit.revision.label}."
            others = tuple(
                replace(each, state=AlertState.CLOSED, sentence=named) if each.id == unlocated else _updated(each)
                for each in present
                if each.id != alert.id
            )
            return replace(_with_culprit(outcome, found), alerts=(alert, *others, *gone))
        if present:
            is_quiet = found is not None and found.verdict is BisectVerdict.NO_CHANGE
            outcome = replace(outcome, alerts=(*map(_updated, present), *gone), reason="" if is_quiet else reason)
            return self._with_known_culprit(outcome, present)
        if found is not None and found.verdict is BisectVerdict.NO_CHANGE and found.good == baseline:
            disagree = f"one measurement found it slower ({outcome.sentence}), the next did not ({found.sentence})"
            sentence = f"Cannot say whether {head.label} is slower than {baseline.label}."
            return replace(outcome, verdict=NightVerdict.UNKNOWN, sentence=sentence, reason=disagree, alerts=gone)
        alert = Alert(
            id=unlocated,
            kind=AlertKind.STEP,
            state=AlertState.OPEN,
            commit=head.commit,
            first_night=self._id,
            last_night=self._id,
            sentence=f"{outcome.sentence} Which commit did it is not known: {reason}",
            effect=_decisive(outcome.effects),
        )
        return replace(outcome, reason=reason, alerts=(alert, *gone))

    def _standing(
        self, repository: Repository, head: Revision, unlocated: str
    ) -> tuple[tuple[Alert, ...], tuple[Alert, ...]]:
        """The open alerts that the head can still be slow for, and the others, closed."""
        present, gone = [], []
        for alert in self._series.open_alerts:
            has_commit = not alert.id.startswith(_UNLOCATED)
            if alert.id == unlocated or (has_commit and _contains(repository, head, alert.commit)):
                present.append(alert)
            else:
                why = f"{head.label} is not measured against what this was found with any more."
                if has_commit:
                    why = f"{alert.commit[:12]} is no longer in the history of {self._request.branch}."
                gone.append(replace(alert, state=AlertState.CLOSED, sentence=why))
        return tuple(present), tuple(gone)

    def _slow_level(self, repository: Repository, head: Revision) -> Revision | None:
        """The newest head that was found slower, where this one descends from it: what is known lies before it."""
        slow = [night.head for night in self._series.nights if night.verdict is NightVerdict.REGRESSION and night.head]
        return slow[-1] if slow and _contains(repository, head, slow[-1].commit) else None

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
            self._notes.append(f"{head.label} does not descend from {start.label}: searched from {base.label} on")
        try:
            result = bisect(
                self._run("bisect", base, head, direction), base.commit, head.commit, direction, self._progress
            )
            self._keep(result, "bisect")
        except InterruptedRunError:
            raise
        except PerfguardError as error:
            # The change itself was measured, and must be told.
            return None, f"the search failed: {error.message}"
        return result, "" if result.verdict is BisectVerdict.CULPRIT else result.sentence

    def _run(self, verb: str, low: Revision, high: Revision, direction: Direction | None = None) -> RunRequest:
        words = ("perfguard", verb, low.commit, high.commit, *self._request.options)
        return replace(
            self._request.run,
            command=shlex.join(words if direction is None else (*words, "--find", direction.value)),
            run_dir=self._run_dir(verb),
            refs=(low.commit, high.commit),
        )

    def _run_dir(self, verb: str) -> Path:
        return self._request.state / RUNS / f"{self._id}-{verb}"

    def _keep(self, result: CompareResult | BisectResult, verb: str) -> None:
        self._trials += len(result.trials)
        report = self._run_dir(verb) / _REPORT
        keep_result(result, report.parent)
        write_report(result, report)
        write_entry(result, report)
        self._report = report

    @property
    def _suffix(self) -> str:
        return f"-{self._request.run.scenario.name}-{self._request.branch}"

    def _alert(self, kind: AlertKind, commit: str, found: BisectResult, state: AlertState) -> Alert:
        """The alert on a culprit; one that stands is updated, one that was closed is opened anew."""
        name = f"{kind.value}-{commit}{self._suffix}"
        before = next((alert for alert in self._series.alerts if alert.id == name), None)
        if before is not None and before.state.is_open:
            state = AlertState.UPDATED
        return Alert(
            id=name,
            kind=kind,
            state=state,
            commit=commit,
            first_night=self._id if before is None else before.first_night,
            last_night=self._id,
            sentence=found.sentence,
            effect=_decisive(found.effects),
        )

    def _closed(self, why: str) -> tuple[Alert, ...]:
        return tuple(
            replace(alert, state=AlertState.CLOSED, sentence=f"No longer so. {why}")
            for alert in self._series.open_alerts
        )

    def _with_known_culprit(self, outcome: _Outcome, present: tuple[Alert, ...]) -> _Outcome:
        """Tell the evidence of the newest night that found one of the commits that stand."""
        commits = {alert.commit for alert in present}
        for night in reversed(self._series.nights):
            if night.culprit is not None and night.culprit.revision.commit in commits:
                return replace(outcome, culprit=night.culprit, frames=night.frames)
        return outcome


def _head(repository: Repository, branch: str) -> Revision:
    try:
        return repository.resolve(f"refs/heads/{branch}")
    except UnknownRevisionError:
        return repository.resolve(branch)  # a checkout without the branch, such as a CI's; or the error that names it


def _contains(repository: Repository, head: Revision, commit: str) -> bool:
    try:
        older = repository.resolve(commit)
    except UnknownRevisionError:
        return False
    base = repository.common_ancestor(older, head)
    return base is not None and base.commit == older.commit


def _with_culprit(outcome: _Outcome, found: BisectResult) -> _Outcome:
    if found.culprit is None:
        return outcome
    culprit = NightCulprit(
        revision=found.culprit.revision, posterior=found.culprit.posterior, effect=_decisive(found.effects)
    )
    sentence = f"{outcome.sentence} {found.sentence}"
    return replace(outcome, sentence=sentence, culprit=culprit, frames=found.grown_frames, findings=found.findings)


def _updated(alert: Alert) -> Alert:
    return replace(alert, state=AlertState.UPDATED)


def _decisive(effects: tuple[Effect, ...]) -> Effect | None:
    return effects[0] if effects and _is_finite(effects[0]) else None


def _is_finite(effect: Effect) -> bool:
    """Whether a file can hold it: JSON has no infinity, and an interval without an end decided nothing."""
    return all(map(math.isfinite, (effect.ratio, effect.low, effect.high)))


def _has_finite_evidence(finding: Finding) -> bool:
    return all(math.isfinite(each.before) and math.isfinite(each.after) for each in finding.evidence)


def _shown(repo: str) -> str:
    return without_credentials(repo) if is_url(repo) else str(Path(repo).absolute())
