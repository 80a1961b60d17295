"""The difference of two means over trials: Welch's interval, with a floor under its error for sampled costs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import fmean, variance
from typing import TYPE_CHECKING

from scipy import stats

if TYPE_CHECKING:
    from collections.abc import Sequence

_MIN_TRIALS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A cost before and after, in the unit of the trials' values.

    `low` and `high` bound after minus before, `p_value` is two-sided against no change; all three are None where a side
    has fewer than two trials. `error` is the standard error of the difference.
    """

    before: float
    after: float
    error: float
    low: float | None
    high: float | None
    p_value: float | None

    @property
    def growth(self) -> float:
        """After minus before."""
        return self.after - self.before

    @property
    def excludes_zero(self) -> bool:
        """Whether there is an interval and zero lies outside it."""
        return self.low is not None and self.high is not None and not self.low <= 0.0 <= self.high


def change(
    before: Sequence[float],
    after: Sequence[float],
    *,
    confidence: float,
    grain_before: Sequence[float] = (),
    grain_after: Sequence[float] = (),
) -> Change:
    """Compare trials' values by Welch's unequal-variances t interval.

    The grains say what one sample stood for in each trial. A cost counted in samples cannot be surer than a Poisson
    count: value x grain is that count's variance in the value's unit, and each side's variance is at least the mean of
    it. So two trials that agree by chance, or a frame that no trial of a side saw, do not pass for certain.

    Args:
        before: one value a trial; at least one.
        after: one value a trial; at least one.
        confidence: the interval's level, between 0 and 1.
        grain_before: what one sample stands for in each trial of `before`, in the values' unit; empty for exact values.
        grain_after: the same for `after`.

    Source: B. L. Welch, "The generalization of Student's problem when several different population variances are
    involved",
        Biometrika 34 (1947).
    """
    mean_before, mean_after = fmean(before), fmean(after)
    part_before = _variance_of_mean(before, grain_before)
    part_after = _variance_of_mean(after, grain_after)
    error = math.sqrt(part_before + part_after)
    if min(len(before), len(after)) < _MIN_TRIALS:
        return Change(before=mean_before, after=mean_after, error=error, low=None, high=None, p_value=None)
    growth = mean_after - mean_before
    if error == 0.0:
        return Change(
            before=mean_before, after=mean_after, error=0.0, low=growth, high=growth, p_value=float(growth == 0.0)
        )
    degrees = error**4 / (part_before**2 / (len(before) - 1) + part_after**2 / (len(after) - 1))
    reach = float(stats.t.ppf((1.0 + confidence) / 2.0, degrees)) * error
    p_value = 2.0 * float(stats.t.sf(abs(growth) / error, degrees))
    return Change(
        before=mean_before, after=mean_after, error=error, low=growth - reach, high=growth + reach, p_value=p_value
    )


def _variance_of_mean(values: Sequence[float], grains: Sequence[float]) -> float:
    between = variance(values) if len(values) >= _MIN_TRIALS else 0.0
    counted = fmean(value * grain for value, grain in zip(values, grains, strict=True)) if grains else 0.0
    return max(between, counted) / len(values)
