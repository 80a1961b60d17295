"""Paired differences of blocks: what an arm changes beside the baseline of the same block."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

_FEWEST_FOR_AN_INTERVAL = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedChange:
    """The mean of paired differences with its bounds, in their unit; those are None for a single pair."""

    mean: float
    low: float | None
    high: float | None
    pairs: int

    @property
    def excludes_zero(self) -> bool:
        """Whether there is an interval, and no change lies outside it."""
        return self.low is not None and self.high is not None and not self.low <= 0.0 <= self.high


def paired_change(differences: Sequence[float], *, confidence: float) -> PairedChange | None:
    """Judge arm minus baseline, one value a block, by Student's t; None without a value.

    What the trials of a block share (a slow minute of the machine) cancels in its difference, and the spread of the
    differences holds what differs between server starts. Nothing is assumed of the arms' spreads.
    Source: Student, "The probable error of a mean", Biometrika 6 (1908).

    Raises:
        ValueError: a difference is not finite.
    """
    values = np.array(differences, dtype=float)
    if values.size == 0:
        return None
    if not np.isfinite(values).all():
        raise ValueError("a paired change needs finite differences")
    mean = float(values.mean())
    if values.size < _FEWEST_FOR_AN_INTERVAL:
        return PairedChange(mean=mean, low=None, high=None, pairs=1)
    error = float(values.std(ddof=1)) / math.sqrt(values.size)
    reach = float(stats.t.ppf(0.5 + confidence / 2.0, values.size - 1)) * error
    return PairedChange(mean=mean, low=mean - reach, high=mean + reach, pairs=values.size)
