"""How much of a loss something takes back, with an interval that holds for a handful of measurements."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

# Arms whose spread is pooled: GOOD, BAD and the one that is judged.
_ARMS = 3
_FEWEST_ROUNDS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovered:
    """(arm - bad) / (good - bad) with its bounds; those are None where they are not finite."""

    frac: float
    low: float | None
    high: float | None


def recovery(
    good: Sequence[float], bad: Sequence[float], arm: Sequence[float], *, confidence: float
) -> Recovered | None:
    """Judge the natural logs of a metric (larger is worse) of three arms, one value of each a block.

    The bounds are Fieller's for a ratio of means. What a block shares cancels; the spread of a single value is taken to
    be the same in all three arms, and is estimated from what is left once arms and blocks are accounted for, with
    2 (blocks - 1) degrees of freedom. None where good and bad are equal, or no block is given. Bounds are None with a
    single block, and where bad is not worse than good beyond the noise.
    Source: E. C. Fieller, "Some problems in interval estimation", J. R. Stat. Soc. B 16 (1954).

    Raises:
        ValueError: the arms have unequal numbers of values, or one is not finite.
    """
    values = np.array([good, bad, arm], dtype=float)
    if not np.isfinite(values).all():
        raise ValueError("a recovery needs finite values")
    rounds = values.shape[1]
    if rounds == 0:
        return None
    means = values.mean(axis=1)
    lost = float(means[1] - means[0])
    back = float(means[1] - means[2])
    if lost == 0.0:
        return None
    frac = back / lost
    if rounds < _FEWEST_ROUNDS:
        return Recovered(frac=frac, low=None, high=None)
    freedom = (_ARMS - 1) * (rounds - 1)
    left = values - means[:, np.newaxis] - values.mean(axis=0) + values.mean()
    variance = float((left**2).sum()) / freedom
    # Of both differences' means the variance is twice `unit`, their covariance `unit`: they share bad.
    unit = float(stats.t.ppf(0.5 + confidence / 2.0, freedom)) ** 2 * variance / rounds
    square = lost**2 - 2.0 * unit
    if lost < 0.0 or square <= 0.0:
        return Recovered(frac=frac, low=None, high=None)
    middle = lost * back - unit
    root = math.sqrt(max(0.0, middle**2 - square * (back**2 - 2.0 * unit)))
    return Recovered(frac=frac, low=(middle - root) / square, high=(middle + root) / square)
