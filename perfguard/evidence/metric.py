"""The evidence metrics: the functions whose cost tells the endpoints apart best; they place the revisions between."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING

import numpy as np

from perfguard.evidence.calltree import build_call_tree
from perfguard.evidence.intervals import changes
from perfguard.evidence.stacks import function_key
from perfguard.model.result import Direction

if TYPE_CHECKING:
    from collections.abc import Sequence

    from perfguard.evidence.cost import StackCosts
    from perfguard.evidence.trial import TrialEvidence

# Below either, a change is no lever: a search has to see it in single trials.
_MIN_CHANGE_MS = 0.02
_MIN_CHANGE_OF_ROLE = 0.02
# A function that took over old work moves at the revision that moved it, not at the one that made anything slower.
_MIN_SUPPORTED = 0.5
# Added to every standard error, as a share of the role's cost, so that small functions whose few trials agree by chance
# do not win. # Source: the "fudge factor" of V. Tusher et al., "Significance analysis of microarrays", PNAS 98 (2001).
_STEADYING_SHARE = 0.01
# Four standard errors: with some hundred functions to choose from, the best of pure noise stays under it.
_MIN_SCORE = 4.0
# What moved less than this share of the largest move explains little of what users feel: a revision may move a small
# function steadily, and another make the server slower.
_WEIGHTY = 0.25
# The score needs an error, not an interval; any level gives the same one.
_CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class EvidenceMetric:
    """CPU milliseconds per request under `function`, a `function (file)` key, in `role`.

    `score` is its change over its noise.
    """

    role: str
    function: str
    score: float


def evidence_metrics(
    before: Sequence[TrialEvidence],
    after: Sequence[TrialEvidence],
    *,
    direction: Direction = Direction.REGRESSION,
) -> tuple[EvidenceMetric, ...]:
    """Return the functions whose cost moved far beyond its noise between the endpoints, the best lever first.

    The noise is the standard error over trials (never less than that of counting samples) plus a share of the role's
    cost. For a regression the cost must have grown, for an improvement shrunk, and its stable callers must show at
    least half of that (`calltree`). Several commits may have moved costs between two distant endpoints, so there may be
    levers that stand at different revisions; those that carry a large part of the whole growth come first. Of equal
    scores the larger change wins.

    Returns:
        Nothing where no function moved far enough to be measured by: a floor on its size and one on its score hold.
    """
    scored: list[tuple[EvidenceMetric, float]] = []
    roles = sorted(
        {role for trial in before for role in trial.roles} & {role for trial in after for role in trial.roles}
    )
    for role in roles:
        sides = [[trial.roles[role].costs for trial in side if role in trial.roles] for side in (before, after)]
        scored += _scored(role, sides[0], sides[1], direction)
    weighty = _WEIGHTY * max((moved_ms for _, moved_ms in scored), default=0.0)
    scored.sort(key=lambda pair: (pair[1] >= weighty, pair[0].score, pair[1]), reverse=True)
    return tuple(metric for metric, _ in scored)


def metric_value(trial: TrialEvidence, metric: EvidenceMetric) -> float:
    """Return the metric in a trial, in CPU milliseconds per request.

    0.0 where the function is absent (not written yet, or never sampled); `math.nan` where the whole role was not
    profiled, for then nothing is known of it.
    """
    if metric.role not in trial.roles:
        return math.nan
    working = trial.roles[metric.role].costs.working
    return sum(
        cost_ms
        for frames, cost_ms in working.items()
        if any(function_key(frame) == metric.function for frame in frames)
    )


def _scored(
    role: str, before: Sequence[StackCosts], after: Sequence[StackCosts], direction: Direction
) -> list[tuple[EvidenceMetric, float]]:
    totals_before = [trial.frame_totals() for trial in before]
    totals_after = [trial.frame_totals() for trial in after]
    role_ms = max(fmean(trial.working_ms for trial in before), fmean(trial.working_ms for trial in after))
    # What shrank from `before` to `after` grew from `after` to `before`.
    forward = direction is Direction.REGRESSION
    tree = build_call_tree(before, after) if forward else build_call_tree(after, before)
    names = list(dict.fromkeys(name for trial in [*totals_before, *totals_after] for name in trial))
    compared = changes(
        np.array([[trial.get(name, 0.0) for name in names] for trial in totals_before]),
        np.array([[trial.get(name, 0.0) for name in names] for trial in totals_after]),
        confidence=_CONFIDENCE,
        grain_before=[trial.sample_ms for trial in before],
        grain_after=[trial.sample_ms for trial in after],
    )
    scored = []
    for name, moved in zip(names, compared, strict=True):
        moved_ms = moved.growth if forward else -moved.growth
        if tree.supported_ms[name] < _MIN_SUPPORTED * moved_ms or moved_ms < max(
            _MIN_CHANGE_MS, _MIN_CHANGE_OF_ROLE * role_ms
        ):
            continue
        score = moved_ms / (moved.error + _STEADYING_SHARE * role_ms)
        if score >= _MIN_SCORE:
            scored.append((EvidenceMetric(role=role, function=name, score=score), moved_ms))
    return scored
