"""Paired effects of one metric over blocks, with intervals and Bayes factors.

Everything works on natural logarithms: a difference of logs is the log of a ratio. A block contributes one
difference, so whatever slows a whole block down (a busy neighbour, a warm machine) cancels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from perfguard.model.result import Effect

# A slope prior of four noise standard deviations: weak enough that the data decide, and the value that the
# simulations behind the search were calibrated with.
PRIOR_VARIANCE_RATIO = 16.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedSummary:
    """What paired differences of logs say: their mean, its standard error, and how many there are."""

    mean: float
    standard_error: float
    pairs: int

    def bounds(self, confidence: float) -> tuple[float, float]:
        """Return the two-sided Student interval of the mean difference; infinite with fewer than two pairs."""
        if self.pairs < 2:  # noqa: PLR2004 - a spread needs two values
            return -math.inf, math.inf
        half = float(stats.t.ppf(0.5 + confidence / 2.0, self.pairs - 1)) * self.standard_error
        return self.mean - half, self.mean + half

    def equivalent_within(self, margin: float, confidence: float) -> bool:
        """Whether two one-sided tests place the difference inside +-`margin` (log scale).

        Source: D. J. Schuirmann, "A comparison of the two one-sided tests procedure", 1987.
        """
        low, high = self.bounds(2.0 * confidence - 1.0)
        return -margin < low and high < margin

    def below(self, margin: float, confidence: float) -> bool:
        """Whether the one-sided upper bound of the difference lies under `margin` (log scale)."""
        return self.bounds(2.0 * confidence - 1.0)[1] < margin

    def bayes_factor(self) -> float:
        """Return how much likelier the differences are under "an effect" than under "none".

        The effect has prior N(0, 16 sigma^2 / 2) relative to the differences' variance (which is twice a trial's),
        and the variance is integrated out with Jeffreys' prior, so that looking after every block is allowed.

        Source: the closed form of the normal linear model with a conjugate slope, e.g. A. Gelman et al.,
        "Bayesian Data Analysis", 3rd ed., chapter 14.
        """
        if self.pairs < 2:  # noqa: PLR2004 - a spread needs two values
            return 1.0
        freedom = self.pairs - 1
        shrink = 1.0 + self.pairs * PRIOR_VARIANCE_RATIO / 2.0
        if self.standard_error == 0.0:
            # The limit of the formula below; few pairs never make certainty, however well they agree.
            return float(shrink ** (0.5 * freedom)) if self.mean != 0.0 else 1.0 / math.sqrt(shrink)
        t_squared = (self.mean / self.standard_error) ** 2
        log_factor = -0.5 * math.log(shrink) - 0.5 * self.pairs * (
            math.log1p(t_squared / (freedom * shrink)) - math.log1p(t_squared / freedom)
        )
        return math.exp(min(log_factor, 700.0))


def summarise_pairs(differences: Sequence[float]) -> PairedSummary:
    """Summarise differences of logs, one a block; shape `(pairs,)`.

    Raises:
        ValueError: `differences` is empty or holds a value that is not finite.
    """
    values = np.asarray(differences, dtype=float)
    if values.size == 0 or not np.isfinite(values).all():
        raise ValueError("paired differences must be finite, and there must be one at least")
    spread = float(values.std(ddof=1)) if values.size > 1 else math.inf
    return PairedSummary(mean=float(values.mean()), standard_error=spread / math.sqrt(values.size), pairs=values.size)


def paired_effect(metric: str, differences: Sequence[float], confidence: float) -> Effect:
    """Return the ratio candidate / baseline of `metric` from differences of logs (candidate minus baseline)."""
    summary = summarise_pairs(differences)
    low, high = summary.bounds(confidence)
    return Effect(
        metric=metric,
        ratio=math.exp(summary.mean),
        low=math.exp(low),
        high=math.exp(high),
        confidence=confidence,
        pairs=summary.pairs,
    )


def geometric_interval(values: Sequence[float], confidence: float) -> tuple[float, float | None, float | None]:
    """Return the geometric mean of positive `values` and its Student interval; no interval for one value.

    Raises:
        ValueError: `values` is empty or holds a value that is not positive.
    """
    if not values or min(values) <= 0.0:
        raise ValueError("a geometric mean needs positive values, and one at least")
    summary = summarise_pairs([math.log(value) for value in values])
    if summary.pairs < 2:  # noqa: PLR2004 - a spread needs two values
        return math.exp(summary.mean), None, None
    low, high = summary.bounds(confidence)
    return math.exp(summary.mean), math.exp(low), math.exp(high)
