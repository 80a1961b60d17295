"""The change of many functions' costs at once: each one's noise is steadied by what all functions of its role show.

Few trials tell little of one function's noise, so that a t test on it alone finds next to nothing: three trials a side
leave it four degrees of freedom, and among hundreds of functions only p-values below one in ten thousand count. But the
noise of a profile has three sources, and two of them are known from elsewhere:

- *Counting.* Samples split CPU that the kernel counted exactly, so a cost is a binomial count: its variance is at least
  value x grain x (1 - its share of the role's sampled CPU).
- *The trial.* A trial is slow or fast as a whole; its role's CPU, which the kernel counts exactly, shows by how much.
  This part has few degrees of freedom, whatever the number of functions, since it is one draw a trial.
- *The function.* What varies beside both: bursts, caches, luck. Its variance is estimated function by function and
  drawn towards what is usual for functions of its size in its role, the more so the more they agree.

Source of the last step: G. K. Smyth, "Linear models and empirical Bayes methods for assessing differential expression",
Stat. Appl. Genet. Mol. Biol. 3 (2004). The sources are joined by F. E. Satterthwaite, "An approximate distribution of
estimates of variance components", Biometrics Bulletin 2 (1946).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import special, stats

from perfguard.evidence.intervals import Change

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    import numpy.typing as npt

    from perfguard.evidence.cost import StackCosts

    Floats = npt.NDArray[np.float64]

_MIN_TRIALS = 2
# However well the functions agree, they are no independent draws: they call each other.
_MAX_PRIOR_DEGREES = 20.0
# Functions seen by fewer samples over all trials have counts too small for their variance to say anything.
_MIN_SAMPLES = 5.0
# A function that is on every stack has no counting noise, but its share is no better known than this.
_MIN_REST = 0.05
_DISPERSIONS = np.concatenate([[0.0], np.geomspace(1e-4, 10.0, 51)])


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One role's trials of one side.

    `costs` (trials, functions) are in milliseconds per request. Of each trial (trials,), `totals` is what the whole
    role cost, `grains` what one sample stood for, and `sampled` what all samples stood for, polling included.
    """

    costs: Floats
    totals: Floats
    grains: Floats
    sampled: Floats


def side_of(trials: Sequence[StackCosts], totals: Sequence[Mapping[str, float]], names: Collection[str]) -> Side:
    """Make a side of trials: what each costs under each of `names` by `totals` (0.0 where it lacks one)."""
    return Side(
        costs=np.array([[trial.get(name, 0.0) for name in names] for trial in totals], dtype=np.float64),
        totals=np.array([trial.working_ms for trial in trials], dtype=np.float64),
        grains=np.array([trial.sample_ms for trial in trials], dtype=np.float64),
        sampled=np.array([trial.working_ms + trial.polling_ms for trial in trials], dtype=np.float64),
    )


def moderated_changes(before: Side, after: Side, *, confidence: float) -> tuple[Change, ...]:
    """Compare every function's mean cost before and after.

    Args:
        before: at least one trial.
        after: at least one trial, with the same functions in the same order.
        confidence: the intervals' level, between 0 and 1.

    Returns:
        One change a function; without interval and p-value where a side has fewer than two trials.
    """
    means = (before.costs.mean(axis=0), after.costs.mean(axis=0))
    counted = tuple(_counting(side) for side in (before, after))
    sizes = (len(before.costs), len(after.costs))
    if min(sizes) < _MIN_TRIALS:
        errors = np.sqrt(counted[0] / sizes[0] + counted[1] / sizes[1])
        return tuple(
            Change(before=b, after=a, error=error, low=None, high=None, p_value=None)
            for b, a, error in zip(means[0].tolist(), means[1].tolist(), errors.tolist(), strict=True)
        )
    # A function that one side never saw has the counting noise of the other: of a mean of zero there is none to take.
    pooled = (counted[0] * sizes[0] + counted[1] * sizes[1]) / sum(sizes)
    own, own_degrees = _own_variance(before, after, pooled)
    scaled = [own * np.where(pooled > 0.0, side / np.where(pooled > 0.0, pooled, 1.0), 0.0) for side in counted]
    of_trials = _trial_variance(before, after)
    parts = [
        (of_trials * (means[0] ** 2 / sizes[0] + means[1] ** 2 / sizes[1]), float(sum(sizes) - 2)),
        (scaled[0] / sizes[0] + scaled[1] / sizes[1], own_degrees),
    ]
    return _changes(means[0], means[1], parts, confidence)


def _counting(side: Side) -> Floats:
    """Return the variance that counting alone gives each function's cost in one trial."""
    sampled = np.where(side.sampled > 0.0, side.sampled, 1.0)[:, np.newaxis]
    rest = np.clip(1.0 - side.costs / sampled, _MIN_REST, 1.0)
    variance: Floats = (side.costs * rest * side.grains[:, np.newaxis]).mean(axis=0)
    return variance


def _own_variance(before: Side, after: Side, counted: Floats) -> tuple[Floats, float]:
    """Return each function's variance beside the trials' own, never below counting, and its degrees of freedom."""
    residual = np.concatenate([_residuals(before), _residuals(after)])
    degrees = float(len(residual) - 2)
    variance = (residual**2).sum(axis=0) / degrees
    grain = float(np.concatenate([before.grains, after.grains]).mean())
    samples = np.divide(counted * len(residual), grain * grain, out=np.zeros_like(counted), where=grain > 0.0)
    telling = (samples >= _MIN_SAMPLES) & (variance > 0.0)
    if not telling.any():
        return counted, _MAX_PRIOR_DEGREES
    # In samples a trial: the larger a function, the less of its noise is counting.
    counts = samples / len(residual)
    dispersion, prior = _trend(variance[telling] / counted[telling], counts[telling], degrees)
    expected = counted * (1.0 + dispersion * counts)
    steadied = (prior * expected + degrees * variance) / (prior + degrees)
    return np.maximum(steadied, counted), prior + degrees


def _residuals(side: Side) -> Floats:
    """Return what is left of each trial's costs when the trial's own speed and the function's mean are taken off."""
    mean = side.totals.mean()
    speed = side.totals / mean if mean > 0.0 else np.ones_like(side.totals)
    level = side.costs / np.where(speed > 0.0, speed, 1.0)[:, np.newaxis]
    residuals: Floats = level - level.mean(axis=0)
    return residuals


def _trial_variance(before: Side, after: Side) -> float:
    """Return the variance of the trials' speed around their side's mean, relative to it."""
    spread, degrees = 0.0, 0
    for side in (before, after):
        mean = float(side.totals.mean())
        if mean > 0.0:
            spread += float(((side.totals / mean - 1.0) ** 2).sum())
        degrees += len(side.totals) - 1
    return spread / degrees


def _trend(ratios: Floats, counts: Floats, degrees: float) -> tuple[float, float]:
    """Fit how functions vary beside counting, ratio = 1 + dispersion x count, and its worth in degrees of freedom.

    That is the variance of a negative binomial count. The dispersion is the one around which the logarithms of the
    ratios spread least; what they spread beyond what `degrees` explain is what the functions truly differ by.
    """
    logs = np.log(ratios)[np.newaxis, :] - np.log1p(_DISPERSIONS[:, np.newaxis] * counts[np.newaxis, :])
    centred = logs - special.digamma(degrees / 2.0) + np.log(degrees / 2.0)
    best = int(np.argmin((centred**2).mean(axis=1)))
    excess = float((centred[best] ** 2).mean()) - float(special.polygamma(1, degrees / 2.0))
    prior = min(_MAX_PRIOR_DEGREES, 2.0 * _trigamma_inverse(excess)) if excess > 0.0 else _MAX_PRIOR_DEGREES
    return float(_DISPERSIONS[best]), prior


def _trigamma_inverse(value: float) -> float:
    """Solve trigamma(x) = value by Newton's method on 1/trigamma, which is nearly a line.

    Source: Smyth (2004), appendix.
    """
    x = 0.5 + 1.0 / value
    for _ in range(50):
        trigamma = float(special.polygamma(1, x))
        step = trigamma * (1.0 - trigamma / value) / float(special.polygamma(2, x))
        x += step
        if abs(step) < 1e-8 * x:
            break
    return x


def _changes(before: Floats, after: Floats, parts: list[tuple[Floats, float]], confidence: float) -> tuple[Change, ...]:
    variance: Floats = np.sum([part for part, _ in parts], axis=0)
    certain = variance == 0.0
    errors = np.sqrt(variance)
    safe = np.where(certain, 1.0, errors)
    spread: Floats = np.sum([part**2 / degrees for part, degrees in parts], axis=0)
    degrees = np.where(certain, 1.0, variance**2 / np.where(certain, 1.0, spread))
    growth = after - before
    reach = np.where(certain, 0.0, stats.t.ppf((1.0 + confidence) / 2.0, degrees) * safe)
    p_values = np.where(certain, (growth == 0.0).astype(np.float64), 2.0 * stats.t.sf(np.abs(growth) / safe, degrees))
    columns = (before, after, errors, growth - reach, growth + reach, p_values)
    return tuple(
        Change(before=b, after=a, error=error, low=low, high=high, p_value=p_value)
        for b, a, error, low, high, p_value in zip(*[column.tolist() for column in columns], strict=True)
    )
