"""Ratios and geometric means of metrics measured on several server starts, with intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import chain
from statistics import fmean

from perfguard.model.result import Effect
from perfguard.stats.starts import USUAL_STARTS, StartPrior, effect_posterior

# Wide enough to leave what is reported to the data: a factor of e either way is one standard deviation.
_FLAT = 1.0


def ratio_effect(
    metric: str,
    differences: Sequence[Sequence[float]],
    confidence: float,
    *,
    sums: Sequence[Sequence[float]] = (),
    starts: StartPrior = USUAL_STARTS,
) -> Effect:
    """Return the ratio candidate / baseline of `metric`.

    `differences` are candidate minus baseline of the metric's natural log, one a block, grouped by pair of server
    starts, and `sums`, where they are known, candidate plus baseline. `starts` is what is expected of the spread
    between starts. The interval holds the ratio with probability `confidence` under the model of
    `perfguard.stats.starts`.

    Raises:
        ValueError: there is no difference, or one that is not finite.
    """
    posterior = effect_posterior(differences, sums=sums, starts=starts, effect_scale=_FLAT)
    low, high = posterior.interval(confidence)
    return Effect(
        metric=metric,
        ratio=math.exp(posterior.quantile(0.5)),
        low=math.exp(low),
        high=math.exp(high),
        confidence=confidence,
        pairs=sum(map(len, differences)),
        starts=len(differences),
    )


def geometric_interval(
    values: Sequence[Sequence[float]], confidence: float
) -> tuple[float, float | None, float | None]:
    """Return the geometric mean of positive `values`, grouped by server start, and its interval; none for one value.

    Raises:
        ValueError: `values` is empty or holds a value that is not positive.
    """
    logs = [[math.log(value) for value in group] for group in values]
    everything = list(chain.from_iterable(logs))
    if not everything:
        raise ValueError("a geometric mean needs a value")
    if len(everything) == 1:
        return math.exp(everything[0]), None, None
    posterior = effect_posterior(
        logs, starts=USUAL_STARTS, starts_per_group=1, centre=fmean(everything), effect_scale=_FLAT
    )
    low, high = posterior.interval(confidence)
    return math.exp(posterior.quantile(0.5)), math.exp(low), math.exp(high)
