"""One sentence on which strategy to run today, drawn from the run's metric within blocks.

Of several strategies the best looks better than it is. So one is advised only where it is better beyond the noise at a
level that holds for all of them together.
Source: C. E. Bonferroni's inequality.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from perfguard.model.scenario import Scenario, Strategy, UserMetric
from perfguard.model.strategies import ArmMeaning, ArmMetric, ChangeKind, StrategyArm
from perfguard.stats.paired import PairedChange, paired_change

_FEWEST_BLOCKS = 2


def advise(
    arms: Sequence[StrategyArm],
    logs: Mapping[Strategy, Mapping[int, float]],
    *,
    metric: UserMetric,
    scenario: Scenario,
) -> str:
    """Say which strategy to run, or why none can be advised; to stay only where none can be better by much.

    Args:
        arms: the baseline first.
        logs: by strategy and block, the log of `metric` where larger is better.
        metric: what the run is judged by.
        scenario: its limits tell the level that the advice as a whole has, and the smallest gain worth naming.
    """
    confidence, least = scenario.limits.confidence, math.log1p(scenario.limits.min_effect_frac)
    baseline, *others = arms
    if not logs[baseline.strategy]:
        reason = baseline.untestable_reason or "no trial of it ended"
        return f"Nothing can be advised: {baseline.strategy.value} could not be measured ({reason})."
    level = _level(confidence, len(others))
    against = {
        arm.strategy: found
        for arm in others
        if (found := _beside(logs, arm.strategy, baseline.strategy, level)) is not None
        and found.pairs >= _FEWEST_BLOCKS
    }
    if not against:
        held = f"no strategy ran beside {baseline.strategy.value} in {_FEWEST_BLOCKS} blocks or more"
        return f"Nothing can be advised: {held}."
    lines = {arm.strategy: _line(arm, metric) for arm in others if arm.strategy in against}
    best = max(against, key=lambda strategy: against[strategy].mean)
    surely = [strategy for strategy, found in against.items() if found.excludes_zero and found.mean > 0.0]
    if not surely:
        worse = [strategy.value for strategy, found in against.items() if found.excludes_zero]
        said = f"; {_listed(worse)} {'is' if len(worse) == 1 else 'are'} surely worse" if worse else ""
        nearest = f"the nearest is {best.value}: {_told(lines[best], confidence)}"
        # Not told apart is not equal: to stay is advised where a gain worth naming is ruled out.
        if any(found.high is not None and found.high >= least for found in against.values()):
            return f"Nothing can be advised yet: more blocks would tell ({nearest}){said}."
        return (
            f"Today stay with {baseline.strategy.value} under {scenario.name}: no strategy gives "
            f"{100 * scenario.limits.min_effect_frac:g}% or more ({nearest}){said}."
        )
    best = max(surely, key=lambda strategy: against[strategy].mean)
    price = _price(next(arm for arm in others if arm.strategy is best), confidence)
    peers = _peers(logs, best, surely, confidence)
    return f"Today run {best.value} under {scenario.name}: {_told(lines[best], confidence)}{price}{peers}."


def _level(confidence: float, count: int) -> float:
    """Return the level of each of `count` intervals with which all of them hold together at `confidence`."""
    return 1.0 - (1.0 - confidence) / max(1, count)


def _beside(
    logs: Mapping[Strategy, Mapping[int, float]], arm: Strategy, other: Strategy, level: float
) -> PairedChange | None:
    shared = sorted(logs[arm].keys() & logs[other].keys())
    return paired_change([logs[arm][block] - logs[other][block] for block in shared], confidence=level)


def _line(arm: StrategyArm, metric: UserMetric) -> ArmMetric:
    return next(each for each in arm.metrics if each.metric == metric.value)


def _told(line: ArmMetric, confidence: float) -> str:
    found = line.change
    if found is None or found.low is None or found.high is None:
        return f"{_name(line.metric)} in too few blocks to tell"
    return (
        f"{_name(line.metric)} {_percent(found.change)} ({100 * confidence:g}% interval {_percent(found.low)} to "
        f"{_percent(found.high)}, {found.blocks} blocks)"
    )


def _price(arm: StrategyArm, confidence: float) -> str:
    """Name what users feel that gets worse with it, beyond the noise."""
    user = {metric.value for metric in UserMetric}
    worse = [
        _told(line, confidence)
        for line in arm.metrics
        if line.metric in user
        and line.change is not None
        and line.change.kind is ChangeKind.RATIO
        and line.change.meaning is ArmMeaning.WORSE
    ]
    return f", at the price of {_listed(worse)}" if worse else ""


def _peers(
    logs: Mapping[Strategy, Mapping[int, float]], best: Strategy, surely: Sequence[Strategy], confidence: float
) -> str:
    """Name the other strategies that are better than the baseline and cannot be told from the best one."""
    peers = [
        other.value
        for other in surely
        if other is not best
        and (
            (found := _beside(logs, best, other, _level(confidence, len(surely) - 1))) is None
            or not found.excludes_zero
        )
    ]
    return f"; {_listed(peers)} cannot be told from it" if peers else ""


def _name(metric: str) -> str:
    return metric.rpartition("_")[0].replace("_", " ")


def _percent(ratio: float) -> str:
    return f"{100.0 * (ratio - 1.0):+.1f}%"


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
