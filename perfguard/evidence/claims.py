"""Puts claims beside what a study measured. Pure: every row is computed from the trials."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

from perfguard.evidence.study import Value, paired_effect
from perfguard.model.claim import Claim, ClaimDirection, ClaimMetric, ClaimRow, ClaimVerdict
from perfguard.model.result import Effect
from perfguard.model.study import StudyMeasured, StudyTarget, StudyTrial
from perfguard.stats.ratios import geometric_interval

_NEAR = 2.0


def judge_claims(
    claims: Sequence[Claim],
    trials: Sequence[StudyTrial],
    *,
    target: StudyTarget,
    confidence: float,
    beside: Sequence[Effect] = (),
) -> tuple[ClaimRow, ...]:
    """Put every claim beside the trials that are about it; none of them: "not measured in this run".

    `beside` are the effects that a bisect or a comparison found on the whole server, one a user metric.
    """
    return tuple(
        _judge(claim, trials, target=target, confidence=confidence)
        if claim.user_metric is None
        else _judge_effect(claim, beside)
        for claim in claims
    )


def _judge_effect(claim: Claim, beside: Sequence[Effect]) -> ClaimRow:
    effect = next((effect for effect in beside if effect.metric == claim.user_metric), None)
    if effect is None:
        return _row(
            claim, "", "perfguard bisect or compare measures it; --beside takes it in", ClaimVerdict.NOT_MEASURED
        )
    how = (
        f"{effect.metric} with the change / without it, {effect.pairs} pairs of trials on the whole server, put beside"
    )
    return _row(claim, _tell(effect), how, _verdict(claim, effect))


def _tell(effect: Effect) -> str:
    return f"{effect.ratio:.2f}x ({effect.low:.2f} to {effect.high:.2f})"


def _judge(claim: Claim, trials: Sequence[StudyTrial], *, target: StudyTarget, confidence: float) -> ClaimRow:
    if claim.strategy is None or claim.target not in (None, target.value):
        return _row(claim, "", claim.note or f"needs a study on {claim.target}", ClaimVerdict.NOT_MEASURED)
    payload_bytes = _nearest(claim, trials)
    about = [trial for trial in trials if _is_about(claim, trial, payload_bytes)]
    value = _value(claim.metric)
    if claim.baseline is not None:
        effect = paired_effect(about, claim.strategy, claim.baseline, confidence=confidence, value=value)
        if effect is None:
            return _row(claim, "", claim.note, ClaimVerdict.NOT_MEASURED)
        how = f"{claim.metric.value} of {claim.strategy.value} / {claim.baseline.value}, {_where(about)}, "
        return _row(claim, _tell(effect), f"{how}{effect.pairs} pairs of trials", _verdict(claim, effect))
    groups: dict[int, list[float]] = defaultdict(list)
    for trial in about:
        number = value(trial.measured) if trial.measured is not None and trial.strategy is claim.strategy else math.nan
        if number > 0.0:
            groups[trial.start].append(number)
    if not groups:
        return _row(claim, "", claim.note, ClaimVerdict.NOT_MEASURED)
    mean, low, high = geometric_interval(list(groups.values()), confidence)
    interval = "" if low is None or high is None else f" ({low:.3g} to {high:.3g})"
    measured = f"{mean:.3g} {claim.metric.unit}{interval}"
    return _row(
        claim, measured, f"{claim.metric.value} of {claim.strategy.value}, {_where(about)}", ClaimVerdict.BESIDE
    )


def _row(claim: Claim, measured: str, how: str, verdict: ClaimVerdict) -> ClaimRow:
    return ClaimRow(
        claim=claim.text, source=claim.source, claimed=claim.claimed, measured=measured, how=how, verdict=verdict
    )


def _value(metric: ClaimMetric) -> Value:
    def value(measured: StudyMeasured) -> float:
        number: float | None = getattr(measured, metric.value)
        return math.nan if number is None else number

    return value


def _nearest(claim: Claim, trials: Sequence[StudyTrial]) -> int | None:
    """Return the payload that was measured nearest to the claim's, within a factor of two."""
    if claim.payload_bytes is None:
        return None
    wanted = math.log(claim.payload_bytes)
    sizes = {trial.measured.payload_bytes for trial in trials if trial.measured is not None}
    nearest = min(sizes, key=lambda size: abs(math.log(size) - wanted), default=0)
    return nearest if nearest and abs(math.log(nearest) - wanted) <= math.log(_NEAR) else 0


def _is_about(claim: Claim, trial: StudyTrial, payload_bytes: int | None) -> bool:
    return (
        trial.measured is not None
        and (claim.media is None or trial.cell.media == claim.media)
        and (payload_bytes is None or trial.measured.payload_bytes == payload_bytes)
        and (claim.concurrency is None or trial.cell.concurrency == claim.concurrency)
        and (claim.ranks is None or trial.cell.ranks == claim.ranks)
    )


def _where(trials: Sequence[StudyTrial]) -> str:
    media = ", ".join(dict.fromkeys(trial.cell.media for trial in trials))
    concurrency = ", ".join(map(str, sorted({trial.cell.concurrency for trial in trials})))
    ranks = ", ".join(map(str, sorted({trial.cell.ranks for trial in trials})))
    return f"{media} at concurrency {concurrency} on {ranks} ranks"


def _verdict(claim: Claim, effect: Effect) -> ClaimVerdict:
    direction = claim.direction
    if claim.ratio is not None:
        if effect.low <= claim.ratio <= effect.high:
            return ClaimVerdict.AS_CLAIMED
        direction = ClaimDirection.MORE if claim.ratio > 1.0 else ClaimDirection.LESS
    if effect.low <= 1.0 <= effect.high:
        return ClaimVerdict.CANNOT_TELL
    is_more = effect.low > 1.0
    if is_more is not (direction is ClaimDirection.MORE):
        return ClaimVerdict.CONTRADICTED
    return ClaimVerdict.AS_CLAIMED if claim.ratio is None else ClaimVerdict.SAME_DIRECTION
