"""What measurements of many nights add up to: a value that drifts, with how sure that is.

A random walk seen through noise, in closed form: estimates of consecutive parts add, and two estimates of the same
thing are averaged by their precision. Source: R. E. Kalman, "A New Approach to Linear Filtering and Prediction
Problems", Journal of Basic Engineering 82 (1960), for one dimension without a model of motion.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

from perfguard.model.result import Effect


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """An estimate of the natural log of a ratio where larger is worse: normal, with mean and standard deviation."""

    mean: float
    sd: float

    def then(self, later: Drift) -> Drift:
        """Add the estimate of what came after it."""
        return Drift(mean=self.mean + later.mean, sd=math.hypot(self.sd, later.sd))

    def fused(self, other: Drift) -> Drift:
        """Take in another, independent estimate of the same drift; neither may be certain (`sd` zero)."""
        mine, theirs = self.sd**-2, other.sd**-2
        return Drift(mean=(mine * self.mean + theirs * other.mean) / (mine + theirs), sd=(mine + theirs) ** -0.5)

    def p_above(self, bound: float) -> float:
        """Return the probability that the drift is larger than `bound`."""
        if self.sd == 0.0:
            return float(self.mean > bound)
        return 1.0 - NormalDist(self.mean, self.sd).cdf(bound)


NO_DRIFT = Drift(mean=0.0, sd=0.0)


def drift_of(effect: Effect, *, larger_is_better: bool) -> Drift:
    """Return what a measured effect says, its interval taken for that of a normal.

    Raises:
        ValueError: an end of the interval is not finite, or the interval has no width.
    """
    low, high = math.log(effect.low), math.log(effect.high)
    sd = (high - low) / (2.0 * NormalDist().inv_cdf(0.5 + effect.confidence / 2.0))
    if not (math.isfinite(sd) and sd > 0.0):
        raise ValueError(f"an interval from {effect.low:g} to {effect.high:g} gives no standard deviation")
    mean = math.log(effect.ratio)
    return Drift(mean=-mean if larger_is_better else mean, sd=sd)
