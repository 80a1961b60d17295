"""The table of `run --strategy all`: what each strategy changes beside the revision as it was committed.

A trial is one value of each metric. Changes are differences within blocks, so what a block's minutes were like cancels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean

from perfguard.evidence.callrules import CallClass
from perfguard.model.revision import Revision
from perfguard.model.scenario import Strategy, UserMetric
from perfguard.model.strategies import (
    GIL_WAIT,
    PICKLE,
    WORKING_CPU,
    ArmChange,
    ArmMeaning,
    ArmMetric,
    ChangeKind,
    StrategyArm,
    StrategyTable,
)
from perfguard.model.trial import ROLE_TOKENIZER, Completed, Trial, Untestable
from perfguard.stats.paired import paired_change
from perfguard.workflows.judge import Judge, is_of
from perfguard.workflows.metrics import samples_of, user_value
from perfguard.workflows.session import Session
from perfguard.workflows.strategy_advice import advise

BASELINE = Strategy.AS_COMMITTED

# A metric and the process that it is of; empty for the whole server.
_Key = tuple[str, str]
_Values = Mapping[_Key, float]
_USER_METRICS = {metric.value: metric for metric in UserMetric}
_WHOLE = ""


def strategy_tables(
    session: Session, judge: Judge, revisions: Sequence[Revision], strategies: Sequence[Strategy]
) -> tuple[StrategyTable, ...]:
    """Return a table for every revision; none where `strategies` give nothing to hold beside the baseline."""
    if BASELINE not in strategies or len(strategies) == 1:
        return ()
    return tuple(_table(session, judge, revision, strategies) for revision in revisions)


def _table(session: Session, judge: Judge, revision: Revision, strategies: Sequence[Strategy]) -> StrategyTable:
    scenario = session.bench.scenario
    confidence = scenario.limits.confidence
    ordered = (BASELINE, *(strategy for strategy in strategies if strategy is not BASELINE))
    trials = {strategy: [each for each in session.trials if is_of(each, revision, strategy)] for strategy in ordered}
    values = {
        strategy: {each.block: _values(each, judge) for each in own if isinstance(each.outcome, Completed)}
        for strategy, own in trials.items()
    }
    keys = _keys([found for by_block in values.values() for found in by_block.values()])
    arms = tuple(_arm(strategy, trials[strategy], values, keys, confidence) for strategy in ordered)
    return StrategyTable(
        revision=revision,
        baseline=BASELINE,
        confidence=confidence,
        blocks=len({trial.block for own in trials.values() for trial in own}),
        arms=arms,
        advice=advise(
            arms,
            {strategy: _logs(by_block, scenario.metric) for strategy, by_block in values.items()},
            metric=scenario.metric,
            scenario=scenario,
        ),
    )


def _values(trial: Trial, judge: Judge) -> dict[_Key, float]:
    """Return what one completed trial is worth in every metric that it tells."""
    samples = samples_of(trial)
    if samples is None:
        return {}
    values: dict[_Key, float] = {
        (name, _WHOLE): user_value(samples.load, metric) for name, metric in _USER_METRICS.items()
    }
    if (evidence := judge.evidence_of(trial)) is not None:
        working = {
            role: load.working_ms_per_request
            for role, load in sorted(evidence.loads.items())
            if load.working_ms_per_request is not None
        }
        values[WORKING_CPU, _WHOLE] = sum(working.values())
        values |= {(WORKING_CPU, role): cost_ms for role, cost_ms in working.items() if _is_named(role)}
        pickled = (found.class_ms.get(CallClass.PICKLE, 0.0) for found in evidence.roles.values())
        values[PICKLE, _WHOLE] = sum(pickled)
    values |= {
        (GIL_WAIT, told.role): told.wait_frac
        for told in samples.gil
        if told.wait_frac is not None and _is_named(told.role)
    }
    return values


def _is_named(role: str) -> bool:
    """Whether a process has a line of its own: the ranks, and the one that requests come in by."""
    return role.startswith("rank-") or role == ROLE_TOKENIZER


def _keys(values: Sequence[_Values]) -> tuple[_Key, ...]:
    """Return the table's metrics in their order: what users feel, CPU, pickling, and the GIL where it is waited for."""
    known = {key for each in values for key in each}
    waits = {key: fmean([each[key] for each in values if key in each]) for key in known if key[0] == GIL_WAIT}
    # The GIL belongs to one process each: that of the one that waits most is the one to look at.
    worst = max(waits, key=lambda key: (waits[key], key[1] == ROLE_TOKENIZER, key[1]), default=None)
    order = (*_USER_METRICS, WORKING_CPU, PICKLE, GIL_WAIT)
    shown = [key for key in known if key not in waits or key == worst]
    return tuple(sorted(shown, key=lambda key: (order.index(key[0]), key[1])))


def _arm(
    strategy: Strategy,
    trials: Sequence[Trial],
    values: Mapping[Strategy, Mapping[int, _Values]],
    keys: Sequence[_Key],
    confidence: float,
) -> StrategyArm:
    failed = [trial.outcome for trial in trials if isinstance(trial.outcome, Untestable)]
    own, baseline = values[strategy], values[BASELINE]
    metrics = []
    for key in keys:
        told = [each[key] for each in own.values() if key in each]
        if told:
            pairs = [
                (baseline[block][key], each[key])
                for block, each in sorted(own.items())
                if key in each and key in baseline.get(block, {})
            ]
            metrics.append(
                ArmMetric(
                    metric=key[0],
                    role=key[1],
                    mean=_mean(told, _kind(key[0])),
                    trials=len(told),
                    change=None if strategy is BASELINE else _change(key[0], pairs, confidence),
                )
            )
    return StrategyArm(
        strategy=strategy,
        trials=len(trials),
        untestable=len(failed),
        untestable_reason=failed[0].reason if failed else "",
        metrics=tuple(metrics),
    )


def _kind(metric: str) -> ChangeKind:
    """A ratio of what may be nothing says nothing (strategies exist that pickle no byte), and costs add up."""
    return ChangeKind.RATIO if metric in _USER_METRICS else ChangeKind.DIFFERENCE


def _mean(values: Sequence[float], kind: ChangeKind) -> float:
    return fmean(values) if kind is ChangeKind.DIFFERENCE else math.exp(fmean(map(math.log, values)))


def _change(metric: str, pairs: Sequence[tuple[float, float]], confidence: float) -> ArmChange | None:
    kind = _kind(metric)
    is_ratio = kind is ChangeKind.RATIO
    differences = [math.log(arm / base) if is_ratio else arm - base for base, arm in pairs]
    found = paired_change(differences, confidence=confidence)
    if found is None:
        return None
    meaning = ArmMeaning.NOISE
    if found.excludes_zero:
        is_larger_better = metric in _USER_METRICS and _USER_METRICS[metric].larger_is_better
        meaning = ArmMeaning.BETTER if (found.mean > 0.0) == is_larger_better else ArmMeaning.WORSE

    def told(value: float | None) -> float | None:
        return math.exp(value) if is_ratio and value is not None else value

    return ArmChange(
        kind=kind,
        change=math.exp(found.mean) if is_ratio else found.mean,
        low=told(found.low),
        high=told(found.high),
        blocks=found.pairs,
        meaning=meaning,
    )


def _logs(by_block: Mapping[int, _Values], metric: UserMetric) -> dict[int, float]:
    """Return the log of the run's metric of every block, in the sense "larger is better"."""
    sign = 1.0 if metric.larger_is_better else -1.0
    return {block: sign * math.log(values[metric.value, _WHOLE]) for block, values in by_block.items()}
