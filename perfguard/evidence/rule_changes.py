"""How the rules compare a cost over few trials: its own noise is steadied by that of the costs beside it.

A t test on three trials a side has four degrees of freedom and keeps next to nothing. What a class of call costs is
sampled like the functions of its role are, and varies as they do; what a role costs as a whole varies as the other
roles of the server do, by the same starts and the same machine.
"""

from __future__ import annotations

from statistics import fmean, variance
from typing import TYPE_CHECKING

from perfguard.evidence.callrules import CallClass
from perfguard.evidence.intervals import Change, steadied_change
from perfguard.evidence.moderation import moderated_changes, side_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from perfguard.evidence.cost import StackCosts
    from perfguard.evidence.rule_config import RuleConfig
    from perfguard.evidence.trial import RoleEvidence, TrialEvidence

_MIN_TRIALS = 2
# Stands among the functions' names, none of which is empty.
_SUM = ""
# A role that costs less than this share of the largest is counted in ticks and wakes: its spread is its own.
_COMPARABLE_COST = 0.1


def class_change(
    call_class: CallClass, before: Sequence[RoleEvidence], after: Sequence[RoleEvidence], config: RuleConfig
) -> Change:
    """Compare what one class of call costs, in CPU milliseconds per request, over the trials of one role."""
    return sampled_change(
        [evidence.class_ms.get(call_class, 0.0) for evidence in before],
        [evidence.class_ms.get(call_class, 0.0) for evidence in after],
        [evidence.costs for evidence in before],
        [evidence.costs for evidence in after],
        config,
    )


def sampled_change(
    values_before: Sequence[float],
    values_after: Sequence[float],
    before: Sequence[StackCosts],
    after: Sequence[StackCosts],
    config: RuleConfig,
) -> Change:
    """Compare a sum of sampled stacks, one value a trial, steadied by the functions of the same role (`moderation`).

    Args:
        values_before: CPU milliseconds per request.
        values_after: the same.
        before: what the trials of `values_before` sampled, in the same order.
        after: the same for `values_after`.
        config: the confidence.
    """
    totals_before = [{_SUM: v, **trial.frame_totals()} for v, trial in zip(values_before, before, strict=True)]
    totals_after = [{_SUM: v, **trial.frame_totals()} for v, trial in zip(values_after, after, strict=True)]
    names = list(dict.fromkeys(name for trial in (*totals_before, *totals_after) for name in trial))
    sides = side_of(before, totals_before, names), side_of(after, totals_after, names)
    return moderated_changes(sides[0], sides[1], confidence=config.confidence)[names.index(_SUM)]


def working_change(
    role: str, before: Sequence[TrialEvidence], after: Sequence[TrialEvidence], config: RuleConfig
) -> Change:
    """Compare the working CPU of one role in the measured load, in milliseconds per request.

    Args:
        role: it has stacks in at least one trial of each side.
        before: trials of the good revision; those without the role do not count.
        after: trials of the revision in question.
        config: the confidence.
    """
    sides = (_working(role, before), _working(role, after))
    level = fmean([*sides[0], *sides[1]])
    spread, roles = _relative_variance(before, after)
    own = sum(len(side) - 1 for side in sides)
    return steadied_change(
        sides[0],
        sides[1],
        confidence=config.confidence,
        usual_variance=spread * level**2,
        usual_degrees=float(own) if roles > 1 else 0.0,
    )


def gap_change(
    gaps_before: Sequence[float],
    gaps_after: Sequence[float],
    levels: Sequence[float],
    trials: tuple[Sequence[TrialEvidence], Sequence[TrialEvidence]],
    config: RuleConfig,
) -> Change:
    """Compare the difference of two working CPUs, one value a trial, in milliseconds per request.

    Args:
        gaps_before: of the good revision.
        gaps_after: of the revision in question.
        levels: the two working CPUs' means, whose usual variances add up to the gap's.
        trials: those that tell what is usual, of both sides.
        config: the confidence.
    """
    spread, roles = _relative_variance(*trials)
    own = len(gaps_before) + len(gaps_after) - 2
    return steadied_change(
        gaps_before,
        gaps_after,
        confidence=config.confidence,
        usual_variance=spread * sum(level**2 for level in levels),
        usual_degrees=float(own) if roles > 1 else 0.0,
    )


def _relative_variance(before: Sequence[TrialEvidence], after: Sequence[TrialEvidence]) -> tuple[float, int]:
    """Return by how much trials of one side differ, as a variance relative to the mean, and over how many roles."""
    roles = sorted({role for trial in (*before, *after) for role in trial.loads})
    costs = {role: (_working(role, before), _working(role, after)) for role in roles}
    costs = {role: sides for role, sides in costs.items() if all(len(side) >= _MIN_TRIALS for side in sides)}
    largest = max((fmean(side) for sides in costs.values() for side in sides), default=0.0)
    spreads = [
        _pooled([variance(side) / fmean(side) ** 2 for side in sides], [len(side) - 1 for side in sides])
        for sides in costs.values()
        if min(fmean(side) for side in sides) > _COMPARABLE_COST * largest
    ]
    return (fmean(spreads), len(spreads)) if spreads else (0.0, 0)


def _pooled(variances: Iterable[float], degrees: Sequence[int]) -> float:
    return sum(each * weight for each, weight in zip(variances, degrees, strict=True)) / sum(degrees)


def _working(role: str, trials: Sequence[TrialEvidence]) -> list[float]:
    known = [trial.loads[role].working_ms_per_request for trial in trials if role in trial.loads]
    return [cost_ms for cost_ms in known if cost_ms is not None]
