"""The difference of two means over trials.

Welch's interval, with a floor under its error for sampled costs; and one whose variance is steadied by what is known
from elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import stats

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]

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
    (only,) = changes(
        np.array([before], dtype=np.float64).T,
        np.array([after], dtype=np.float64).T,
        confidence=confidence,
        grain_before=grain_before,
        grain_after=grain_after,
    )
    return only


def changes(
    before: Floats,
    after: Floats,
    *,
    confidence: float,
    grain_before: Sequence[float] = (),
    grain_after: Sequence[float] = (),
) -> tuple[Change, ...]:
    """Compare many costs at once, each as `change` does.

    Args:
        before: (trials, costs); at least one trial.
        after: (trials, costs), the same costs in the same order.
        confidence: as for `change`.
        grain_before: as for `change`, one a trial.
        grain_after: as for `change`, one a trial.
    """
    means_before, means_after = before.mean(axis=0), after.mean(axis=0)
    parts_before = _variances_of_mean(before, grain_before)
    parts_after = _variances_of_mean(after, grain_after)
    errors = np.sqrt(parts_before + parts_after)
    columns = [column.tolist() for column in (means_before, means_after, errors)]
    if min(len(before), len(after)) < _MIN_TRIALS:
        return tuple(
            Change(before=mean_before, after=mean_after, error=error, low=None, high=None, p_value=None)
            for mean_before, mean_after, error in zip(*columns, strict=True)
        )
    growth = means_after - means_before
    certain = errors == 0.0
    safe = np.where(certain, 1.0, errors)
    spread = parts_before**2 / (len(before) - 1) + parts_after**2 / (len(after) - 1)
    degrees = np.where(certain, 1.0, safe**4) / np.where(certain, 1.0, spread)
    reach = np.where(certain, 0.0, stats.t.ppf((1.0 + confidence) / 2.0, degrees) * safe)
    p_values = np.where(certain, (growth == 0.0).astype(np.float64), 2.0 * stats.t.sf(np.abs(growth) / safe, degrees))
    columns += [column.tolist() for column in (growth - reach, growth + reach, p_values)]
    return tuple(
        Change(before=mean_before, after=mean_after, error=error, low=low, high=high, p_value=p_value)
        for mean_before, mean_after, error, low, high, p_value in zip(*columns, strict=True)
    )


def steadied_change(
    before: Sequence[float],
    after: Sequence[float],
    *,
    confidence: float,
    usual_variance: float,
    usual_degrees: float,
) -> Change:
    """Compare trials' values by a t interval whose variance is drawn towards what is usual.

    Args:
        before: one value a trial; at least one.
        after: one value a trial; at least one.
        confidence: the interval's level, between 0 and 1.
        usual_variance: of one trial's value, by what is known from elsewhere.
        usual_degrees: what that is worth in degrees of freedom; 0.0 for nothing.

    Source: G. K. Smyth, "Linear models and empirical Bayes methods for assessing differential expression", Stat. Appl.
        Genet. Mol. Biol. 3 (2004), equation 4.
    """
    sides = [np.array(values, dtype=np.float64) for values in (before, after)]
    means = [float(side.mean()) for side in sides]
    squares = sum(float(((side - side.mean()) ** 2).sum()) for side in sides)
    degrees = usual_degrees + sum(len(side) - 1 for side in sides)
    variance = (squares + usual_degrees * usual_variance) / degrees if degrees else 0.0
    error = float(np.sqrt(variance * sum(1.0 / len(side) for side in sides)))
    growth = means[1] - means[0]
    if min(len(side) for side in sides) < _MIN_TRIALS:
        return Change(before=means[0], after=means[1], error=error, low=None, high=None, p_value=None)
    if error == 0.0:
        return Change(
            before=means[0], after=means[1], error=error, low=growth, high=growth, p_value=float(growth == 0.0)
        )
    reach = float(stats.t.ppf((1.0 + confidence) / 2.0, degrees)) * error
    return Change(
        before=means[0],
        after=means[1],
        error=error,
        low=growth - reach,
        high=growth + reach,
        p_value=2.0 * float(stats.t.sf(abs(growth) / error, degrees)),
    )


def _variances_of_mean(values: Floats, grains: Sequence[float]) -> Floats:
    between = values.var(axis=0, ddof=1) if len(values) >= _MIN_TRIALS else np.zeros(values.shape[1])
    if len(grains) == 0:
        alone: Floats = between / len(values)
        return alone
    counted = (values * np.array(grains, dtype=np.float64)[:, np.newaxis]).mean(axis=0)
    larger: Floats = np.maximum(between, counted) / len(values)
    return larger
