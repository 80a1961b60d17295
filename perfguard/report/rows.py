"""The rows of a result's tables as plain data. The page and the terminal both print these, so they agree."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from perfguard.model.scenario import Strategy, UserMetric
from perfguard.model.trial import Completed, Trial, Untestable
from perfguard.report import words

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from perfguard.model.result import Effect, Evidence, Finding, GrownFrame, RevisionSummary, RunInfo
    from perfguard.model.revision import Revision

_NAME_LIMIT = 300
_LOG_LIMIT = 6_000
_FRAME = re.compile(r"[\w<>.]+ \([^()]{1,400}\)\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class EffectRow:
    """One effect. `meaning` is `worse`, `better`, `larger`, `smaller` or `noise`."""

    metric: str
    change: str
    interval: str
    pairs: int
    meaning: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EvidenceRow:
    """One number behind a finding; `frame` is the frame that it was measured in, or empty."""

    what: str
    frame: str
    unit: str
    before: str
    after: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FindingRow:
    """One judged rule."""

    rule: str
    role: str
    fired: bool
    effect: str
    threshold: str
    evidence: tuple[EvidenceRow, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameRow:
    """One frame whose cost changed. `tested` False: too few profiled trials for an interval."""

    frame: str
    key: str
    role: str
    before: str
    after: str
    change: str
    ratio: str
    interval: str
    self_change: str
    tested: bool
    significant: bool
    grew: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class RevisionRow:
    """One measured revision. `mark` is `good`, `bad`, `culprit`, `baseline`, `candidate` or empty."""

    index: int
    label: str
    subject: str
    mark: str
    trials: int
    untestable: int
    untestable_reason: str
    metric: str
    metric_interval: str
    evidence: str
    gpu: str
    posterior: str
    posterior_frac: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialRow:
    """One trial. `reason` and `log` are set where it was untestable."""

    number: int
    block: int
    revision: str
    strategy: str
    outcome: str
    throughput: str
    p50: str
    p99: str
    ttft_p50: str
    errors: str
    wall: str
    completed: bool
    reason: str
    log: str


def effect_rows(effects: Sequence[Effect], run: RunInfo) -> tuple[EffectRow, ...]:
    """Give a row for every effect, the run's own metric first."""
    ordered = sorted(effects, key=lambda effect: effect.metric != run.metric)
    return tuple(
        EffectRow(
            metric=words.one_line(words.metric_name(effect.metric), _NAME_LIMIT),
            change=words.percent_change(effect.ratio),
            interval=f"{words.percent_change(effect.low)} to {words.percent_change(effect.high)} "
            f"({effect.confidence * 100:g}%)",
            pairs=effect.pairs,
            meaning=_meaning(effect, run),
        )
        for effect in ordered
    )


def _meaning(effect: Effect, run: RunInfo) -> str:
    if not all(map(math.isfinite, (effect.ratio, effect.low, effect.high))) or effect.low <= 1.0 <= effect.high:
        return "noise"
    is_larger = effect.ratio > 1.0
    larger_is_better = words.metric_larger_is_better(effect.metric)
    if effect.metric == run.metric:
        larger_is_better = run.larger_is_better
    if larger_is_better is None:
        return "larger" if is_larger else "smaller"
    return "better" if is_larger == larger_is_better else "worse"


def finding_rows(findings: Sequence[Finding]) -> tuple[FindingRow, ...]:
    """Give a row for every judged rule, those that fired first."""
    return tuple(
        FindingRow(
            rule=words.one_line(finding.rule, _NAME_LIMIT),
            role=words.one_line(finding.role, _NAME_LIMIT),
            fired=finding.fired,
            effect=words.shorten(finding.effect, 2 * _NAME_LIMIT),
            threshold=words.shorten(finding.threshold, _NAME_LIMIT),
            evidence=tuple(_evidence_row(evidence) for evidence in finding.evidence),
        )
        for finding in sorted(findings, key=lambda finding: not finding.fired)
    )


def _evidence_row(evidence: Evidence) -> EvidenceRow:
    return EvidenceRow(
        what=words.one_line(evidence.what, _NAME_LIMIT),
        frame=frame[0] if (frame := _FRAME.search(evidence.what)) else "",
        unit=words.one_line(evidence.unit, 60),
        before=words.number(evidence.before),
        after=words.number(evidence.after),
    )


def frame_rows(frames: Sequence[GrownFrame]) -> tuple[FrameRow, ...]:
    """Give a row for every frame, what lies outside the noise first; within that in the order of the evidence.

    The evidence puts the function that explains a growth before its callers, which grew as much and explain nothing.
    """

    def change_ms(frame: GrownFrame) -> float:
        return frame.after_ms_per_request - frame.before_ms_per_request

    def own_change_ms(frame: GrownFrame) -> float:
        return frame.after_self_ms_per_request - frame.before_self_ms_per_request

    return tuple(
        FrameRow(
            frame=words.one_line(frame.frame, _NAME_LIMIT),
            key=words.shorten(frame.frame, 500),
            role=words.one_line(frame.role, _NAME_LIMIT),
            before=words.number(frame.before_ms_per_request),
            after=words.number(frame.after_ms_per_request),
            change=words.signed(change_ms(frame)),
            ratio=_frame_ratio(frame),
            interval=_frame_interval(frame),
            self_change=words.signed(own_change_ms(frame)),
            tested=frame.low_ms is not None and frame.high_ms is not None,
            significant=frame.significant,
            grew=change_ms(frame) > 0,
        )
        for frame in sorted(frames, key=lambda frame: not frame.significant)
    )


def _frame_ratio(frame: GrownFrame) -> str:
    if frame.before_ms_per_request <= 0:
        return "new"
    if frame.after_ms_per_request <= 0:
        return "gone"
    return words.percent_change(frame.after_ms_per_request / frame.before_ms_per_request)


def _frame_interval(frame: GrownFrame) -> str:
    if frame.low_ms is None or frame.high_ms is None:
        return "not tested"
    return f"{words.signed(frame.low_ms)} to {words.signed(frame.high_ms)}"


def revision_rows(
    revisions: Sequence[RevisionSummary], *, marks: Mapping[str, str], posterior: Sequence[float]
) -> tuple[RevisionRow, ...]:
    """Give a row for every measured revision in first-parent order.

    `marks` maps a commit to its mark; `posterior[i]` is the probability that the revision of index i is the culprit.
    """
    return tuple(
        RevisionRow(
            index=summary.index,
            label=words.one_line(summary.label, 60),
            subject=words.one_line(summary.revision.subject, _NAME_LIMIT),
            mark=marks.get(summary.revision.commit, ""),
            trials=summary.trials,
            untestable=summary.untestable,
            untestable_reason=words.one_line(summary.untestable_reason, 2 * _NAME_LIMIT),
            metric=words.number(summary.metric_mean),
            metric_interval=_interval(summary.metric_low, summary.metric_high),
            evidence=words.number(summary.evidence_ms_per_request),
            gpu=words.share(summary.gpu_busy_frac, 1.0) if summary.gpu_busy_frac is not None else "",
            posterior=words.share(probability, 1.0) if probability is not None else "",
            posterior_frac=probability or 0.0,
        )
        for summary, probability in (
            (summary, probability_of(summary, posterior)) for summary in sorted(revisions, key=lambda each: each.index)
        )
    )


def probability_of(summary: RevisionSummary, posterior: Sequence[float]) -> float | None:
    """Look up a revision's posterior probability; None where the search gave none."""
    if not 0 <= summary.index < len(posterior) or not math.isfinite(posterior[summary.index]):
        return None
    return posterior[summary.index]


def _interval(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f"{words.number(low)} to {words.number(high)}"


def labels_of(revisions: Sequence[Revision]) -> dict[str, str]:
    """Map what trials name revisions by, commit or label, to the label."""
    return {name: revision.label for revision in revisions for name in (revision.commit, revision.label)}


def trial_rows(trials: Sequence[Trial], revisions: Sequence[Revision]) -> tuple[TrialRow, ...]:
    """Give a row for every trial in the order in which they ran."""
    labels = labels_of(revisions)
    return tuple(_trial_row(trial, labels) for trial in sorted(trials, key=lambda trial: trial.number))


def _trial_row(trial: Trial, labels: Mapping[str, str]) -> TrialRow:
    outcome = trial.outcome
    load = outcome.samples.load if isinstance(outcome, Completed) else None
    failed = load.errors + load.timeouts if load else 0
    return TrialRow(
        number=trial.number,
        block=trial.block,
        revision=words.one_line(labels.get(trial.revision, trial.revision), 60),
        strategy="" if trial.strategy == Strategy.AS_COMMITTED.value else words.one_line(trial.strategy, 60),
        outcome="completed" if load else "untestable",
        throughput=words.number(metric_of(trial, UserMetric.THROUGHPUT.value)),
        p50=words.number(metric_of(trial, UserMetric.E2E_P50.value)),
        p99=words.number(metric_of(trial, UserMetric.E2E_P99.value)),
        ttft_p50=words.number(metric_of(trial, UserMetric.TTFT_P50.value)),
        errors=f"{failed:,} of {load.sent:,}" if load else words.NOT_MEASURED,
        wall=words.seconds(trial.wall_s),
        completed=load is not None,
        reason=words.shorten(outcome.reason, 2 * _NAME_LIMIT) if isinstance(outcome, Untestable) else "",
        log=_log_tail(outcome.log) if isinstance(outcome, Untestable) else "",
    )


def _log_tail(log: str) -> str:
    return log if len(log) <= _LOG_LIMIT else f"(the beginning is left out)\n{log[-_LOG_LIMIT:]}"


def metric_of(trial: Trial, metric: str) -> float | None:
    """Look up a user metric of one trial; None where the trial did not measure it."""
    if not isinstance(trial.outcome, Completed):
        return None
    load = trial.outcome.samples.load
    if metric == UserMetric.THROUGHPUT.value:
        return load.throughput_rps
    if metric == UserMetric.E2E_P50.value:
        return load.e2e.p50_ms if load.e2e else None
    if metric == UserMetric.E2E_P99.value:
        return load.e2e.p99_ms if load.e2e else None
    if metric == UserMetric.TTFT_P50.value:
        return load.ttft.p50_ms if load.ttft else None
    return None
