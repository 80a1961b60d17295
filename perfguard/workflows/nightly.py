"""The nightly guard: measure a branch's head beside the newest good commit, find what changed, keep the night.

Both are measured tonight, on this machine: no number of another night is ever compared with.
"""

from __future__ import annotations

import math
import time
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

from perfguard.model.errors import InterruptedRunError, OutOfTimeError, PerfguardError, UnknownRevisionError
from perfguard.model.night import NIGHT_SCHEMA_VERSION, MachineFingerprint, NightRecord, NightVerdict
from perfguard.model.progress import Progress
from perfguard.model.result import Finding
from perfguard.model.revision import Revision
from perfguard.report.clean import clean
from perfguard.revisions.repository import Repository
from perfguard.revisions.stores import is_url, without_credentials
from perfguard.store.nights import NightHistory, NightStore, new_id
from perfguard.workflows.fingerprint import fingerprint
from perfguard.workflows.night_alerts import Alerts, is_finite, updated
from perfguard.workflows.night_judge import NightJudge, Outcome
from perfguard.workflows.night_runs import NightContext, NightlyRequest, NightRuns
from perfguard.workflows.nights import Series, series_of
from perfguard.workflows.places import cache_dir


def nightly(request: NightlyRequest, progress: Progress) -> NightRecord:
    """Judge the head of a branch and keep the night; what keeps it from being measured is a night that failed.

    Raises:
        UsageError: a newer perfguard wrote the state folder.
        PerfguardError: the state folder cannot be read or written.
    """
    store = NightStore(request.state)
    store.prepare()
    return _Night(request, store, progress).run()


class _Night:
    """One night in progress."""

    def __init__(self, request: NightlyRequest, store: NightStore, progress: Progress) -> None:
        self._clock = time.monotonic()
        self._request = request
        self._store = store
        self._progress = progress
        self._history: NightHistory = store.read()
        scenario = request.run.scenario
        self._series: Series = series_of(self._history, request.branch, scenario.name)
        self._id = new_id()
        self._machine = fingerprint()
        until = None if request.budget_s is None else self._clock + request.budget_s
        context = NightContext(night=self._id, machine=self._machine.key, until=until)
        alerts = Alerts(series=self._series, scenario=scenario.name, branch=request.branch, night=self._id)
        self._runs = NightRuns(request, store, self._history.begun, context, progress)
        self._judge = NightJudge(scenario, self._history, self._series, alerts, self._runs)

    def run(self) -> NightRecord:
        """Fetch, judge, and keep the record."""
        started_at = datetime.now(timezone.utc).isoformat(timespec="seconds")
        head: Revision | None = None
        try:
            repository = Repository.open(self._request.repo, cache_dir=cache_dir(), progress=self._progress, fresh=True)
            head = _head(repository, self._request.branch)
            outcome = self._judge.judge(repository, head)
        except InterruptedRunError:
            raise
        except OutOfTimeError as error:
            known = tuple(map(updated, self._judge.alerts.open))
            sentence = f"The budget ended before {head.label if head else 'the head'} could be judged."
            outcome = Outcome(verdict=NightVerdict.UNFINISHED, sentence=sentence, reason=error.message, alerts=known)
        except PerfguardError as error:
            what = f"The head of {self._request.branch}" if head is None else head.label
            reason = f"{error.message}; {error.hint}" if error.hint else error.message
            outcome = Outcome(verdict=NightVerdict.FAILED, sentence=f"{what} could not be measured.", reason=reason)
        night = self._record(started_at, head, outcome)
        self._store.add_night(night)
        self._runs.close(is_judged=outcome.verdict is not NightVerdict.FAILED)
        return night

    def _record(self, started_at: str, head: Revision | None, outcome: Outcome) -> NightRecord:
        scenario = self._request.run.scenario
        baseline, report = outcome.baseline, self._runs.report
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
            machine=self._machine,
            head=head,
            baseline=baseline if baseline != head else None,
            trusted=head if outcome.verdict.trusted else baseline,
            verdict=outcome.verdict,
            sentence=outcome.sentence,
            reason=outcome.reason,
            effects=tuple(each for each in outcome.effects if is_finite(each)),
            culprit=outcome.culprit,
            frames=outcome.frames,
            findings=tuple(each for each in outcome.findings if each.fired and _has_finite_evidence(each)),
            alerts=tuple(
                replace(alert, last_night=self._id)
                for alert in (*self._judge.alerts.merged(outcome.alerts), *self._series.newly_accepted)
            ),
            anchor=outcome.anchor,
            pending=self._judge.pending,
            report=None if report is None else report.relative_to(self._request.state).as_posix(),
            trials=self._runs.trials,
            wall_s=time.monotonic() - self._clock,
            notes=(
                *self._history.problems,
                *_other_machine(self._series, self._machine),
                *self._judge.notes,
                *self._runs.notes,
            ),
        )
        # What names the series must be found again as it is.
        return replace(clean(record, home=str(Path.home())), branch=record.branch, scenario=record.scenario)


def _other_machine(series: Series, machine: MachineFingerprint) -> tuple[str, ...]:
    """Remark that another machine measures than last time; both sides are measured on it, so it raises nothing."""
    before = series.nights[-1].machine if series.nights else machine
    if before.key == machine.key:
        return ()
    return (f"another machine than the night before: {machine.described}, not {before.described}",)


def _head(repository: Repository, branch: str) -> Revision:
    try:
        return repository.resolve(f"refs/heads/{branch}")
    except UnknownRevisionError:
        return repository.resolve(branch)  # a checkout without the branch, such as a CI's; or the error that names it


def _has_finite_evidence(finding: Finding) -> bool:
    return all(math.isfinite(each.before) and math.isfinite(each.after) for each in finding.evidence)


def _shown(repo: str) -> str:
    return without_credentials(repo) if is_url(repo) else str(Path(repo).absolute())
